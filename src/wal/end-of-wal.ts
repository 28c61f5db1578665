import { crc32c } from './crc32c.ts';
import { decodeLongPageHeader, LONG_PAGE_HEADER_SIZE } from './page-header.ts';

export interface EndOfWal {
  /** Offset behind the last complete record, in bytes from the beginning of the segment. */
  readonly end: number;
  /** True when no record can begin there, nor any page behind it be of this WAL: zeros follow, or what this file held before it was recycled. */
  readonly certain: boolean;
}

// access/xlog_internal.h (XLogPageHeaderData) and access/xlogrecord.h (XLogRecord), the same since PostgreSQL 9.5.
const SHORT_PAGE_HEADER_SIZE = 24;
const FIRST_IS_CONTINUED_RECORD = 0x0001;
const RECORD_HEADER_SIZE = 24;
const PREV_AT = 8;
const CRC_AT = 20;

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
 * Follows the records of a segment as PostgreSQL does in recovery (xlogreader.c)
 * to where it would stop. Null when that can't be told: no segment of a
 * little-endian machine, or not even the record that began before it ends in it.
 */
export function findEndOfWal(segment: Buffer): EndOfWal | null {
  const decoded = decodeLongPageHeader(segment);
  if (!decoded.ok) return null;
  const { pageAddress, segmentSize, blockSize } = decoded.header;
  if (segmentSize !== segment.length || segment.readUInt32LE(32) !== segmentSize) return null;
  if (blockSize < 1024 || segmentSize % blockSize !== 0) return null;
  const pages = new Pages(segment, pageAddress, blockSize);

  let at: number | null = LONG_PAGE_HEADER_SIZE;
  if (pages.continues(0)) {
    at = pages.take(LONG_PAGE_HEADER_SIZE, pages.remaining(0))?.end ?? null;
    // Its checksum can't be looked at: it began in another file.
    if (at === null) return null;
  }
  let previous: bigint | null = null;
  for (;;) {
    const end: number = aligned(at);
    if (end === segment.length) return { end, certain: true };
    const start = pages.recordStart(end);
    // A page of this WAL further on means that something is missing here.
    if (start === null) return { end, certain: !pages.isAnyGenuine(end) };
    const record = pages.record(start, previous);
    if (record === null) {
      const isEnd = isZero(segment, start) || pages.isNoSuccessor(start, previous);
      return { end, certain: isEnd && !pages.isAnyGenuine(start) };
    }
    previous = pageAddress + BigInt(start);
    at = record;
  }
}

/** Records are found through the pages that they lie in, each with its header. */
class Pages {
  readonly #segment: Buffer;
  readonly #address: bigint;
  readonly #blockSize: number;

  constructor(segment: Buffer, address: bigint, blockSize: number) {
    this.#segment = segment;
    this.#address = address;
    this.#blockSize = blockSize;
  }

  /** Whether the page at this offset was written for this place, and is not what the file held before. */
  isGenuine(page: number): boolean {
    return (
      this.#segment.readUInt16LE(page) === this.#segment.readUInt16LE(0) &&
      this.#segment.readBigUInt64LE(page + 8) === this.#address + BigInt(page)
    );
  }

  /** Whether any page is that begins at this offset or behind it. */
  isAnyGenuine(from: number): boolean {
    let page = Math.ceil(from / this.#blockSize) * this.#blockSize;
    while (page < this.#segment.length && !this.isGenuine(page)) page += this.#blockSize;
    return page < this.#segment.length;
  }

  /** Whether a page begins with the rest of a record. */
  continues(page: number): boolean {
    return (this.#segment.readUInt16LE(page + 2) & FIRST_IS_CONTINUED_RECORD) !== 0;
  }

  /** Bytes that are still to come of the record that a page continues. */
  remaining(page: number): number {
    return this.#segment.readUInt32LE(page + 16);
  }

  /** Where a record begins that follows at this offset; null when no page for one is there. */
  recordStart(at: number): number | null {
    if (at % this.#blockSize !== 0) return at;
    return this.isGenuine(at) && !this.continues(at) ? at + SHORT_PAGE_HEADER_SIZE : null;
  }

  /** The bytes of a record from here on, and where they end; null when pages for them are missing. */
  take(start: number, length: number): { readonly pieces: Buffer[]; readonly end: number } | null {
    const pieces: Buffer[] = [];
    let at = start;
    let left = length;
    for (;;) {
      const piece = this.#segment.subarray(at, Math.min(at + left, this.#pageEnd(at)));
      pieces.push(piece);
      at += piece.length;
      left -= piece.length;
      if (left === 0) return { pieces, end: at };
      if (at === this.#segment.length || !this.isGenuine(at)) return null;
      if (!this.continues(at) || this.remaining(at) !== left) return null;
      at += SHORT_PAGE_HEADER_SIZE;
    }
  }

  /** Where the record ends that begins here; null when there is no complete one. */
  record(start: number, previous: bigint | null): number | null {
    const length = this.#segment.readUInt32LE(start);
    if (length < RECORD_HEADER_SIZE) return null;
    const taken = this.take(start, length);
    if (taken === null) return null;
    const bytes = Buffer.concat(taken.pieces);
    const prev = bytes.readBigUInt64LE(PREV_AT);
    if (previous === null ? prev >= this.#address + BigInt(start) : prev !== previous) return null;
    const checksum = crc32c([bytes.subarray(RECORD_HEADER_SIZE), bytes.subarray(0, CRC_AT)]);
    return checksum === bytes.readUInt32LE(CRC_AT) ? taken.end : null;
  }

  /** True when not even the header of a next record was written here: it would say where the one before it began. */
  isNoSuccessor(start: number, previous: bigint | null): boolean {
    if (previous === null || start + PREV_AT + 8 > this.#pageEnd(start)) return false;
    return this.#segment.readBigUInt64LE(start + PREV_AT) !== previous;
  }

  #pageEnd(at: number): number {
    return at - (at % this.#blockSize) + this.#blockSize;
  }
}

/** Records begin at multiples of 8 (MAXALIGN). */
function aligned(at: number): number {
  return Math.ceil(at / 8) * 8;
}

function isZero(segment: Buffer, from: number): boolean {
  const rest = segment.subarray(from);
  // Every byte is what the one before it is.
  return rest.length === 0 || (rest[0] === 0 && rest.subarray(1).equals(rest.subarray(0, -1)));
}
