import { walKind, type WalName } from '../wal/wal-name.ts';

// What WAL backups need, and which backup needs it: facts in, ranges out.

/** What is known of one backup. */
export interface BackupFacts {
  readonly id: string;
  /** Barman's word: DONE, WAITING_FOR_WALS, STARTED, SYNCING, FAILED, EMPTY. */
  readonly status: string;
  /** The first segment that a recovery from it reads; null when that is not known. */
  readonly beginWal: WalName | null;
  /** The last one that it takes to be consistent; null while that is not known. */
  readonly endWal: WalName | null;
  /** What it is kept for, beyond every retention: to recover to its end only (standalone), or to any later time. */
  readonly keep: 'full' | 'standalone' | null;
}

/** A backup of which nothing can be said, and why. */
export interface UnreadableBackup {
  readonly id: string;
  readonly problem: string;
}

export type Backup = BackupFacts | UnreadableBackup;

/** WAL that a backup needs: from the first segment on, up to the last one where there is one. */
export interface NeededRange {
  readonly backup: string;
  readonly first: WalName;
  readonly last: WalName | null;
}

export interface NeededWal {
  readonly ranges: readonly NeededRange[];
  /** Backups that may need anything. */
  readonly unknown: readonly UnreadableBackup[];
}

/** Nobody recovers from these. */
const USELESS: ReadonlySet<string> = new Set(['FAILED', 'EMPTY']);

/** What all these backups need. Whatever is not certain counts as needed. */
export function neededWal(backups: Iterable<Backup>): NeededWal {
  const ranges: NeededRange[] = [];
  const unknown: UnreadableBackup[] = [];
  for (const backup of backups) {
    if ('problem' in backup) unknown.push(backup);
    else if (!USELESS.has(backup.status)) {
      const { id, status, beginWal: first } = backup;
      if (first === null)
        unknown.push({ id, problem: `its status is ${status}, and it has no begin_wal that can be read` });
      else ranges.push({ backup: id, first, last: lastNeeded(backup, first) });
    }
  }
  return { ranges, unknown };
}

/** Null when everything after the first is needed, too. */
function lastNeeded({ keep, endWal }: BackupFacts, first: WalName): WalName | null {
  if (keep !== 'standalone' || endWal === null) return null;
  // An end before its beginning is none.
  const isBehind = positionOf(endWal) >= positionOf(first) && timelineOf(endWal) >= timelineOf(first);
  return isBehind ? endWal : null;
}

/**
 * Whether a WAL file lies in a range: by position in the WAL, on the timeline of
 * the backup and on later ones, which a recovery may follow. History files belong
 * to no range. A backup label and a partial file count as their segment.
 */
export function isNeeded(name: WalName, { first, last }: NeededRange): boolean {
  if (walKind(name) === 'history') return false;
  const [timeline, position] = [timelineOf(name), positionOf(name)];
  if (timeline < timelineOf(first) || position < positionOf(first)) return false;
  return last === null || (timeline <= timelineOf(last) && position <= positionOf(last));
}

/** The segment up to which nothing is needed on its timeline and those before: the first of all ranges. Null without any. */
export function firstNeeded(ranges: readonly NeededRange[]): WalName | null {
  let lowest: WalName | null = null;
  for (const { first } of ranges) if (lowest === null || positionOf(first) < positionOf(lowest)) lowest = first;
  return lowest;
}

function timelineOf(name: WalName): string {
  return name.slice(0, 8).toUpperCase();
}

/** As digits, whose order is that of the WAL: log and segment have a fixed width. */
function positionOf(name: WalName): string {
  return name.slice(8, 24).toUpperCase();
}
