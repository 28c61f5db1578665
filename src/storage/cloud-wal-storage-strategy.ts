import pLimit from 'p-limit';
import type { CompressionSettings } from '../compression/codec.ts';
import { WalwardenError } from '../errors.ts';
import { secondsOfNs, type WalFileInfo } from '../wal/wal-file-info.ts';
import { walKind, type WalName } from '../wal/wal-name.ts';
import { readOne } from './archived-files.ts';
import { collectGarbage } from './collect-garbage.ts';
import { anotherContent, differenceOf } from './duplicate.ts';
import { MemoryBudget } from './memory-budget.ts';
import { KeyWindow } from './s3/key-window.ts';
import type { ObjectStore } from './s3/object-store.ts';
import type { RememberedEndpoint } from './s3/remembered-endpoint.ts';
import type { EndpointCapabilities } from './s3/s3-settings.ts';
import { buildWalObjectKey, walsPrefix, type WalRoot } from './s3/wal-object-key.ts';
import { formatWalObjectMetadata, parseWalObjectMetadata } from './s3/wal-object-metadata.ts';
import { infoOf, WalObjects } from './s3/wal-objects.ts';
import { sha256 } from './sha256.ts';
import { removeSources } from './sources.ts';
import type { StagedFacts, StageResult } from './staged.ts';
import { StagerOnDemand } from './stager.ts';
import { plainBytes, type ReadingKeys } from './stored-content.ts';
import {
  WalStorageStrategy,
  type CommitResult,
  type Comparison,
  type PreparedWal,
  type SaveOptions,
  type SaveResult,
  type SentWal,
  type StagedWal,
  type StoredWal,
  type StrategyParts,
  type WaitingWal,
} from './wal-storage-strategy.ts';

export interface CloudStorageSettings {
  readonly root: WalRoot;
  /** Disposed of with the strategy. */
  readonly store: ObjectStore;
  readonly endpoint: RememberedEndpoint;
  /** Told what a probe of the endpoint found out, which happens once a week. */
  readonly onProbed: (capabilities: EndpointCapabilities, leftover: string | null) => void;
  /** Worker threads that compress; 0 compresses in process. */
  readonly workers: number;
  /** Uploads at the same time. */
  readonly parallel: number;
  /** Not `pigz` and not `custom`, which can't compress in memory. */
  readonly compression: CompressionSettings | null;
  readonly encryption: { readonly keyId: string; readonly homedir?: string | undefined } | null;
  readonly keys: ReadingKeys;
  /** Ours; objects say who wrote them. */
  readonly version: string;
  /** Objects deleted with one request. */
  readonly deleteBatchSize: number;
  /** Ends requests at once. */
  readonly kill?: AbortSignal | undefined;
}

/**
 * The archive in a bucket. Files are compressed in memory, uploaded several at a
 * time under a condition that lets nothing be overwritten, and get their
 * catalogue lines in WAL order.
 */
export class CloudWalStorageStrategy extends WalStorageStrategy {
  readonly #settings: CloudStorageSettings;
  readonly #store: ObjectStore;
  readonly #objects: WalObjects;
  readonly #stagers: StagerOnDemand;
  readonly #uploads: ReturnType<typeof pLimit>;
  /** What is packed and not sent yet. One file more than is uploaded, so that there always is a next one. */
  readonly #memory: MemoryBudget<WaitingWal>;
  #ready: Promise<void> | null = null;
  #nearby: KeyWindow;

  constructor(parts: StrategyParts, settings: CloudStorageSettings) {
    super(parts);
    const { store, root, kill, compression, workers, parallel } = settings;
    this.#settings = settings;
    this.#store = store;
    this.#objects = new WalObjects(store, root, compression?.compression ?? null, kill);
    this.#stagers = new StagerOnDemand(workers);
    this.#uploads = pLimit(parallel);
    this.#memory = new MemoryBudget(parallel + 1);
    this.#nearby = this.#look();
  }

  override async close(): Promise<void> {
    await this.#stagers[Symbol.asyncDispose]();
    await this.#store.close();
  }

