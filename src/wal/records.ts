import { crc32c } from './crc32c.ts';
import { LONG_PAGE_HEADER_SIZE, type LongPageHeader } from './page-header.ts';
import { pagesOfSegment } from './pages.ts';

/** Where following the records of a segment from its beginning ends. `end`: offset behind the last one that is complete and right. */
export type RecordsEnd =
  /**
   * All of the segment's WAL is there: up to its last byte, to a switch to the
   * next segment, or into a record that goes on behind it (and begins at `end`).
   */
  | { readonly ending: 'segment-end' | 'switch' | 'goes-on'; readonly end: number }
  /** No page of this segment follows. `certain`: no record can begin there either; otherwise one may be cut short. */
  | { readonly ending: 'inside'; readonly end: number; readonly certain: boolean }
  /** What stands there is no right record, though WAL of this segment was written behind it. */
  | { readonly ending: 'damaged'; readonly end: number; readonly reason: string }
  /** Neither can be told. */
  | { readonly ending: 'unknown'; readonly end: number; readonly reason: string };

// access/xlog_internal.h (XLogPageHeaderData) and access/xlogrecord.h (XLogRecord), the same since PostgreSQL 9.5.
const SHORT_PAGE_HEADER_SIZE = 24;
const FIRST_IS_CONTINUED_RECORD = 0x0001;
const FIRST_IS_OVERWRITE_CONTINUED_RECORD = 0x0008;
const RECORD_HEADER_SIZE = 24;
const PREV_AT = 8;
const INFO_AT = 16;
const RESOURCE_MANAGER_AT = 17;
const CRC_AT = 20;
// catalog/pg_control.h: XLOG_SWITCH, of the resource manager XLOG.
const XLOG_RESOURCE_MANAGER = 0;
const XLOG_SWITCH = 0x40;

/**
 * Follows the records of a segment as PostgreSQL does in recovery (xlogreader.c):
 * lengths, links to the record before, checksums, and how pages continue them.
 * Of little-endian WAL only. `timeline` is the one in the name of the file; the
 * first page has to be the right one.
 */
export function followRecords(segment: Buffer, header: LongPageHeader, timeline: number): RecordsEnd {
  if (!header.littleEndian) {
    return { ending: 'unknown', end: 0, reason: 'records of a big-endian machine are not judged here' };
  }
  const { end: behindPages } = pagesOfSegment(segment, header, timeline);
  const pages = new RecordPages(segment, header, (page) => page < behindPages);
  let at = LONG_PAGE_HEADER_SIZE;
  if (pages.continues(0)) {
    const first = pages.take(at, pages.remaining(0));
    switch (first.outcome) {
      case 'taken':
        at = first.end;
        break;
      case 'goes-on':
        return { ending: 'goes-on', end: 0 };
      case 'missing':
        return { ending: 'inside', end: 0, certain: false };
      case 'overwritten':
        at = first.page;
        break;
      case 'contradicted':
        return {
          ending: 'unknown',
          end: 0,
          reason: 'the record that it begins with, and that began before it, has no end',
        };
    }
  }
  let previous: bigint | null = null;
  for (;;) {
    const end = aligned(at);
    if (end === segment.length) return { ending: 'segment-end', end };
    const start = pages.recordStart(end);
    if (start === null) return pages.isOwn(end) ? pages.wrong(end, end) : { ending: 'inside', end, certain: true };
    const record = pages.record(start, previous);
    switch (record.outcome) {
      case 'right':
        previous = header.pageAddress + BigInt(start);
        at = record.end;
        if (record.isSwitch) return { ending: 'switch', end: aligned(at) };
        break;
      case 'overwritten':
        // The server crashed before all of it was written, and went on with this page (XLOG_OVERWRITE_CONTRECORD).
        at = record.page;
        break;
      case 'goes-on':
        return { ending: 'goes-on', end };
      case 'wrong': {
        const isEnd = isZero(segment, start) || pages.isNoSuccessor(start, previous);
        if (pages.isOwnFrom(record.behind)) return pages.wrong(end, start, record.reason);
        return { ending: 'inside', end, certain: isEnd };
      }
    }
  }
}

/**
 * The places, in bytes, of all records in what is left of a segment whose
 * checksum is right, those behind damage included: any page that says where its
 * first record begins is a place to start from. `header` is the one of a copy
 * whose first page is right.
 */
export function* rightRecords(
  bytes: Buffer,
  header: LongPageHeader,
  timeline: number,
): Generator<{ readonly start: number; readonly end: number }> {
  const { blockSize } = header;
  const whole = bytes.subarray(0, bytes.length - (bytes.length % blockSize));
  const own = new Set(ownPages(whole, header, timeline));
  const pages = new RecordPages(whole, header, (page) => own.has(page));
  let from = 0;
  while (from < whole.length) {
    let at = pages.firstRecord(from);
    let previous: bigint | null = null;
    let reached = from;
    while (at !== null) {
      const start: number | null = aligned(at) < whole.length ? pages.recordStart(aligned(at)) : null;
      if (start === null) break;
      reached = start;
      const record = pages.record(start, previous);
      if (record.outcome !== 'right') break;
      yield { start, end: record.end };
      reached = record.end;
      previous = header.pageAddress + BigInt(start);
      at = record.isSwitch ? null : record.end;
    }
    from = (Math.floor(reached / blockSize) + 1) * blockSize;
  }
}

