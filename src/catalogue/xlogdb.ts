import { unlink, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { acquireLock } from '../durable/lock-file.ts';
import { fsyncDirectory, isThere } from '../durable/durable-file.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import type { WalName } from '../wal/wal-name.ts';
import { readExtent, type XlogdbExtent } from './xlogdb-extent.ts';
import { catalogueError, openCatalogue } from './xlogdb-file.ts';
import { containsText, readLines, readTail, type XlogdbLine } from './xlogdb-lines.ts';
import { sortedInfos } from './xlogdb-sorted.ts';
import { LockedXlogdb, type XlogdbLogger, type XlogdbMemory, type XlogdbSession } from './xlogdb-session.ts';

export interface XlogdbOptions {
  readonly path: string;
  /** Where Barman before 3.13 kept it: `wals/xlog.db`. */
  readonly legacyPath: string;
  readonly lockPath: string;
  /** Remove the legacy catalogue once its lines are safe in the new one. */
  readonly migrate: boolean;
  readonly logger: XlogdbLogger;
  /**
   * Describes a file of the archive; null when it certainly is not there. Damaged and
   * torn lines are made anew from it, in the same step that drops them: Barman
   * writes the line when the source is gone already, so that the file may be
   * in the archive without any other trace.
   */
  readonly describeStored?: (name: WalName) => Promise<WalFileInfo | null>;
  /** Ends a wait for the lock. */
  readonly kill?: AbortSignal | undefined;
}

/** One line of the catalogue: a file, or text that is no catalogue line. */
export type XlogdbEntry =
  | { readonly kind: 'file'; readonly lineNumber: number; readonly info: WalFileInfo }
  | { readonly kind: 'problem'; readonly lineNumber: number; readonly text: string };

/**
 * The catalogue of a server's archive (Barman: server.py, xlogdb): one line a
 * file, sorted by name. Changed only under its lock, which a Barman on the same
 * home takes as well; read without it.
 */
export class Xlogdb {
  readonly #options: XlogdbOptions;
  readonly #memory: XlogdbMemory = { durable: undefined, distrusted: undefined, legacy: undefined };

  constructor(options: XlogdbOptions) {
    this.#options = options;
  }

  /**
   * Runs `work` with the catalogue locked and healed. It is opened anew after
   * every lock: others replace it. Must not be nested, it would wait for
   * itself.
   */
  async withLock<T>(work: (session: XlogdbSession) => Promise<T>): Promise<T> {
    const { path, lockPath, logger, describeStored, kill } = this.#options;
    await using _lock = await acquireLock(lockPath, { wait: true, signal: kill });
    await using session = await LockedXlogdb.open({
      path,
      logger,
      describeStored: describeStored ?? (async () => null),
      memory: this.#memory,
    });
    await this.#takeOverLegacy(session);
    return await work(session);
  }

  /** Makes an empty one, unless there is one, new or legacy: an archive whose catalogue is missing is not mounted. */
  async create(): Promise<void> {
    if (await this.exists()) return;
    await this.withLock(async (session) => {
      if (!(await this.exists())) await session.replaceAll([]);
    });
  }

  /** Is there a catalogue, new or legacy? */
  async exists(): Promise<boolean> {
    return (await isThere(this.#options.path)) || (await isThere(this.#options.legacyPath));
  }

  /** Another text whenever the file is another one, for the cost of a look at it; null when there is none. */
  async version(): Promise<string | null> {
    const { path, legacyPath } = this.#options;
    for (const candidate of [path, legacyPath]) {
      await using handle = await openCatalogue(candidate, 'read');
      if (handle !== undefined) return (await stateOf(handle)).text;
    }
    return null;
  }

  /** Every file, in the order of the lines. What is no catalogue line is left out. */
  async *read(): AsyncGenerator<WalFileInfo> {
    for await (const infos of this.readBatches()) yield* infos;
  }

  /**
   * As {@link read}, some thousands at a time, which is several times as fast for a million lines. `onProblem` is told
   * of lines that are none, but for an unended last one: somebody may be writing it.
   */
  async *readBatches(
    onProblem: (lineNumber: number, text: string) => void = () => {},
  ): AsyncGenerator<readonly WalFileInfo[]> {
    for await (const lines of this.#lines()) {
      for (const { info, ended, number, text } of lines) if (info === undefined && ended) onProblem(number, text);
      yield lines.map(({ info }) => info).filter((info) => info !== undefined);
    }
  }

  /** Every file once, in the order of the names, some thousands at a time: see {@link sortedInfos}. */
  readSorted(): AsyncGenerator<readonly WalFileInfo[]> {
    return sortedInfos(() => this.readBatches());
  }

  /** Every line, those that are none included. A line torn by a crash is one of these, unless only its newline is missing. */
  async *readEntries(): AsyncGenerator<XlogdbEntry> {
    for await (const lines of this.#lines()) {
      for (const { info, number, text } of lines) {
        yield info === undefined
          ? { kind: 'problem', lineNumber: number, text }
          : { kind: 'file', lineNumber: number, info };
      }
    }
  }

  /** The last lines, about a thousand; the cost doesn't depend on the catalogue's size. */
  async readLast(): Promise<readonly WalFileInfo[]> {
    const { path, legacyPath } = this.#options;
    for (const candidate of [path, legacyPath]) {
      await using handle = await openCatalogue(candidate, 'read');
      if (handle !== undefined) return (await readTail(handle, (await handle.stat()).size)).lines;
    }
    return [];
  }

  /** How many files it has, and which stand at its ends. */
  async extent(): Promise<XlogdbExtent> {
    const { path, legacyPath } = this.#options;
    for (const candidate of [path, legacyPath]) {
      await using handle = await openCatalogue(candidate, 'read');
      if (handle !== undefined) return await readExtent(handle, (await handle.stat()).size);
    }
    return { files: 0, first: null, last: null, newest: null };
  }

  /** What the catalogue says of one file; the last line counts, should there be several. */
  async find(name: WalName): Promise<WalFileInfo | undefined> {
    let found: WalFileInfo | undefined;
    for await (const lines of this.#lines(name)) {
      for (const { info } of lines) if (info?.name === name) found = info;
    }
    return found;
  }

  /** Whether a file's name stands in a line: as {@link find}, in a few hundredths of a second for a million lines. */
  async mentions(name: WalName): Promise<boolean> {
    const { path, legacyPath } = this.#options;
    for (const candidate of [path, legacyPath]) {
      await using handle = await openCatalogue(candidate, 'read');
      if (handle !== undefined) return await containsText(handle, `${name}\t`, (await handle.stat()).size);
    }
    return false;
  }

  /** The catalogue, or the legacy one where only that exists, or nothing; nothing also where `wanted` does not stand in it. */
  async *#lines(wanted?: WalName): AsyncGenerator<readonly XlogdbLine[]> {
    const { path, legacyPath } = this.#options;
    for (const candidate of [path, legacyPath]) {
      await using handle = await openCatalogue(candidate, 'read');
      if (handle === undefined) continue;
      try {
        // Up to where it ends now: what is appended meanwhile may be half a line.
        const end = (await handle.stat()).size;
        if (wanted !== undefined && !(await containsText(handle, wanted, end))) return;
        yield* readLines(handle, end);
      } catch (error) {
        throw catalogueError(candidate, 'read', error);
      }
      return;
    }
  }

  /**
   * The catalogue is the truth as soon as it exists. An older Barman that
   * shares the home (so `migrate` is off) still appends to its own: those lines
   * come in whenever the legacy file changed after ours did.
   */
  async #takeOverLegacy(session: LockedXlogdb): Promise<void> {
    const { legacyPath, path, migrate, logger } = this.#options;
    if (legacyPath === path) return;
    await using legacy = await openCatalogue(legacyPath, 'read');
    if (legacy === undefined) return;
    const state = await stateOf(legacy);
    const isNews = state.text !== this.#memory.legacy && (await session.mtime()) <= state.mtime;
    if (migrate || isNews) await session.takeOver(legacy);
    this.#memory.legacy = state.text;
    if (!migrate) return;
    try {
      await unlink(legacyPath);
      await fsyncDirectory(dirname(legacyPath));
    } catch (error) {
      throw catalogueError(legacyPath, 'remove', error);
    }
    logger.info({ catalogue: path, legacy: legacyPath }, 'the legacy catalogue was taken over and removed');
  }
}

async function stateOf(handle: FileHandle): Promise<{ readonly text: string; readonly mtime: bigint }> {
  const { ino, size, mtimeNs } = await handle.stat({ bigint: true });
  return { text: `${ino}:${size}:${mtimeNs}`, mtime: mtimeNs };
}
