import { utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { segmentName, type WalName } from '../../src/wal/wal-name.ts';

// XLOG_PAGE_MAGIC per major version, from access/xlog_internal.h of its branch; written down a second time on
// purpose, since the tests must not believe the table that they test.
const PAGE_MAGIC = new Map([
  [10, 0xd097],
  [11, 0xd098],
  [12, 0xd101],
  [13, 0xd106],
  [14, 0xd10d],
  [15, 0xd110],
  [16, 0xd113],
  [17, 0xd116],
  [18, 0xd118],
  [19, 0xd122],
]);

const PAGE_SIZE = 8192;

export interface WalOptions {
  readonly major?: number;
  readonly timeline?: number;
  /** Running number of the segment, from the beginning of the WAL. */
  readonly segment?: number | bigint;
  /** Segment size in bytes; default 1 MiB. */
  readonly size?: number;
  readonly systemIdentifier?: bigint;
  /** Compresses to about a third, not at all, or to nothing. */
  readonly content?: 'compressible' | 'random' | 'zeros';
  /** Segments with different seeds differ in content. */
  readonly seed?: number;
  /** Timeline in the page headers, where it is not the name's (an ancestor's, after a promotion). */
  readonly pageTimeline?: number;
  /** Bytes of a page; default 8 KiB. */
  readonly blockSize?: number;
}

export interface MadeWal {
  readonly name: WalName;
  readonly bytes: Buffer;
}

export const TEST_SYSTEM_IDENTIFIER = 7_123_456_789_012_345_678n;

/** A segment as PostgreSQL would head it: long header on the first page, short ones on the others, invented records. */
export function makeWal(options: WalOptions = {}): MadeWal {
  const { major = 15, timeline = 1, size = 1024 * 1024, content = 'compressible', seed = 1 } = options;
  const { blockSize = PAGE_SIZE } = options;
  const segment = BigInt(options.segment ?? 1);
  const magic = PAGE_MAGIC.get(major);
  if (magic === undefined) throw new Error(`no WAL page magic known for PostgreSQL ${major}`);
  const bytes = Buffer.alloc(size);
  if (content !== 'zeros') fill(bytes, Number(segment % 65_536n) * 65_537 + seed, content === 'random');
  for (let at = 0; at < size; at += blockSize) {
    bytes.writeUInt16LE(magic, at);
    bytes.writeUInt16LE(at === 0 ? 0x0002 : 0, at + 2);
    bytes.writeUInt32LE(options.pageTimeline ?? timeline, at + 4);
    bytes.writeBigUInt64LE(segment * BigInt(size) + BigInt(at), at + 8);
    bytes.fill(0, at + 16, at + 24);
  }
  bytes.writeBigUInt64LE(options.systemIdentifier ?? TEST_SYSTEM_IDENTIFIER, 24);
  bytes.writeUInt32LE(size, 32);
  bytes.writeUInt32LE(blockSize, 36);
  return { name: segmentName(timeline, segment, size), bytes };
}

/** {@link makeWal}, written into a directory under its name; `mtime` in seconds. */
export async function writeWal(
  directory: string,
  options: WalOptions & { readonly mtime?: number; readonly mode?: number } = {},
): Promise<MadeWal & { readonly path: string }> {
  const wal = makeWal(options);
  const path = join(directory, wal.name);
  await writeFile(path, wal.bytes, { mode: options.mode ?? 0o600 });
  if (options.mtime !== undefined) await utimes(path, options.mtime, options.mtime);
  return { ...wal, path };
}

/** Words from a xorshift generator; compressible ones repeat three quarters of the time, as records do. */
function fill(bytes: Buffer, seed: number, random: boolean): void {
  let state = (seed * 2_654_435_761 + 1) >>> 0 || 1;
  const next = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  for (let at = 0; at + 16 <= bytes.length; at += 16) {
    const word = next();
    if (!random && at >= PAGE_SIZE && (word & 3) !== 0) {
      bytes.copyWithin(at, at - 16 * (1 + ((word >>> 8) % 200)), at - 16 * ((word >>> 8) % 200));
    } else {
      for (let part = 0; part < 16; part += 4) bytes.writeUInt32LE(next(), at + part);
    }
  }
}
