import { messageOf } from '../errors.ts';
import { formatLsn } from '../wal/lsn.ts';
import { count, formatSpan } from '../words.ts';
import { OutageLog, type Level } from './outage-log.ts';
import type { ReadyToStream } from './preflight.ts';
import {
  readReceiverReport,
  writeReceiverReport,
  type ReceiverCause,
  type ReceiverReport,
  type ReceiverState,
} from './receiver-report.ts';
import type { ReceiverSettings } from './receiver-settings.ts';

/** Why a state is entered, and for how long. */
export interface StateReason {
  readonly cause: ReceiverCause;
  /** In so many milliseconds comes the next try; null when no time decides it. */
  readonly retryMs: number | null;
}

/** What a receiver tells of itself as its state changes: in the log, and in its report to other processes. */
export class ReceiverJournal {
  readonly #log: OutageLog;
  readonly #settings: ReceiverSettings;
  readonly #startedAt = Date.now();
  #state: ReceiverState = 'preparing';
  #since = this.#startedAt;
  #lastStreamed: number | null;
  #stalls = 0;
  #lastStall: number | null;
  #synchronous: boolean | null;
  /** What of it is durable. */
  #durablySynchronous: boolean | null;
  #cause: ReceiverCause | null = null;
  #retryAt: number | null = null;
  #ready: ReadyToStream | null = null;
  #starts = 0;
  /** Since the last time that it streamed. To pause, or to start pg_receivewal again because we want to, is none. */
  #failures = 0;
  #downSince: number | null = null;
  #writing: Promise<void> = Promise.resolve();
  /** The last report could not be written, which was told. */
  #unwritten = false;

  private constructor(settings: ReceiverSettings, previous: ReceiverReport | null) {
    this.#settings = settings;
    this.#log = new OutageLog(settings.logger);
    this.#lastStreamed = previous?.lastStreamed ?? null;
    this.#lastStall = previous?.lastStall ?? null;
    this.#synchronous = previous?.synchronous ?? null;
    this.#durablySynchronous = this.#synchronous;
  }

  /** Begins where the receiver before us ended: when it streamed last, and whether the server waits for us. */
  static async open(settings: ReceiverSettings): Promise<ReceiverJournal> {
    const previous = await readReceiverReport(settings.reportPath);
    return new ReceiverJournal(settings, previous);
  }

  /** Whether commits wait for us, as far as is known: while the server is away, it was so when it was asked last. */
  get isSynchronous(): boolean {
    return this.#synchronous === true;
  }

  /** pg_receivewal was started. */
  started(ready: ReadyToStream): void {
    this.#ready = ready;
    this.#synchronous = ready.synchronous;
    this.#starts += 1;
    this.#report();
  }

  /** Tells the new state; `reason` where it does not stream for one. */
  enter(state: ReceiverState, reason: StateReason | null): void {
    // A try after a failure is part of the same outage, for those who look from outside.
    if (state === 'preparing' && this.#cause !== null) return;
    const now = Date.now();
    if (this.#state === 'streaming') this.#lastStreamed = now;
    this.#tell(state, reason, now);
    if (state !== this.#state || reason?.cause.failure !== this.#cause?.failure) this.#since = now;
    this.#state = state;
    this.#cause = reason?.cause ?? null;
    this.#retryAt = reason === null || reason.retryMs === null ? null : now + reason.retryMs;
    if (reason === null) this.#failures = 0;
    else if (state !== 'low-disk') this.#failures += 1;
    this.#downSince = reason === null ? null : (this.#downSince ?? now);
    this.#report();
  }

  /** pg_receivewal hangs, and is started again: until it streams, that is why it doesn't. */
  stalled(cause: ReceiverCause): void {
    const now = Date.now();
    this.#lastStreamed = now;
    this.#state = 'preparing';
    this.#since = now;
    this.#stalls += 1;
    this.#lastStall = now;
    this.#cause = cause;
    this.#downSince = now;
    const { server } = this.#settings;
    const { failure, message, hint } = cause;
    this.#log.tell('warn', { server, failure, hint }, `${message}; it is started again`);
    this.#report();
  }

  /** It has streamed for a while: what happens from now on is news. */
  stillStreaming(): void {
    this.#log.over();
    this.#report();
  }

  /** A line of the log that is told once an outage. */
  say(level: Level, text: string): void {
    this.#log.tell(level, { server: this.#settings.server }, text);
  }

  #tell(state: ReceiverState, reason: StateReason | null, now: number): void {
    const { server, postgres } = this.#settings;
    if (reason !== null) {
      const { failure, message, hint } = reason.cause;
      const retry = reason.retryMs === null ? '' : `; trying again in ${formatSpan(reason.retryMs)}`;
      const fields = { server, state, failure, ...(hint === null ? {} : { hint }) };
      return this.#log.tell(state === 'waiting' ? 'warn' : 'error', fields, message + retry);
    }
    if (state === 'streaming') {
      const failures = this.#failures === 0 ? '' : `${count(this.#failures, 'failure')} in `;
      const down = this.#downSince === null ? '' : ` again, after ${failures}${formatSpan(now - this.#downSince)}`;
      const fields = {
        server,
        slot: postgres.slotName,
        synchronous: this.#ready?.synchronous,
        program: this.#ready?.program.version,
      };
      this.#log.tell('info', fields, `receiving WAL of ${server}${down}`);
    }
    if (state === 'stopping') this.#log.tell('info', { server }, `receive-wal of ${server} is asked to stop`);
    if (state === 'stopped') this.#log.tell('info', { server }, `receive-wal of ${server} has stopped`);
  }

  /** Brings the report up to date; a disk that can't take it is told, and no more. */
  #report(): void {
    const { reportPath, postgres, server } = this.#settings;
    const streaming = this.#state === 'streaming';
    const until = this.#ready?.withoutSlotUntil;
    const report = {
      pid: process.pid,
      state: this.#state,
      since: this.#since,
      startedAt: this.#startedAt,
      lastStreamed: streaming ? Date.now() : this.#lastStreamed,
      restarts: Math.max(0, this.#starts - 1),
      stalls: this.#stalls,
      lastStall: this.#lastStall,
      cause: this.#cause,
      retryAt: this.#retryAt,
      slotName: postgres.slotName,
      withoutSlotUntil: until === undefined ? null : formatLsn(until),
      synchronous: this.#synchronous,
      program: this.#ready?.program.version ?? null,
    };
    this.#writing = this.#writing
      .then(() => this.#write(report))
      .then(() => void (this.#unwritten = false))
      .catch((error: unknown) => {
        const text = `can't write ${reportPath}, from which status and check know of receive-wal: ${messageOf(error)}`;
        // Once, whichever step of it fails.
        this.#log.tell(this.#unwritten ? 'debug' : 'warn', { server }, text);
        this.#unwritten = true;
      });
  }

  /** Durable as soon as it says something else of what the next receiver decides by. */
  async #write(report: ReceiverReport): Promise<void> {
    const { synchronous } = report;
    const durable = synchronous !== this.#durablySynchronous;
    await writeReceiverReport(this.#settings.reportPath, report, { durable });
    this.#durablySynchronous = synchronous;
  }

  /** Resolves once the last report is written, or could not be. */
  written(): Promise<void> {
    return this.#writing;
  }
}
