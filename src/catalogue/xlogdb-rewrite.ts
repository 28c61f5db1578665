import { open, rename, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fsyncDirectory, isThere, unlinkIfThere } from '../durable/durable-file.ts';
import { errnoOf } from '../errors.ts';
import { toXlogdbLine, type WalFileInfo } from '../wal/wal-file-info.ts';
import type { WalName } from '../wal/wal-name.ts';
import { createFile, discard, TextWriter } from './xlogdb-file.ts';
import { namesIn, readLines, type XlogdbLine } from './xlogdb-lines.ts';

/** The part of a file that a rewrite starts from. */
export interface LineSource {
  readonly handle: FileHandle;
  readonly end: number;
}

/** What one pass over a catalogue tells about it. */
export interface Survey {
  /** The last line of every name that was asked for and is there. */
  readonly known: ReadonlyMap<WalName, WalFileInfo>;
  /** Lines that stand below a name as large as theirs, without newline. Of several for a name the last. */
  readonly late: ReadonlyMap<WalName, string>;
  readonly highest: WalName | '';
  /** Names that damaged lines mention; bounded, like everything here but `late`. */
  readonly mentioned: ReadonlySet<WalName>;
  /** What stands after the last newline. */
  readonly unended: XlogdbLine | undefined;
}

const MOST_MENTIONED = 10_000;

/** A Set or a Map of names. */
export interface NameSet {
  has(name: WalName): boolean;
}

/** Reads a catalogue once: what is there of `wanted`, what is out of order, what is damaged. */
export async function survey(source: LineSource | undefined, wanted: NameSet): Promise<Survey> {
  const known = new Map<WalName, WalFileInfo>();
  const late = new Map<WalName, string>();
  const mentioned = new Set<WalName>();
  let highest: WalName | '' = '';
  let unended: XlogdbLine | undefined;
  for await (const lines of linesOf(source)) {
    for (const line of lines) {
      const { info, text } = line;
      if (!line.ended) unended = line;
      if (info === undefined) {
        for (const name of namesIn(text)) if (mentioned.size < MOST_MENTIONED) mentioned.add(name);
        continue;
      }
      if (info.name > highest) highest = info.name;
      else late.set(info.name, text);
      if (wanted.has(info.name)) known.set(info.name, info);
    }
  }
  return { known, late, highest, mentioned, unended };
}

async function* linesOf(source: LineSource | undefined): AsyncGenerator<readonly XlogdbLine[]> {
  if (source !== undefined) yield* readLines(source.handle, source.end);
}

/** What a rewrite changes. Lines are without newline. */
export interface Changes {
  /** Lines that come in unless their name has one. */
  readonly absent?: ReadonlyMap<WalName, string>;
  /** Lines that come in instead of what their name has. */
  readonly instead?: ReadonlyMap<WalName, string>;
  readonly without?: ReadonlySet<WalName>;
}

/** A line as {@link Changes} wants it. */
export function lineOf(info: WalFileInfo): string {
  return toXlogdbLine(info).slice(0, -1);
}

/**
 * Writes the lines of `source` to `out`, sorted, one line a name, with the
 * changes. The increasing lines are streamed; those out of order come from the
 * survey: of two lines for a name the later one wins, because Barman and we
 * only ever append, so it describes the later state of the file. Lines that
 * stay keep their bytes. Damaged ones go aside.
 */
export async function mergeLines(
  source: LineSource | undefined,
  late: Survey['late'],
  changes: Changes,
  out: TextWriter,
  aside: DamagedLines,
): Promise<void> {
  const absent = changes.absent ?? new Map<WalName, string>();
  const instead = new Map([...late, ...(changes.instead ?? [])]);
  const coming = [...new Map([...absent, ...instead])].sort(([a], [b]) => (a < b ? -1 : 1));
  const emit = (name: WalName, text: string): void => {
    if (changes.without?.has(name) !== true) out.add(`${text}\n`);
  };
  let next = 0;
  let highest: WalName | '' = '';
  for await (const lines of linesOf(source)) {
    for (const line of lines) {
      if (line.info === undefined) {
        await aside.add(line);
        continue;
      }
      const { name } = line.info;
      if (name <= highest) continue;
      highest = name;
      for (let change = coming[next]; change !== undefined && change[0] < name; change = coming[next]) {
        emit(...change);
        next += 1;
      }
      if (coming[next]?.[0] === name) next += 1;
      emit(name, instead.get(name) ?? line.text);
    }
    await out.flush();
  }
  for (const change of coming.slice(next)) emit(...change);
  await out.flush();
}

