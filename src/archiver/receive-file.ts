import { createHash, randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { collectGarbage } from '../compression/collect-garbage.ts';
import { unlinkIfThere, writeFully } from '../durable/durable-file.ts';
import { messageOf, WalwardenError } from '../errors.ts';
import type { WalName } from '../wal/wal-name.ts';

/** A delivered file, whole and fsynced under a temporary name in incoming. */
export interface ReceivedFile {
  readonly temporary: string;
  /** Bytes. */
  readonly size: number;
  /** In hexadecimal. */
  readonly sha256: string;
  /** In hexadecimal; null when nobody asked for it. */
  readonly md5: string | null;
}

export interface ReceiveOptions {
  /** Wanted beside SHA-256, by clients that send an older checksum. */
  readonly md5: boolean;
  /** The file's own time, in seconds since the epoch; null for now. */
  readonly mtime: number | null;
  /** Bytes; with one more, `tooLarge` is thrown. */
  readonly maxSize: number;
  readonly tooLarge: () => Error;
}

/**
 * Writes what arrives into incoming, under a name that no archiver takes. When
 * that fails, or the sender stops in the middle, nothing is kept. Throws `storage`
 * for our own disk; what `chunks` throws goes on as it is.
 */
export async function receiveFile(
  incoming: string,
  name: WalName,
  chunks: AsyncIterable<unknown>,
  { md5: wantsMd5, mtime, maxSize, tooLarge }: ReceiveOptions,
): Promise<ReceivedFile> {
  const temporary = join(incoming, `.${process.pid}-${randomBytes(8).toString('hex')}-${name}`);
  const sha256 = createHash('sha256');
  const md5 = wantsMd5 ? createHash('md5') : null;
  let size = 0;
  try {
    await using handle = await storing(incoming, () => open(temporary, 'wx', 0o600));
    for await (const chunk of chunks) {
      const bytes = Buffer.isBuffer(chunk) ? chunk : Buffer.from(String(chunk));
      size += bytes.length;
      if (size > maxSize) throw tooLarge();
      sha256.update(bytes);
      md5?.update(bytes);
      await storing(incoming, () => writeFully(handle, bytes));
      collectGarbage(bytes.length);
    }
    await storing(incoming, async () => {
      await handle.chmod(0o600);
      if (mtime !== null) await handle.utimes(mtime, mtime);
      await handle.sync();
    });
  } catch (error) {
    // On a disk that lets nothing be removed either, the first failure is the one to tell.
    await unlinkIfThere(temporary).catch(() => {});
    throw error;
  }
  return { temporary, size, sha256: sha256.digest('hex'), md5: md5 === null ? null : md5.digest('hex') };
}

async function storing<T>(incoming: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw new WalwardenError('storage', `can't store what arrives in ${incoming}: ${messageOf(cause)}`, {
      cause,
      hint: 'nothing was stored; PostgreSQL keeps the file and tries again',
    });
  }
}
