import { lstat, rename, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { CompressionSettings } from '../compression/codec.ts';
import {
  CANT_LINK,
  fsyncDirectory,
  fsyncFile,
  isThere,
  linkUnlessThere,
  makeDirectory,
  unlinkIfThere,
} from '../durable/durable-file.ts';
import { LocalReplacement } from './local-replacement.ts';
import { isGpgEncrypted } from '../encryption/gpg.ts';
import { errnoOf, WalwardenError } from '../errors.ts';
import { secondsOfNs, type WalFileInfo } from '../wal/wal-file-info.ts';
import { isWalName, type WalName } from '../wal/wal-name.ts';
import { ArchivedFiles, firstStoredFrom, readDirectory, storageError } from './archived-files.ts';
import { makeClaimDirectory } from './claim.ts';
import { DigestJournal } from './digest-journal.ts';
import { differenceOf } from './duplicate.ts';
import { identityOf, sameIdentity } from './file-identity.ts';
import { createPublisher, type Publisher } from './publisher.ts';
import type { Replacement, ReplaceResult, StoredCopy } from './replacement.ts';
import { sha256 } from './sha256.ts';
import { readSource, removeSources, sourceError } from './sources.ts';
import { StagerOnDemand } from './stager.ts';
import type { StageResult } from './staged.ts';
import type { ReadingKeys, ReadPlain } from './stored-content.ts';
import {
  WalStorageStrategy,
  type CommitResult,
  type CompareOptions,
  type Comparison,
  type PreparedWal,
  type StagedWal,
  type StoredSize,
  type StoredWal,
  type StrategyParts,
  type WaitingWal,
} from './wal-storage-strategy.ts';

export interface LocalStorageSettings {
  readonly walsDirectory: string;
  /** Digests of encrypted files; outside of the archive. */
  readonly digestJournal: string;
  /** Where copies go that are replaced: beside the errors directory, where they are not counted. */
  readonly keptDirectory: string;
  readonly mode: number;
  /** Worker threads for staging; 0 stages in process. */
  readonly workers: number;
  /** Threads stay for the next file, and one is started for a single file, too: the process has other things to do. */
  readonly resident?: boolean | undefined;
  readonly compression: CompressionSettings | null;
  readonly encryption: { readonly keyId: string; readonly homedir?: string | undefined } | null;
  readonly keys: ReadingKeys;
  /** Told once, when the file system turns out to have no hard links. */
  readonly onNoHardLinks: (directory: string) => void;
  /** Told once, when nothing can be claimed, because others may write into this directory. */
  readonly onNoClaims: (directory: string) => void;
}

/** The only names in the archive that may be left over from a crash, ours or an old Barman's. */
const LEFTOVER = /^(.+)\.(tmp|compressed|gpg|uncompressed)$/;

/** The archive on a local file system. */
export class LocalWalStorageStrategy extends WalStorageStrategy {
  readonly #settings: LocalStorageSettings;
  readonly #journal: DigestJournal;
  readonly #files: ArchivedFiles;
  readonly #publisher: Publisher;
  readonly #replacement: LocalReplacement;
  /** Directories that were made (or found) and cleaned of leftovers since we run. */
  readonly #ready = new Set<string>();
  /** Directories whose own name is durable as far as we know: one that was there before may be of a maker that crashed. */
  readonly #durable = new Set<string>();
  readonly #stagers: StagerOnDemand;
  /** A claimed inode can't be linked into the archive: another file system, or a policy of this one. */
  #copyAlways = false;
  #toldNoClaims = false;

  constructor(parts: StrategyParts, settings: LocalStorageSettings) {
    super(parts);
    this.#settings = settings;
    this.#journal = new DigestJournal(settings.digestJournal);
    this.#files = new ArchivedFiles({
      walsDirectory: settings.walsDirectory,
      keys: settings.keys,
      journal: this.#journal,
      compression: settings.compression?.compression ?? null,
      said: async (name) => {
        const line = await parts.catalogue.find(name);
        return line === undefined ? [] : [line.compression];
      },
    });
    this.#replacement = new LocalReplacement(settings, this.#journal);
    this.#publisher = createPublisher(settings.onNoHardLinks);
    // Without a transformation there is nothing to spread.
    const transforms = settings.compression !== null || settings.encryption !== null;
    this.#stagers = new StagerOnDemand(transforms ? settings.workers : 0, settings.resident === true);
  }

  override async close(): Promise<void> {
    await this.#stagers[Symbol.asyncDispose]();
  }

  override concurrency(expected: number): number {
    return this.#stagers.for(expected).concurrency;
  }

  override async prepare(wal: WaitingWal, options: { readonly copy: boolean }): Promise<PreparedWal> {
    const final = this.getFullPath(wal.name);
    await this.#makeReady(dirname(final));
    const untouched = wal.plain && this.#settings.compression === null && this.#settings.encryption === null;
    const claimed = untouched && !options.copy && !this.#copyAlways ? await this.#claim(wal) : null;
    return claimed ?? { wal, temporary: temporaryOf(final) };
  }

  /**
   * Renames a file into a directory of ours, so that no retried archive_command
   * can truncate the inode that the archive is about to own, and nothing can take
   * its place. Null when it has to be copied: its inode must not become the
   * archive's, or there is no such directory on its file system.
   */
  async #claim(wal: WaitingWal): Promise<PreparedWal | null> {
    const { claimTo } = wal;
    if (claimTo === null || !(await this.#isLinkable(wal.path)) || !(await this.#mayClaimIn(dirname(claimTo))))
      return null;
    if (wal.path === claimTo) return { wal, temporary: null };
    // rename(2) would replace an older claim. We hold the archive-wal lock, so no other process makes one meanwhile.
    if (await isThere(claimTo)) return null;
    try {
      await rename(wal.path, claimTo);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return null; // gone; staging will find out
      if (errnoOf(error) === 'EXDEV') return null; // incoming is a mount of its own
      throw sourceError('rename', wal.path, error);
    }
    const claimed = { ...wal, path: claimTo, claimed: true };
    // What was renamed may be another file than the one that was looked at; staging sees that.
    const temporary = (await this.#isLinkable(claimTo)) ? null : temporaryOf(this.getFullPath(wal.name));
    return { wal: claimed, temporary, claimedFrom: wal.claimed ? undefined : wal.path };
  }

  /** Whether the archive may own this inode: no other name and no other user has it, and no other user could open it for writing. */
  async #isLinkable(path: string): Promise<boolean> {
    try {
      const stat = await lstat(path);
      const root = await lstat(this.#settings.walsDirectory);
      const isOurs = stat.isFile() && stat.uid === process.geteuid?.() && (stat.mode & 0o022) === 0;
      return isOurs && stat.nlink === 1 && stat.dev === root.dev;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return false;
      throw error;
    }
  }

  /** Looked at with each claim: what is closed now may be open later. */
  async #mayClaimIn(directory: string): Promise<boolean> {
    try {
      if (await makeClaimDirectory(directory)) return true;
    } catch (error) {
      throw storageError(directory, error);
    }
    if (!this.#toldNoClaims) this.#settings.onNoClaims(dirname(dirname(directory)));
    this.#toldNoClaims = true;
    return false;
  }

  override async stage(prepared: PreparedWal, expected: number): Promise<StageResult> {
    const { wal, temporary } = prepared;
    const { mode, compression, encryption } = this.#settings;
    const rules = await this.rulesFor(prepared);
    const delivered = await this.deliveredKeys(wal, rules, this.#settings.keys.custom);
    const source = { name: wal.name, source: wal.path, identity: wal.identity, rules, delivered };
    const task = { ...source, temporary, mode, compression, encryption };
    const stager = this.stagerOf(wal, this.#stagers, expected);
    const result = await stager.stage(task);
    if (result.outcome !== 'failed' || result.errno !== 'ENOENT' || temporary === null) return result;
    // Barman removes empty directories whenever it likes.
    await makeDirectory(dirname(temporary));
    this.#durable.delete(dirname(temporary));
    return stager.stage(task);
  }

  override async commit(group: readonly StagedWal[]): Promise<CommitResult[]> {
    await this.#journal.append(
      group.flatMap(({ name, facts }) =>
        facts.digests === null
          ? []
          : [{ name, ...facts.digests, compression: facts.compression, segmentSize: facts.segmentSize }],
      ),
    );
    const results: CommitResult[] = [];
    for (const staged of group) {
      const result = await this.#publish(staged);
      results.push(result);
      if (result.outcome === 'restage') break;
    }
    // Without the one to be staged again: its directory may be gone.
    const done = group.filter((_, index) => results[index] !== undefined && results[index].outcome !== 'restage');
    const touched = done.map(({ name }) => dirname(this.getFullPath(name)));
    for (const directory of new Set(touched)) await this.#syncDirectory(directory);
    return results;
  }

  async #publish(staged: StagedWal): Promise<CommitResult> {
    const { wal, name, temporary } = staged;
    const final = this.getFullPath(name);
    const prepared = temporary ?? wal.path;
    const published = await this.#publisher.publish(prepared, final, temporary !== null);
    switch (published) {
      case 'published':
        if (temporary === null && !(await this.#isAsStaged(wal, final))) {
          return { outcome: 'restage', reason: `${prepared} changed before it was archived` };
        }
        return { outcome: 'stored', info: this.#infoOf(staged) };
      case 'gone':
        // Barman removes empty directories under the lock that we hold only now.
        this.#forget(dirname(final));
        return { outcome: 'restage', reason: `${prepared} or its directory is gone` };
      case 'not-linkable':
        this.#copyAlways = true;
        return { outcome: 'restage', reason: `${prepared} can't be linked to ${final}` };
      case 'taken':
        return this.#judgeDuplicate(staged, final);
    }
  }

  /** A process may hold a descriptor that it opened before the claim, and write. False: what the link made is undone. */
  async #isAsStaged(wal: WaitingWal, final: string): Promise<boolean> {
    const linked = identityOf(await lstat(final, { bigint: true }));
    if (sameIdentity(linked, wal.identity)) return true;
    const { dev, ino } = await lstat(final, { bigint: true });
    if (dev === linked.dev && ino === linked.ino) await unlinkIfThere(final);
    return false;
  }

  #infoOf({ wal, name, facts }: StagedWal): WalFileInfo {
    return {
      name,
      size: facts.storedSize,
      mtime: secondsOfNs(wal.identity.mtimeNs),
      compression: facts.compression,
      encryption: facts.encryption,
    };
  }

  /** There is a file of this name already. It is left as it is, whatever comes out. */
  async #judgeDuplicate({ wal, name, facts }: StagedWal, final: string): Promise<CommitResult> {
    const incoming = await readSource(wal);
    if (incoming === null) return { outcome: 'restage', reason: `${wal.path} changed` };
    const comparison = await this.compare(name, incoming, { asShort: facts.endsInside });
    if (comparison.result === 'different') return { outcome: 'conflict', reason: comparison.reason };
    const info = comparison.result === 'same' ? await this.makeDurable(name) : null;
    if (info === null) return { outcome: 'restage', reason: `${final} is gone` };
    return { outcome: 'already-stored', info };
  }

  override async makeDurable(name: WalName): Promise<WalFileInfo | null> {
    const path = this.getFullPath(name);
    try {
      await fsyncFile(path);
      await this.#syncDirectory(dirname(path));
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return null;
      throw storageError(path, error);
    }
    return this.describe(name);
  }

  override async compare(name: WalName, incoming: Buffer, options: CompareOptions = {}): Promise<Comparison> {
    const stored = await this.read(name);
    if (stored === null) return { result: 'absent' };
    const known = isGpgEncrypted(stored.bytes) ? await this.#journal.plainDigest(name, sha256(stored.bytes)) : null;
    const { plain } = await this.unpack(incoming, name, this.#settings.keys);
    const { keys } = this.#settings;
    const read: ReadPlain = (bytes, wal) => this.readPlain(bytes, wal, keys);
    const reason = await differenceOf(name, plain, stored, read, known, options);
    return reason === null ? { result: 'same' } : { result: 'different', reason };
  }

  override async remove(stored: readonly PreparedWal[], keepSources: boolean): Promise<void> {
    for (const { temporary } of stored) {
      // Before the source: once that is gone, no later pass would come by to clean up.
      if (temporary !== null) await unlinkIfThere(temporary);
    }
    if (!keepSources) await removeSources(stored.map(({ wal }) => wal));
  }

  override async release(prepared: PreparedWal): Promise<WaitingWal> {
    const { wal, temporary, claimedFrom: path } = prepared;
    if (temporary !== null) await unlinkIfThere(temporary);
    // An older claim may be one of a reset: under its own name, pg_receivewal would take it for its position.
    if (path === undefined) return wal;
    try {
      // What the archive has as well (the catalogue failed after the link) must not be where an archive_command writes.
      if ((await lstat(wal.path)).nlink > 1) return wal;
      // When the name is taken again, the claim keeps its own, and the next pass takes it first.
      if (!(await linkUnlessThere(wal.path, path))) return wal;
      // Before it loses its other name.
      await fsyncDirectory(dirname(path));
    } catch (error) {
      // Gone, or no hard links here: then it stays a claim.
      if (errnoOf(error) === 'ENOENT' || CANT_LINK.has(errnoOf(error) ?? '')) return wal;
      throw error;
    }
    await unlinkIfThere(wal.path);
    return { ...wal, path, claimed: false };
  }

  override async dropPrepared(name: WalName): Promise<void> {
    await unlinkIfThere(temporaryOf(this.getFullPath(name)));
  }

  override getFullPath(name: WalName): string {
    return this.#files.getFullPath(name);
  }

  override checkThere(): Promise<void> {
    return this.#files.checkThere();
  }

  override read(name: WalName): Promise<StoredWal | null> {
    return this.#files.read(name);
  }

  override describe(name: WalName): Promise<WalFileInfo | null> {
    return this.#files.describe(name);
  }

  override list(): AsyncIterable<WalFileInfo> {
    return this.#files.list();
  }

  override listSizes(): AsyncIterable<readonly StoredSize[]> {
    return this.#files.listSizes();
  }

  override sizeOf(name: WalName): Promise<number | null> {
    return this.#files.sizeOf(name);
  }

  override async firstFrom(timeline: number): Promise<string | null> {
    await this.checkThere();
    return firstStoredFrom(this.#settings.walsDirectory, timeline);
  }

  override knownSegmentSize(): Promise<number | null> {
    return this.#files.encryptedSegmentSize();
  }

  override async stored(names: readonly WalName[]): Promise<ReadonlySet<WalName>> {
    const stored = new Set<WalName>();
    for (const name of names) if (await this.exists(this.getFullPath(name))) stored.add(name);
    return stored;
  }

  override async exists(fullPath: string): Promise<boolean> {
    try {
      return await isThere(fullPath);
    } catch (error) {
      if (errnoOf(error) === 'ENOTDIR') return false;
      throw storageError(fullPath, error);
    }
  }

  override async delete(
    walsToDelete: ReadonlyMap<string, readonly WalFileInfo[]>,
    onDeleted: (name: WalName) => void = () => {},
  ): Promise<WalName[]> {
    const deleted: WalName[] = [];
    try {
      for (const wals of walsToDelete.values()) {
        await this.#deleteDirectory(wals, (name) => {
          deleted.push(name);
          onDeleted(name);
        });
      }
    } finally {
      await this.#forgetDigests(deleted);
    }
    return deleted;
  }

  /** Under the lock that others append to the journal under; a file that was archived again meanwhile keeps its entry. */
  async #forgetDigests(deleted: readonly WalName[]): Promise<void> {
    if (deleted.length === 0 || !(await isThere(this.#settings.digestJournal))) return;
    await this.parts.catalogue.withLock(async () => {
      const gone = new Set<WalName>();
      for (const name of deleted) if (!(await isThere(this.getFullPath(name)))) gone.add(name);
      await this.#journal.forget(gone);
    });
  }

  async #deleteDirectory(wals: readonly WalFileInfo[], onDeleted: (name: WalName) => void): Promise<void> {
    const directories = new Set<string>();
    for (const info of wals) {
      const path = this.getFullPath(info.name);
      const hook = await this.parts.hooks.before('wal_delete', info, path);
      if (hook.outcome === 'stop') throw hook.error;
      let problem: WalwardenError | null = null;
      try {
        await unlinkIfThere(path);
        directories.add(dirname(path));
        onDeleted(info.name);
      } catch (error) {
        problem = storageError(path, error);
      }
      await this.parts.hooks.after('wal_delete', info, path, problem?.message);
      if (problem !== null) throw problem;
    }
    for (const directory of directories) {
      if (!(await isThere(directory))) continue;
      await fsyncDirectory(directory);
      if (directory !== this.#settings.walsDirectory) await this.#removeIfEmpty(directory);
    }
  }

  override copies(name: WalName): Promise<readonly StoredCopy[]> {
    return this.#replacement.copies(this.getFullPath(name));
  }

  protected override async exchange(
    old: StoredCopy,
    by: Replacement,
    options: { readonly unkept: boolean },
  ): Promise<ReplaceResult> {
    const directory = dirname(old.path);
    await this.#makeReady(directory);
    const result = await this.#replacement.exchange(old, by, options);
    if (result.outcome === 'replaced') await this.#syncDirectory(directory);
    return result;
  }

  /** rmdir(2) takes only what is empty: never a recursive removal in an archive. */
  async #removeIfEmpty(directory: string): Promise<void> {
    try {
      await rmdir(directory);
      this.#forget(directory);
    } catch (error) {
      if (errnoOf(error) !== 'ENOTEMPTY' && errnoOf(error) !== 'EEXIST') throw error;
    }
  }

  #forget(directory: string): void {
    this.#ready.delete(directory);
    this.#durable.delete(directory);
  }

  /** Makes a directory of the archive, and drops what a crash left in it. */
  async #makeReady(directory: string): Promise<void> {
    if (this.#ready.has(directory)) return;
    try {
      await makeDirectory(directory);
    } catch (error) {
      throw storageError(directory, error);
    }
    for (const entry of await readDirectory(directory)) {
      const [, name = ''] = LEFTOVER.exec(entry) ?? [];
      if (isWalName(name) && (await isFile(join(directory, entry)))) await unlinkIfThere(join(directory, entry));
    }
    this.#ready.add(directory);
  }

  async #syncDirectory(directory: string): Promise<void> {
    await fsyncDirectory(directory);
    if (this.#durable.has(directory)) return;
    await fsyncDirectory(dirname(directory));
    this.#durable.add(directory);
  }
}

function temporaryOf(final: string): string {
  return `${final}.tmp`;
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await lstat(path)).isFile();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}
