import { lockOwner } from '../durable/lock-file.ts';
import { messageOf } from '../errors.ts';
import { pause } from '../health/patience.ts';
import type { Logger } from '../logging.ts';
import { startReceiver, type ReceiverEnd } from '../receiver/receiver-process.ts';
import { readReceiverReport } from '../receiver/receiver-report.ts';
import { failuresAfter, retryDelayMs } from '../receiver/receiver-states.ts';
import { formatSpan } from '../words.ts';
import type { ReceivingState } from './daemon-view.ts';

export interface ReceiverChildSettings {
  readonly server: string;
  /** Program and arguments of `receive-wal SERVER`. */
  readonly command: readonly [program: string, ...args: string[]];
  /** Of Barman's lock for receive-wal. */
  readonly lockPath: string;
  /** Where receive-wal tells whether commits wait for it. */
  readonly reportPath: string;
  /** Where it has no log file: a line of its log. */
  readonly onLine: (line: string) => void;
  readonly onRestart: () => void;
  readonly logger: Logger;
}

/**
 * How often it is looked whether another receive-wal has ended; nor is one that
 * ended well started sooner. Commits may wait for it: no longer than pg_receivewal itself would wait.
 */
const ELSEWHERE_MS = 5_000;

/** It gives pg_receivewal 10 s. */
const STOP_GRACE_MS = 20_000;

/**
 * Keeps one `receive-wal` process running for a server. It is a process of its
 * own, so that nothing that happens in the daemon delays what a synchronous
 * commit may wait for; the kernel ends it when we die.
 */
export class ReceiverChild {
  readonly #settings: ReceiverChildSettings;
  #phase: ReceivingState['state'] = 'starting';
  #pid: number | null = null;
  #starts = 0;

  constructor(settings: ReceiverChildSettings) {
    this.#settings = settings;
  }

  get state(): ReceivingState {
    return { state: this.#phase, pid: this.#pid, restarts: Math.max(0, this.#starts - 1) };
  }

  /** Resolves once it has ended after `drain`, or was killed after `kill`. Never rejects. */
  async run(drain: AbortSignal, kill: AbortSignal): Promise<void> {
    const { server, logger } = this.#settings;
    let failures = 0;
    while (!drain.aborted) {
      const other = await this.#other();
      if (other !== null) {
        if (this.#phase !== 'elsewhere') {
          logger.info({ server, receiver: other }, `another receive-wal process (${other}) runs for ${server} already`);
        }
        this.#phase = 'elsewhere';
        await pause(ELSEWHERE_MS, drain);
        continue;
      }
      const began = performance.now();
      const end = await this.#runOnce(drain, kill);
      if (drain.aborted) break;
      this.#phase = 'waiting';
      failures = failuresAfter(failures, performance.now() - began);
      const asked = end.how === 'exited' && end.status === 0;
      // One that was started elsewhere in the same moment has got the lock.
      if (!asked && (await this.#other()) !== null) continue;
      const waitMs = asked ? ELSEWHERE_MS : retryDelayMs(failures, Math.random(), await this.#isSynchronous());
      if (!asked) failures += 1;
      const text = `receive-wal of ${server} ${describe(end)}; it is started again in ${formatSpan(waitMs)}`;
      logger[asked ? 'info' : 'error']({ server }, text);
      await pause(waitMs, drain);
    }
    this.#phase = 'stopped';
  }

  /** The pid of another process that receives for this server; null when there is none, or nobody can tell. */
  async #other(): Promise<number | null> {
    const { server, lockPath, logger } = this.#settings;
    try {
      return await lockOwner(lockPath);
    } catch (error) {
      // receive-wal will meet it, too, and say it.
      logger.debug({ server }, `can't look who has ${lockPath}: ${messageOf(error)}`);
      return null;
    }
  }

  async #isSynchronous(): Promise<boolean> {
    return (await readReceiverReport(this.#settings.reportPath))?.synchronous === true;
  }

  async #runOnce(drain: AbortSignal, kill: AbortSignal): Promise<ReceiverEnd> {
    const { server, command, onLine, onRestart, logger } = this.#settings;
    const [program, ...args] = command;
    this.#starts += 1;
    if (this.#starts > 1) onRestart();
    const child = startReceiver(program, args, process.env, onLine);
    this.#pid = child.pid ?? null;
    if (child.pid !== undefined) {
      this.#phase = 'running';
      logger.info({ server, receiver: child.pid }, `started receive-wal of ${server}`);
    }
    const stop = (): void => {
      void child.stop(STOP_GRACE_MS, kill);
    };
    drain.addEventListener('abort', stop, { once: true });
    if (drain.aborted) stop();
    try {
      return await child.ended;
    } finally {
      drain.removeEventListener('abort', stop);
      this.#pid = null;
    }
  }
}

function describe(end: ReceiverEnd): string {
  switch (end.how) {
    case 'exited':
      return end.status === 0 ? 'was asked to end' : `ended with exit status ${end.status}, see its messages`;
    case 'killed':
      return `was killed by ${end.signal}`;
    case 'not-started':
      return `can't be started: ${end.why}`;
  }
}