/** The offsets of the pages that are of this segment, wherever they lie. */
function* ownPages(segment: Buffer, header: LongPageHeader, nameTimeline: number): Generator<number> {
  let timeline = header.timeline;
  for (let page = 0; page < segment.length; page += header.blockSize) {
    if (segment.readUInt16LE(page) !== header.magic) continue;
    if (segment.readBigUInt64LE(page + 8) !== header.pageAddress + BigInt(page)) continue;
    const found = segment.readUInt32LE(page + 4);
    if (found < timeline || found > nameTimeline) continue;
    timeline = found;
    yield page;
  }
}

/** The bytes of a record, or why they aren't all there. */
type Taken =
  | { readonly outcome: 'taken'; readonly pieces: Buffer[]; readonly end: number }
  /** It goes on behind the segment. */
  | { readonly outcome: 'goes-on'; readonly pieces: Buffer[] }
  /** The page that it should go on in is not of this segment. */
  | { readonly outcome: 'missing' }
  /** The page that it should go on in continues another record, or none. */
  | { readonly outcome: 'contradicted'; readonly page: number }
  /** That page says that the record before it was given up. */
  | { readonly outcome: 'overwritten'; readonly page: number };

type RecordAt =
  | { readonly outcome: 'right'; readonly end: number; readonly isSwitch: boolean }
  | { readonly outcome: 'goes-on' }
  | { readonly outcome: 'overwritten'; readonly page: number }
  /** `behind`: a page of this segment that begins there or later is proof that this should have been a right one. */
  | { readonly outcome: 'wrong'; readonly behind: number; readonly reason: string };

/** Records are found through the pages that they lie in, each with its header. */
class RecordPages {
  readonly #segment: Buffer;
  readonly #header: LongPageHeader;
  /** Whether a page was written for this place, and is not what the file held before. */
  readonly isOwn: (page: number) => boolean;

  constructor(segment: Buffer, header: LongPageHeader, isOwn: (page: number) => boolean) {
    this.#segment = segment;
    this.#header = header;
    this.isOwn = isOwn;
  }

  /** Whether a page of this segment begins at this offset or behind it. */
  isOwnFrom(from: number): boolean {
    const { blockSize } = this.#header;
    return this.isOwn(Math.ceil(from / blockSize) * blockSize);
  }

  /** Whether a page begins with the rest of a record. */
  continues(page: number): boolean {
    return (this.#info(page) & FIRST_IS_CONTINUED_RECORD) !== 0;
  }

  #isOverwrite(page: number): boolean {
    return (this.#info(page) & FIRST_IS_OVERWRITE_CONTINUED_RECORD) !== 0;
  }

  #info(page: number): number {
    return this.#segment.readUInt16LE(page + 2);
  }

  /** Bytes that are still to come of the record that a page continues. */
  remaining(page: number): number {
    return this.#segment.readUInt32LE(page + 16);
  }

