import { join } from 'node:path';
import { GapMemory } from './archiver/gap-memory.ts';
import { isS3Location } from './config/values.ts';
import { acquireLock } from './durable/lock-file.ts';
import { messageOf, WalwardenError } from './errors.ts';
import { emptyFiles, knownEmptyFiles, oddSizesOf, withEmptyFiles } from './server-sizes.ts';
import type { Server } from './server.ts';
import { plainBytes } from './storage/stored-content.ts';
import { findGaps, missingWithin, segmentAfter, segmentBefore, type Gap } from './wal/gaps.ts';
import { decodeLongPageHeader } from './wal/page-header.ts';
import { walKind, type WalName } from './wal/wal-name.ts';
import { summariseWals, type SegmentRange, type TimelineSummary } from './wal/wal-ranges.ts';
import { count } from './words.ts';

const DEFAULT_SEGMENT_SIZE = 16 * 1024 * 1024;

/** What is remembered of the gaps in a server's archive. */
export function gapMemory({ config, lockPath }: Pick<Server, 'config' | 'lockPath'>): GapMemory {
  const path = join(config.options.backup_directory, '.gaps.json');
  return new GapMemory(path, () => acquireLock(lockPath('gaps'), { wait: true }));
}

/** Gaps by timeline, by what is remembered alone. */
export async function rememberedGaps(
  server: Server,
  timelines: readonly TimelineSummary[],
  segmentSize: number,
): Promise<Map<number, Gap[]>> {
  return findGaps(timelines, await gapMemory(server).read(), segmentSize);
}

/**
 * Gaps by timeline, for who waits for the answer: of a bucket by what is
 * remembered, for each segment of it is a download, else as {@link judgeGaps} has them.
 */
export async function gapsOf(
  server: Server,
  timelines: readonly TimelineSummary[],
  segmentSize: number,
  signal?: AbortSignal,
): Promise<Map<number, Gap[]>> {
  if (isS3Location(server.config.options.wals_directory)) return rememberedGaps(server, timelines, segmentSize);
  return (await judgeGaps(server, timelines, segmentSize, signal)).gaps;
}

/** Gaps beside which segments are read at a time: in a bucket each one is a download. */
const JUDGED = 5;

/** Gaps that are remembered as judged. */
const MOST_JUDGED = 1_000;

interface Judgement {
  readonly gaps: Map<number, Gap[]>;
  /** The last segments of another cluster that were found so. */
  readonly borders: readonly WalName[];
  /** Segments before gaps that are gaps. */
  readonly judged: readonly WalName[];
}

/**
 * Gaps by timeline. Segments beside gaps that are new are read: where they have
 * different system identifiers, nothing is missing between them. After `signal`
 * fires no more are read.
 */
async function judgeGaps(
  server: Server,
  timelines: readonly TimelineSummary[],
  segmentSize: number,
  signal?: AbortSignal,
): Promise<Judgement> {
  const known = await gapMemory(server).read();
  const gaps = findGaps(timelines, known, segmentSize);
  const doubtful = [...gaps.values()]
    .flat()
    .filter(({ acknowledged, segments }) => acknowledged === undefined && segments > 0)
    .map((gap) => ({ before: segmentBefore(gap, segmentSize), after: segmentAfter(gap, segmentSize) }))
    .filter(({ before }) => !known.judged.has(before));
  const borders: WalName[] = [];
  const judged: WalName[] = [];
  for (const { before, after } of doubtful.slice(0, JUDGED)) {
    const [ours, theirs] = [await ownerOf(server, before), await ownerOf(server, after)];
    if (signal?.aborted === true) break;
    if (ours !== null && theirs !== null) (ours === theirs ? judged : borders).push(before);
  }
  if (borders.length === 0) return { gaps, borders, judged };
  const more = { ...known, borders: new Set([...known.borders, ...borders]) };
  return { gaps: findGaps(timelines, more, segmentSize), borders, judged };
}

/** The system identifier in an archived segment; null when that can't be read. */
async function ownerOf({ strategy, keys, logger }: Server, name: WalName): Promise<bigint | null> {
  try {
    const stored = await strategy.read(name);
    if (stored === null) return null;
    const decoded = decodeLongPageHeader(await plainBytes(stored, name, keys));
    return decoded.ok ? decoded.header.systemIdentifier : null;
  } catch (error) {
    logger.debug({ wal: name }, `can't read the page header of ${name}: ${messageOf(error)}`);
    return null;
  }
}

