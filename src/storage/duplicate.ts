import { isErrorCode, messageOf } from '../errors.ts';
import { holdSameWal } from '../wal/end-of-wal.ts';
import { continuationOf, endInside } from '../wal/inner-end.ts';
import { walKind, type WalName } from '../wal/wal-name.ts';
import { sha256 } from './sha256.ts';
import type { ReadPlain, StoredBytes } from './stored-content.ts';
import type { CompareOptions } from './wal-storage-strategy.ts';

/** The rule that keeps archived data: what is under a name already is never replaced. */
export function judge(incomingDigest: string, storedDigest: string | null): 'store' | 'already-stored' | 'conflict' {
  if (storedDigest === null) return 'store';
  return incomingDigest === storedDigest ? 'already-stored' : 'conflict';
}

/**
 * Why two files can't be called the same; null when all their plain bytes are,
 * or, of partial segments, all their WAL: after a promotion PostgreSQL and
 * pg_receivewal both deliver the last one of the old timeline, and what they
 * fill it up with differs. A file that arrived compressed is compared by what
 * it means. With `asShort`, a stored one may also go on behind that.
 * `storedDigest`: SHA-256 of the stored file's plain bytes,
 * where it is known though nobody may be able to decrypt them.
 */
export async function differenceOf(
  name: WalName,
  incomingPlain: Buffer,
  stored: StoredBytes,
  read: ReadPlain,
  storedDigest: string | null,
  options: CompareOptions = {},
): Promise<string | null> {
  const incomingDigest = sha256(incomingPlain);
  let digest = storedDigest;
  if (digest === null) {
    try {
      const storedPlain = await read(stored, name);
      digest = sha256(storedPlain);
      if (judge(incomingDigest, digest) === 'conflict') {
        if (options.asShort === true && hasAll(name, storedPlain, incomingPlain)) return null;
        if (walKind(name) === 'partial' && holdSameWal(incomingPlain, storedPlain)) return null;
      }
    } catch (error) {
      const archived = isErrorCode(error, 'damaged')
        ? 'the archived copy is damaged'
        : "the archived copy can't be read";
      return `${archived}, so that nobody can tell whether they are the same: ${messageOf(error)}`;
    }
  }
  return judge(incomingDigest, digest) === 'already-stored' ? null : anotherContent(incomingDigest, digest);
}

/** Whether a stored partial segment has all the WAL of a segment whose WAL ends inside. */
function hasAll(name: WalName, stored: Buffer, short: Buffer): boolean {
  const end = walKind(name) === 'partial' ? endInside(short) : null;
  if (end === null) return false;
  const continuation = continuationOf(stored, short, end);
  return continuation === 'same' || continuation === 'goes on';
}

/** Why a file goes to errors, in SHA-256 digests of plain bytes. */
export function anotherContent(incoming: string, stored: string): string {
  return `its content is another (SHA-256 ${incoming}) than the archived file's (SHA-256 ${stored})`;
}
