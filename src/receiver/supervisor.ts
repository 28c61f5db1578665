import { setTimeout as delay } from 'node:timers/promises';
import { formatBytes } from '../words.ts';
import type { VerifiedSegments } from './archived-run.ts';
import { lowSpace, untilEnoughSpace, untilLowSpace, type DiskSpace, type WatchedDisk } from './free-space.ts';
import { KeptPartial, keptDiffers } from './kept-partial.ts';
import { awaitWalsenderGone } from './own-walsender.ts';
import { causeOf, prepareToStream, type ReadyToStream } from './preflight.ts';
import { ReceiverJournal, type StateReason } from './receiver-journal.ts';
import { causeOfEnd, causePasses, readOutputLine } from './receiver-output.ts';
import { startReceiver, type ReceiverEnd, type ReceiverProcess } from './receiver-process.ts';
import type { ReceiverCause, ReceiverState } from './receiver-report.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { failuresAfter, nextState, waitAfterFailure, type ReceiverEvent } from './receiver-states.ts';
import { receivewalCommand, type ReceivewalCommand } from './receivewal-command.ts';
import { untilNews } from './stream-watch.ts';
import { untilReceived } from './streaming-directory.ts';
import { streamingOption } from './streaming-server.ts';
import type { Lsn } from '../wal/lsn.ts';

/** What a refusal takes to arrive after pg_receivewal has said that it starts; when none does, it streams. */
const SETTLE_MS = 1_000;

/** A server that takes the connection and then says nothing would be waited for in vain. */
const START_TIMEOUT_MS = 60_000;

/** After so much streaming the next failure is another outage, to be told in full. */
const OUTAGE_OVER_MS = 10_000;

/** How often the report says that it still streams. */
const HEARTBEAT_MS = 30_000;

/** How often it is looked at whether what is received again is what was received before. */
const COMPARE_MS = 1_000;

/** So long after the end of pg_receivewal our own stop signal may be seen. */
const STOP_FOLLOWS_MS = 100;

/** Between asking pg_receivewal to end and killing it. */
const STOP_GRACE_MS = 10_000;
/** The same for one that hangs, which has nothing left to do. */
const STALL_GRACE_MS = 3_000;

/** It says no more than this when something ends it. */
const MAX_TROUBLES = 30;

/** Segments have this size until the server has told. */
const USUAL_SEGMENT_SIZE = 16 * 1024 * 1024;

/**
 * Receives WAL until asked to stop: one pg_receivewal at a time, started again
 * whenever it ends. The caller holds the receive-wal lock. Resolves once the
 * child is gone after `drain` (10 s grace, then SIGKILL) or `kill` (at once).
 */
export async function superviseReceiver(
  settings: ReceiverSettings,
  signals: { readonly drain: AbortSignal; readonly kill: AbortSignal },
): Promise<void> {
  await new Supervisor(settings, await ReceiverJournal.open(settings), signals).run();
}

/** What to do about something that happened, if it is the first thing to happen. */
type Reaction = () => ReceiverEvent | Promise<ReceiverEvent>;

/** A pg_receivewal and when it has asked the server for WAL, which the server may yet refuse. */
interface Started {
  readonly child: ReceiverProcess;
  readonly asked: Promise<void>;
}

