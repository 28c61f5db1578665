import type { CompressionSettings } from '../compression/codec.ts';
import { secondsOfNs, type WalFileInfo } from '../wal/wal-file-info.ts';
import type { WalName } from '../wal/wal-name.ts';
import { collectGarbage } from '../compression/collect-garbage.ts';
import { MemoryBudget } from './memory-budget.ts';
import { ObjectComparer } from './s3/compare-objects.ts';
import { KeyWindow } from './s3/key-window.ts';
import { ObjectReplacement } from './s3/object-replacement.ts';
import { ObjectDeletion } from './s3/object-deletion.ts';
import type { ObjectStore } from './s3/object-store.ts';
import type { RememberedEndpoint } from './s3/remembered-endpoint.ts';
import type { EndpointCapabilities } from './s3/s3-settings.ts';
import { buildWalObjectKey, walsPrefix, type WalRoot } from './s3/wal-object-key.ts';
import { formatWalObjectMetadata } from './s3/wal-object-metadata.ts';
import { WalObjects } from './s3/wal-objects.ts';
import type { Replacement, ReplaceResult, StoredCopy } from './replacement.ts';
import { sha256 } from './sha256.ts';
import { readSource, removeSources } from './sources.ts';
import { SpareBuffers } from './spare-buffers.ts';
import type { StageResult } from './staged.ts';
import { StagerOnDemand } from './stager.ts';
import type { ReadingKeys } from './stored-content.ts';
import {
  WalStorageStrategy,
  type CommitResult,
  type CompareOptions,
  type Comparison,
  type PreparedWal,
  type SaveOptions,
  type SaveResult,
  type SentWal,
  type StagedWal,
  type StoredSize,
  type StoredWal,
  type StrategyParts,
  type WaitingWal,
} from './wal-storage-strategy.ts';

export interface CloudStorageSettings {
  readonly root: WalRoot;
  /** Disposed of with the strategy. */
  readonly store: ObjectStore;
  readonly endpoint: RememberedEndpoint;
  /** Told what a probe of the endpoint found out, which happens once a day. */
  readonly onProbed: (capabilities: EndpointCapabilities, leftover: string | null) => void;
  /** Worker threads that compress; 0 compresses in process. */
  readonly workers: number;
  /** Threads stay for the next file, and one is started for a single file, too: the process has other things to do. */
  readonly resident?: boolean | undefined;
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

/** Segments that are tried when only one is wanted: some may be damaged. */
const SAMPLE = 5;

/** Bytes of a file whose memory is used again. */
const LARGEST_SPARE = 64 * 1024 * 1024;

/**
 * The archive in a bucket. Files are compressed in memory, uploaded several at a
 * time under a condition that lets nothing be overwritten, and get their
 * catalogue lines in WAL order.
 */
export class CloudWalStorageStrategy extends WalStorageStrategy {
  readonly #settings: CloudStorageSettings;
  readonly #store: ObjectStore;
  readonly #objects: WalObjects;
  readonly #replacement: ObjectReplacement;
  readonly #comparer: ObjectComparer;
  readonly #stagers: StagerOnDemand;
  override readonly sendConcurrency: number;
  /**
   * What is packed and not sent yet. One file more than is uploaded, so that there always is a next one; and
   * enough that no thread waits for an upload: what needs no compression takes a thread no time to speak of, so
   * that matters with few uploads only.
   */
  readonly #memory: MemoryBudget<WaitingWal>;
  readonly #spare: SpareBuffers;
  #ready: Promise<void> | null = null;
  #nearby: KeyWindow;
  /** Files that are being sent. */
  readonly #sending = new Map<WalName, Promise<unknown>>();

