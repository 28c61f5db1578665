import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import { firstStoredFrom } from '../storage/archived-files.ts';
import type { ClaimDirectories } from '../storage/claim.ts';
import type { WalStorageStrategy } from '../storage/wal-storage-strategy.ts';
import { isOfTimelineOrLater, parseWalName, walKind, type WalName } from '../wal/wal-name.ts';
import type { ErrorsDirectory } from './errors-directory.ts';
import { listWaiting } from './waiting-directory.ts';

// PostgreSQL looks for the newest timeline by asking for one history file after the other, and takes the first number
// that is not there for its own next timeline. A history file that was delivered empty is not there, but its timeline is.

export interface LostHistoryParts {
  readonly strategy: WalStorageStrategy;
  readonly incoming: string;
  readonly streaming: string;
  readonly claims: ClaimDirectories;
  readonly errors: Pick<ErrorsDirectory, 'path' | 'unusable'>;
  /** A directory that was the archive before it was in a bucket; null for none. */
  readonly before?: string | null | undefined;
  /** `incomplete_wal_timeout`, in milliseconds. */
  readonly incompleteTimeoutMs: number;
}

/** Whether what was found of a history file is one that nobody will complete any more. */
export async function isGivenUp(
  { incompleteTimeoutMs }: Pick<LostHistoryParts, 'incompleteTimeoutMs'>,
  name: WalName,
  path: string,
  error: unknown,
): Promise<boolean> {
  if (walKind(name) !== 'history' || !isErrorCode(error, 'incomplete-wal')) return false;
  try {
    return Date.now() - (await lstat(path)).ctimeMs >= incompleteTimeoutMs;
  } catch (cause) {
    // Moved meanwhile: to errors, or it was replaced. The next try finds it there.
    if (errnoOf(cause) === 'ENOENT') return false;
    throw new WalwardenError('storage', `can't look at ${path}: ${messageOf(cause)}`, { cause });
  }
}

/**
 * Throws `incomplete-wal` when a history file that was not found was delivered and can't be used, and there is WAL
 * of its timeline or a later one: to call it absent would let PostgreSQL recover along the older timeline and write
 * another one under the same number. `waiting`: one that lies where it was delivered, and will stay as it is.
 */
export async function checkLostHistory(parts: LostHistoryParts, name: WalName, waiting: string | null): Promise<void> {
  const parsed = parseWalName(name);
  if (parsed === undefined || parsed.kind !== 'history') return;
  const [moved] = await parts.errors.unusable(name);
  if (moved === undefined && waiting === null) return;
  const later = await anyOf(parts, parsed.timeline);
  if (later === null) return;
  const lies = moved === undefined ? waiting : join(parts.errors.path, moved.entry);
  const how = moved === undefined ? 'empty or incomplete' : moved.size === 0 ? 'empty' : `and can't be used`;
  throw new WalwardenError(
    'incomplete-wal',
    `the history of timeline ${parsed.timeline} was delivered ${how}; copy it from pg_wal`,
    {
      hint:
        `copy pg_wal/${name} of a server that has it to ${parts.incoming}: there is WAL of that timeline (${later}), which a ` +
        `recovery would leave out, and write its own under the same number; what was delivered is ${lies}`,
    },
  );
}

/** A file of a timeline or a later one, wherever it may be on its way, in the order in which it moves; null when there is none. */
async function anyOf(
  { strategy, incoming, streaming, claims, before }: LostHistoryParts,
  timeline: number,
): Promise<string | null> {
  for (const [directory, claimed] of [
    [incoming, claims.incoming],
    [streaming, claims.streaming],
  ] as const) {
    const { names, unknown } = await listWaiting(directory, claimed);
    const found = [...names, ...unknown].find((entry) => isOfTimelineOrLater(entry, timeline));
    if (found !== undefined) return found;
  }
  const former = before === null || before === undefined ? null : await firstStoredFrom(before, timeline);
  return former ?? strategy.firstFrom(timeline);
}