/** `empty`: files that are stored without a byte. */
async function look(
  server: Server,
  empty: ReadonlySet<WalName>,
): Promise<{ timelines: TimelineSummary[]; segmentSize: number }> {
  const segmentSize = (await server.segmentSize()) ?? DEFAULT_SEGMENT_SIZE;
  const lines = withEmptyFiles(server.catalogue.readBatches(), empty);
  return { timelines: await summariseWals(lines, segmentSize), segmentSize };
}

/**
 * Brings what is remembered of gaps up to date: one that was filled is no longer
 * acknowledged, and where one cluster's WAL ends is found out once. Before lines
 * leave the catalogue, and once a day. Never rejects.
 */
export async function reviewGaps(server: Server): Promise<void> {
  try {
    const { timelines, segmentSize } = await look(server, await knownEmptyFiles(server));
    const { gaps, borders, judged } = await judgeGaps(server, timelines, segmentSize);
    const all = [...gaps.values()].flat();
    const memory = gapMemory(server);
    const known = await memory.read();
    if (known.acknowledged.length + borders.length + judged.length === 0) return;
    await memory.change(({ acknowledged, borders: before, judged: seen }) => ({
      acknowledged: acknowledged.flatMap((one) =>
        missingWithin(one, all, segmentSize).map(({ first, last }) => ({ ...one, first, last })),
      ),
      borders: [...new Set([...before, ...borders])],
      judged: [...new Set([...seen, ...judged])].slice(-MOST_JUDGED),
    }));
  } catch (error) {
    server.logger.debug({ server: server.name }, `gaps of ${server.name} can't be reviewed: ${messageOf(error)}`);
  }
}

/** Remembers that somebody knows of missing WAL. Resolves to what was missing in that range. Throws `usage` when nothing was. */
export async function acknowledgeGap(
  server: Server,
  range: Pick<SegmentRange, 'first' | 'last'>,
  reason: string,
  now = Date.now(),
): Promise<readonly SegmentRange[]> {
  // As list-wals shows them.
  const { timelines, segmentSize } = await look(server, emptyFiles(await oddSizesOf(server)));
  const { gaps, borders } = await judgeGaps(server, timelines, segmentSize);
  const all = [...gaps.values()].flat();
  const missing = merged(missingWithin(range, all, segmentSize), segmentSize);
  if (missing.length === 0) {
    const names = all.map(({ first, last }) => (first === last ? first : `${first}..${last}`));
    throw new WalwardenError('usage', `nothing is missing from ${range.first} to ${range.last}`, {
      hint:
        names.length === 0 ? 'there are no gaps' : `${count(names.length, 'gap')}: ${names.slice(0, 20).join(', ')}`,
    });
  }
  await gapMemory(server).change((known) => ({
    ...known,
    acknowledged: [...known.acknowledged, ...missing.map(({ first, last }) => ({ first, last, reason, at: now }))],
    borders: [...new Set([...known.borders, ...borders])],
  }));
  return missing;
}

/** Parts that touch, which other acknowledgements had cut, as one. */
function merged(parts: readonly SegmentRange[], segmentSize: number): SegmentRange[] {
  const whole: SegmentRange[] = [];
  for (const part of parts) {
    const before = whole.at(-1);
    const touches =
      before !== undefined &&
      part.segments > 0 &&
      before.segments > 0 &&
      segmentAfter(before, segmentSize) === part.first;
    if (touches)
      whole[whole.length - 1] = { first: before.first, last: part.last, segments: before.segments + part.segments };
    else whole.push(part);
  }
  return whole;
}

/** Another cluster's WAL follows from now on: what is archived so far ends here, on every timeline. */
export async function rememberBorders(server: Server): Promise<void> {
  const { timelines } = await look(server, await knownEmptyFiles(server));
  const ends = timelines
    .flatMap(({ ranges }) => ranges.at(-1)?.last ?? [])
    .filter((name) => walKind(name) === 'segment');
  await gapMemory(server).change((known) => ({ ...known, borders: [...new Set([...known.borders, ...ends])] }));
}
