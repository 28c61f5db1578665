import { constants } from 'node:fs';
import { lstat, open, readdir, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { CompressionName } from '../compression/codec.ts';
import { RECOGNITION_BYTES } from '../compression/codecs.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { secondsOfNs, type WalFileInfo } from '../wal/wal-file-info.ts';
import { isWalName, walDirectory, type WalName } from '../wal/wal-name.ts';
import type { DigestEntry, DigestJournal } from './digest-journal.ts';
import { sha256 } from './sha256.ts';
import { decrypt, formatOf, type ReadingKeys } from './stored-content.ts';
import type { StoredSize, StoredWal } from './wal-storage-strategy.ts';

export interface ArchivedFilesParts {
  readonly walsDirectory: string;
  readonly keys: ReadingKeys;
  readonly journal: DigestJournal;
  /** The configured compression. */
  readonly compression: CompressionName | null;
}

/** Files that are looked at at the same time: others want libuv's threads, too. */
const LOOKS = 4;

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
      return found === null ? null : { path, bytes: found.bytes, mtime: found.mtime };
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
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(RECOGNITION_BYTES), 0, RECOGNITION_BYTES, 0);
      const format = formatOf(buffer.subarray(0, bytesRead), this.#parts.keys);
      const compression =
        format.encryption === null
          ? this.#spelling(format.compression)
          : await this.#compressionInside(handle, entries);
      return {
        name,
        size: Number(found.size),
        mtime: secondsOfNs(found.mtimeNs),
        compression,
        encryption: format.encryption,
      };
    } catch (error) {
      // A symbolic link under a WAL's name is nothing that was archived.
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ELOOP') return null;
      throw storageError(path, error);
    }
  }

  /** Of an encrypted file: as the journal says, or by decryption, or else as we are configured now. */
  async #compressionInside(handle: FileHandle, entries: readonly DigestEntry[]): Promise<string | null> {
    const bytes = await handle.readFile();
    const digest = sha256(bytes);
    // A duplicate leaves an entry too, though it was never published.
    const entry = entries.findLast(({ stored }) => stored === digest);
    if (entry !== undefined) return entry.compression;
    try {
      const { keys } = this.#parts;
      return this.#spelling(formatOf(await decrypt(bytes, keys), keys).compression);
    } catch (error) {
      if (!(error instanceof WalwardenError)) throw error;
      return this.#parts.compression;
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
      if (!/^[0-9A-Fa-f]{16}$/.test(entry)) continue;
      const inside = await readDirectory(join(root, entry));
      yield inside.filter((name) => isWalName(name)).filter((name) => walDirectory(name) === entry);
    }
  }

  encryptedSegmentSize(): Promise<number | null> {
    return this.#parts.journal.segmentSize();
  }
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
