import { findEndOfWal } from './end-of-wal.ts';
import { endOfContent } from './padding.ts';
import { decodeLongPageHeader, isBlockSize, type LongPageHeader } from './page-header.ts';
import { isOwnPage, pagesOfSegment } from './pages.ts';
import { aligned, followRecords, isBehindSwitch, reachesEnd } from './records.ts';

// A segment that PostgreSQL delivers under its full name is filled with WAL, or a switch ended it. There is a third
// kind: the last segment of a timeline on a standby with archive_mode = always, and one that such a standby restored
// from a partial file, are only the beginning of a segment that another server may have more of.

/** A page may be of any timeline: the name is not known here. */
const ANY_TIMELINE = 0xffff_ffff;

/**
 * How many bytes of a segment, from its beginning, hold all of its WAL, when that
 * ends inside the segment and no switch ended it; null for any other segment,
 * and where it can't be told. Of a full segment, only the last page is looked at.
 */
export function endInside(segment: Buffer): number | null {
  const header = headerOf(segment);
  if (header === null || isFilled(segment.subarray(-header.blockSize), header)) return null;
  const pages = pagesOfSegment(segment, header, ANY_TIMELINE);
  if (pages.broken !== null) return null;
  const content = endOfContent(segment);
  // Nothing but zeros behind the last page of this segment: no record is needed to tell its WAL from the rest.
  if (pages.end < segment.length && content <= pages.end) {
    return isBehindSwitch(segment, aligned(content), header.blockSize) ? null : content;
  }
  const found = followRecords(segment, header, ANY_TIMELINE);
  return found.ending === 'inside' && found.certain ? found.end : null;
}

/**
 * Whether the last page of a segment tells that its WAL goes on to the segment's
 * end; false also where that page can't tell.
 */
export function isFilled(lastPage: Buffer, header: LongPageHeader): boolean {
  const offset = header.segmentSize - header.blockSize;
  return (
    header.littleEndian &&
    isOwnPage(lastPage, offset, header) &&
    reachesEnd(lastPage, header.pageAddress + BigInt(offset))
  );
}

/** How a copy of a segment compares with one whose WAL ends inside. */
export type Continuation =
  /** It begins with all of that WAL, and goes on. */
  | 'goes on'
  /** It begins with all of it, and holds no more. */
  | 'same'
  /** It begins with all of it; whether it holds more can't be told. */
  | 'unknown'
  /** It holds other WAL, or less. */
  | 'other';

/** Compares a copy with a segment whose WAL ends inside; `end` is what {@link endInside} said of that. */
export function continuationOf(copy: Buffer, segment: Buffer, end: number): Continuation {
  const header = headerOf(segment);
  if (header === null || copy.length !== segment.length) return 'other';
  if (!copy.subarray(0, end).equals(segment.subarray(0, end))) return 'other';
  const nextPage = Math.ceil(end / header.blockSize) * header.blockSize;
  if (nextPage < copy.length && isOwnPage(copy.subarray(nextPage), nextPage, header)) return 'goes on';
  const content = endOfContent(copy);
  if (content <= end) return 'same';
  // Zeros behind this page, in both: nothing stands on it that is not WAL.
  if (content <= nextPage && endOfContent(segment) <= end) return 'goes on';
  const found = findEndOfWal(copy);
  if (found === null) return 'unknown';
  const known = Math.max(end, findEndOfWal(segment)?.end ?? 0);
  if (found.end > known) return 'goes on';
  return found.certain ? 'same' : 'unknown';
}

/** Whether a copy begins with all the WAL of a segment that ends inside, and goes on. */
export function holdsMore(copy: Buffer, segment: Buffer): boolean {
  const end = endInside(segment);
  return end !== null && continuationOf(copy, segment, end) === 'goes on';
}

/** Null also for WAL of a big-endian machine, whose records are not judged here. */
function headerOf(segment: Buffer): LongPageHeader | null {
  const decoded = decodeLongPageHeader(segment);
  if (!decoded.ok) return null;
  const { header } = decoded;
  const isWhole = header.segmentSize === segment.length && isBlockSize(header.blockSize);
  return isWhole && header.littleEndian ? header : null;
}
