import type { CustomFilters } from '../compression/codec.ts';
import type { WalHooks } from '../hooks/wal-hooks.ts';
import type { LongPageHeader } from '../wal/page-header.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { isOfTimelineOrLater, type WalName } from '../wal/wal-name.ts';
import { SavePipeline } from './save-pipeline.ts';
import type { FileIdentity } from './file-identity.ts';
import type { Replacement, ReplaceResult, StoredCopy } from './replacement.ts';
import type { StagedFacts, StageResult } from './staged.ts';
import { unpackDelivered, type DeliveredKeys, type UnpackedDelivery } from './delivered-content.ts';
import type { Stager, StagerOnDemand } from './stager.ts';
import { plainBytes, type ReadingKeys, type Said, type StoredBytes } from './stored-content.ts';
import type { TakingRules } from './taking.ts';
import type { Unpacker } from './unpacker.ts';

/** A file that waits to be archived, as its directory showed it. */
export interface WaitingWal {
  readonly name: WalName;
  /** Where it is now; a claimed file has another name than `name`. */
  readonly path: string;
  readonly identity: FileIdentity;
  /** True once it was renamed out of the way of its writers; see the local strategy. */
  readonly claimed: boolean;
  /** Where it may be claimed: a path in a directory of ours; null for nowhere. */
  readonly claimTo: string | null;
  /** When its inode changed last, in milliseconds since the epoch. */
  readonly changedMs: number;
  /** Its first bytes are those of plain WAL, not of a compressed file. */
  readonly plain: boolean;
  /**
   * What its writer still needs of it. `copy`: its inode must never be the
   * archive's. `keep`: that, and it stays where it is, though it is archived.
   * By default it may be claimed, linked and removed.
   */
  readonly handling?: 'copy' | 'keep' | undefined;
}

/** What became of a file. All but `stored` and `already-stored` leave the source where it is, as `handling = keep` always does. */
export type SaveResult =
  | {
      readonly outcome: 'stored' | 'already-stored';
      readonly wal: WaitingWal;
      readonly info: WalFileInfo;
      /** The post hooks have to run again, so the source was kept. */
      readonly hooksDue?: true;
    }
  | {
      /**
       * `conflict`: another content is archived under this name. `invalid`: not
       * what its name promises. `incomplete`, `changed`: left for a later pass.
       * `failed`: it can't be read.
       */
      readonly outcome: 'conflict' | 'invalid' | 'incomplete' | 'changed' | 'failed';
      readonly wal: WaitingWal;
      readonly reason: string;
    };

export interface SaveOptions {
  /** Leave the sources where they are, though their copies and lines are durable. */
  readonly skipDelete?: boolean;
  /** Files that may be expected, so that nothing is set up for many where one comes. */
  readonly expected?: number;
  /** Take no more files; finish those in hand. */
  readonly drain?: AbortSignal | undefined;
  readonly observer?: SaveObserver | undefined;
}

/** Told how long the steps take, in seconds; must not throw. */
export interface SaveObserver {
  /** One file was read, verified, compressed and written, or not. */
  staged(seconds: number): void;
  /** A group of files was published, and their catalogue lines made durable. */
  committed(seconds: number): void;
}

/** The part of the catalogue that storing and reading need: its lines, its lock, and lines made durable under it. */
export interface CatalogueLock {
  /** What it says of one file; it may be wrong. */
  find(name: WalName): Promise<WalFileInfo | undefined>;
  withLock<T>(work: (session: CatalogueLines) => Promise<T>): Promise<T>;
}

export interface CatalogueLines {
  /**
   * Resolves once each of these files has exactly one line that would survive
   * power loss. `thorough`: some were in the archive before, so their lines may
   * stand anywhere. `exact`: their times count as well.
   */
  ensure(
    infos: readonly WalFileInfo[],
    options?: { readonly thorough?: boolean; readonly exact?: boolean },
  ): Promise<void>;
}

