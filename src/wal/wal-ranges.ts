import type { WalFileInfo } from './wal-file-info.ts';
import { segmentName, segmentsPerLog, walKind, type WalName } from './wal-name.ts';

/** Segments that follow each other without a gap. */
export interface SegmentRange {
  readonly first: WalName;
  readonly last: WalName;
  readonly segments: number;
}

export interface StoredAmount {
  readonly files: number;
  readonly bytes: number;
}

/** What the archive holds of one timeline. */
export interface TimelineSummary {
  readonly timeline: number;
  /** The smallest and the largest name of any kind. */
  readonly firstName: WalName;
  readonly lastName: WalName;
  readonly ranges: readonly SegmentRange[];
  /** The segments that are missing between the ranges. */
  readonly gaps: readonly SegmentRange[];
  readonly segments: number;
  readonly partials: number;
  readonly backups: number;
  readonly histories: number;
  /** Stored files of all kinds. */
  readonly stored: StoredAmount;
  /** By compression as Barman spells it; `none` without. */
  readonly byCompression: ReadonlyMap<string, StoredAmount>;
  readonly encrypted: StoredAmount;
  /** Segments that can't exist with this segment size. */
  readonly misfits: number;
  /** Lines beyond the first one of a segment. */
  readonly duplicates: number;
}

/**
 * Summarises a catalogue by timeline, in the order of the timelines. Memory
 * grows with the number of gaps, not with that of the files. The order of the
 * files doesn't matter. A timeline begins at the switch point of its parent:
 * that nothing is there before the first segment is no gap.
 */
export async function summariseWals(
  batches: AsyncIterable<readonly WalFileInfo[]> | Iterable<readonly WalFileInfo[]>,
  segmentSize: number,
): Promise<TimelineSummary[]> {
  const perLog = segmentsPerLog(segmentSize);
  const tallies = new Map<number, Tally>();
  for await (const infos of batches) {
    for (const info of infos) {
      const timeline = hex(info.name, 0);
      let tally = tallies.get(timeline);
      if (tally === undefined) tallies.set(timeline, (tally = newTally(info.name)));
      count(tally, info, perLog);
    }
  }
  return [...tallies].sort(([a], [b]) => a - b).map(([timeline, tally]) => summaryOf(timeline, tally, segmentSize));
}

interface Amount {
  files: number;
  bytes: number;
}

/** Running numbers of segments. A log has at most 4096 of them, so that 44 bits do: no bigint is needed. */
interface Run {
  first: number;
  last: number;
}

interface Tally {
  firstName: WalName;
  lastName: WalName;
  /** Ascending, never touching each other. */
  readonly runs: Run[];
  segments: number;
  partials: number;
  backups: number;
  histories: number;
  misfits: number;
  duplicates: number;
  readonly stored: Amount;
  readonly encrypted: Amount;
  readonly byCompression: Map<string, Amount>;
}

function newTally(name: WalName): Tally {
  return {
    firstName: name,
    lastName: name,
    runs: [],
    segments: 0,
    partials: 0,
    backups: 0,
    histories: 0,
    misfits: 0,
    duplicates: 0,
    stored: { files: 0, bytes: 0 },
    encrypted: { files: 0, bytes: 0 },
    byCompression: new Map(),
  };
}

function add(amount: Amount, bytes: number): void {
  amount.files += 1;
  amount.bytes += bytes;
}

function count(tally: Tally, info: WalFileInfo, perLog: number): void {
  if (info.name < tally.firstName) tally.firstName = info.name;
  if (info.name > tally.lastName) tally.lastName = info.name;
  add(tally.stored, info.size);
  if (info.encryption !== null) add(tally.encrypted, info.size);
  const compression = info.compression ?? 'none';
  let amount = tally.byCompression.get(compression);
  if (amount === undefined) tally.byCompression.set(compression, (amount = { files: 0, bytes: 0 }));
  add(amount, info.size);
  switch (walKind(info.name)) {
    case 'partial':
      tally.partials += 1;
      break;
    case 'backup':
      tally.backups += 1;
      break;
    case 'history':
      tally.histories += 1;
      break;
    case 'segment': {
      // An empty file holds no WAL, whatever its name.
      if (info.size === 0) break;
      const segment = hex(info.name, 16);
      if (segment >= perLog) tally.misfits += 1;
      else if (insert(tally.runs, hex(info.name, 8) * perLog + segment)) tally.segments += 1;
      else tally.duplicates += 1;
    }
  }
}

/** The eight digits of a name from `at` on. */
function hex(name: WalName, at: number): number {
  return Number.parseInt(name.slice(at, at + 8), 16);
}

/** Adds a number to the runs; false when it is in one already. */
function insert(runs: Run[], number: number): boolean {
  const last = runs.at(-1);
  // A sorted catalogue never goes further than these two.
  if (last !== undefined && number === last.last + 1) {
    last.last = number;
    return true;
  }
  if (last === undefined || number > last.last) {
    runs.push({ first: number, last: number });
    return true;
  }
  let low = 0;
  for (let high = runs.length; low < high;) {
    const middle = (low + high) >>> 1;
    if ((runs[middle]?.last ?? Infinity) < number) low = middle + 1;
    else high = middle;
  }
  // The first run that doesn't end before the number, and the one below it.
  const above = runs[low];
  const below = runs[low - 1];
  if (above !== undefined && above.first <= number) return false;
  const touchesAbove = above?.first === number + 1;
  if (below?.last === number - 1) {
    below.last = touchesAbove ? above.last : number;
    if (touchesAbove) runs.splice(low, 1);
  } else if (touchesAbove) above.first = number;
  else runs.splice(low, 0, { first: number, last: number });
  return true;
}

function summaryOf(timeline: number, tally: Tally, segmentSize: number): TimelineSummary {
  const { runs, ...facts } = tally;
  const range = (first: number, last: number): SegmentRange => ({
    first: segmentName(timeline, BigInt(first), segmentSize),
    last: segmentName(timeline, BigInt(last), segmentSize),
    segments: last - first + 1,
  });
  const gaps: SegmentRange[] = [];
  let end: number | undefined;
  for (const run of runs) {
    if (end !== undefined) gaps.push(range(end + 1, run.first - 1));
    end = run.last;
  }
  return { timeline, ...facts, ranges: runs.map(({ first, last }) => range(first, last)), gaps };
}
