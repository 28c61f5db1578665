import { isSegmentSize } from './wal-name.ts';

/** Bytes of XLogLongPageHeaderData (access/xlog_internal.h), the header of every segment's first page. */
export const LONG_PAGE_HEADER_SIZE = 40;

// XLOG_PAGE_MAGIC of each release, from access/xlog_internal.h of its branch.
const MAJOR_VERSIONS = new Map<number, number>([
  [0xd097, 10],
  [0xd098, 11],
  [0xd101, 12],
  [0xd106, 13],
  [0xd10d, 14],
  [0xd110, 15],
  [0xd113, 16],
  [0xd116, 17],
  [0xd118, 18],
  [0xd122, 19],
]);

const OLDEST_MAGIC = 0xd097;

const XLP_LONG_HEADER = 0x0002;

export interface LongPageHeader {
  readonly magic: number;
  readonly littleEndian: boolean;
  /** Null for a magic that we don't know: a pre-release, a fork, a successor of the releases that we know. */
  readonly majorVersion: number | null;
  readonly timeline: number;
  /** LSN of the page's first byte. */
  readonly pageAddress: bigint;
  readonly systemIdentifier: bigint;
  /** Size of this cluster's segments, in bytes. */
  readonly segmentSize: number;
  readonly blockSize: number;
}

/** Either the decoded header, or why these bytes are none. */
export type PageHeaderResult =
  { readonly ok: true; readonly header: LongPageHeader } | { readonly ok: false; readonly reason: string };

/**
 * Decodes the long page header at the beginning of a segment, in either byte
 * order. A magic that we don't know is taken when it is above PostgreSQL 10's and
 * the sizes that follow it are possible ones: what a release of tomorrow writes
 * may be the only copy. The other numbers are not judged here, see
 * {@link ../wal/verify.ts}.
 */
export function decodeLongPageHeader(bytes: Buffer): PageHeaderResult {
  if (bytes.length < LONG_PAGE_HEADER_SIZE) {
    return { ok: false, reason: `a WAL page header has ${LONG_PAGE_HEADER_SIZE} bytes, found ${bytes.length}` };
  }
  const littleEndian = isLittleEndian(bytes);
  if (littleEndian === null) {
    const found = `0x${bytes.readUInt16LE(0).toString(16).toUpperCase().padStart(4, '0')}`;
    return {
      ok: false,
      reason: `no WAL page magic of PostgreSQL 10 or newer with a possible segment size and block size, found ${found}`,
    };
  }
  const u16 = (at: number): number => (littleEndian ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at));
  const u32 = (at: number): number => (littleEndian ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at));
  const u64 = (at: number): bigint => (littleEndian ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at));
  if ((u16(2) & XLP_LONG_HEADER) === 0) {
    return { ok: false, reason: 'the first page has no long header, so this is not the beginning of a segment' };
  }
  // xlp_rem_len (4 bytes at 16) and 4 bytes of padding stand between the address and the system identifier.
  const magic = u16(0);
  return {
    ok: true,
    header: {
      magic,
      littleEndian,
      majorVersion: MAJOR_VERSIONS.get(magic) ?? null,
      timeline: u32(4),
      pageAddress: u64(8),
      systemIdentifier: u64(24),
      segmentSize: u32(32),
      blockSize: u32(36),
    },
  };
}

/** The magic of a known release tells the byte order; of any other, the sizes do, which are possible in one order at most. */
function isLittleEndian(bytes: Buffer): boolean | null {
  const [little, big] = [bytes.readUInt16LE(0), bytes.readUInt16BE(0)];
  if (MAJOR_VERSIONS.has(little)) return true;
  if (MAJOR_VERSIONS.has(big)) return false;
  if (little > OLDEST_MAGIC && isSegmentSize(bytes.readUInt32LE(32)) && isBlockSize(bytes.readUInt32LE(36)))
    return true;
  if (big > OLDEST_MAGIC && isSegmentSize(bytes.readUInt32BE(32)) && isBlockSize(bytes.readUInt32BE(36))) return false;
  return null;
}

/** PostgreSQL's `--with-wal-blocksize`: a power of two from 1 to 64 KiB. */
export function isBlockSize(size: number): boolean {
  return size >= 1024 && size <= 65_536 && Number.isInteger(Math.log2(size));
}

/** As PostgreSQL's sources write it. */
export function hexOfMagic(magic: number): string {
  return `0x${magic.toString(16).toUpperCase().padStart(4, '0')}`;
}