/** Whose WAL a segment is, by its first page. */
export type WalOrigin = Pick<LongPageHeader, 'systemIdentifier' | 'majorVersion' | 'magic'>;

/** Decides whether a segment belongs to this server: null, or the reason why not. */
export type AcceptSystem = (origin: WalOrigin) => Promise<string | null>;

/**
 * Decides under which name a segment is stored whose WAL ends inside; null when the
 * file is no more what it was. Throws `source` when that can't be told now.
 */
export type NameOf = (wal: WaitingWal) => Promise<WalName | null>;

export interface StrategyParts {
  readonly catalogue: CatalogueLock;
  readonly hooks: WalHooks;
  readonly accept: AcceptSystem;
  /** Asked for each file: a person may change them meanwhile. */
  readonly rules: () => Promise<TakingRules>;
  readonly nameOf: NameOf;
  /** Bytes of this server's segments; null while they are not known. */
  readonly segmentSize?: (() => Promise<number | null>) | undefined;
  /** Where files are opened; in this thread without it. */
  readonly unpacker?: Pick<Unpacker, 'unpack' | 'plainBytes' | 'stager'> | undefined;
}

/** A file on its way: claimed or not, with the place where its stored bytes are prepared. */
export interface PreparedWal {
  readonly wal: WaitingWal;
  readonly temporary: string | null;
  /** Where it was before it was claimed just now; any other claim was there before, and is not ours to give up. */
  readonly claimedFrom?: string | undefined;
  /** A page of it is broken, and it is archived with the same content: a duplicate like any other. */
  readonly archivedAsItIs?: true | undefined;
}

export interface StagedWal extends PreparedWal {
  /** The name that it is stored under: its own, or that of a partial segment. */
  readonly name: WalName;
  readonly facts: StagedFacts;
}

export interface SentWal extends StagedWal {
  /** What `send` said. */
  readonly sent: CommitResult | null;
}

/** What publication did. `restage`: what was prepared is of no use (any more); prepare it again, by copying. */
export type CommitResult =
  | { readonly outcome: 'stored' | 'already-stored'; readonly info: WalFileInfo }
  | { readonly outcome: 'conflict'; readonly reason: string }
  | { readonly outcome: 'restage'; readonly reason: string };

/** `different` also when nobody can tell; the reason says which. */
export type Comparison =
  { readonly result: 'absent' | 'same' } | { readonly result: 'different'; readonly reason: string };

export interface CompareOptions {
  readonly asShort?: boolean;
}

/** A stored file as it lies there. */
export interface StoredWal {
  readonly path: string;
  /** The stored bytes: compressed and encrypted as they are. */
  readonly bytes: Buffer;
  readonly mtime: number;
  /** What others say of its compression. */
  readonly said: Said;
}

/** A stored file as a listing of its directory, or bucket, shows it: nothing of it was read. */
export interface StoredSize {
  readonly name: WalName;
  /** Bytes as stored; several numbers where a bucket holds the file with several compressions. */
  readonly sizes: readonly number[];
}

/**
 * Where archived WAL files are kept. The steps are the subclass's; their order,
 * which is what keeps the data safe, is in {@link SavePipeline}.
 */
export abstract class WalStorageStrategy {
  readonly parts: StrategyParts;

  constructor(parts: StrategyParts) {
    this.parts = parts;
  }

  /**
   * Stores files, in the order given. Each result is yielded once the stored
   * file and its catalogue line would survive power loss, and never before.
   * Ends by throwing when nothing more can be stored (destination full, a hook
   * said stop); what was not yielded is still where it came from.
   */
  save(wals: AsyncIterable<WaitingWal>, options: SaveOptions = {}): AsyncGenerator<SaveResult> {
    return new SavePipeline(this, options).run(wals);
  }

  /** What a waiting file is opened with, should it have come compressed. */
  protected async deliveredKeys(
    wal: WaitingWal,
    { opaque }: TakingRules,
    custom?: CustomFilters,
  ): Promise<DeliveredKeys> {
    return wal.plain ? {} : { custom, opaque, segmentSize: await this.parts.segmentSize?.() };
  }

