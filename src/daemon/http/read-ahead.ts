import pLimit from 'p-limit';
import { parseWalName, segmentName, segmentNumber, type WalName } from '../../wal/wal-name.ts';

/** What reading ahead takes of a server. */
export interface ReadAheadSource {
  readonly server: string;
  /** Segments to be ahead of a client. */
  readonly ahead: number;
  /** Segments to read at the same time. */
  readonly atATime: number;
  /** Which of these are in the archive. */
  stored(names: readonly WalName[]): Promise<ReadonlySet<WalName>>;
  /** The plain bytes of one, checked; null when it isn't there. */
  find(name: WalName): Promise<Buffer | null>;
}

/** A segment that is being read, or was. */
interface Ahead {
  readonly name: WalName;
  /** Bytes that it takes, or will take. */
  readonly size: number;
  /** Never rejects; null when it could not be had, which says nothing of whether it exists. */
  readonly bytes: Promise<Buffer | null>;
}

/** One client that reads in order, as far as can be told from what is asked for. */
interface Run {
  readonly server: string;
  /** The segment that was asked for last, and those that may be next. */
  window: readonly WalName[];
  readonly ahead: Map<WalName, Ahead>;
  /** By performance.now(). */
  usedAt: number;
  readonly expiry: NodeJS.Timeout;
}

export interface ReadAheadLimits {
  /** Of all segments that are held, in bytes. */
  readonly bytes: number;
  /** Clients that are followed at the same time. */
  readonly runs: number;
  /** A client that asks for nothing is forgotten after so many milliseconds. */
  readonly forgetMs: number;
  /** One that has been silent for so long makes room for others. */
  readonly spareMs: number;
}

const LIMITS: ReadAheadLimits = { bytes: 128 * 1024 * 1024, runs: 32, forgetMs: 60_000, spareMs: 10_000 };

/**
 * Has the next segments in memory for clients that read one after the other, as
 * a recovery does. Only files that were found, whole and good, are held; that one
 * was not found is never remembered.
 */
export class ReadAhead {
  readonly #limits: ReadAheadLimits;
  readonly #runs = new Set<Run>();
  readonly #limiters = new Map<string, ReturnType<typeof pLimit>>();
  readonly #underWay = new Set<Promise<unknown>>();
  #held = 0;
  #closed = false;

  constructor(limits: Partial<ReadAheadLimits> = {}) {
    this.#limits = { ...LIMITS, ...limits };
  }

  /** Bytes of segments that are held, or will be once they are read. */
  get held(): number {
    return this.#held;
  }

  /** A segment that was read ahead, or is being read right now; it is held no longer. Null for any other. */
  async take(server: string, name: WalName): Promise<Buffer | null> {
    for (const run of this.#runs) {
      if (run.server !== server) continue;
      // What its client has asked for is too late to be read ahead.
      run.window = run.window.slice(Math.max(0, run.window.indexOf(name)));
      const found = run.ahead.get(name);
      if (found === undefined) continue;
      const bytes = await found.bytes;
      this.#drop(run, found);
      if (bytes !== null) return bytes;
    }
    return null;
  }

