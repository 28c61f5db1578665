import { setTimeout as delay } from 'node:timers/promises';
import pLimit from 'p-limit';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import { secondsOfNs, type WalFileInfo } from '../wal/wal-file-info.ts';
import type { WalName } from '../wal/wal-name.ts';
import { readSource } from './sources.ts';
import type { StageResult } from './staged.ts';
import type {
  CommitResult,
  PreparedWal,
  SaveOptions,
  SaveResult,
  SentWal,
  WaitingWal,
  WalStorageStrategy,
} from './wal-storage-strategy.ts';

/** Files that share one directory fsync and one catalogue fsync. */
const GROUP_SIZE = 16;
/** A group that grows slowly is committed once its first file has waited this long, in milliseconds. */
const GROUP_AGE = 1_000;

const NOTHING_LOST = 'nothing is lost: what is not archived stays where it is, and the next pass tries again';

/** A file whose turn never came: nothing was done with it, and nobody is told of it. */
const DRAINED: StageResult = { outcome: 'changed', reason: 'we were asked to stop' };

type StageFailed = Extract<StageResult, { readonly outcome: 'failed' }>;

/** A file between its pre hooks and its removal. */
interface InHand {
  readonly prepared: PreparedWal;
  /** Resolves once it is staged, admitted and sent, or is known not to be. Never rejects. */
  readonly staging: Promise<unknown>;
  /** Set once staging has ended, one way or the other. */
  staged: StageResult | null;
  /** The name that it is stored under; see {@link StagedWal}. */
  name: WalName;
  sent: CommitResult | null;
  /** Why it could not be staged, admitted or sent; says itself what can't be done. */
  fault: WalwardenError | null;
  /** When that was, in milliseconds of the clock. */
  stagedAt: number;
  /** It was staged before, in vain. */
  readonly again: boolean;
  /** Set once nothing more but the post hooks and the removal is to be done. */
  result: SaveResult | null;
}

/**
 * The journey of a batch, from the queue to the removal of the sources:
 *
 *   claim, pre hooks      one file at a time, in WAL order
 *   stage                 in parallel, ahead of the commit
 *   admit                 in WAL order: the first segment of all says whose archive this is
 *   name                  a segment that is only the beginning of a known one becomes a partial one
 *   send                  in parallel, where the archive is far away
 *   commit                a group, in WAL order, under the catalogue's lock
 *   catalogue lines       one write and one fsync, under the same lock
 *   post hooks            one file at a time; before the sources go, so that a crash repeats them and never skips them
 *   remove                the sources
 *
 * A file is yielded after all of that. When going on is useless, what was
 * prepared is dropped and the reason thrown: every source not yet yielded as
 * stored is still there.
 */
export class SavePipeline {
  readonly #strategy: WalStorageStrategy;
  readonly #options: SaveOptions;
  readonly #expected: number;
  readonly #window: number;
  readonly #limit: ReturnType<typeof pLimit>;
  readonly #sends: ReturnType<typeof pLimit>;
  /** In WAL order. */
  readonly #inHand: InHand[] = [];
  /** Why no more files are taken; thrown when those in hand are done. */
  #stop: unknown = null;
  /** Nothing more can be stored, not even what is in hand. */
  #broken = false;
  /** Nobody waits for results any more. */
  #abandoned = false;
  /** One can't be sent, and each of the others would wait as long for the same answer. */
  #unreachable = false;
  /** Resolves once the last file that was taken is admitted, or not. */
  #admitted: Promise<void> = Promise.resolve();