  /** What the bucket holds now, for names that lie together. */
  #look(): KeyWindow {
    return new KeyWindow(this.#store, this.#settings.root, this.#settings.kill);
  }

  override save(wals: AsyncIterable<WaitingWal>, options: SaveOptions = {}): AsyncGenerator<SaveResult> {
    this.#nearby = this.#look();
    return super.save(wals, options);
  }

  override concurrency(expected: number): number {
    return this.#stagers.for(expected).concurrency;
  }

  override prepare(wal: WaitingWal): Promise<PreparedWal> {
    return Promise.resolve({ wal, temporary: null });
  }

  override async stage({ wal }: PreparedWal, expected: number): Promise<StageResult> {
    const { compression, encryption } = this.#settings;
    await this.#memory.take(wal, Number(wal.identity.size));
    let held = 0;
    try {
      const task = { name: wal.name, source: wal.path, identity: wal.identity, compression, encryption };
      const result = await this.#stagers.for(expected).pack(task);
      if (result.outcome === 'staged') held = result.storedSize;
      return result;
    } finally {
      this.#memory.shrink(wal, held);
    }
  }

  override async send(staged: StagedWal): Promise<CommitResult> {
    try {
      return await this.#uploads(() => this.#publish(staged));
    } finally {
      this.#memory.shrink(staged.wal, 0);
      collectGarbage(staged.facts.storedSize);
    }
  }

