import { HttpError } from './answers.ts';

export interface TurnLimits {
  /** What one server may take at the same time. */
  readonly each: number;
  /**
   * What all may take. A server that has nothing is let in all the same, with one: another whose file system hangs, and
   * which holds for ever what it took, must not keep it out.
   */
  readonly together: number;
  /** Requests of one server that wait; whoever comes then has to come again. */
  readonly waiting: number;
}

/** What was taken, until it is given back. */
export interface Turn {
  /** It takes so much instead. */
  resize(size: number): void;
  /** May be called again. */
  end(): void;
}

/** Returns false as long as there is no room. */
type Waiting = () => boolean;

interface Queue {
  /** What is taken by each that is under way. */
  readonly taken: Set<{ size: number }>;
  readonly waiting: Set<Waiting>;
}

/** Bounds what requests take, in order of asking for each server, and without one server waiting for another for ever. */
export class Turns {
  readonly #limits: TurnLimits;
  readonly #queues = new Map<string, Queue>();

  constructor(limits: TurnLimits) {
    this.#limits = limits;
  }

  /** Resolves once there is room. Throws `aborted`, with nothing taken, when `gone` fires first. */
  async take(server: string, size: number, gone: AbortSignal): Promise<Turn> {
    if (gone.aborted) throw wentAway();
    const queue = this.#queueOf(server);
    if (queue.waiting.size >= this.#limits.waiting) {
      throw new HttpError(503, 'busy', `${queue.waiting.size} requests of server ${server} wait already`, {
        hint: 'its storage may be slow, or not answer; ask again',
      });
    }
    return new Promise((resolve, reject) => {
      const waiting: Waiting = () => {
        if (!this.#hasRoom(queue, size)) return false;
        gone.removeEventListener('abort', leave);
        resolve(this.#start(queue, size));
        return true;
      };
      const leave = (): void => {
        queue.waiting.delete(waiting);
        // Behind a large one there may be some that fit.
        this.#serve();
        reject(wentAway());
      };
      gone.addEventListener('abort', leave, { once: true });
      queue.waiting.add(waiting);
      this.#serve();
    });
  }

  /** Does it once there is room; also to its end when `gone` fires in the middle. */
  async run<T>(server: string, gone: AbortSignal, work: () => Promise<T>): Promise<T> {
    const turn = await this.take(server, 1, gone);
    try {
      return await work();
    } finally {
      turn.end();
    }
  }

  #queueOf(server: string): Queue {
    let queue = this.#queues.get(server);
    if (queue === undefined) {
      queue = { taken: new Set(), waiting: new Set() };
      this.#queues.set(server, queue);
    }
    return queue;
  }

  #hasRoom(queue: Queue, size: number): boolean {
    if (queue.taken.size === 0) return true;
    const all = [...this.#queues.values()].reduce((sum, other) => sum + sizeOf(other), 0);
    return sizeOf(queue) + size <= this.#limits.each && all + size <= this.#limits.together;
  }

  #start(queue: Queue, size: number): Turn {
    const taken = { size };
    queue.taken.add(taken);
    return {
      resize: (other) => {
        taken.size = other;
        this.#serve();
      },
      end: () => {
        if (queue.taken.delete(taken)) this.#serve();
      },
    };
  }

  #serve(): void {
    for (const [server, queue] of this.#queues) {
      const [next] = queue.waiting;
      if (next?.() === true) {
        queue.waiting.delete(next);
        // It is asked again after all others.
        this.#queues.delete(server);
        this.#queues.set(server, queue);
      } else if (queue.taken.size === 0 && queue.waiting.size === 0) {
        this.#queues.delete(server);
      }
    }
  }
}

function sizeOf({ taken }: Queue): number {
  let sum = 0;
  for (const { size } of taken) sum += size;
  return sum;
}

function wentAway(): HttpError {
  return new HttpError(503, 'aborted', 'the client went away while it waited');
}
