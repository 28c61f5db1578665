import type { ArchiveSummary } from '../archiver/wal-archiver.ts';
import { isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import { pause } from '../health/patience.ts';
import type { Logger } from '../logging.ts';
import { retryDelayMs } from '../receiver/receiver-states.ts';
import type { Server } from '../server.ts';
import { formatSpan } from '../words.ts';
import type { ArchivingState } from './daemon-view.ts';
import { IncomingWatcher } from './incoming-watcher.ts';

export interface ArchiveLoopSettings {
  readonly server: string;
  /** The server's parts, to archive with. Called anew after a pass that failed: what its parts remember may be the reason. */
  readonly open: () => Server;
  /** Where WAL arrives. */
  readonly directories: readonly string[];
  /** `archiver_poll_interval`, in milliseconds. */
  readonly pollMs: number;
  readonly onFailure: (error: WalwardenError) => void;
  readonly logger: Logger;
}

/** After a pass that found nothing to do, the next one that is asked for comes so many milliseconds later, … */
const FIRST_PAUSE_MS = 25;
/** … doubling up to this: a file is being written, and each look at it costs. */
const LAST_PAUSE_MS = 1_000;

/** Another process archives for this server; cron does so once a minute. */
const ELSEWHERE_MS = 1_000;

/** What a pass says about when the next one should come. */
type PassEnd =
  | { readonly next: 'at-once' } // it did something: there may be more
  | { readonly next: 'when-woken'; readonly unfinished: boolean }
  | { readonly next: 'later'; readonly inMs: number };

/**
 * The archiving of one server, for as long as the daemon runs: pass after pass
 * while there is something to do; then one whenever something arrives, and one
 * every `archiver_poll_interval` where nobody tells. A pass that fails is tried
 * again after 1 to 60 s. Other servers have loops of their own.
 */
export class ArchiveLoop {
  readonly #settings: ArchiveLoopSettings;
  readonly #watcher: IncomingWatcher;
  #server: Server | null = null;
  #phase: ArchivingState['state'] = 'starting';
  #error: WalwardenError | null = null;
  #failures = 0;
  #lastPass: number | null = null;
  #waiting = 0;
  /** Passes in a row that found nothing to do, each soon after the one before. */
  #inVain = 0;
  /** Of the last pass, on the monotonic clock. */
  #endedAt = 0;
  #woken = false;
  #wakeUp: () => void = () => {};
  /** Why arrivals are not told, as the log knows it. */
  #blindness: string | null = null;

  constructor(settings: ArchiveLoopSettings) {
    this.#settings = settings;
    this.#watcher = new IncomingWatcher(settings.directories, () => this.wake());
  }

  get state(): ArchivingState {
    const error = this.#error;
    return {
      state: this.#phase,
      failures: this.#failures,
      error: error === null ? null : { code: error.code, message: error.message, hint: error.hint ?? null },
      lastPass: this.#lastPass,
      waiting: this.#waiting,
      watching: this.#watcher.isComplete,
    };
  }

  /** Something may have arrived. */
  wake(): void {
    this.#woken = true;
    this.#wakeUp();
  }

  /** Resolves once the files in hand after `drain` are done with. Never rejects. */
  async run(drain: AbortSignal): Promise<void> {
    const stop = (): void => this.#wakeUp();
    drain.addEventListener('abort', stop);
    try {
      while (!drain.aborted) {
        this.#woken = false;
        const end = await this.#pass(drain);
        this.#endedAt = performance.now();
        await this.#rest(end, drain);
      }
    } finally {
      drain.removeEventListener('abort', stop);
      this.#watcher.close();
      await this.#close();
      this.#phase = 'stopped';
    }
  }

  async #pass(drain: AbortSignal): Promise<PassEnd> {
    const passes: ArchiveSummary[] = [];
    const before = this.#phase;
    this.#phase = 'archiving';
    try {
      this.#server ??= this.#settings.open();
      await this.#server.archive(false, (pass) => passes.push(pass));
    } catch (error) {
      return this.#failed(error, passes, before, drain);
    } finally {
      this.#lastPass = Date.now();
      this.#waiting = passes.reduce((sum, { waiting }) => sum + waiting, 0);
    }
    this.#phase = 'idle';
    this.#error = null;
    this.#failures = 0;
    if (passes.some(didSomething)) return { next: 'at-once' };
    return { next: 'when-woken', unfinished: passes.some(({ incomplete, overdue }) => incomplete > overdue.length) };
  }

  async #failed(
    cause: unknown,
    passes: readonly ArchiveSummary[],
    before: ArchivingState['state'],
    drain: AbortSignal,
  ): Promise<PassEnd> {
    const { server, logger, onFailure, pollMs } = this.#settings;
    if (isErrorCode(cause, 'locked')) {
      if (before !== 'elsewhere') logger.debug({ server }, `another process archives for ${server}: ${cause.message}`);
      this.#phase = 'elsewhere';
      return { next: 'later', inMs: ELSEWHERE_MS };
    }
    // Where WAL arrives, nothing is to blame that we remember.
    if (!isErrorCode(cause, 'source')) await this.#close();
    if (drain.aborted && isErrorCode(cause, 'aborted')) return { next: 'at-once' };
    const error = cause instanceof WalwardenError ? cause : new WalwardenError('internal', messageOf(cause), { cause });
    // One of two archivers may go on: what it archived comes as soon as ever.
    const partly = passes.some(({ archived }) => archived.length > 0);
    const inMs = partly
      ? 0
      : Math.min(retryDelayMs(this.#failures, Math.random()), passes.length > 0 ? pollMs : Infinity);
    const facts = { server, code: error.code, hint: error.hint, err: error.code === 'internal' ? cause : undefined };
    logger[error.repeated ? 'debug' : 'error'](
      facts,
      `archiving of ${server} failed: ${error.message}; next try in ${formatSpan(inMs)}`,
    );
    this.#phase = 'failing';
    this.#error = error;
    this.#failures += 1;
    onFailure(error);
    return { next: 'later', inMs };
  }

  async #rest(end: PassEnd, drain: AbortSignal): Promise<void> {
    if (drain.aborted) return;
    switch (end.next) {
      case 'at-once':
        this.#inVain = 0;
        // Others want the event loop, too.
        return this.#sleep(0, drain);
      case 'later':
        return this.#sleep(end.inMs, drain);
      case 'when-woken':
        return this.#untilWoken(end.unfinished, drain);
    }
  }

  async #untilWoken(unfinished: boolean, drain: AbortSignal): Promise<void> {
    const { pollMs } = this.#settings;
    if (await this.#watch()) this.#woken = true;
    const leastRest = (): number => Math.min(FIRST_PAUSE_MS * 2 ** this.#inVain, LAST_PAUSE_MS);
    const until = this.#endedAt + (unfinished ? Math.min(FIRST_PAUSE_MS * 2 ** this.#inVain, pollMs) : pollMs);
    for (;;) {
      const now = performance.now();
      if (drain.aborted || now >= until) break;
      const rested = now - this.#endedAt;
      if (this.#woken && rested >= leastRest()) break;
      await this.#sleep(Math.min(until - now, this.#woken ? leastRest() - rested : Infinity), drain, !this.#woken);
    }
    // After a quiet time, whatever comes is looked at at once.
    const quiet = performance.now() - this.#endedAt > LAST_PAUSE_MS;
    this.#inVain = this.#woken && quiet ? 0 : this.#inVain + 1;
  }

  /** Sees to it that arrivals are told. True when they are from now on, and were not before. */
  async #watch(): Promise<boolean> {
    const { server, logger, pollMs } = this.#settings;
    const before = this.#watcher.isComplete;
    const blindness = await this.#watcher.ensure();
    if (blindness !== null && this.#blindness === null) {
      const text = `can't watch where WAL of ${server} arrives (${blindness}); looking there every ${formatSpan(pollMs)} instead`;
      logger.warn({ server }, text);
    } else if (blindness === null && this.#blindness !== null) {
      logger.info({ server }, `watching where WAL of ${server} arrives again`);
    }
    this.#blindness = blindness;
    return !before && blindness === null;
  }

  /** So many milliseconds, or until we are asked to stop or, if that matters, woken. */
  async #sleep(ms: number, drain: AbortSignal, wakes = false): Promise<void> {
    if (drain.aborted) return;
    const over = new AbortController();
    this.#wakeUp = () => {
      if (wakes || drain.aborted) over.abort();
    };
    await pause(ms, over.signal);
    this.#wakeUp = () => {};
  }

  async #close(): Promise<void> {
    const { server, logger } = this.#settings;
    const closing = this.#server;
    this.#server = null;
    try {
      await closing?.[Symbol.asyncDispose]();
    } catch (error) {
      logger.warn({ server }, `${server} could not be closed: ${messageOf(error)}`);
    }
  }
}

function didSomething({ archived, duplicates, conflicts, unknown }: ArchiveSummary): boolean {
  return (
    archived.length + duplicates.length + [...conflicts, ...unknown].filter(({ movedTo }) => movedTo !== null).length >
    0
  );
}
