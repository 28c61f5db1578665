import { historyName, segmentName, segmentsPerLog, walKind, type WalName } from './wal-name.ts';
import type { SegmentRange, TimelineSummary } from './wal-ranges.ts';

/** Somebody knows of missing WAL, and that it will not come. */
export interface Acknowledgement {
  readonly first: WalName;
  readonly last: WalName;
  readonly reason: string;
  /** Milliseconds since the epoch. */
  readonly at: number;
}

/** Missing segments, or a missing history file, which counts as 0 of them. */
export interface Gap extends SegmentRange {
  readonly acknowledged?: Pick<Acknowledgement, 'reason' | 'at'>;
}

/** What is known of an archive beside its names. */
export interface GapKnowledge {
  readonly acknowledged: readonly Acknowledgement[];
  /** The last segments of another cluster: what follows them on their timeline has another system identifier, so that nothing is missing in between. */
  readonly borders: ReadonlySet<WalName>;
}

/**
 * What is missing in an archive, by timeline: segments between those that are
 * there, and the history file of a timeline where WAL of a lower one is archived
 * that it may have come from. A gap that is acknowledged in part is several.
 */
export function findGaps(
  timelines: readonly TimelineSummary[],
  { acknowledged, borders }: GapKnowledge,
  segmentSize: number,
): Map<number, Gap[]> {
  const perLog = segmentsPerLog(segmentSize);
  const found = new Map<number, Gap[]>();
  for (const summary of timelines) {
    const { timeline } = summary;
    const history = historyName(timeline);
    const gaps: Gap[] = [];
    if (lacksHistory(summary, timelines)) {
      const known = acknowledged.find(({ first, last }) => first === history && last === history);
      gaps.push({ first: history, last: history, segments: 0, ...mark(known) });
    }
    const known = acknowledged
      .filter(({ first }) => isSegmentOf(first, timeline))
      .map((each) => toNumbers(each, perLog));
    for (const gap of summary.gaps) {
      if (borders.has(segmentBefore(gap, segmentSize))) continue;
      for (const [first, last, acknowledgement] of split(toNumbers(gap, perLog), known)) {
        const range = { first: nameOf(timeline, first, segmentSize), last: nameOf(timeline, last, segmentSize) };
        gaps.push({ ...range, segments: last - first + 1, ...mark(acknowledgement) });
      }
    }
    found.set(timeline, gaps);
  }
  return found;
}

/** The segment before a gap. */
export function segmentBefore(gap: SegmentRange, segmentSize: number): WalName {
  return neighbour(gap.first, -1, segmentSize);
}

/** The segment behind a gap. */
export function segmentAfter(gap: SegmentRange, segmentSize: number): WalName {
  return neighbour(gap.last, 1, segmentSize);
}

function neighbour(name: WalName, step: 1 | -1, segmentSize: number): WalName {
  const number = numberOf(name, segmentsPerLog(segmentSize)) + step;
  return nameOf(Number.parseInt(name.slice(0, 8), 16), number, segmentSize);
}

/**
 * That part of a range of names which is missing; what is archived can't be
 * acknowledged, so that its loss is told. Empty when nothing is missing there.
 */
export function missingWithin(
  range: Pick<SegmentRange, 'first' | 'last'>,
  gaps: readonly Gap[],
  segmentSize: number,
): SegmentRange[] {
  const perLog = segmentsPerLog(segmentSize);
  return gaps.flatMap((gap): SegmentRange[] => {
    if (gap.segments === 0 || walKind(range.first) === 'history') {
      return gap.first === range.first && gap.first === range.last
        ? [{ first: gap.first, last: gap.last, segments: 0 }]
        : [];
    }
    if (gap.first.slice(0, 8) !== range.first.slice(0, 8)) return [];
    const [first, last] = toNumbers(gap, perLog);
    const from = Math.max(first, numberOf(range.first, perLog));
    const to = Math.min(last, numberOf(range.last, perLog));
    if (from > to) return [];
    const timeline = Number.parseInt(gap.first.slice(0, 8), 16);
    return [
      { first: nameOf(timeline, from, segmentSize), last: nameOf(timeline, to, segmentSize), segments: to - from + 1 },
    ];
  });
}

type NumberedRange<T = unknown> = readonly [first: number, last: number, of: T];

function toNumbers<T extends Pick<SegmentRange, 'first' | 'last'>>(range: T, perLog: number): NumberedRange<T> {
  return [numberOf(range.first, perLog), numberOf(range.last, perLog), range];
}

/** Cuts a range where acknowledgements begin and end. Of two for one segment the later one counts. */
function split(
  [first, last]: NumberedRange,
  known: readonly NumberedRange<Acknowledgement>[],
): [first: number, last: number, acknowledgement: Acknowledgement | undefined][] {
  const cuts = new Set([first, last + 1]);
  for (const [from, to] of known) {
    if (from > first && from <= last) cuts.add(from);
    if (to >= first && to < last) cuts.add(to + 1);
  }
  const sorted = [...cuts].sort((a, b) => a - b);
  const parts: [number, number, Acknowledgement | undefined][] = [];
  for (const [index, from] of sorted.slice(0, -1).entries()) {
    const to = (sorted[index + 1] ?? from + 1) - 1;
    const [, , acknowledgement] = known.findLast(([begin, end]) => begin <= from && to <= end) ?? [];
    const before = parts.at(-1);
    if (before !== undefined && before[2] === acknowledgement) before[1] = to;
    else parts.push([from, to, acknowledgement]);
  }
  return parts;
}

function mark(known: Acknowledgement | undefined): Pick<Gap, 'acknowledged'> {
  return known === undefined ? {} : { acknowledged: { reason: known.reason, at: known.at } };
}

/** A new cluster's first timeline begins behind the old one's WAL, so that nothing of the latter came from it. */
function lacksHistory(summary: TimelineSummary, timelines: readonly TimelineSummary[]): boolean {
  const end = lastPosition(summary);
  if (summary.timeline === 1 || summary.histories > 0 || end === null) return false;
  return timelines.some((lower) => {
    const begin = firstPosition(lower);
    return lower.timeline < summary.timeline && begin !== null && begin <= end;
  });
}

/** Of its WAL, as digits whose order is that of the WAL; null when the timeline has a history file or backup labels only. */
function firstPosition({ ranges, partials, lastName }: TimelineSummary): string | null {
  const [first] = ranges;
  return positionOf(first?.first ?? (partials > 0 ? lastName : null));
}

function lastPosition({ ranges, partials, lastName }: TimelineSummary): string | null {
  const last = positionOf(ranges.at(-1)?.last ?? null);
  const partial = partials > 0 ? positionOf(lastName) : null;
  return last === null || (partial !== null && partial > last) ? partial : last;
}

function positionOf(name: WalName | null): string | null {
  return name === null || walKind(name) === 'history' ? null : name.slice(8, 24).toUpperCase();
}

function isSegmentOf(name: WalName, timeline: number): boolean {
  return walKind(name) === 'segment' && Number.parseInt(name.slice(0, 8), 16) === timeline;
}

/** Counted from the beginning of the WAL. A log has at most 4096 segments, so that 44 bits do. */
function numberOf(name: WalName, perLog: number): number {
  return Number.parseInt(name.slice(8, 16), 16) * perLog + Number.parseInt(name.slice(16, 24), 16);
}

function nameOf(timeline: number, number: number, segmentSize: number): WalName {
  return segmentName(timeline, BigInt(number), segmentSize);
}