  /** Where a record begins that follows at this offset; null when no page for one is there. */
  recordStart(at: number): number | null {
    if (at % this.#header.blockSize !== 0) return at;
    return this.isOwn(at) && !this.continues(at) ? at + this.#headerSize(at) : null;
  }

  /** Where the first record begins that begins in this page or behind what it continues; null when the page can't tell. */
  firstRecord(page: number): number | null {
    if (!this.isOwn(page)) return null;
    if (!this.continues(page)) return page;
    const rest = this.take(page + this.#headerSize(page), this.remaining(page));
    return rest.outcome === 'taken' ? rest.end : null;
  }

  #headerSize(page: number): number {
    return page === 0 ? LONG_PAGE_HEADER_SIZE : SHORT_PAGE_HEADER_SIZE;
  }

  /** The bytes of a record from here on, and where they end. */
  take(start: number, length: number): Taken {
    const pieces: Buffer[] = [];
    let at = start;
    let left = length;
    for (;;) {
      const piece = this.#segment.subarray(at, Math.min(at + left, this.#pageEnd(at)));
      pieces.push(piece);
      at += piece.length;
      left -= piece.length;
      if (left === 0) return { outcome: 'taken', pieces, end: at };
      if (at >= this.#segment.length) return { outcome: 'goes-on', pieces };
      if (!this.isOwn(at)) return { outcome: 'missing' };
      if (this.#isOverwrite(at)) return { outcome: 'overwritten', page: at };
      if (!this.continues(at) || this.remaining(at) !== left) return { outcome: 'contradicted', page: at };
      at += SHORT_PAGE_HEADER_SIZE;
    }
  }

  /** The record that begins here. */
  record(start: number, previous: bigint | null): RecordAt {
    const length = this.#segment.readUInt32LE(start);
    const next = this.#pageEnd(start);
    const wrong = (reason: string, behind = next): RecordAt => ({ outcome: 'wrong', behind, reason });
    if (length < RECORD_HEADER_SIZE) return wrong(`says that it has ${length} bytes`);
    const taken = this.take(start, length);
    switch (taken.outcome) {
      case 'missing':
        return wrong('is cut short', this.#segment.length);
      case 'overwritten':
        return taken;
      case 'contradicted':
        return wrong(`has ${length} bytes, and the page at byte ${taken.page} does not continue it`);
      case 'goes-on':
      case 'taken':
    }
    const [only = Buffer.alloc(0), ...more] = taken.pieces;
    const bytes = more.length === 0 ? only : Buffer.concat(taken.pieces);
    if (bytes.length >= PREV_AT + 8) {
      const prev = bytes.readBigUInt64LE(PREV_AT);
      const isLinked = previous === null ? prev < this.#header.pageAddress + BigInt(start) : prev === previous;
      if (!isLinked) {
        return wrong('does not follow the record before it', taken.outcome === 'taken' ? taken.end : undefined);
      }
    }
    if (taken.outcome === 'goes-on') return { outcome: 'goes-on' };
    if (!hasRightChecksum(bytes)) return wrong('has a wrong checksum', taken.end);
    return { outcome: 'right', end: taken.end, isSwitch: isSwitch(bytes) };
  }

  /** True when not even the header of a next record was written here: it would say where the one before it began. */
  isNoSuccessor(start: number, previous: bigint | null): boolean {
    if (previous === null || start + PREV_AT + 8 > this.#pageEnd(start)) return false;
    return this.#segment.readBigUInt64LE(start + PREV_AT) !== previous;
  }

  /** What follows from a record that isn't right where WAL of this segment was written behind it. */
  wrong(end: number, start: number, reason = 'is missing: the page there continues another one'): RecordsEnd {
    const next = this.#pageEnd(start);
    if (this.isOwn(next) && this.#isOverwrite(next)) {
      return { ending: 'unknown', end, reason: `the record at byte ${start} was given up after a crash` };
    }
    if (!this.isOwn(next)) return { ending: 'inside', end, certain: false };
    return { ending: 'damaged', end, reason: `the record at byte ${start} ${reason}` };
  }

  #pageEnd(at: number): number {
    const { blockSize } = this.#header;
    return at - (at % blockSize) + blockSize;
  }
}

function hasRightChecksum(record: Buffer): boolean {
  return crc32c([record.subarray(RECORD_HEADER_SIZE), record.subarray(0, CRC_AT)]) === record.readUInt32LE(CRC_AT);
}

function isSwitch(record: Buffer): boolean {
  return (
    record.readUInt8(RESOURCE_MANAGER_AT) === XLOG_RESOURCE_MANAGER &&
    (record.readUInt8(INFO_AT) & 0xf0) === XLOG_SWITCH
  );
}

/**
 * Whether the record that ends at an offset is a switch to the next segment,
 * behind which the rest was left empty on purpose. Such a record has no data; a
 * page's header may stand in it.
 */
export function isBehindSwitch(segment: Buffer, end: number, blockSize: number): boolean {
  const page = Math.floor((end - 1) / blockSize) * blockSize;
  const first = page + (page === 0 ? LONG_PAGE_HEADER_SIZE : SHORT_PAGE_HEADER_SIZE);
  const before = Math.max(0, RECORD_HEADER_SIZE - (end - first));
  if (end < first || (page === 0 && before > 0)) return false;
  const rest = segment.subarray(end - RECORD_HEADER_SIZE + before, end);
  const record = before === 0 ? rest : Buffer.concat([segment.subarray(page - before, page), rest]);
  return record.readUInt32LE(0) === RECORD_HEADER_SIZE && isSwitch(record) && hasRightChecksum(record);
}

/**
 * Whether the last page of a segment, which is of this segment, tells that its
 * WAL goes on to the segment's end: a record in it reaches the end, or goes on behind it.
 */
export function reachesEnd(lastPage: Buffer, address: bigint): boolean {
  const isContinued = (lastPage.readUInt16LE(2) & FIRST_IS_CONTINUED_RECORD) !== 0;
  let at = SHORT_PAGE_HEADER_SIZE + (isContinued ? aligned(lastPage.readUInt32LE(16)) : 0);
  let previous: bigint | null = null;
  while (at < lastPage.length) {
    const length = lastPage.readUInt32LE(at);
    if (length < RECORD_HEADER_SIZE) return false;
    if (at + PREV_AT + 8 <= lastPage.length) {
      const prev = lastPage.readBigUInt64LE(at + PREV_AT);
      if (previous === null ? prev >= address + BigInt(at) : prev !== previous) return false;
    }
    previous = address + BigInt(at);
    at += aligned(length);
  }
  return true;
}

/** Records begin at multiples of 8 (MAXALIGN). */
export function aligned(at: number): number {
  return Math.ceil(at / 8) * 8;
}

function isZero(segment: Buffer, from: number): boolean {
  const rest = segment.subarray(from);
  // Every byte is what the one before it is.
  return rest.length === 0 || (rest[0] === 0 && rest.subarray(1).equals(rest.subarray(0, -1)));
}
