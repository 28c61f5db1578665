import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeLongPageHeader } from '../../src/wal/page-header.ts';
import { segmentSizes, timelines } from './arbitraries.ts';

// Written down a second time on purpose, from access/xlog_internal.h: a test must not believe the table that it tests.
const RELEASES = [
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
] as const;

interface Fields {
  readonly magic: number;
  readonly info: number;
  readonly timeline: number;
  readonly address: bigint;
  readonly system: bigint;
  readonly size: number;
}

/** struct XLogLongPageHeaderData, through a DataView, which knows both byte orders. */
function headerBytes(fields: Fields, littleEndian: boolean): Buffer {
  const view = new DataView(new ArrayBuffer(40));
  view.setUint16(0, fields.magic, littleEndian);
  view.setUint16(2, fields.info, littleEndian);
  view.setUint32(4, fields.timeline, littleEndian);
  view.setBigUint64(8, fields.address, littleEndian);
  view.setUint32(16, 1234, littleEndian);
  view.setBigUint64(24, fields.system, littleEndian);
  view.setUint32(32, fields.size, littleEndian);
  view.setUint32(36, 8192, littleEndian);
  return Buffer.from(view.buffer);
}

/** Above PostgreSQL 10's, and no release of ours has it. */
const unknownMagics = fc
  .integer({ min: 0xd098, max: 0xffff })
  .filter((magic) => RELEASES.every(([, known]) => known !== magic));

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

describe.each(RELEASES)('the header of PostgreSQL %i', (major, magic) => {
  test.each([true, false])('is read, little endian: %j', (littleEndian) => {
    fc.assert(
      fc.property(
        timelines,
        u64,
        u64,
        segmentSizes,
        fc.integer({ min: 0, max: 7 }),
        (timeline, address, system, size, flags) => {
          const bytes = headerBytes({ magic, info: flags | 2, timeline, address, system, size }, littleEndian);
          expect(decodeLongPageHeader(bytes)).toEqual({
            ok: true,
            header: {
              magic,
              littleEndian,
              majorVersion: major,
              timeline,
              pageAddress: address,
              systemIdentifier: system,
              segmentSize: size,
              blockSize: 8192,
            },
          });
        },
      ),
    );
  });
});

test('a magic that no release has yet is read in the byte order in which the sizes are possible ones', () => {
  fc.assert(
    fc.property(unknownMagics, fc.boolean(), segmentSizes, (magic, littleEndian, size) => {
      const fields = { magic, info: 2, timeline: 3, address: BigInt(size) * 5n, system: 7n, size };
      expect(decodeLongPageHeader(headerBytes(fields, littleEndian))).toMatchObject({
        ok: true,
        header: { magic, littleEndian, majorVersion: null, timeline: 3, systemIdentifier: 7n, segmentSize: size },
      });
    }),
  );
});

test.each([
  ['no possible segment size', 1024 * 1024 + 1, 8192],
  ['no possible block size', 1024 * 1024, 512],
  ['a block size that is no power of two', 1024 * 1024, 8191],
  ['a block size above 64 KiB', 1024 * 1024, 131_072],
])('an unknown magic with %s is refused', (_what, size, blockSize) => {
  const bytes = headerBytes({ magic: 0xd130, info: 2, timeline: 1, address: 0n, system: 1n, size }, true);
  bytes.writeUInt32LE(blockSize, 36);
  const result = decodeLongPageHeader(bytes);
  expect(result.ok ? '' : result.reason).toMatch(/with a possible segment size and block size, found 0xD130/);
});

test('every magic below that of PostgreSQL 10 is refused, in both byte orders', () => {
  for (let magic = 0; magic < 0xd097; magic += 1) {
    for (const littleEndian of [true, false]) {
      const bytes = headerBytes(
        { magic, info: 2, timeline: 1, address: 0n, system: 1n, size: 1024 * 1024 },
        littleEndian,
      );
      if (decodeLongPageHeader(bytes).ok) expect({ magic, littleEndian }).toBe('refused');
    }
  }
});

test('no bytes make it throw', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      expect(typeof decodeLongPageHeader(Buffer.from(bytes)).ok).toBe('boolean');
    }),
  );
});

test.each([
  ['too few bytes', Buffer.alloc(39), /40 bytes, found 39/],
  ['zeros', Buffer.alloc(40), /no WAL page magic of PostgreSQL 10 or newer.*, found 0x0000/],
  [
    'PostgreSQL 9.6',
    headerBytes({ magic: 0xd093, info: 2, timeline: 1, address: 0n, system: 1n, size: 1 }, true),
    /0xD093/,
  ],
  [
    'a page that is not the first',
    headerBytes({ magic: 0xd110, info: 5, timeline: 1, address: 0n, system: 1n, size: 1 }, true),
    /no long header/,
  ],
])('%s are refused with the reason', (_what, bytes, reason) => {
  const result = decodeLongPageHeader(bytes);
  expect(result.ok ? '' : result.reason).toMatch(reason);
});
