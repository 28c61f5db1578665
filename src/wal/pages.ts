import { endianness } from 'node:os';
import { hexOfMagic, isBlockSize, type LongPageHeader } from './page-header.ts';

/** Where a segment breaks the rule that its pages are its own up to the end of its WAL, and from there on not any more. */
export interface BrokenPage {
  /** Bytes from the beginning of the segment. */
  readonly offset: number;
  /** The first one is page 0. */
  readonly page: number;
  /** A sentence about it that names both numbers. */
  readonly reason: string;
}

/** What the page headers of a segment tell. */
export interface PagesOfSegment {
  /** Offset behind the last page in the unbroken row of its own ones from the first on. */
  readonly end: number;
  /** The first page behind that row, when a page further on is of this segment again: something is missing between. Null for a whole segment. */
  readonly broken: BrokenPage | null;
}

const HOST_IS_LITTLE_ENDIAN = endianness() === 'LE';

// access/xlog_internal.h, XLogPageHeaderData.
const TIMELINE_AT = 4;
const ADDRESS_AT = 8;

/**
 * Looks at the header of every page of a segment. A page is of this segment when
 * it has the magic and the byte order of the first one, its own address, and a
 * timeline that is neither below that of the page before nor above the name's.
 * What follows the last of them is no WAL of this segment: zeros behind a switch,
 * what the file held before it was recycled, perhaps of an older timeline.
 *
 * The first page has to be the right one: judge it before
 * ({@link ./verify.ts}). `timeline` is the one in the name of the file.
 */
export function pagesOfSegment(segment: Buffer, header: LongPageHeader, timeline: number): PagesOfSegment {
  const reader = new PageReader(header, timeline);
  reader.take(segment, 0);
  return reader.result;
}

/** Whether one page, at `offset` of its segment, is of this segment as far as the first page alone tells. */
export function isOwnPage(page: Buffer, offset: number, header: LongPageHeader): boolean {
  const { littleEndian, magic, timeline, pageAddress } = header;
  return littleEndian
    ? page.readUInt16LE(0) === magic &&
        page.readUInt32LE(TIMELINE_AT) >= timeline &&
        page.readBigUInt64LE(ADDRESS_AT) === pageAddress + BigInt(offset)
    : page.readUInt16BE(0) === magic &&
        page.readUInt32BE(TIMELINE_AT) >= timeline &&
        page.readBigUInt64BE(ADDRESS_AT) === pageAddress + BigInt(offset);
}

/** {@link pagesOfSegment} of a file that is read piece by piece. */
export class PageReader {
  readonly #header: LongPageHeader;
  readonly #nameTimeline: number;
  readonly #magic: number;
  /** Both halves of the first page's address: numbers are quicker than bigints, and all pages share the upper half. */
  readonly #upper: number;
  readonly #lower: number;
  #timeline: number;
  #end: number;
  #missing: BrokenPage | null = null;
  #broken: BrokenPage | null = null;

  constructor(header: LongPageHeader, timeline: number) {
    this.#header = header;
    this.#nameTimeline = timeline;
    this.#magic = header.magic;
    this.#upper = Number(header.pageAddress >> 32n);
    this.#lower = Number(header.pageAddress & 0xffff_ffffn);
    this.#timeline = header.timeline;
    this.#end = header.blockSize;
    if (isBlockSize(header.blockSize)) return;
    const reason = `its first page declares a block size of ${header.blockSize} bytes, expected a power of two from 1 to 64 KiB`;
    this.#broken = { offset: 0, page: 0, reason };
  }

  /** The next piece of the file; `at` is its offset, and a multiple of the block size, as its length is. */
  take(piece: Buffer, at: number): void {
    const { blockSize } = this.#header;
    if (this.#broken !== null) return;
    for (let page = at === 0 ? blockSize : 0; page < piece.length; page += blockSize) {
      if (this.#missing === null) page = this.#skipOwn(piece, page, at);
      if (page >= piece.length) return;
      const offset = at + page;
      if (this.#isOwn(piece, page, offset)) {
        if (this.#missing !== null) {
          this.#broken = broken(this.#missing, offset, blockSize);
          return;
        }
        this.#timeline = this.#u32(piece, page + TIMELINE_AT);
        this.#end = offset + blockSize;
      } else this.#missing ??= this.#describe(piece, page, offset);
    }
  }

  /** The next page that is not, at a glance, one of this segment and of the same timeline as the one before it. Nearly all of them are. */
  #skipOwn(piece: Buffer, from: number, at: number): number {
    if (!this.#header.littleEndian || !HOST_IS_LITTLE_ENDIAN || piece.byteOffset % 4 !== 0) return from;
    const words = new Uint32Array(piece.buffer, piece.byteOffset, Math.floor(piece.length / 4));
    const { blockSize } = this.#header;
    const [magic, timeline, upper, lower] = [this.#magic, this.#timeline, this.#upper, this.#lower + at];
    let page = from;
    for (; page < piece.length; page += blockSize) {
      const word = page / 4;
      if (((words[word] ?? 0) & 0xffff) !== magic || words[word + 1] !== timeline) break;
      if (words[word + 2] !== lower + page || words[word + 3] !== upper) break;
    }
    if (page > from) this.#end = at + page;
    return page;
  }

  get result(): PagesOfSegment {
    return { end: this.#end, broken: this.#broken };
  }

  #isOwn(piece: Buffer, page: number, offset: number): boolean {
    if (this.#u16(piece, page) !== this.#magic) return false;
    const [first, second] = [this.#u32(piece, page + ADDRESS_AT), this.#u32(piece, page + ADDRESS_AT + 4)];
    const [lower, upper] = this.#header.littleEndian ? [first, second] : [second, first];
    if (lower !== this.#lower + offset || upper !== this.#upper) return false;
    const timeline = this.#u32(piece, page + TIMELINE_AT);
    return timeline >= this.#timeline && timeline <= this.#nameTimeline;
  }

  #describe(piece: Buffer, page: number, offset: number): BrokenPage {
    const { blockSize, pageAddress, littleEndian } = this.#header;
    const magic = this.#u16(piece, page);
    const address = littleEndian ? piece.readBigUInt64LE(page + ADDRESS_AT) : piece.readBigUInt64BE(page + ADDRESS_AT);
    const expected = pageAddress + BigInt(offset);
    const found =
      magic !== this.#magic
        ? `has the magic ${hexOfMagic(magic)}, and the first page ${hexOfMagic(this.#magic)}`
        : address !== expected
          ? `has the address 0x${address.toString(16)}, and 0x${expected.toString(16)} belongs there`
          : `is of timeline ${this.#u32(piece, page + TIMELINE_AT)}, the page before it of timeline ${this.#timeline}, and the name of timeline ${this.#nameTimeline}`;
    const number = offset / blockSize;
    return { offset, page: number, reason: `page ${number} (at byte ${offset}) ${found}` };
  }

  #u16(piece: Buffer, at: number): number {
    return this.#header.littleEndian ? piece.readUInt16LE(at) : piece.readUInt16BE(at);
  }

  #u32(piece: Buffer, at: number): number {
    return this.#header.littleEndian ? piece.readUInt32LE(at) : piece.readUInt32BE(at);
  }
}

function broken(missing: BrokenPage, again: number, blockSize: number): BrokenPage {
  const next = `page ${again / blockSize} (at byte ${again}) is of this segment again`;
  return { ...missing, reason: `${missing.reason}, but ${next}: what lies between is missing` };
}