  /** Opens a file as it was delivered. */
  protected unpack(bytes: Buffer, name: WalName, keys: DeliveredKeys): Promise<UnpackedDelivery> {
    return this.parts.unpacker?.unpack(bytes, name) ?? unpackDelivered(bytes, name, keys);
  }

  /** The plain bytes of an archived file. Throws as `plainBytes` does. */
  protected readPlain(stored: StoredBytes, name: WalName, keys: ReadingKeys): Promise<Buffer> {
    return this.parts.unpacker?.plainBytes(stored, name, keys) ?? plainBytes(stored, name, keys);
  }

  /** What arrived compressed is opened in one place, one file at a time, whatever the pass has threads for. */
  protected stagerOf(wal: WaitingWal, stagers: StagerOnDemand, expected: number): Stager {
    const opening = wal.plain ? null : (this.parts.unpacker?.stager ?? null);
    return opening ?? stagers.for(expected);
  }

  /** Files that this storage can stage at the same time. */
  abstract concurrency(expected: number): number;

  /** Chooses how a file will be stored; may claim it. `copy` keeps the source's inode out of the archive. */
  abstract prepare(wal: WaitingWal, options: { readonly copy: boolean }): Promise<PreparedWal>;

  /** How a file is to be judged. */
  protected async rulesFor(prepared: PreparedWal): Promise<TakingRules> {
    const rules = await this.parts.rules();
    return prepared.archivedAsItIs === true ? { ...rules, asTheyAre: 'any' } : rules;
  }

  /** Everything slow that needs only the file. Nothing becomes visible. */
  abstract stage(prepared: PreparedWal, expected: number): Promise<StageResult>;

  /** Files that are sent at the same time. */
  readonly sendConcurrency: number = 1;

  /**
   * Publishes one file, where that takes too long to be done under the
   * catalogue's lock; several at a time, once they are known to belong here.
   * Null where `commit` does it.
   */
  send(_staged: StagedWal): Promise<CommitResult | null> {
    return Promise.resolve(null);
  }

  /** What was staged in memory is sent, or never will be. Called once for each file that was prepared, before anything else becomes of it. */
  letGo(_prepared: PreparedWal): void {}

  /**
   * Publishes a group, in order, under the catalogue's lock; never replaces
   * anything. Resolves once all of them would survive power loss. Returns a
   * result for each file up to and including the first `restage`.
   */
  abstract commit(group: readonly SentWal[]): Promise<CommitResult[]>;

  /** After the catalogue lines of a group: drops what was prepared, and, unless they are kept, the sources. */
  abstract remove(stored: readonly PreparedWal[], keepSources: boolean): Promise<void>;

  /** Instead of `remove`: drops what was prepared, and a claim that was made for it. Returns where the source is. */
  abstract release(prepared: PreparedWal): Promise<WaitingWal>;

  /** Drops what an interrupted pass prepared for a file that is not to be archived now, after all. */
  abstract dropPrepared(name: WalName): Promise<void>;

  /** Bytes of a segment, as far as that is known without reading one. `newest`: one that should be there. */
  abstract knownSegmentSize(newest: WalName | null): Promise<number | null>;

  /** The full path or object key under which a WAL file would be stored now. */
  abstract getFullPath(name: WalName): string;

  /** Throws `storage` when the archive as a whole can't be seen: not mounted, say. Then nothing is "certainly absent". */
  abstract checkThere(): Promise<void>;

  /** Is there something at a full path? Throws `storage` when that can't be told. */
  abstract exists(fullPath: string): Promise<boolean>;

  /**
   * Some segments that are stored, where the catalogue may know less than the
   * archive: another machine, or a lost one, may have filled a bucket.
   */
  sampleSegments(): Promise<readonly WalName[]> {
    return Promise.resolve([]);
  }

  /** Those of the names that are stored. Throws `storage` when that can't be told. */
  abstract stored(names: readonly WalName[]): Promise<ReadonlySet<WalName>>;