  constructor(parts: StrategyParts, settings: CloudStorageSettings) {
    super(parts);
    const { store, root, kill, compression, workers, parallel } = settings;
    const { encryption, keys, version } = settings;
    this.#settings = settings;
    this.#store = store;
    this.#objects = new WalObjects(store, root, compression?.compression ?? null, kill);
    const packing = { compression, encryption, keys, version };
    this.#replacement = new ObjectReplacement({ store, objects: this.#objects, root, ...packing, signal: kill });
    this.#comparer = new ObjectComparer(store, root, settings.keys, kill, (stored, name) =>
      this.readPlain(stored, name, settings.keys),
    );
    this.#stagers = new StagerOnDemand(workers, settings.resident === true);
    this.sendConcurrency = parallel;
    const files = compression === null ? Math.max(parallel, workers + 1) + 1 : parallel + workers + 1;
    this.#memory = new MemoryBudget(files);
    this.#spare = new SpareBuffers(files);
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

  override async *save(wals: AsyncIterable<WaitingWal>, options: SaveOptions = {}): AsyncGenerator<SaveResult> {
    this.#nearby = this.#look();
    this.#ready = null;
    try {
      yield* super.save(wals, options);
    } finally {
      this.#spare.clear();
    }
  }

  override concurrency(expected: number): number {
    return this.#stagers.for(expected).concurrency;
  }

  override prepare(wal: WaitingWal): Promise<PreparedWal> {
    return Promise.resolve({ wal, temporary: null });
  }