  async #publish({ wal, facts }: StagedWal): Promise<CommitResult> {
    const { digests, packed } = facts;
    if (digests === null || packed === undefined) throw new Error('only what was packed can be sent');
    await this.#makeReady();
    const there = await this.#nearby.keysOf(wal.name);
    const known = there.length === 0 ? null : await this.#judgeDuplicate(wal, there, digests.plain);
    // Null also when it was deleted after the look.
    if (known !== null) return known;
    const { root, version, kill } = this.#settings;
    const { compression, encryption } = facts;
    const key = buildWalObjectKey(root, wal.name, compression);
    const info = storedInfo(wal, facts);
    const outcome = await this.#store.putIfAbsent(key, packed.bytes, {
      sha256: digests.stored,
      signal: kill,
      metadata: formatWalObjectMetadata({
        size: packed.plainSize,
        sha256: digests.plain,
        mtime: info.mtime,
        compression,
        encryption,
        version,
      }),
    });
    if (outcome.outcome === 'stored') return { outcome: 'stored', info };
    // Somebody else was quicker, or we ourselves, before a crash.
    const gone: CommitResult = { outcome: 'restage', reason: `${this.#objects.url(key)} is gone again` };
    return (await this.#judgeDuplicate(wal, [key], digests.plain)) ?? gone;
  }

  /** There are objects of this name. They are left as they are, whatever comes out; null when there are none any more. */
  async #judgeDuplicate(wal: WaitingWal, keys: readonly string[], digest: string): Promise<CommitResult | null> {
    const incoming = async (): Promise<Buffer | null> => (await readOne(wal.path, wal.identity))?.bytes ?? null;
    const comparison = await this.#compareAll(wal.name, keys, digest, incoming);
    switch (comparison.result) {
      case 'changed':
        return { outcome: 'restage', reason: `${wal.path} changed` };
      case 'absent':
        return null;
      case 'same':
        return { outcome: 'already-stored', info: comparison.info };
      case 'different':
        return { outcome: 'conflict', reason: comparison.reason };
    }
  }

  /** With the first object that is the same, or else with the first that is there. */
  async #compareAll(
    name: WalName,
    keys: readonly string[],
    digest: string,
    incoming: () => Promise<Buffer | null>,
  ): Promise<ObjectComparison> {
    let found: ObjectComparison = { result: 'absent' };
    for (const key of keys) {
      const comparison = await this.#compareOne(name, key, digest, incoming);
      if (comparison.result === 'same' || comparison.result === 'changed') return comparison;
      if (found.result === 'absent') found = comparison;
    }
    return found;
  }

  /** `digest`: SHA-256 of the plain bytes; `incoming`: the bytes as they arrived, null when they are no more. */
  async #compareOne(
    name: WalName,
    key: string,
    digest: string,
    incoming: () => Promise<Buffer | null>,
  ): Promise<ObjectComparison> {
    const { root, keys, kill } = this.#settings;
    const facts = await this.#store.head(key, { signal: kill });
    if (facts === null) return { result: 'absent' };
    const info = infoOf(root, name, facts);
    const { sha256: stored, encryption } = parseWalObjectMetadata(facts.metadata);
    if (stored !== null && stored === digest) return { result: 'same', info };
    // Of partial segments, and of objects that others stored, the bytes have to be looked at.
    if (stored !== null && walKind(name) !== 'partial') {
      return { result: 'different', reason: anotherContent(digest, stored) };
    }
    const object = await this.#store.get(key, { signal: kill });
    if (object === null) return { result: 'absent' };
    const bytes = await incoming();
    if (bytes === null) return { result: 'changed' };
    const reason = await differenceOf(name, bytes, object.bytes, keys, encryption === 'gpg' ? stored : null);
    return reason === null ? { result: 'same', info } : { result: 'different', reason };
  }

  async #makeReady(): Promise<void> {
    const ready = (this.#ready ??= this.#lookAtEndpoint());
    try {
      await ready;
    } catch (error) {
      // It may answer later.
      if (this.#ready === ready) this.#ready = null;
      throw error;
    }
  }

  /** What the endpoint can do decides how nothing is overwritten. */
  async #lookAtEndpoint(): Promise<void> {
    const { endpoint, root, kill, onProbed } = this.#settings;
    const remembered = await endpoint.read();
    if (remembered !== null) {
      this.#store.rely(remembered);
      return;
    }
    // Beside the WAL, where no one takes it for a part of the archive.
    const key = walsPrefix(root).replace(/wals\/$/, 'walwarden-probe');
    const { leftover, ...capabilities } = await this.#store.probe(key, { signal: kill });
    await endpoint.write(capabilities);
    onProbed(capabilities, leftover);
  }

  override async commit(group: readonly SentWal[]): Promise<CommitResult[]> {
    const duplicates = group.filter(({ sent }) => sent?.outcome === 'already-stored').map(({ wal }) => wal.name);
    // Under the lock that we delete under: what was there when we compared it may be gone.
    const there = await this.stored(duplicates);
    const results: CommitResult[] = [];
    for (const { wal, sent } of group) {
      if (sent === null) throw new Error(`${wal.name} was never sent`);
      const gone = sent.outcome === 'already-stored' && !there.has(wal.name);
      const result: CommitResult = gone
        ? { outcome: 'restage', reason: `${this.getFullPath(wal.name)} is gone` }
        : sent;
      results.push(result);
      if (result.outcome === 'restage') break;
    }
    return results;
  }

  override async remove(stored: readonly PreparedWal[], keepSources: boolean): Promise<void> {
    if (!keepSources) await removeSources(stored.map(({ wal }) => wal));
  }

  override release({ wal }: PreparedWal): Promise<WaitingWal> {
    this.#memory.shrink(wal, 0);
    return Promise.resolve(wal);
  }

  override async dropPrepared(): Promise<void> {
    // Nothing outlives its process here.
  }

  override knownSegmentSize(newest: WalName | null): Promise<number | null> {
    return newest === null ? Promise.resolve(null) : this.#objects.segmentSize(newest);
  }

  override getFullPath(name: WalName): string {
    return this.#objects.url(this.#objects.usualKey(name));
  }

  override checkThere(): Promise<void> {
    return this.#store.checkThere(walsPrefix(this.#settings.root), { signal: this.#settings.kill });
  }

  override async exists(fullPath: string): Promise<boolean> {
    const bucket = this.#objects.url('');
    if (!fullPath.startsWith(bucket)) throw new Error(`${fullPath} is not in ${bucket}`);
    return (await this.#store.head(fullPath.slice(bucket.length), { signal: this.#settings.kill })) !== null;
  }

  override async stored(names: readonly WalName[]): Promise<ReadonlySet<WalName>> {
    const nearby = this.#look();
    const stored = new Set<WalName>();
    for (const name of names.toSorted()) if ((await nearby.keysOf(name)).length > 0) stored.add(name);
    return stored;
  }

  override read(name: WalName): Promise<StoredWal | null> {
    return this.#objects.read(name);
  }

  override async compare(name: WalName, incoming: Buffer): Promise<Comparison> {
    const keys = await this.#objects.keysOf(name);
    const digest = keys.length === 0 ? '' : sha256(await plainBytes(incoming, this.#settings.keys));
    const comparison = await this.#compareAll(name, keys, digest, async () => incoming);
    if (comparison.result === 'different') return comparison;
    return { result: comparison.result === 'same' ? 'same' : 'absent' };
  }

  /** What the endpoint has confirmed is durable: that is what it promises. */
  override makeDurable(name: WalName): Promise<WalFileInfo | null> {
    return this.describe(name);
  }

  override describe(name: WalName): Promise<WalFileInfo | null> {
    return this.#objects.describe(name);
  }

  override list(): AsyncIterable<WalFileInfo> {
    return this.#objects.list();
  }

  override async delete(
    walsToDelete: ReadonlyMap<string, readonly WalFileInfo[]>,
    onDeleted: (name: WalName) => void = () => {},
  ): Promise<WalName[]> {
    const deleted: WalName[] = [];
    const tell = (name: WalName): void => {
      deleted.push(name);
      onDeleted(name);
    };
    const { hooks } = this.parts;
    // A script is called right before and after its file.
    const size = hooks.watches('wal_delete') ? 1 : this.#settings.deleteBatchSize;
    for (const wals of batches([...walsToDelete.values()].flat(), size)) {
      for (const info of wals) {
        const hook = await hooks.before('wal_delete', info, this.getFullPath(info.name));
        if (hook.outcome === 'stop') throw hook.error;
      }
      const failures = await this.#deleteBatch(wals, tell);
      for (const info of wals) {
        await hooks.after('wal_delete', info, this.getFullPath(info.name), failures.get(info.name)?.message);
      }
      if (failures.size > 0) throw notDeleted([...failures.values()]);
    }
    return deleted;
  }

  /** Every object of these names, whatever its extension. Returns what went wrong. */
  async #deleteBatch(
    wals: readonly WalFileInfo[],
    onDeleted: (name: WalName) => void,
  ): Promise<Map<WalName, WalwardenError>> {
    const nearby = this.#look();
    const failures = new Map<WalName, WalwardenError>();
    const names = new Map<string, WalName>();
    for (const { name } of wals) for (const key of await nearby.keysOf(name)) names.set(key, name);
    const open = new Set(names.keys());
    try {
      for await (const result of this.#store.deleteObjects([...open], { signal: this.#settings.kill })) {
        open.delete(result.key);
        const name = names.get(result.key);
        if (result.outcome === 'failed' && name !== undefined) failures.set(name, result.error);
      }
    } catch (error) {
      if (!(error instanceof WalwardenError)) throw error;
      // Nobody knows what became of the rest.
      for (const [key, name] of names) if (open.has(key)) failures.set(name, error);
    }
    for (const { name } of wals) if (!failures.has(name)) onDeleted(name);
    return failures;
  }
}

type ObjectComparison =
  | { readonly result: 'absent' | 'changed' }
  | { readonly result: 'same'; readonly info: WalFileInfo }
  | { readonly result: 'different'; readonly reason: string };

function storedInfo(wal: WaitingWal, { storedSize, compression, encryption }: StagedFacts): WalFileInfo {
  return { name: wal.name, size: storedSize, mtime: secondsOfNs(wal.identity.mtimeNs), compression, encryption };
}

function* batches<T>(items: readonly T[], size: number): Generator<readonly T[]> {
  for (let at = 0; at < items.length; at += size) yield items.slice(at, at + size);
}

function notDeleted([first, ...others]: readonly WalwardenError[]): WalwardenError {
  if (first === undefined) throw new Error('nothing went wrong');
  if (others.length === 0) return first;
  const { code, message, hint } = first;
  const more = `; and ${others.length} more could not be deleted`;
  return new WalwardenError(code, `${message}${more}`, { cause: first, ...(hint === undefined ? {} : { hint }) });
}