  constructor(strategy: WalStorageStrategy, options: SaveOptions) {
    this.#strategy = strategy;
    this.#options = options;
    this.#expected = options.expected ?? 1;
    const concurrency = strategy.concurrency(this.#expected);
    this.#limit = pLimit(concurrency);
    this.#sends = pLimit(strategy.sendConcurrency);
    // While a group is committed, the next one is staged.
    this.#window = 2 * GROUP_SIZE + concurrency;
  }

  async *run(wals: AsyncIterable<WaitingWal>): AsyncGenerator<SaveResult> {
    try {
      yield* this.#run(wals);
    } catch (error) {
      if (error instanceof WalwardenError || errnoOf(error) === undefined) throw error;
      throw new WalwardenError('storage', `can't store any more: ${messageOf(error)}`, {
        cause: error,
        hint: NOTHING_LOST,
      });
    }
  }

  async *#run(wals: AsyncIterable<WaitingWal>): AsyncGenerator<SaveResult> {
    const queue = wals[Symbol.asyncIterator]();
    let more = true;
    let taking: Promise<boolean> | null = null;
    try {
      while (!this.#broken) {
        if (more && taking === null && this.#inHand.length < this.#window) taking = this.#take(queue);
        if (taking !== null && !(await this.#isGroupDueBefore(taking))) {
          more = await taking;
          taking = null;
        } else if (this.#inHand.length > 0) {
          yield* await this.#finishGroup(await this.#nextGroup());
        } else {
          break;
        }
      }
    } finally {
      if (taking !== null) await taking;
      await queue.return?.();
      await this.#dropRest();
    }
    if (this.#stop !== null) throw this.#stop;
  }

  get #draining(): boolean {
    return this.#options.drain?.aborted === true || this.#useless;
  }

  /** What is in hand can't be stored, or nobody wants it. */
  get #useless(): boolean {
    return this.#broken || this.#abandoned;
  }

  /** Takes one file from the queue in hand; false when no more are to be taken. Never rejects. */
  async #take(queue: AsyncIterator<WaitingWal>): Promise<boolean> {
    if (this.#draining) return false;
    try {
      const next = await queue.next();
      if (next.done === true) return false;
      const copy = this.#options.skipDelete === true || next.value.handling !== undefined;
      const prepared = await this.#strategy.prepare(next.value, { copy });
      const hook = await this.#strategy.parts.hooks.before('archive', sourceInfo(prepared.wal), prepared.wal.path);
      if (hook.outcome === 'continue') {
        this.#inHand.push(this.#startStaging(prepared, false));
        return true;
      }
      await this.#strategy.release(prepared);
      // Being asked to stop is no failure: what is in hand is finished, and the rest waits.
      if (hook.error.code !== 'aborted') this.#stop = hook.error;
    } catch (error) {
      this.#stop = error;
    }
    return false;
  }

  #startStaging(prepared: PreparedWal, again: boolean): InHand {
    const staged = this.#limit(() => (this.#draining ? DRAINED : this.#stage(prepared)));
    // One that is staged again had its turn before.
    const admitted = again ? staged.then((result) => this.#admit(result)) : this.#admitInTurn(staged);
    const settle = async (): Promise<void> => {
      const sending = admitted
        .then((result) => this.#name(prepared, result))
        .then(({ staged: result, name }) => {
          item.name = name;
          return this.#send(prepared, name, result);
        });
      const outcome = await sending.catch((error: unknown) => ({
        staged: failed(error),
        fault: error instanceof WalwardenError ? error : null,
      }));
      this.#strategy.letGo(prepared);
      Object.assign(item, outcome, { stagedAt: Date.now() });
    };
    const item: InHand = {
      prepared,
      staging: settle(),
      staged: null,
      name: prepared.wal.name,
      sent: null,
      fault: null,
      stagedAt: 0,
      again,
      result: null,
    };
    return item;
  }

  async #stage(prepared: PreparedWal): Promise<StageResult> {
    const began = performance.now();
    let result = await this.#strategy.stage(prepared, this.#expected);
    if (result.outcome === 'invalid' && result.broken === true && (await this.#isArchived(prepared.wal))) {
      result = await this.#strategy.stage({ ...prepared, archivedAsItIs: true }, this.#expected);
    }
    this.#options.observer?.staged((performance.now() - began) / 1000);
    return result;
  }

  /** An archive may have taken a segment before all of its pages were looked at. */
  async #isArchived(wal: WaitingWal): Promise<boolean> {
    const bytes = await readSource(wal);
    return bytes !== null && (await this.#strategy.compare(wal.name, bytes)).result === 'same';
  }

  /** In WAL order, though they are staged in any: the first of all may decide whose archive this is. */
  #admitInTurn(staged: Promise<StageResult>): Promise<StageResult> {
    const previous = this.#admitted;
    const admitted = staged.then(async (result) => {
      await previous;
      return this.#admit(result);
    });
    // Also when this one could not be staged at all.
    this.#admitted = Promise.all([previous, admitted.then(nothing, nothing)]).then(nothing);
    return admitted;
  }

  /** Does it belong here? */
  async #admit(staged: StageResult): Promise<StageResult> {
    if (staged.outcome !== 'staged') return staged;
    const { systemIdentifier, majorVersion, magic } = staged;
    if (systemIdentifier === null || magic === null) return staged;
    const foreign = await this.#strategy.parts.accept({ systemIdentifier, majorVersion, magic });
    return foreign === null ? staged : { outcome: 'invalid', reason: foreign };
  }

