import { constants } from 'node:fs';
import { lstat, open, rename } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { CompressionSettings } from '../compression/codec.ts';
import {
  CANT_LINK,
  fsyncDirectory,
  linkUnlessThere,
  makeDirectory,
  unlinkIfThere,
  writeNewFile,
} from '../durable/durable-file.ts';
import { errnoOf, messageOf } from '../errors.ts';
import { secondsOfNs } from '../wal/wal-file-info.ts';
import { storageError } from './archived-files.ts';
import type { DigestJournal } from './digest-journal.ts';
import { packReplacement, type Replacement, type ReplaceResult, type StoredCopy } from './replacement.ts';
import type { ReadingKeys } from './stored-content.ts';

export interface LocalReplacementSettings {
  readonly keptDirectory: string;
  readonly mode: number;
  readonly compression: CompressionSettings | null;
  readonly encryption: { readonly keyId: string; readonly homedir?: string | undefined } | null;
  readonly keys: ReadingKeys;
}

/** What a disk says of blocks, or a file system of its own structures, that don't read back. */
const LOST: ReadonlySet<string> = new Set(['EIO', 'EUCLEAN', 'EBADMSG', 'ENODATA', 'EREMOTEIO']);

/** Puts one file of a local archive in the place of another. */
export class LocalReplacement {
  readonly #settings: LocalReplacementSettings;
  readonly #journal: DigestJournal;

  constructor(settings: LocalReplacementSettings, journal: DigestJournal) {
    this.#settings = settings;
    this.#journal = journal;
  }

  /** The one file under this path, or none. */
  async copies(path: string): Promise<readonly StoredCopy[]> {
    try {
      const there = await lstat(path, { bigint: true });
      // A link, a directory: nothing that was archived.
      if (!there.isFile()) return [];
      const content = await read(path);
      return [{ path, version: versionOf(there), content, mtime: secondsOfNs(there.mtimeNs) }];
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return [];
      throw storageError(path, error);
    }
  }

  /**
   * The new copy is durable under a name of ours before the old one gets another
   * name, durable too, and rename(2) decides between the two in one step. The
   * directory's fsync is the caller's. A kill leaves the old copy, or the new one and the old one aside.
   */
  async exchange(old: StoredCopy, by: Replacement, { unkept }: { readonly unkept: boolean }): Promise<ReplaceResult> {
    const { compression, encryption, keys, mode } = this.#settings;
    const packed = await packReplacement(by, { compression, encryption, custom: keys.custom }, false);
    const temporary = `${old.path}.tmp`;
    try {
      await unlinkIfThere(temporary);
      await writeNewFile(temporary, packed.stored, { mode, mtime: by.mtime });
      const kept = await this.#keep(old, by.name, unkept);
      if (typeof kept === 'object' && kept !== null) {
        await unlinkIfThere(temporary);
        return kept;
      }
      if (encryption !== null) {
        const entry = { name: by.name, ...packed.digests, compression: packed.info.compression };
        await this.#journal.append([{ ...entry, segmentSize: by.segmentSize }]);
      }
      await rename(temporary, old.path);
      return { outcome: 'replaced', info: packed.info, kept };
    } catch (error) {
      // It is the error that counts; a leftover goes with the next pass.
      await unlinkIfThere(temporary).catch(() => false);
      throw storageError(old.path, error);
    }
  }

  /** Gives the old copy a second name, or a copy where that can't be, durable; resolves to it, or to why nothing is done. */
  async #keep(old: StoredCopy, name: string, unkept: boolean): Promise<string | null | ReplaceResult> {
    const { keptDirectory } = this.#settings;
    await makeDirectory(keptDirectory);
    // Stamps have a resolution of one second: a taken name means the next one.
    for (let time = Date.now(); ; time += 1000) {
      const stamp = new Date(time).toISOString().replace(/[-:]|\.\d+/g, '');
      const target = join(keptDirectory, `${name}.${stamp}.replaced`);
      try {
        if (!(await linkUnlessThere(old.path, target))) continue;
        if (versionOf(await lstat(target, { bigint: true })) !== old.version) {
          await unlinkIfThere(target);
          return changed(old);
        }
      } catch (error) {
        if (errnoOf(error) === 'ENOENT') return changed(old);
        if (!CANT_LINK.has(errnoOf(error) ?? '')) throw error;
        if (versionOf(await lstat(old.path, { bigint: true })) !== old.version) return changed(old);
        if (!Buffer.isBuffer(old.content)) {
          if (unkept) return null;
          return {
            outcome: 'refused',
            reason: `the archived copy can not be kept: ${keptDirectory} is on another file system, and ${old.content.reason}; with --force it is replaced without being kept`,
          };
        }
        if (!(await copyTo(target, old.content, old.mtime))) continue;
      }
      await fsyncDirectory(keptDirectory);
      return target;
    }
  }
}

function versionOf(stat: { dev: bigint; ino: bigint; size: bigint; mtimeNs: bigint }): string {
  return [stat.dev, stat.ino, stat.size, stat.mtimeNs].join(':');
}

function changed({ path }: StoredCopy): ReplaceResult {
  return {
    outcome: 'refused',
    reason: `${basename(path)} in ${dirname(path)} is another file than the one that was judged`,
  };
}

async function copyTo(target: string, bytes: Buffer, mtime: number): Promise<boolean> {
  try {
    await writeNewFile(target, bytes, { mode: 0o600, mtime });
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false;
    throw error;
  }
}

async function read(path: string): Promise<StoredCopy['content']> {
  try {
    await using handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    return await handle.readFile();
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === undefined || errno === 'ENOENT') throw error;
    return { reason: `it can't be read: ${messageOf(error)}`, lost: LOST.has(errno) };
  }
}
