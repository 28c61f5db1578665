import type { FileHandle } from 'node:fs/promises';
import { unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fsyncDirectory, unlinkIfThere, writeFully } from '../durable/durable-file.ts';
import { errnoOf, messageOf } from '../errors.ts';
import { toXlogdbLine, type WalFileInfo } from '../wal/wal-file-info.ts';
import type { WalName } from '../wal/wal-name.ts';
import { catalogueError, createFile, openCatalogue, TextWriter } from './xlogdb-file.ts';
import { isTorn, namesIn, readLines, readTail } from './xlogdb-lines.ts';
import {
  lineOf,
  mergeLines,
  replaceCatalogue,
  survey,
  type Changes,
  type DamagedLines,
  type LineSource,
  type Survey,
} from './xlogdb-rewrite.ts';

export interface XlogdbLogger {
  warn(facts: object, message: string): void;
  info(facts: object, message: string): void;
}

export interface EnsureOptions {
  /**
   * Look through the whole catalogue even for names after its last line. For
   * files that were in the archive already (duplicates, healing): a catalogue
   * that Barman left unsorted may know them further up.
   */
  readonly thorough?: boolean;
  /** Correct a line also where only its time is another: what it described was replaced. */
  readonly exact?: boolean;
}

/** The catalogue while its lock is held. Get one from `Xlogdb.withLock`. */
export interface XlogdbSession {
  /** A file whose line a crash had torn and that `describeStored` did not find; the text is in a `.damaged-` file. */
  readonly tornName: WalName | undefined;
  /** Resolves once every file has exactly one line that says what `infos` say, and that would survive power loss. */
  ensure(infos: readonly WalFileInfo[], options?: EnsureOptions): Promise<void>;
  /** Drops the lines of these names, durably. Resolves to the number of files that lost their line. */
  remove(names: ReadonlySet<WalName>): Promise<number>;
  /** Replaces the whole catalogue, durably. The order of `infos` doesn't matter; the last one of a name wins. */
  replaceAll(infos: AsyncIterable<WalFileInfo> | Iterable<WalFileInfo>): Promise<void>;
}

/** What a catalogue's object remembers between its locks. */
export interface XlogdbMemory {
  /** The inode whose name is known to be durable: we fsynced the directory since it has it. */
  durable: bigint | undefined;
  /** An inode whose fsync failed: the kernel may say "durable" next time without it being true. */
  distrusted: bigint | undefined;
  /** The state of the legacy catalogue whose lines are taken over. */
  legacy: string | undefined;
}

export interface SessionOptions {
  readonly path: string;
  readonly logger: XlogdbLogger;
  readonly describeStored: (name: WalName) => Promise<WalFileInfo | null>;
  readonly memory: XlogdbMemory;
}

const NOBODY: ReadonlySet<WalName> = new Set();

/** The one implementation of {@link XlogdbSession}. Whoever makes it holds the lock. */
export class LockedXlogdb implements XlogdbSession, AsyncDisposable {
  readonly #options: SessionOptions;
  // Undefined as long as there is no catalogue.
  #handle: FileHandle | undefined;
  #size = 0;
  #inode = 0n;
  tornName: WalName | undefined;

  private constructor(options: SessionOptions) {
    this.#options = options;
  }

  /** Opens the catalogue, if there is one, and heals a torn last line. */
  static async open(options: SessionOptions): Promise<LockedXlogdb> {
    const session = new LockedXlogdb(options);
    try {
      await session.#reopen();
      await session.#heal();
    } catch (error) {
      await session[Symbol.asyncDispose]();
      throw catalogueError(options.path, 'repair', error);
    }
    return session;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close();
  }

