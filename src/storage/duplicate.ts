import { isGpgEncrypted } from '../encryption/gpg.ts';
import { isErrorCode, messageOf } from '../errors.ts';
import { holdSameWal } from '../wal/end-of-wal.ts';
import { walKind, type WalName } from '../wal/wal-name.ts';
import type { DigestJournal } from './digest-journal.ts';
import { sha256 } from './staging.ts';
import { plainBytes, type ReadingKeys } from './stored-content.ts';

/** The rule that keeps archived data: what is under a name already is never replaced. */
export function judge(incomingDigest: string, storedDigest: string | null): 'store' | 'already-stored' | 'conflict' {
  if (storedDigest === null) return 'store';
  return incomingDigest === storedDigest ? 'already-stored' : 'conflict';
}

/**
 * Why two files can't be called the same; null when all their plain bytes are,
 * or, of partial segments, all their WAL: after a promotion PostgreSQL and
 * pg_receivewal both deliver the last one of the old timeline, and what they
 * fill it up with differs.
 */
export async function differenceOf(
  name: WalName,
  incoming: Buffer,
  stored: Buffer,
  keys: ReadingKeys,
  journal: DigestJournal,
): Promise<string | null> {
  // Both may have come by the same way; a file that arrived compressed is compared by what it means.
  const incomingPlain = await plainBytes(incoming, keys);
  const incomingDigest = sha256(incomingPlain);
  let storedDigest: string | null = isGpgEncrypted(stored) ? await digestFromJournal(name, stored, journal) : null;
  if (storedDigest === null) {
    try {
      const storedPlain = await plainBytes(stored, keys);
      storedDigest = sha256(storedPlain);
      const differ = judge(incomingDigest, storedDigest) === 'conflict';
      if (differ && walKind(name) === 'partial' && holdSameWal(incomingPlain, storedPlain)) return null;
    } catch (error) {
      const archived = isErrorCode(error, 'damaged')
        ? 'the archived copy is damaged'
        : "the archived copy can't be read";
      return `${archived}, so that nobody can tell whether they are the same: ${messageOf(error)}`;
    }
  }
  return judge(incomingDigest, storedDigest) === 'already-stored'
    ? null
    : `its content is another (SHA-256 ${incomingDigest}) than the archived file's (SHA-256 ${storedDigest})`;
}

async function digestFromJournal(name: WalName, stored: Buffer, journal: DigestJournal): Promise<string | null> {
  const digest = sha256(stored);
  const entries = await journal.find(name);
  return entries.findLast((entry) => entry.stored === digest)?.plain ?? null;
}