  /** A client was given this segment, of `size` bytes: reads on in the background. */
  follow(source: ReadAheadSource, name: WalName, size: number): void {
    if (this.#closed || source.ahead === 0 || parseWalName(name)?.kind !== 'segment') return;
    const run = this.#runOf(source.server, name);
    run.window = windowOf(name, source.ahead, size);
    run.usedAt = performance.now();
    run.expiry.refresh();
    for (const ahead of run.ahead.values()) if (!run.window.includes(ahead.name)) this.#drop(run, ahead);
    this.#background(this.#fill(run, source, size));
  }

  /** Reads nothing more; resolves once nothing is under way. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const run of this.#runs) this.#forget(run);
    while (this.#underWay.size > 0) await Promise.all(this.#underWay);
  }

  /** The client that may have been expected to ask for this, or a new one. */
  #runOf(server: string, name: WalName): Run {
    for (const run of this.#runs) if (run.server === server && run.window.includes(name)) return run;
    if (this.#runs.size >= this.#limits.runs) {
      const [longest] = this.#bySilence();
      if (longest !== undefined) this.#forget(longest);
    }
    const expiry = setTimeout(() => this.#forget(run), this.#limits.forgetMs);
    expiry.unref();
    const run: Run = { server, window: [], ahead: new Map(), usedAt: performance.now(), expiry };
    this.#runs.add(run);
    return run;
  }

  async #fill(run: Run, source: ReadAheadSource, size: number): Promise<void> {
    const share = Math.max(1, Math.floor(this.#limits.bytes / this.#runs.size / size));
    const wanted = run.window.slice(1, 1 + Math.min(source.ahead, share));
    const missing = wanted.filter((name) => !this.#isAhead(run.server, name));
    if (missing.length === 0) return;
    const stored = await source.stored(missing);
    for (const name of missing) {
      // Somebody may have asked for more meanwhile, or for something else.
      if (this.#closed || !this.#runs.has(run) || !stored.has(name)) return;
      if (!run.window.includes(name, 1) || this.#isAhead(run.server, name)) continue;
      if (!this.#makeRoom(run, size)) return;
      this.#start(run, source, name, size);
    }
  }

  #isAhead(server: string, name: WalName): boolean {
    for (const run of this.#runs) if (run.server === server && run.ahead.has(name)) return true;
    return false;
  }

  #start(run: Run, source: ReadAheadSource, name: WalName, size: number): void {
    this.#held += size;
    const read = async (): Promise<Buffer | null> => {
      // Its turn came too late.
      if (run.ahead.get(name) !== ahead) return null;
      try {
        return await source.find(name);
      } catch {
        return null; // whoever asks for it finds out why
      }
    };
    const bytes = this.#limiter(source)(read);
    const ahead: Ahead = { name, size, bytes };
    run.ahead.set(name, ahead);
    const settle = async (): Promise<void> => {
      if ((await bytes) === null) this.#drop(run, ahead);
    };
    this.#background(settle());
  }

  #limiter({ server, atATime }: ReadAheadSource): ReturnType<typeof pLimit> {
    let limiter = this.#limiters.get(server);
    if (limiter === undefined) {
      limiter = pLimit(atATime);
      this.#limiters.set(server, limiter);
    }
    return limiter;
  }

  /** Whoever has been silent for a while gives up what is held for it. */
  #makeRoom(run: Run, size: number): boolean {
    for (const other of this.#bySilence()) {
      if (this.#held + size <= this.#limits.bytes) break;
      if (other !== run && performance.now() - other.usedAt > this.#limits.spareMs) this.#forget(other);
    }
    return this.#held + size <= this.#limits.bytes;
  }

  #bySilence(): Run[] {
    return [...this.#runs].sort((a, b) => a.usedAt - b.usedAt);
  }

  #forget(run: Run): void {
    clearTimeout(run.expiry);
    this.#runs.delete(run);
    for (const ahead of run.ahead.values()) this.#drop(run, ahead);
  }

  #drop(run: Run, ahead: Ahead): void {
    if (run.ahead.get(ahead.name) !== ahead) return;
    run.ahead.delete(ahead.name);
    this.#held -= ahead.size;
  }

  /** Nobody waits for it but {@link close}. */
  #background(work: Promise<unknown>): void {
    const quiet = work.catch(() => {}).finally(() => this.#underWay.delete(quiet));
    this.#underWay.add(quiet);
  }
}

/** A segment and those behind it, across the ends of logs. */
function windowOf(name: WalName, ahead: number, size: number): WalName[] {
  const parsed = parseWalName(name);
  if (parsed === undefined) return [];
  const number = segmentNumber(parsed, size);
  const last = 0x1_0000_0000_0000_0000n / BigInt(size);
  const window = [name];
  for (let next = number + 1n; next < last && window.length <= ahead; next += 1n) {
    window.push(segmentName(parsed.timeline, next, size));
  }
  return window;
}