  /** The stored file; null only when it is certainly absent. */
  abstract read(name: WalName): Promise<StoredWal | null>;

  /**
   * Compares a file's bytes, as they arrived, with the stored file of that
   * name: by all their plain bytes, never by size or time. `asShort`: a stored
   * partial segment that begins with all the WAL of these is the same.
   */
  abstract compare(name: WalName, incoming: Buffer, options?: CompareOptions): Promise<Comparison>;

  /** Makes sure that a stored file would survive power loss, whoever stored it; its facts, or null when it is absent. */
  abstract makeDurable(name: WalName): Promise<WalFileInfo | null>;

  /** The catalogue's facts of a stored file, from the file itself; null when it is absent. */
  abstract describe(name: WalName): Promise<WalFileInfo | null>;

  /** All stored files in the order of their names. */
  abstract list(): AsyncIterable<WalFileInfo>;

  /** A stored file of a timeline or a later one, but for that timeline's own history; null when there is none. Throws `storage` when that can't be told. */
  async firstFrom(timeline: number): Promise<string | null> {
    for await (const { name } of this.list()) if (isOfTimelineOrLater(name, timeline)) return name;
    return null;
  }

  /**
   * All stored files in the order of their names, with their sizes, some at a
   * time: what {@link list} finds, without a look into any of them. Memory does
   * not grow with the archive. Throws `storage` when it can't be seen as a whole.
   */
  abstract listSizes(): AsyncIterable<readonly StoredSize[]>;

  /** Bytes of a stored file; null only when it is certainly absent. The file is not opened. */
  abstract sizeOf(name: WalName): Promise<number | null>;

  /**
   * Deletes files, by directory as Barman groups them, with the wal_delete
   * hooks, one file at a time. Returns the names that are gone; their lines are
   * the caller's to drop. Throws when one can't be deleted or a hook says stop:
   * `onDeleted` has told of those that are gone by then.
   */
  abstract delete(
    walsToDelete: ReadonlyMap<string, readonly WalFileInfo[]>,
    onDeleted?: (name: WalName) => void,
  ): Promise<WalName[]>;

  /** Every stored copy of a file, to be judged: what does not fit its digests is there as well. */
  abstract copies(name: WalName): Promise<readonly StoredCopy[]>;

  /**
   * Puts a copy that verifies in the place of one that is proved damaged: the one
   * exception to the rule that nothing is replaced. At every moment one of the
   * two is there, whole and durable, and the old one is kept aside first. Call it
   * under the archive-wal lock. `unkept`: also where the disk gives the old one
   * not back, so that it can't be kept. Resolves once the new copy and its line would
   * survive power loss; its source is the caller's to remove.
   */
  async replace(old: StoredCopy, by: Replacement, options: { readonly unkept: boolean }): Promise<ReplaceResult> {
    const { hooks, catalogue } = this.parts;
    const { name, source, delivered, mtime } = by;
    const arrived = { name, size: delivered.length, mtime, compression: null, encryption: null };
    const before = await hooks.before('archive', arrived, source);
    if (before.outcome === 'stop') throw before.error;
    const result = await catalogue.withLock(async (session) => {
      const exchanged = await this.exchange(old, by, options);
      if (exchanged.outcome === 'replaced') await session.ensure([exchanged.info], { thorough: true, exact: true });
      return exchanged;
    });
    const info = result.outcome === 'replaced' ? result.info : arrived;
    const problem = result.outcome === 'replaced' ? undefined : result.reason;
    const after = await hooks.after('archive', info, this.getFullPath(name), problem);
    if (after.outcome === 'stop') throw after.error;
    return result;
  }

  /** {@link replace} under the catalogue's lock, without the line. */
  protected abstract exchange(
    old: StoredCopy,
    by: Replacement,
    options: { readonly unkept: boolean },
  ): Promise<ReplaceResult>;

  /** Ends threads and connections. */
  abstract close(): Promise<void>;
}