/**
 * Replaces the catalogue, durably, or leaves it as it is: temporary file
 * beside it, fsync, rename, fsync of the directory. `write` may put damaged lines aside: they are durable before
 * the lines that replace them are.
 */
export async function replaceCatalogue(
  path: string,
  like: FileHandle | undefined,
  write: (out: TextWriter, aside: DamagedLines) => Promise<void>,
): Promise<DamagedLines> {
  const temporary = `${path}.tmp`;
  const aside = new DamagedLines(path);
  // Whoever left one is dead: we hold the lock.
  await unlinkIfThere(temporary);
  const handle = await createFile(temporary);
  try {
    try {
      if (like !== undefined) await keepOwner(handle, like);
      await write(new TextWriter(handle), aside);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await aside.finish();
    await rename(temporary, path);
  } catch (error) {
    await discard(temporary);
    await aside.discard();
    throw error;
  }
  await fsyncDirectory(dirname(path));
  return aside;
}

/** A rewrite must not shut out a Barman of another user that shares the home. */
async function keepOwner(handle: FileHandle, like: FileHandle): Promise<void> {
  const [mine, theirs] = await Promise.all([handle.stat(), like.stat()]);
  if (mine.uid !== theirs.uid || mine.gid !== theirs.gid) {
    try {
      await handle.chown(theirs.uid, theirs.gid);
    } catch (error) {
      // Only root may give a file away. The mode below still lets the group in.
      if (errnoOf(error) !== 'EPERM') throw error;
    }
  }
  await handle.chmod(theirs.mode & 0o777);
}

const NOTHING = /^\0*$/;

/** The side file for what a rewrite drops, byte for byte; made when there is something to keep. */
export class DamagedLines {
  readonly #catalogue: string;
  #path: string | undefined;
  #handle: FileHandle | undefined;
  /** How many lines were put aside, and the first of them. */
  count = 0;
  first: XlogdbLine | undefined;

  constructor(catalogue: string) {
    this.#catalogue = catalogue;
  }

  /** Where they are; undefined when there were none. */
  get path(): string | undefined {
    return this.#path;
  }

  async add(line: XlogdbLine): Promise<void> {
    // Blocks that were allocated and never written say nothing.
    if (NOTHING.test(line.text)) return;
    this.#handle ??= await this.#create();
    this.first ??= line;
    this.count += 1;
    const out = new TextWriter(this.#handle);
    out.add(line.ended ? `${line.text}\n` : line.text);
    await out.flush();
  }

  /** Adds what is damaged of a catalogue. */
  async addAll(source: LineSource | undefined): Promise<void> {
    for await (const lines of linesOf(source)) {
      for (const line of lines) if (line.info === undefined) await this.add(line);
    }
  }

  async #create(): Promise<FileHandle> {
    // Stamps have a resolution of one second: the next one that is free.
    for (let time = Date.now(); ; time += 1000) {
      const stamp = new Date(time).toISOString().replace(/[-:]|\.\d+/g, '');
      const path = `${this.#catalogue}.damaged-${stamp}`;
      if (await isThere(path)) continue;
      const handle = await open(path, 'wx', 0o600);
      this.#path = path;
      return handle;
    }
  }

  async finish(): Promise<void> {
    if (this.#handle === undefined) return;
    await this.#handle.sync();
    await this.#handle.close();
    this.#handle = undefined;
    await fsyncDirectory(dirname(this.#catalogue));
  }

  /** For when the rewrite failed: the lines still are where they were. */
  async discard(): Promise<void> {
    await this.#handle?.close();
    this.#handle = undefined;
    if (this.#path !== undefined) await discard(this.#path);
  }
}
