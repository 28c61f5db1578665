import { lstat } from 'node:fs/promises';
import { openDelivered, readWhole } from '../durable/delivered-file.ts';
import { fsyncParents, unlinkIfThere } from '../durable/durable-file.ts';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import { identityOf, sameIdentity } from './file-identity.ts';
import type { WaitingWal } from './wal-storage-strategy.ts';

/**
 * Removes files that are archived, unless they changed since they were staged:
 * then they are new arrivals, and wait for the next pass. Throws `source`.
 */
export async function removeSources(wals: readonly WaitingWal[]): Promise<void> {
  const removed: string[] = [];
  for (const wal of wals) {
    if (!(await isStill(wal))) continue;
    try {
      await unlinkIfThere(wal.path);
    } catch (error) {
      throw sourceError('remove', wal.path, error);
    }
    removed.push(wal.path);
  }
  await fsyncParents(removed);
}

/** The bytes of a waiting file; null when it is not the one any more that was staged. */
export async function readSource(wal: WaitingWal): Promise<Buffer | null> {
  try {
    await using file = await openDelivered(wal.path);
    return sameIdentity(identityOf(file.stat), wal.identity) ? await readWhole(file) : null;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || isErrorCode(error, 'invalid-wal')) return null;
    throw error;
  }
}

async function isStill(wal: WaitingWal): Promise<boolean> {
  try {
    return sameIdentity(identityOf(await lstat(wal.path, { bigint: true })), wal.identity);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Where the file waits can't be written to; the archive may be as well as ever. */
export function sourceError(what: string, path: string, cause: unknown): WalwardenError {
  return new WalwardenError('source', `can't ${what} ${path}: ${messageOf(cause)}`, {
    cause,
    hint: 'walwarden has to own the directory, and to be allowed to write there; nothing is lost, the next pass tries again',
  });
}
