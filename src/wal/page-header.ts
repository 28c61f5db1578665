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
]);

const XLP_LONG_HEADER = 0x0002;

export interface LongPageHeader {
  readonly majorVersion: number;
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
 * order (the magic tells which). The numbers are not judged here, see
 * {@link ../wal/verify.ts}.
 */
export function decodeLongPageHeader(bytes: Buffer): PageHeaderResult {
  if (bytes.length < LONG_PAGE_HEADER_SIZE) {
    return { ok: false, reason: `a WAL page header has ${LONG_PAGE_HEADER_SIZE} bytes, found ${bytes.length}` };
  }
  const littleEndian = MAJOR_VERSIONS.has(bytes.readUInt16LE(0));
  const majorVersion = MAJOR_VERSIONS.get(littleEndian ? bytes.readUInt16LE(0) : bytes.readUInt16BE(0));
  if (majorVersion === undefined) {
    return {
      ok: false,
      reason: `no WAL page magic of PostgreSQL 10 to 18, found 0x${bytes.readUInt16LE(0).toString(16).padStart(4, '0')}`,
    };
  }
  const u16 = (at: number): number => (littleEndian ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at));
  const u32 = (at: number): number => (littleEndian ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at));
  const u64 = (at: number): bigint => (littleEndian ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at));
  if ((u16(2) & XLP_LONG_HEADER) === 0) {
    return { ok: false, reason: 'the first page has no long header, so this is not the beginning of a segment' };
  }
  // xlp_rem_len (4 bytes at 16) and 4 bytes of padding stand between the address and the system identifier.
  return {
    ok: true,
    header: {
      majorVersion,
      timeline: u32(4),
      pageAddress: u64(8),
      systemIdentifier: u64(24),
      segmentSize: u32(32),
      blockSize: u32(36),
    },
  };
}