  ensure(infos: readonly WalFileInfo[], options: EnsureOptions = {}): Promise<void> {
    return this.#writing(async () => {
      const wanted = new Map(infos.map((info) => [info.name, info]));
      if (wanted.size === 0) return;
      const { thorough = false, exact = false } = options;
      const fresh = this.#trusted() && !exact ? await this.#findFresh(wanted, thorough) : undefined;
      if (fresh === undefined) await this.#ensureByReading(wanted, exact);
      else await this.#append(fresh, wanted);
    });
  }

  remove(names: ReadonlySet<WalName>): Promise<number> {
    return this.#writing(async () => {
      const seen = await survey(this.#source(), names);
      if (seen.known.size > 0) await this.#rewrite(seen, { without: names });
      return seen.known.size;
    });
  }

  async replaceAll(infos: AsyncIterable<WalFileInfo> | Iterable<WalFileInfo>): Promise<void> {
    const path = `${this.#options.path}.spool`;
    // In the order in which they come; the merge that sorts a catalogue then sorts them too, in bounded memory.
    await using spool = await this.#writing(async () => {
      await unlinkIfThere(path);
      const handle = await createFile(path);
      await unlink(path);
      return handle;
    });
    const out = new TextWriter(spool);
    let count = 0;
    for await (const info of infos) {
      out.add(`${lineOf(info)}\n`);
      count += 1;
      if (count % 4096 === 0) await this.#writing(() => out.flush());
    }
    await this.#writing(async () => {
      await out.flush();
      const source = { handle: spool, end: (await spool.stat()).size };
      const { late } = await survey(source, NOBODY);
      await this.#replace(this.#handle, async (written, aside) => {
        await aside.addAll(this.#source());
        await mergeLines(source, late, {}, written, aside);
      });
    });
  }

  /**
   * Takes over the lines of a legacy catalogue: all of them when there is no
   * catalogue yet, else those of files that it doesn't know. Of these, only
   * files that are in the archive: the others were deleted since.
   */
  takeOver(legacy: FileHandle): Promise<void> {
    return this.#writing(async () => {
      const source = { handle: legacy, end: (await legacy.stat()).size };
      if (this.#handle === undefined) {
        const seen = await survey(source, NOBODY);
        const { absent } = await this.#withMentioned(seen, {});
        await this.#replace(legacy, (out, aside) => mergeLines(source, seen.late, { absent }, out, aside));
        return;
      }
      const absent = new Map<WalName, string>();
      for await (const lines of readLines(source.handle, source.end)) {
        for (const { info, text } of lines) if (info !== undefined) absent.set(info.name, text);
      }
      const seen = await survey(this.#source(), absent);
      for (const name of absent.keys()) {
        if (seen.known.has(name) || (await this.#options.describeStored(name)) === null) absent.delete(name);
      }
      if (absent.size > 0) await this.#rewrite(seen, { absent });
    });
  }

  /** Nanoseconds since the epoch, 0 as long as there is no catalogue. */
  async mtime(): Promise<bigint> {
    return (await this.#handle?.stat({ bigint: true }))?.mtimeNs ?? 0n;
  }

  async #heal(): Promise<void> {
    if (this.#handle === undefined || !(await isTorn(this.#handle, this.#size))) return;
    const seen = await survey(this.#source(), NOBODY);
    const text = seen.unended?.text ?? '';
    this.#options.logger.warn(
      { catalogue: this.#options.path, text: text.slice(0, 200) },
      'the last line of the catalogue was torn by a crash, repairing it',
    );
    const found = await this.#rewrite(seen, {});
    const [name] = namesIn(text);
    if (seen.unended?.info === undefined && name !== undefined && !found.has(name)) this.tornName = name;
  }

  /**
   * Those of `wanted` that can simply be appended, when the end of the
   * catalogue alone tells that the others stand there as they should;
   * undefined when it doesn't.
   */
  async #findFresh(
    wanted: ReadonlyMap<WalName, WalFileInfo>,
    thorough: boolean,
  ): Promise<readonly WalFileInfo[] | undefined> {
    if (this.#handle === undefined) return undefined;
    const tail = await readTail(this.#handle, this.#size);
    const known = new Map<WalName, WalFileInfo>();
    let highest: WalName | '' = '';
    for (const info of tail.lines) {
      if (info.name <= highest) return undefined;
      highest = info.name;
      known.set(info.name, info);
    }
    const fresh: WalFileInfo[] = [];
    for (const info of wanted.values()) {
      const line = known.get(info.name);
      if (line !== undefined) {
        if (!saysTheSame(line, info)) return undefined;
      } else if (info.name > highest && (tail.whole || (highest !== '' && !thorough))) fresh.push(info);
      else return undefined;
    }
    return fresh;
  }

  async #ensureByReading(wanted: ReadonlyMap<WalName, WalFileInfo>, exact = false): Promise<void> {
    const seen = await survey(this.#source(), wanted);
    const absent: WalFileInfo[] = [];
    const instead = new Map<WalName, string>();
    for (const info of wanted.values()) {
      const line = seen.known.get(info.name);
      if (line === undefined) absent.push(info);
      else if (exact) instead.set(info.name, lineOf(info));
      else if (!saysTheSame(line, info)) {
        instead.set(info.name, lineOf(info));
        this.#options.logger.warn(
          { catalogue: this.#options.path, line, stored: info },
          'a line of the catalogue differs from the stored file, correcting it',
        );
      }
    }
    const sorted = seen.late.size === 0 && absent.every((info) => info.name > seen.highest);
    if (this.#handle !== undefined && this.#trusted() && sorted && instead.size === 0) {
      await this.#append(absent, wanted);
    } else {
      await this.#rewrite(seen, { absent: new Map(absent.map((info) => [info.name, lineOf(info)])), instead });
    }
  }

  /** One write, one fsync. The fsync is due even for lines that were there: who wrote them may have died before his. */
  async #append(fresh: readonly WalFileInfo[], wanted: ReadonlyMap<WalName, WalFileInfo>): Promise<void> {
    const handle = this.#handle;
    if (handle === undefined) return this.#ensureByReading(wanted);
    const sorted = [...fresh].sort((a, b) => (a.name < b.name ? -1 : 1));
    const data = Buffer.from(sorted.map(toXlogdbLine).join(''), 'latin1');
    const before = { inode: this.#inode, size: this.#size };
    try {
      await writeFully(handle, data);
    } catch (error) {
      await this.#cutBack(before);
      throw error;
    }
    try {
      await handle.sync();
    } catch (error) {
      this.#options.memory.distrusted = this.#inode;
      this.#options.logger.warn(
        { catalogue: this.#options.path, error: messageOf(error) },
        "fsync of the catalogue failed, so what it holds can't be trusted any more: writing it anew",
      );
      try {
        // #size still is the old one: what this write added comes from `wanted`.
        await this.#ensureByReading(wanted);
      } catch (again) {
        await this.#cutBack(before);
        throw again;
      }
      return;
    }
    this.#size += data.length;
    await this.#makeNameDurable();
  }

  /** Takes back what a failed append left: a line whose fsync failed must not be found, and believed, later. */
  async #cutBack(before: { readonly inode: bigint; readonly size: number }): Promise<void> {
    // Another inode: it was written anew after all, only the fsync of its name failed.
    if (this.#inode !== before.inode) return;
    this.#size = before.size;
    try {
      await this.#handle?.truncate(before.size);
    } catch (error) {
      // The disk is failing; the error that brought us here is the one to tell. A torn line is healed at the next lock.
      if (errnoOf(error) === undefined) throw error;
    }
  }

  /** Whoever created or renamed the catalogue may have died before the fsync of its directory. Once for every inode. */
  async #makeNameDurable(): Promise<void> {
    const { memory, path } = this.#options;
    if (memory.durable === this.#inode) return;
    await fsyncDirectory(dirname(path));
    memory.durable = this.#inode;
  }

  /** Rewrites the catalogue with these changes, and heals its damaged lines. Resolves to the files that these meant. */
  async #rewrite(seen: Survey, changes: Changes): Promise<ReadonlySet<WalName>> {
    const { absent, found } = await this.#withMentioned(seen, changes);
    const source = this.#source();
    await this.#replace(this.#handle, (out, aside) =>
      mergeLines(source, seen.late, { ...changes, absent }, out, aside),
    );
    return found;
  }

  /** The lines that shall not be missing, with those of stored files that damaged lines mention. */
  async #withMentioned(seen: Survey, changes: Changes): Promise<{ absent: Map<WalName, string>; found: Set<WalName> }> {
    const absent = new Map(changes.absent);
    const found = new Set<WalName>();
    for (const name of seen.mentioned) {
      const info = await this.#options.describeStored(name);
      if (info === null) continue;
      found.add(name);
      if (!absent.has(name)) absent.set(name, lineOf(info));
    }
    return { absent, found };
  }

  async #replace(
    like: FileHandle | undefined,
    write: (out: TextWriter, aside: DamagedLines) => Promise<void>,
  ): Promise<void> {
    const { path, logger, memory } = this.#options;
    try {
      const aside = await replaceCatalogue(path, like, write);
      if (aside.path !== undefined) {
        logger.warn(
          { catalogue: path, aside: aside.path, lines: aside.count, lineNumber: aside.first?.number },
          'damaged lines of the catalogue were put aside',
        );
      }
    } finally {
      // Even a failed replacement may have got as far as its rename.
      await this.#reopen();
    }
    memory.durable = this.#inode;
  }

  async #reopen(): Promise<void> {
    await this[Symbol.asyncDispose]();
    this.#handle = await openCatalogue(this.#options.path, 'write');
    const stat = await this.#handle?.stat({ bigint: true });
    this.#size = Number(stat?.size ?? 0n);
    this.#inode = stat?.ino ?? 0n;
  }

  #trusted(): boolean {
    return this.#options.memory.distrusted !== this.#inode;
  }

  #source(): LineSource | undefined {
    return this.#handle === undefined ? undefined : { handle: this.#handle, end: this.#size };
  }

  async #writing<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw catalogueError(this.#options.path, 'write', error);
    }
  }
}

/** The mtime is not compared: a line of Barman's may have rounded it, and another digit is no reason to rewrite. */
function saysTheSame(line: WalFileInfo, info: WalFileInfo): boolean {
  return line.size === info.size && line.compression === info.compression && line.encryption === info.encryption;
}
