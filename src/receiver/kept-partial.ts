import { constants } from 'node:fs';
import { open, readdir, readFile, rename, stat, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { openDelivered } from '../durable/delivered-file.ts';
import { copyAsOurs, fsyncDirectory, makeDirectory, unlinkIfThere } from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { PostgresError } from '../postgres/failure.ts';
import { placesOf } from '../storage/claim.ts';
import { walName, type WalName } from '../wal/wal-name.ts';
import { endOfContent, hasContentAt, haveSamePrefix } from './partial-content.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import type { StreamingStart } from './streaming-directory.ts';

// Whenever pg_receivewal starts, it has the segment sent from its first byte and writes it over what the partial file
// holds. A server that was set back to an older state (a snapshot of its storage) sends other bytes than it sent
// before, and what it had sent may be the only copy of commits that somebody was told of. So a copy is kept until the
// new bytes have passed its end, and then compared.

type KeptSettings = Pick<
  ReceiverSettings,
  'server' | 'streamingDirectory' | 'claims' | 'reportPath' | 'errors' | 'readArchived' | 'logger'
>;

/** How a copy compares with what was received since; null: not enough was. */
type Comparison = 'same' | 'differs' | null;

/** Behind the name of a copy that differs: until a reset it stands in the way. */
const DIFFERS = '.differs';
const UNFINISHED = '.tmp';

/** PostgreSQL's pages begin with a header that is not zero; only behind a switch to the next segment they don't. */
const PAST = 64 * 1024;

const directoryOf = ({ reportPath }: Pick<KeptSettings, 'reportPath'>): string =>
  join(dirname(reportPath), '.receive-wal-kept');

/** Where the copy of a partial file lies, if there is one. */
export function keptPath(settings: Pick<KeptSettings, 'reportPath'>, entry: string): string {
  return join(directoryOf(settings), entry);
}

/** Keeps a copy of what the partial file holds that pg_receivewal goes on with. The copy is durable when it resolves. */
export async function keepReceived(settings: KeptSettings, start: StreamingStart, segmentSize: number): Promise<void> {
  const { entry, partial, compressed } = start.file;
  if (!partial || compressed) return;
  const directory = directoryOf(settings);
  const [source, target] = [join(settings.streamingDirectory, entry), join(directory, entry)];
  try {
    const length = await endOfContent(source, segmentSize);
    // One that is there, and is not shorter, was compared before and is not wholly overwritten yet.
    if (length === 0 || (await sizeOf(target)) >= length) return;
    await makeDirectory(directory);
    const unfinished = `${target}${UNFINISHED}`;
    await unlinkIfThere(unfinished);
    await using received = await openDelivered(source);
    const inode = `/proc/self/fd/${received.handle.fd}`;
    await copyAsOurs(inode, unfinished);
    await using handle = await open(unfinished, constants.O_RDWR);
    await handle.truncate(length);
    await handle.sync();
    await rename(unfinished, target);
    await fsyncDirectory(directory);
  } catch (cause) {
    throw new WalwardenError('storage', `can't keep a copy of ${source} in ${directory}: ${messageOf(cause)}`, {
      cause,
      hint: `pg_receivewal would write over it; see the space and the owner of ${dirname(directory)}`,
    });
  }
}

/**
 * Compares the copies of earlier starts with what lies in streaming while
 * pg_receivewal does not run. Throws `timeline-diverged` where one differs, now
 * or before; forgets those that are not needed any more.
 */
export async function settleKept(settings: KeptSettings, start: StreamingStart | null): Promise<void> {
  const { server, errors, logger } = settings;
  const directory = directoryOf(settings);
  for (const entry of await keptEntries(directory)) {
    const path = join(directory, entry);
    if (entry.endsWith(DIFFERS)) throw keptDiffers(settings, path);
    const verdict = await compareByName(settings, entry);
    if (verdict === 'differs') throw keptDiffers(settings, await markDifferent(directory, entry));
    if (verdict === 'same' && entry !== start?.file.entry) await unlinkIfThere(path);
    if (verdict !== 'gone') continue;
    // The archiver was quicker than our look.
    if (await isArchived(settings, entry)) {
      await unlinkIfThere(path);
      continue;
    }
    const reason = 'receive-wal was killed before it had compared this with what the server sent again';
    const moved = await errors.take(path, entry, 'unknown', reason);
    logger.warn(
      { server, file: entry },
      `what was received of ${entry} can't be compared with what the server sent again, which is archived: it is in errors as ${moved}`,
    );
  }
}

/** For a reset: what is not found again in streaming goes to errors. Resolves to what was done, in lines. */
export async function releaseKept(settings: KeptSettings, which: 'all' | 'different'): Promise<string[]> {
  const directory = directoryOf(settings);
  const lines: string[] = [];
  for (const entry of await keptEntries(directory)) {
    const path = join(directory, entry);
    const different = entry.endsWith(DIFFERS);
    if (!different && which === 'different') continue;
    if (!different && (await compareByName(settings, entry)) === 'same') {
      await unlinkIfThere(path);
      continue;
    }
    const name = different ? entry.slice(0, -DIFFERS.length) : entry;
    const reason = 'received before the server sent something else in its place';
    const moved = await settings.errors.take(path, name, 'reset', reason);
    lines.push(`Moving ${path} to ${join(settings.errors.path, moved)}`);
  }
  return lines;
}

/** What stands in the way of streaming once a copy differs. */
export function keptDiffers({ server }: Pick<KeptSettings, 'server'>, path: string): PostgresError {
  return new PostgresError(
    'timeline-diverged',
    `PostgreSQL of ${server} has sent other WAL in place of what it had sent before, which is kept as ${path}`,
    {
      hint:
        'it was set back to an older state (a snapshot of its storage), or this is another server: find out which WAL is right; ' +
        `walwarden receive-wal --reset ${server} moves the old one to errors and goes on; then take a new base backup`,
    },
  );
}

/** A copy, and the file that pg_receivewal writes, under whatever name: the archiver may take it away at any time. */
export class KeptPartial implements AsyncDisposable {
  readonly #settings: KeptSettings;
  readonly #entry: string;
  readonly #kept: FileHandle;
  readonly #written: FileHandle;
  readonly #length: number;
  readonly #before: ReadonlySet<string>;
  #verdict: Comparison = null;

  private constructor(
    settings: KeptSettings,
    entry: string,
    handles: { readonly kept: FileHandle; readonly written: FileHandle },
    length: number,
    before: ReadonlySet<string>,
  ) {
    this.#settings = settings;
    this.#entry = entry;
    this.#kept = handles.kept;
    this.#written = handles.written;
    this.#length = length;
    this.#before = before;
  }

  /** Null when nothing is kept. To be called before pg_receivewal starts. */
  static async open(settings: KeptSettings): Promise<KeptPartial | null> {
    const { streamingDirectory } = settings;
    const directory = directoryOf(settings);
    const [entry] = await keptEntries(directory);
    if (entry === undefined) return null;
    const written = await openIfThere(join(streamingDirectory, entry));
    if (written === null) return null;
    try {
      const before = new Set(await readdir(streamingDirectory));
      const kept = await open(join(directory, entry), constants.O_RDONLY);
      return new KeptPartial(settings, entry, { kept, written }, (await kept.stat()).size, before);
    } catch (error) {
      await written.close();
      throw error;
    }
  }

  /** Where a copy that differs lies. */
  get path(): string {
    return join(directoryOf(this.#settings), `${this.#entry}${DIFFERS}`);
  }

  /** Compares, once pg_receivewal is past the copy's end. */
  async look(): Promise<Comparison> {
    if (this.#verdict !== null || !(await this.#isPast())) return this.#verdict;
    const same = await haveSamePrefix(this.#kept, this.#written, this.#length);
    const directory = directoryOf(this.#settings);
    if (same) await unlinkIfThere(join(directory, this.#entry));
    else await markDifferent(directory, this.#entry);
    this.#verdict = same ? 'same' : 'differs';
    return this.#verdict;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#kept.close(), this.#written.close()]);
  }

  /** It writes from front to back, and begins another file only when it is done with this one. */
  async #isPast(): Promise<boolean> {
    if (await hasContentAt(this.#written, this.#length, PAST)) return true;
    const entries = await readdir(this.#settings.streamingDirectory);
    return entries.some((entry) => !this.#before.has(entry) && isLater(entry, this.#entry));
  }
}

/** By segment, then by timeline; the complete file comes after the partial one. */
function isLater(entry: string, partial: string): boolean {
  if (!/^[0-9A-F]{24}(\.partial)?$/.test(entry)) return false;
  const order = (name: string): string => name.slice(8, 24) + name.slice(0, 8);
  return order(entry) > order(partial) || `${entry}.partial` === partial;
}

/** In the place of what is kept: still partial, complete, or claimed by the archiver; `gone`: none of these. */
async function compareByName(settings: KeptSettings, entry: string): Promise<'same' | 'shorter' | 'differs' | 'gone'> {
  const { streamingDirectory, claims } = settings;
  const partial = join(streamingDirectory, entry);
  for (const path of [partial, ...placesOf(streamingDirectory, claims, completeName(entry))]) {
    const opened = await openIfThere(path);
    if (opened === null) continue;
    await using written = opened;
    await using kept = await open(join(directoryOf(settings), entry), constants.O_RDONLY);
    const [length, received] = [(await kept.stat()).size, await endOfContent(path)];
    if (!(await haveSamePrefix(kept, written, Math.min(length, received)))) return 'differs';
    return received >= length ? 'same' : 'shorter';
  }
  return 'gone';
}

/** Whether the archive has the segment, and in it all that is kept. */
async function isArchived(settings: KeptSettings, entry: string): Promise<boolean> {
  const { server, logger } = settings;
  try {
    const archived = await settings.readArchived?.(completeName(entry));
    const kept = await readFile(join(directoryOf(settings), entry));
    return archived?.subarray(0, kept.length).equals(kept) ?? false;
  } catch (error) {
    logger.debug({ server, file: entry }, `can't compare what is kept of ${entry}: ${messageOf(error)}`);
    return false;
  }
}

async function markDifferent(directory: string, entry: string): Promise<string> {
  const marked = join(directory, `${entry}${DIFFERS}`);
  await rename(join(directory, entry), marked);
  await fsyncDirectory(directory);
  return marked;
}

/** The segment's name, once it is whole. */
function completeName(entry: string): WalName {
  return walName(entry.slice(0, -'.partial'.length), 'the receiver');
}

async function keptEntries(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).filter((entry) => !entry.endsWith(UNFINISHED)).sort();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

async function openIfThere(path: string): Promise<FileHandle | null> {
  try {
    return (await openDelivered(path)).handle;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

/** -1: there is none. */
async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return -1;
    throw error;
  }
}