  override async stage(prepared: PreparedWal, expected: number): Promise<StageResult> {
    const { wal } = prepared;
    const { compression, encryption } = this.#settings;
    this.#store.warmUp();
    const size = Number(wal.identity.size);
    await this.#memory.take(wal, size);
    let held = 0;
    try {
      // The rare giants are not kept, nor is what is no WAL file given memory before anybody has looked at it.
      const memory = size <= LARGEST_SPARE ? this.#spare.take(roomFor(size, this.#settings)) : null;
      const rules = await this.rulesFor(prepared);
      const delivered = await this.deliveredKeys(wal, rules);
      const source = { name: wal.name, source: wal.path, identity: wal.identity, rules, delivered };
      const task = { ...source, compression, encryption, memory };
      const result = await this.stagerOf(wal, this.#stagers, expected).pack(task);
      if (result.outcome === 'staged') held = memory === null ? result.storedSize : size;
      return result;
    } finally {
      this.#memory.shrink(wal, held);
    }
  }

  /** Files of one name take turns: a claim and a new arrival must not miss each other. */
  override async send(staged: StagedWal): Promise<CommitResult> {
    const { name } = staged;
    const { packed, storedSize } = staged.facts;
    let garbage = storedSize;
    const onBodyFree = (): void => {
      if (packed !== undefined && this.#spare.give(packed.bytes.buffer)) garbage = 0;
    };
    const publish = (): Promise<CommitResult> => this.#publish(staged, onBodyFree);
    const before = this.#sending.get(name);
    const sent = before === undefined ? publish() : before.then(publish);
    const over = sent.then(nothing, nothing);
    this.#sending.set(name, over);
    try {
      return await sent;
    } finally {
      if (this.#sending.get(name) === over) this.#sending.delete(name);
      collectGarbage(garbage);
    }
  }

  override letGo({ wal }: PreparedWal): void {
    this.#memory.shrink(wal, 0);
  }

  async #publish(staged: StagedWal, onBodyFree: () => void): Promise<CommitResult> {
    const { name, facts } = staged;
    const { digests, packed } = facts;
    if (digests === null || packed === undefined) throw new Error('only what was packed can be sent');
    await this.#makeReady();
    const there = await this.#nearby.keysOf(name);
    const known = there.length === 0 ? null : await this.#judgeDuplicate(staged, there, digests.plain);
    // Null also when it was deleted after the look.
    if (known !== null) return known;
    const { root, version, kill } = this.#settings;
    const { compression, encryption } = facts;
    const key = buildWalObjectKey(root, name, compression);
    const info = storedInfo(staged);
    const outcome = await this.#store.putIfAbsent(key, packed.bytes, {
      sha256: digests.stored,
      signal: kill,
      onBodyFree,
      metadata: formatWalObjectMetadata({
        size: packed.plainSize,
        sha256: digests.plain,
        mtime: info.mtime,
        compression,
        encryption,
        version,
      }),
    });
    this.#nearby.note(name, key);
    if (outcome.outcome === 'stored') return { outcome: 'stored', info };
    // Somebody else was quicker, or we ourselves, before a crash.
    const gone: CommitResult = { outcome: 'restage', reason: `${this.#objects.url(key)} is gone again` };
    return (await this.#judgeDuplicate(staged, [key], digests.plain)) ?? gone;
  }

  /** There are objects of this name. They are left as they are, whatever comes out; null when there are none any more. */
  async #judgeDuplicate(
    { wal, name, facts }: StagedWal,
    keys: readonly string[],
    digest: string,
  ): Promise<CommitResult | null> {
    const incoming = async (): Promise<Buffer | null> => {
      const bytes = await readSource(wal);
      return bytes === null ? null : (await this.unpack(bytes, wal.name, this.#settings.keys)).plain;
    };
    const comparison = await this.#comparer.compareAll({ name, digest, incoming, asShort: facts.endsInside }, keys);
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
    const duplicates = group.filter(({ sent }) => sent?.outcome === 'already-stored').map(({ name }) => name);
    // What was there when we compared it may have been deleted since.
    const there = await this.stored(duplicates);
    const results: CommitResult[] = [];
    for (const { name, sent } of group) {
      if (sent === null) throw new Error(`${name} was never sent`);
      const gone = sent.outcome === 'already-stored' && !there.has(name);
      const result: CommitResult = gone ? { outcome: 'restage', reason: `${this.getFullPath(name)} is gone` } : sent;
      results.push(result);
      if (result.outcome === 'restage') break;
    }
    return results;
  }

  override async remove(stored: readonly PreparedWal[], keepSources: boolean): Promise<void> {
    if (!keepSources) await removeSources(stored.map(({ wal }) => wal));
  }

  override release({ wal }: PreparedWal): Promise<WaitingWal> {
    return Promise.resolve(wal);
  }

  override async dropPrepared(): Promise<void> {
    // Nothing outlives its process here.
  }

  override sampleSegments(): Promise<readonly WalName[]> {
    return this.#objects.firstSegments(SAMPLE);
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

  override async compare(name: WalName, incoming: Buffer, options: CompareOptions = {}): Promise<Comparison> {
    const keys = await this.#objects.keysOf(name);
    if (keys.length === 0) return { result: 'absent' };
    const { plain } = await this.unpack(incoming, name, this.#settings.keys);
    const file = { name, digest: sha256(plain), incoming: async () => plain, ...options };
    const comparison = await this.#comparer.compareAll(file, keys);
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

  override listSizes(): AsyncIterable<readonly StoredSize[]> {
    return this.#objects.listSizes();
  }

  override async sizeOf(name: WalName): Promise<number | null> {
    return (await this.#objects.look(name))?.size ?? null;
  }

  override copies(name: WalName): Promise<readonly StoredCopy[]> {
    return this.#replacement.copies(name);
  }

  protected override async exchange(old: StoredCopy, by: Replacement): Promise<ReplaceResult> {
    await this.#makeReady();
    return this.#replacement.exchange(old, by);
  }

  override async delete(
    walsToDelete: ReadonlyMap<string, readonly WalFileInfo[]>,
    onDeleted: (name: WalName) => void = () => {},
  ): Promise<WalName[]> {
    const deleted: WalName[] = [];
    const { deleteBatchSize: batchSize, kill: signal } = this.#settings;
    const deletion = new ObjectDeletion({
      store: this.#store,
      nearby: this.#look(),
      hooks: this.parts.hooks,
      getFullPath: (name) => this.getFullPath(name),
      batchSize,
      signal,
    });
    await deletion.run([...walsToDelete.values()].flat(), (name) => {
      deleted.push(name);
      onDeleted(name);
    });
    return deleted;
  }
}

/** For what becomes of so many bytes: what can't be compressed is a little larger afterwards. */
function roomFor(size: number, { compression, encryption }: CloudStorageSettings): number {
  return compression === null && encryption === null ? size : size + (size >> 6) + 64 * 1024;
}

function nothing(): void {}

function storedInfo({ wal, name, facts: { storedSize, compression, encryption } }: StagedWal): WalFileInfo {
  return { name, size: storedSize, mtime: secondsOfNs(wal.identity.mtimeNs), compression, encryption };
}