  /** A segment whose WAL ends inside may be the beginning of one that is known: then it is stored as a partial one. */
  async #name(prepared: PreparedWal, staged: StageResult): Promise<{ staged: StageResult; name: WalName }> {
    const { name } = prepared.wal;
    if (staged.outcome !== 'staged' || !staged.endsInside) return { staged, name };
    try {
      const chosen = await this.#strategy.parts.nameOf(prepared.wal);
      if (chosen !== null) return { staged, name: chosen };
      return { staged: { outcome: 'changed', reason: 'it changed while it was compared' }, name };
    } catch (error) {
      // What can't be told of one file is no reason to keep the others waiting.
      if (!isErrorCode(error, 'source')) throw error;
      return { staged: { outcome: 'failed', side: 'source', reason: error.message, errno: null }, name };
    }
  }

  async #send(
    prepared: PreparedWal,
    name: WalName,
    staged: StageResult,
  ): Promise<Pick<InHand, 'staged' | 'sent' | 'fault'>> {
    if (staged.outcome !== 'staged') return { staged, sent: null, fault: null };
    return this.#sends(async () => {
      if (this.#useless || this.#unreachable) return { staged: DRAINED, sent: null, fault: null };
      try {
        const sent = await this.#strategy.send({ ...prepared, name, facts: staged });
        // The bytes would stay in memory until the group is complete.
        return { staged: { ...staged, packed: undefined }, sent, fault: null };
      } catch (error) {
        this.#unreachable = true;
        if (!(error instanceof WalwardenError)) throw error;
        return { staged: failed(error), sent: null, fault: error };
      }
    });
  }

  /**
   * True when the first file in hand has waited for its group long enough
   * before another is taken: pre hooks may keep that one for long.
   */
  async #isGroupDueBefore(taking: Promise<boolean>): Promise<boolean> {
    const first = this.#inHand[0];
    if (first === undefined) return false;
    const wait = new AbortController();
    const due = first.staging.then(async () => {
      await delay(Math.max(0, first.stagedAt + GROUP_AGE - Date.now()), undefined, { signal: wait.signal });
      return true;
    });
    // Whichever comes second must not go unheard.
    due.catch(() => {});
    try {
      return await Promise.race([taking.then(() => false), due]);
    } finally {
      wait.abort();
    }
  }

  /** Takes the next files off hand, all of them staged: a full group, or fewer when the first has waited long enough. */
  async #nextGroup(): Promise<InHand[]> {
    const wanted = this.#inHand.slice(0, GROUP_SIZE);
    await wanted[0]?.staging;
    const all = Promise.all(wanted.map((item) => item.staging));
    let timer: NodeJS.Timeout | undefined;
    const due = new Promise((resolve) => (timer = setTimeout(resolve, GROUP_AGE)));
    await Promise.race([all, due]);
    clearTimeout(timer);
    const unready = wanted.findIndex((item) => item.staged === null);
    return this.#inHand.splice(0, unready === -1 ? wanted.length : unready);
  }

  /** Commits a group and ends the journey of its files. What can't be committed (yet) goes back in hand. */
  async #finishGroup(group: InHand[]): Promise<SaveResult[]> {
    const toCommit = this.#judge(group);
    try {
      await this.#commit(toCommit);
    } catch (error) {
      // What was published without a line is met again as a duplicate, and gets its line then.
      this.#break(error);
    }
    const open = group.findIndex((item) => item.result === null);
    const done = open === -1 ? group : group.slice(0, open);
    const rest = group.slice(done.length);
    if (rest.length > 0 && !this.#broken) await this.#restage(rest);
    this.#inHand.unshift(...rest);

    const results: SaveResult[] = [];
    const stored: PreparedWal[] = [];
    const kept: PreparedWal[] = [];
    for (const { prepared, result, staged } of done) {
      if (result === null) continue;
      const hooksDue = staged === DRAINED ? false : await this.#runPostHooks(prepared, result);
      if ('reason' in result) {
        results.push({ ...result, wal: await this.#strategy.release(prepared) });
      } else {
        (hooksDue || prepared.wal.handling === 'keep' ? kept : stored).push(prepared);
        results.push(hooksDue ? { ...result, hooksDue } : result);
      }
    }
    await this.#strategy.remove(stored, this.#options.skipDelete === true);
    await this.#strategy.remove(kept, true);
    return results;
  }

  /** True when the source must stay, so that the scripts are called again: one can't be run, or we were asked to stop. */
  async #runPostHooks(prepared: PreparedWal, result: SaveResult): Promise<boolean> {
    const hook = await this.#strategy.parts.hooks.after(
      'archive',
      'info' in result ? result.info : sourceInfo(prepared.wal),
      this.#strategy.getFullPath('info' in result ? result.info.name : prepared.wal.name),
      'reason' in result ? result.reason : undefined,
    );
    if (hook.outcome === 'continue') return false;
    if (hook.error.code !== 'aborted') this.#break(hook.error);
    return true;
  }

  /** Settles the files that can't be stored; returns those that can, up to the first that nothing can be stored after. */
  #judge(group: readonly InHand[]): InHand[] {
    const storable: InHand[] = [];
    for (const item of group) {
      const { wal } = item.prepared;
      const { staged } = item;
      if (staged === null || staged.outcome === 'restage') break;
      if (staged.outcome === 'failed' && staged.side === 'destination') {
        this.#break(cantStore(wal, staged, item.fault));
        break;
      }
      if (staged.outcome === 'staged') storable.push(item);
      else item.result = { outcome: staged.outcome, wal, reason: staged.reason };
    }
    return storable;
  }

  /** Publishes files and makes their catalogue lines durable, all under the catalogue's lock. */
  async #commit(items: readonly InHand[]): Promise<void> {
    if (items.length === 0) return;
    const began = performance.now();
    await this.#strategy.parts.catalogue.withLock(async (lines) => {
      const group: SentWal[] = [];
      for (const { prepared, name, staged, sent } of items) {
        if (staged?.outcome === 'staged') group.push({ ...prepared, name, facts: staged, sent });
      }
      const committed = await this.#strategy.commit(group);
      const infos: WalFileInfo[] = [];
      for (const result of committed) {
        if ('info' in result) infos.push(result.info);
      }
      await lines.ensure(infos, { thorough: committed.some((result) => result.outcome === 'already-stored') });
      for (const [index, item] of items.entries()) {
        const result = committed[index];
        if (result === undefined || result.outcome === 'restage') break;
        const { wal } = item.prepared;
        item.result =
          'info' in result
            ? { outcome: result.outcome, wal, info: result.info }
            : { outcome: 'conflict', wal, reason: result.reason };
      }
    });
    this.#options.observer?.committed((performance.now() - began) / 1000);
  }

  /** What was prepared for the first of these is of no use: once more, without linking the source itself. */
  async #restage(rest: InHand[]): Promise<void> {
    const [first] = rest;
    if (first === undefined) return;
    if (first.again) {
      this.#break(
        new WalwardenError('storage', `can't store ${first.prepared.wal.name}: what is prepared keeps disappearing`),
      );
      return;
    }
    const wal = await this.#strategy.release(first.prepared);
    rest[0] = this.#startStaging(await this.#strategy.prepare(wal, { copy: true }), true);
  }

  #break(error: unknown): void {
    this.#broken = true;
    this.#stop ??= error;
  }

  async #dropRest(): Promise<void> {
    // Those that still wait for their turn never get it; those that are being staged or sent can't be interrupted.
    this.#abandoned = true;
    await Promise.all(this.#inHand.map(({ staging }) => staging));
    for (const { prepared } of this.#inHand) await this.#strategy.release(prepared);
  }
}

function nothing(): void {}

function failed(error: unknown): StageResult {
  const hint = error instanceof WalwardenError ? error.hint : undefined;
  return { outcome: 'failed', side: 'destination', reason: messageOf(error), hint, errno: null };
}

/** Why the pass ends with a file. */
function cantStore(wal: WaitingWal, { reason, hint }: StageFailed, fault: WalwardenError | null): WalwardenError {
  // Nothing is wrong with the destination when we were asked to stop.
  if (isErrorCode(fault, 'aborted')) return fault;
  return new WalwardenError('storage', fault === null ? `can't store ${wal.name}: ${reason}` : reason, {
    hint: `${hint === undefined ? '' : `${hint}; `}${NOTHING_LOST}`,
    ...(fault === null ? {} : { cause: fault }),
  });
}

/** A source as hook scripts are told of it. */
function sourceInfo(wal: WaitingWal): WalFileInfo {
  return {
    name: wal.name,
    size: Number(wal.identity.size),
    mtime: secondsOfNs(wal.identity.mtimeNs),
    compression: null,
    encryption: null,
  };
}
