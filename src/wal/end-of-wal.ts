import { decodeLongPageHeader, isBlockSize } from './page-header.ts';
import { pagesOfSegment } from './pages.ts';
import { followRecords } from './records.ts';

export interface EndOfWal {
  /** Offset behind the last complete record, in bytes from the beginning of the segment. */
  readonly end: number;
  /** True when no record can begin there, nor any page behind it be of this WAL: zeros follow, or what this file held before it was recycled. */
  readonly certain: boolean;
}

/** A page may be of any timeline: the name is not known here. */
const ANY_TIMELINE = 0xffff_ffff;

/**
 * Whether two copies of a segment hold the same WAL, though they differ behind
 * its end: pg_receivewal fills a segment with zeros, PostgreSQL leaves in it
 * what the file held before. Only then true when all records of both are
 * complete, their checksums right, byte for byte the same, and followed by what
 * can't be the beginning of another one.
 */
export function holdSameWal(a: Buffer, b: Buffer): boolean {
  if (a.length !== b.length) return false;
  const [endOfA, endOfB] = [findEndOfWal(a), findEndOfWal(b)];
  if (endOfA?.certain !== true || endOfB?.certain !== true || endOfA.end !== endOfB.end) return false;
  return a.subarray(0, endOfA.end).equals(b.subarray(0, endOfB.end));
}

/**
 * Where following the records of a segment ends. Null when that can't be told:
 * no segment of a little-endian machine, or not even the record that began before
 * it ends in it.
 */
export function findEndOfWal(segment: Buffer): EndOfWal | null {
  const decoded = decodeLongPageHeader(segment);
  if (!decoded.ok) return null;
  const { header } = decoded;
  if (header.segmentSize !== segment.length || !isBlockSize(header.blockSize)) return null;
  const found = followRecords(segment, header, ANY_TIMELINE);
  if (found.ending === 'unknown' || found.end === 0) return null;
  const isEnd =
    found.ending === 'segment-end' || found.ending === 'switch' || (found.ending === 'inside' && found.certain);
  return { end: found.end, certain: isEnd && pagesOfSegment(segment, header, ANY_TIMELINE).broken === null };
}