class Supervisor {
  readonly #settings: ReceiverSettings;
  readonly #journal: ReceiverJournal;
  readonly #kill: AbortSignal;
  readonly #stopAsked: AbortSignal;
  /** What is done in each state, until the event that ends it; the transition table says what follows. */
  readonly #act: Readonly<Record<Exclude<ReceiverState, 'stopped'>, () => Promise<ReceiverEvent>>> = {
    preparing: () => this.#prepare(),
    streaming: () => this.#stream(),
    waiting: () => this.#untilRetry(),
    blocked: () => this.#untilRetry(),
    'low-disk': () => this.#untilSpace(),
    stopping: () => this.#stop(),
  };
  #child: ReceiverProcess | null = null;
  /** What pg_receivewal writes over, until it is compared. */
  #kept: KeptPartial | null = null;
  /** What this child said last went wrong. */
  #troubles: string[] = [];
  /** What of the archive the tries before have verified. */
  readonly #verified: VerifiedSegments = new Set();
  #segmentSize = USUAL_SEGMENT_SIZE;
  #synchronous = false;
  /** It streams without the slot until so much is received. */
  #withoutSlotUntil: Lsn | undefined;
  #systemIdentifier = 0n;
  /** In a row. */
  #failures = 0;
  #retryMs = 0;
  /** We have ended pg_receivewal ourselves, and it does not stream yet: the server may still have the old one's connection. */
  #restarting = false;
  /** Why the next state is none in which it streams. */
  #reason: StateReason | null = null;

  constructor(
    settings: ReceiverSettings,
    journal: ReceiverJournal,
    signals: { readonly drain: AbortSignal; readonly kill: AbortSignal },
  ) {
    this.#settings = settings;
    this.#journal = journal;
    this.#kill = signals.kill;
    this.#stopAsked = AbortSignal.any([signals.drain, signals.kill]);
  }

  async run(): Promise<void> {
    let state: ReceiverState = 'preparing';
    this.#journal.enter(state, null);
    try {
      while (state !== 'stopped') {
        this.#reason = null;
        const event = await this.#act[state]();
        state = nextState(state, event);
        this.#journal.enter(state, this.#reason);
      }
    } finally {
      await this.#endChild();
      await this.#releaseKept();
      await this.#journal.written();
    }
  }

  async #prepare(): Promise<ReceiverEvent> {
    const low = await lowSpace(this.#disk);
    if (low !== null) return this.#pause(low);
    await this.#releaseKept();
    let ready: ReadyToStream;
    let command: ReceivewalCommand;
    try {
      ready = await prepareToStream(this.#settings, this.#stopAsked, this.#verified);
      command = receivewalCommand(this.#settings, ready);
      this.#kept = await KeptPartial.open(this.#settings);
    } catch (error) {
      return this.#stopAsked.aborted ? 'stop' : this.#fail(causeOf(error));
    }
    this.#verified.clear();
    if (this.#stopAsked.aborted) return 'stop';
    if (this.#segmentSize !== ready.segmentSize) {
      this.#segmentSize = ready.segmentSize;
      // Its limits are others; pg_receivewal begins by filling a whole segment.
      const lowForIt = await lowSpace(this.#disk);
      if (lowForIt !== null) return this.#pause(lowForIt);
    }
    this.#synchronous = ready.synchronous;
    this.#withoutSlotUntil = ready.withoutSlotUntil;
    this.#systemIdentifier = ready.systemIdentifier;
    this.#journal.started(ready);
    const { child, asked } = this.#start(command);
    return firstOf((scope) => [
      ...this.#watch(child, scope),
      asked.then(() => delay(SETTLE_MS, () => 'streams' as const, { signal: scope })),
      delay(START_TIMEOUT_MS, () => this.#giveUpStart(), { signal: scope }),
    ]);
  }

  async #stream(): Promise<ReceiverEvent> {
    const child = this.#child;
    if (child === null) return 'fails';
    this.#restarting = false;
    const began = performance.now();
    const react = await first((scope) => [
      ...this.#watch(child, scope),
      this.#heartbeat(scope),
      this.#watchNews(scope),
      ...(this.#withoutSlotUntil === undefined ? [] : [this.#reachSlot(this.#withoutSlotUntil, scope)]),
    ]);
    // Before the reaction, which may count the next failure, and choose how long to wait.
    this.#failures = failuresAfter(this.#failures, performance.now() - began);
    return react();
  }

  async #untilRetry(): Promise<ReceiverEvent> {
    return firstOf((scope) => [delay(this.#retryMs, () => 'retry', { signal: scope }), this.#stopWhenAsked(scope)]);
  }

  async #untilSpace(): Promise<ReceiverEvent> {
    await this.#endChild();
    return firstOf((scope) => [
      untilEnoughSpace(this.#disk, scope).then((space) => () => this.#goOn(space)),
      this.#stopWhenAsked(scope),
    ]);
  }

  async #stop(): Promise<ReceiverEvent> {
    await this.#endChild();
    return 'gone';
  }

  #start({ program, args, env }: ReceivewalCommand): Started {
    this.#troubles = [];
    let nowAsked = (): void => undefined;
    const asked = new Promise<void>((resolve) => (nowAsked = resolve));
    const child = startReceiver(program, args, env, (line) => {
      if (this.#hear(line)) nowAsked();
    });
    this.#child = child;
    return { child, asked };
  }

  /** Logs a line of pg_receivewal; true when it asks the server for WAL. */
  #hear(line: string): boolean {
    const { level, text, starts, trouble } = readOutputLine(line);
    if (trouble) this.#troubles = [...this.#troubles, text].slice(-MAX_TROUBLES);
    this.#journal.say(level, `pg_receivewal: ${text}`);
    return starts;
  }

  async #endChild(graceMs = STOP_GRACE_MS, signal: NodeJS.Signals = 'SIGINT'): Promise<void> {
    const killed = await this.#child?.stop(graceMs, this.#kill, signal);
    this.#child = null;
    if (killed === true) this.#journal.say('warn', 'pg_receivewal did not end when it was asked to, and was killed');
  }

  /** What can end the streaming, or the start of it. */
  #watch(child: ReceiverProcess, scope: AbortSignal): Promise<Reaction>[] {
    return [
      child.ended.then((end) => () => this.#ended(end)),
      untilLowSpace(this.#disk, scope).then((space) => () => this.#pause(space)),
      this.#watchKept(scope),
      this.#stopWhenAsked(scope),
    ];
  }

  /** Resolves once the server has sent something else than it had sent before. */
  async #watchKept(scope: AbortSignal): Promise<Reaction> {
    for (;;) {
      const kept = this.#kept;
      if (kept !== null && (await this.#compare(kept)) === 'differs') {
        return async (): Promise<ReceiverEvent> => {
          await this.#endChild();
          return this.#fail(causeOf(keptDiffers(this.#settings, kept.path)));
        };
      }
      await delay(COMPARE_MS, undefined, { signal: scope });
    }
  }

  /** A copy that can't be compared stays where it is, and the next start looks at it. */
  async #compare(kept: KeptPartial): Promise<'same' | 'differs' | null> {
    try {
      return await kept.look();
    } catch (error) {
      this.#journal.say('warn', `can't compare what is received with ${kept.path}: ${causeOf(error).message}`);
      return null;
    }
  }

  /** The last look while the file can be had that pg_receivewal wrote, whoever has taken it away. */
  async #releaseKept(): Promise<void> {
    const kept = this.#kept;
    if (kept === null) return;
    await this.#compare(kept);
    this.#kept = null;
    await kept[Symbol.asyncDispose]();
  }

  async #stopWhenAsked(scope: AbortSignal): Promise<Reaction> {
    await fired(this.#stopAsked, scope);
    return () => 'stop';
  }

  /** Tells others, and itself, that it still streams; never resolves. */
  async #heartbeat(scope: AbortSignal): Promise<never> {
    await delay(OUTAGE_OVER_MS, undefined, { signal: scope });
    for (;;) {
      this.#journal.stillStreaming();
      await delay(HEARTBEAT_MS, undefined, { signal: scope });
    }
  }

  /** Resolves once pg_receivewal has to be started again, though it goes on. That is no failure, and nothing is waited for. */
  async #watchNews(scope: AbortSignal): Promise<Reaction> {
    const [synchronous, segmentSize, systemIdentifier] = [this.#synchronous, this.#segmentSize, this.#systemIdentifier];
    const withSlot = this.#withoutSlotUntil === undefined;
    const stream = { synchronous, withSlot, segmentSize, systemIdentifier };
    const news = await untilNews(this.#settings, stream, scope);
    return async (): Promise<ReceiverEvent> => {
      const stalls = news.what === 'stalled';
      if (stalls) {
        this.#journal.stalled({ failure: 'stalled', message: news.message, hint: stallHint(this.#settings) });
        await this.#endChild(STALL_GRACE_MS, 'SIGTERM');
      } else {
        const what = news.synchronous ? 'names us now' : 'does not name us any more';
        this.#journal.say('info', `synchronous_standby_names ${what}: pg_receivewal is started again`);
        await this.#endChild();
      }
      if (news.walsender !== null) {
        await awaitWalsenderGone(this.#settings, news.walsender, { end: stalls }, this.#stopAsked);
      }
      this.#failures = 0;
      this.#restarting = true;
      return this.#stopAsked.aborted ? 'stop' : 'changed';
    };
  }

  /** Resolves once as much is received as has to be before the slot can be used. */
  async #reachSlot(until: Lsn, scope: AbortSignal): Promise<Reaction> {
    await untilReceived(this.#settings.streamingDirectory, this.#segmentSize, until, scope);
    return async (): Promise<ReceiverEvent> => {
      this.#journal.say('info', `received up to what the slot reserves: pg_receivewal is started again, with the slot`);
      await this.#endChild();
      this.#failures = 0;
      return 'changed';
    };
  }

  async #ended(end: ReceiverEnd): Promise<ReceiverEvent> {
    this.#child = null;
    // Who stops a service may signal all of its processes at once, and we may see the child's end before our own signal.
    await first((scope) => [delay(STOP_FOLLOWS_MS, undefined, { signal: scope }), fired(this.#stopAsked, scope)]);
    if (this.#stopAsked.aborted) return 'stop';
    const { server, postgres, streamingDirectory } = this.#settings;
    const context = { option: streamingOption(postgres), server, slotName: postgres.slotName };
    return this.#fail(causeOfEnd(end, this.#troubles, streamingDirectory, context));
  }

  async #giveUpStart(): Promise<ReceiverEvent> {
    await this.#endChild();
    const option = streamingOption(this.#settings.postgres);
    return this.#fail({
      failure: 'unreachable',
      message: `pg_receivewal did not begin to stream within ${START_TIMEOUT_MS / 1000} s`,
      hint: `the server of ${option} accepts the connection and does not answer: see its log, and what is between it and us`,
    });
  }

  #fail(cause: ReceiverCause): ReceiverEvent {
    const passes = causePasses(cause);
    const { isSynchronous: synchronous } = this.#journal;
    this.#retryMs = waitAfterFailure({ passes, failures: this.#failures, synchronous }, Math.random());
    // What is left of a connection that we have ended is no failure.
    if (!this.#restarting || cause.failure !== 'slot-active') this.#failures += 1;
    this.#reason = { cause, retryMs: this.#retryMs };
    return passes ? 'fails' : 'blocks';
  }

  #pause({ free, limits }: DiskSpace): ReceiverEvent {
    const { streamingDirectory, postgres } = this.#settings;
    const keeps =
      postgres.slotName === null
        ? 'without a slot_name the server may remove WAL before it is received'
        : `replication slot "${postgres.slotName}" keeps it there meanwhile only as far as max_slot_wal_keep_size and idle_replication_slot_timeout of the server allow`;
    const message = `only ${formatBytes(free)} are free for ${streamingDirectory}, receiving pauses below ${formatBytes(limits.pauseBelow)}`;
    const hint = `make space there (receive_wal_min_free is the limit); ${keeps}`;
    this.#reason = { cause: { failure: 'low-disk', message, hint }, retryMs: null };
    return 'disk-low';
  }

  #goOn({ free }: DiskSpace): ReceiverEvent {
    this.#failures = 0;
    this.#journal.say(
      'info',
      `${formatBytes(free)} are free for ${this.#settings.streamingDirectory}: receiving goes on`,
    );
    return 'disk-free';
  }

  get #disk(): WatchedDisk {
    const { streamingDirectory, minFree } = this.#settings;
    return { directory: streamingDirectory, minFree, segmentSize: this.#segmentSize };
  }
}

function stallHint({ server, postgres }: ReceiverSettings): string {
  return (
    `what lies between us and the server of ${streamingOption(postgres)} (a proxy, a firewall) may have dropped the connection ` +
    `in silence, or this machine does not let pg_receivewal work; receive_wal_stall_timeout of [${server}] is how long it may take`
  );
}

/** What came of whatever happens first. */
async function firstOf(sources: (scope: AbortSignal) => Promise<Reaction>[]): Promise<ReceiverEvent> {
  const react = await first(sources);
  return react();
}

/** Whatever happens first; the others are given up. */
async function first<T>(sources: (scope: AbortSignal) => Promise<T>[]): Promise<T> {
  const scope = new AbortController();
  try {
    return await Promise.race(sources(scope.signal));
  } finally {
    scope.abort();
  }
}

/** Resolves when a signal fires; leaves nothing on it when `scope` ends before. */
function fired(signal: AbortSignal, scope: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true, signal: scope });
  });
}
