import { constants } from 'node:fs';
import { lstat, open, readdir, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { CompressionName } from '../compression/codec.ts';
import { formatsOf, RECOGNITION_BYTES } from '../compression/codecs.ts';
import { isGpgEncrypted } from '../encryption/gpg.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { LONG_PAGE_HEADER_SIZE } from '../wal/page-header.ts';
import { judgeSegment } from '../wal/verify.ts';
import { secondsOfNs, type WalFileInfo } from '../wal/wal-file-info.ts';
import { isOfTimelineOrLater, isWalName, parseWalName, walDirectory, walKind, type WalName } from '../wal/wal-name.ts';
import type { DigestEntry, DigestJournal } from './digest-journal.ts';
import { sha256 } from './sha256.ts';
import { openStored, type ReadingKeys } from './stored-content.ts';
import type { StoredSize, StoredWal } from './wal-storage-strategy.ts';

export interface ArchivedFilesParts {
  readonly walsDirectory: string;
  readonly keys: ReadingKeys;
  readonly journal: DigestJournal;
  /** The configured compression. */
  readonly compression: CompressionName | null;
  /** What the catalogue says of a file's compression. */
  readonly said: (name: WalName) => Promise<readonly (string | null)[]>;
}

/** Files that are looked at at the same time: others want libuv's threads, too. */
const LOOKS = 4;

/** Enough to tell most files. */
const HEAD_BYTES = Math.max(LONG_PAGE_HEADER_SIZE, RECOGNITION_BYTES);

/** What segments lie in; history files lie beside them. */
const IS_DIRECTORY = /^[0-9A-Fa-f]{16}$/;

/** What lies in a local archive. Reading only. */
export class ArchivedFiles {
  readonly #parts: ArchivedFilesParts;

  constructor(parts: ArchivedFilesParts) {
    this.#parts = parts;
  }

  /** `wals/<first 16 digits>/<name>`; history files lie in `wals` itself. */
  getFullPath(name: WalName): string {
    return join(this.#parts.walsDirectory, walDirectory(name), name);
  }

  /** Throws `storage` when the archive can't be seen as a whole. */
  async checkThere(): Promise<void> {
    const { walsDirectory } = this.#parts;
    try {
      await readdir(walsDirectory);
    } catch (error) {
      throw new WalwardenError('storage', `the archive ${walsDirectory} can't be seen: ${messageOf(error)}`, {
        cause: error,
        hint: 'is its file system mounted?',
      });
    }
  }

  /** The stored bytes; null when there is no such file. */
  async read(name: WalName): Promise<StoredWal | null> {
    const path = this.getFullPath(name);
    try {
      const found = await readOne(path);
      return found === null ? null : { path, ...found, said: () => this.#parts.said(name) };
    } catch (error) {
      throw storageError(path, error);
    }
  }

  /** The catalogue's facts of a file, from the file itself; null when it is absent, or no regular file. */
  async describe(name: WalName): Promise<WalFileInfo | null> {
    return this.#describe(name, await this.#parts.journal.find(name));
  }

  /** `entries`: what the journal has of that name. */
  async #describe(name: WalName, entries: readonly DigestEntry[]): Promise<WalFileInfo | null> {
    const path = this.getFullPath(name);
    try {
      await using handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      const found = await handle.stat({ bigint: true });
      if (!found.isFile()) return null;
      const size = Number(found.size);
      const format = await this.#formatOf(name, handle, size, entries);
      return { name, size, mtime: secondsOfNs(found.mtimeNs), ...format };
    } catch (error) {
      // A symbolic link under a WAL's name is nothing that was archived.
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ELOOP') return null;
      throw storageError(path, error);
    }
  }

  /** By the first bytes, where they tell for sure, or else by reading it back. */
  async #formatOf(
    name: WalName,
    handle: FileHandle,
    size: number,
    entries: readonly DigestEntry[],
  ): Promise<Pick<WalFileInfo, 'compression' | 'encryption'>> {
    const { keys } = this.#parts;
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(HEAD_BYTES), 0, HEAD_BYTES, 0);
    const head = buffer.subarray(0, bytesRead);
    const encryption = isGpgEncrypted(head) ? 'gpg' : null;
    const [recognised = null] = formatsOf(head, keys.custom?.magic);
    const parsed = parseWalName(name);
    const isSegment = walKind(name) === 'segment' || walKind(name) === 'partial';
    const isPlain =
      isSegment && parsed !== undefined && judgeSegment(parsed, head, size, keys.opaque).verdict === 'valid';
    // What a user's filter writes may begin in any way.
    const isCertain = encryption === null && (isPlain || recognised !== null) && keys.custom?.decompress === undefined;
    if (isCertain) return { compression: this.#spelling(isPlain ? null : recognised), encryption };
    const bytes = await handle.readFile();
    if (encryption !== null) {
      const digest = sha256(bytes);
      // A duplicate leaves an entry too, though it was never published.
      const entry = entries.findLast(({ stored }) => stored === digest);
      if (entry !== undefined) return { compression: entry.compression, encryption };
    }
    try {
      const opened = await openStored({ bytes }, name, keys);
      return { compression: this.#spelling(opened.compression), encryption: opened.encryption };
    } catch (error) {
      if (!(error instanceof WalwardenError)) throw error;
      // Damaged, or a key or a program is missing: as we are configured now, unless the bytes contradict.
      const { compression } = this.#parts;
      const assumed = encryption !== null || compression === 'custom' ? compression : null;
      return { compression: this.#spelling(recognised) ?? assumed, encryption };
    }
  }

  /** Several names of Barman's stand for one format; the configured one is preferred, as when the file was stored. */
  #spelling(found: string | null): string | null {
    const configured = this.#parts.compression;
    const sameFormat =
      (found === 'gzip' && (configured === 'pigz' || configured === 'pygzip')) ||
      (found === 'bzip2' && configured === 'pybzip2');
    return sameFormat ? configured : found;
  }

  /** All files, by name. */
  async *list(): AsyncIterable<WalFileInfo> {
    let journalled: Awaited<ReturnType<DigestJournal['all']>> | undefined;
    for await (const names of this.#names()) {
      for (const name of names) {
        journalled ??= await this.#parts.journal.all();
        const info = await this.#describe(name, journalled.get(name) ?? []);
        if (info !== null) yield info;
      }
    }
  }

  /** All files with their sizes, by name, a directory at a time. */
  async *listSizes(): AsyncIterable<readonly StoredSize[]> {
    for await (const names of this.#names()) {
      const found: StoredSize[] = [];
      for (let at = 0; at < names.length; at += LOOKS) {
        const looks = names.slice(at, at + LOOKS).map(async (name) => ({ name, size: await this.sizeOf(name) }));
        for (const { name, size } of await Promise.all(looks)) if (size !== null) found.push({ name, sizes: [size] });
      }
      yield found;
    }
  }

  /** Bytes of a file; null when it is absent, or no regular file. */
  async sizeOf(name: WalName): Promise<number | null> {
    const path = this.getFullPath(name);
    try {
      const found = await lstat(path);
      return found.isFile() ? found.size : null;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return null;
      throw storageError(path, error);
    }
  }

  /** The names of WAL files, by bytes, as the catalogue is sorted: history files stand before the segments of their timeline. */
  async *#names(): AsyncIterable<readonly WalName[]> {
    const root = this.#parts.walsDirectory;
    await this.checkThere();
    for (const entry of await readDirectory(root)) {
      if (isWalName(entry) && walDirectory(entry) === '') yield [entry];
      if (!IS_DIRECTORY.test(entry)) continue;
      const inside = await readDirectory(join(root, entry));
      yield inside.filter((name) => isWalName(name)).filter((name) => walDirectory(name) === entry);
    }
  }

  encryptedSegmentSize(): Promise<number | null> {
    return this.#parts.journal.segmentSize();
  }
}

/** A file of a timeline or a later one in a local archive, by names alone; null when there is none. */
export async function firstStoredFrom(walsDirectory: string, timeline: number): Promise<string | null> {
  for (const entry of await readDirectory(walsDirectory)) {
    if (!isOfTimelineOrLater(entry, timeline)) continue;
    if (!IS_DIRECTORY.test(entry)) return entry;
    const [first] = (await readDirectory(join(walsDirectory, entry))).filter(isWalName);
    if (first !== undefined) return first;
  }
  return null;
}

/** The names in a directory, sorted; none when it is not there. */
export async function readDirectory(path: string): Promise<string[]> {
  try {
    return (await readdir(path)).sort();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw storageError(path, error);
  }
}

/** The bytes of a file of the archive; null when there is none. */
async function readOne(path: string): Promise<{ bytes: Buffer; mtime: number } | null> {
  try {
    await using handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const stat = await handle.stat({ bigint: true });
    return { bytes: await handle.readFile(), mtime: secondsOfNs(stat.mtimeNs) };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

/** The error for a file or directory of the archive that can't be used. */
export function storageError(path: string, cause: unknown): WalwardenError {
  if (cause instanceof WalwardenError) return cause;
  const denied = errnoOf(cause) === 'EACCES' || errnoOf(cause) === 'EPERM';
  return new WalwardenError('storage', `can't use ${path}: ${messageOf(cause)}`, {
    cause,
    ...(denied ? { hint: 'walwarden must run as the user that owns the archive' } : {}),
  });
}
