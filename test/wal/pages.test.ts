import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeLongPageHeader, type LongPageHeader } from '../../src/wal/page-header.ts';
import { PageReader, pagesOfSegment } from '../../src/wal/pages.ts';
import { realSegments } from '../support/fixture.ts';
import { makeWal } from '../support/make-wal.ts';

const PAGE = 8192;
const MIB = 1024 * 1024;

function headerOf(bytes: Buffer): LongPageHeader {
  const decoded = decodeLongPageHeader(bytes);
  if (!decoded.ok) throw new Error(decoded.reason);
  return decoded.header;
}

function look(bytes: Buffer, timeline = 1): ReturnType<typeof pagesOfSegment> {
  return pagesOfSegment(bytes, headerOf(bytes), timeline);
}

/** The same segment as a big-endian machine writes its page headers. */
function bigEndian(bytes: Buffer): Buffer {
  const swapped = Buffer.from(bytes);
  for (let at = 0; at < bytes.length; at += PAGE) {
    swapped.subarray(at, at + 4).swap16();
    swapped.subarray(at + 4, at + 8).swap32();
    swapped.subarray(at + 8, at + 16).swap64();
  }
  swapped.subarray(24, 32).swap64();
  swapped.subarray(32, 40).swap32();
  return swapped;
}

describe('a segment is whole', () => {
  test('as PostgreSQL wrote it', async () => {
    for (const [name, bytes] of await realSegments()) {
      expect(look(bytes, Number.parseInt(name.slice(0, 8), 16)).broken).toBeNull();
    }
  });

  test.each([
    ['zeros', (page: Buffer) => page.fill(0)],
    ['pages of an older segment', (page: Buffer) => page.writeBigUInt64LE(0n, 8)],
    ['pages of an older release', (page: Buffer) => page.writeUInt16LE(0xd106, 0)],
    ['pages of an older timeline at the same place', (page: Buffer) => page.writeUInt32LE(1, 4)],
    ['pages of a later timeline than its name has', (page: Buffer) => page.writeUInt32LE(3, 4)],
  ])('when %s follow the end of its WAL, wherever that is', (_what, spoil) => {
    for (const end of [1, 2, 64, 127]) {
      const { bytes } = makeWal({ timeline: 2 });
      for (let page = end; page < MIB / PAGE; page += 1) spoil(bytes.subarray(page * PAGE, (page + 1) * PAGE));
      expect(look(bytes, 2)).toEqual({ end: end * PAGE, broken: null });
    }
  });

  test('when its timeline begins inside it', () => {
    const { bytes } = makeWal({ timeline: 3, pageTimeline: 1 });
    for (let page = 50; page < 128; page += 1) bytes.writeUInt32LE(3, page * PAGE + 4);
    expect(look(bytes, 3)).toEqual({ end: MIB, broken: null });
  });

  test('on a big-endian machine', () => {
    const bytes = bigEndian(makeWal().bytes);
    expect(look(bytes)).toEqual({ end: MIB, broken: null });
    bytes.fill(0, 5 * PAGE, 6 * PAGE);
    expect(look(bytes).broken).toMatchObject({ page: 5, offset: 5 * PAGE });
  });

  test.each([0xd121, 0xd130])('with the unknown magic %i', (magic) => {
    const { bytes } = makeWal();
    for (let at = 0; at < MIB; at += PAGE) bytes.writeUInt16LE(magic, at);
    expect(look(bytes)).toEqual({ end: MIB, broken: null });
  });

  test.each([1024, 2048, 4096, 8192, 16_384, 32_768, 65_536])(
    'with pages of %i bytes, and broken by a hole',
    (blockSize) => {
      const { bytes } = makeWal({ blockSize });
      expect(look(bytes)).toEqual({ end: MIB, broken: null });
      bytes.fill(0, 2 * blockSize, 4 * blockSize);
      expect(look(bytes)).toMatchObject({ end: 2 * blockSize, broken: { page: 2, offset: 2 * blockSize } });
    },
  );
});

describe('a segment is broken', () => {
  test('by zeros in its middle, and the reason names the first page of them and the one behind', () => {
    const { bytes } = makeWal({ size: 4 * MIB });
    bytes.fill(0, MIB, 2 * MIB);
    expect(look(bytes)).toEqual({
      end: MIB,
      broken: {
        offset: MIB,
        page: 128,
        reason:
          'page 128 (at byte 1048576) has the magic 0x0000, and the first page 0xD110, ' +
          'but page 256 (at byte 2097152) is of this segment again: what lies between is missing',
      },
    });
  });

  test.each([
    ['another magic', (page: Buffer) => page.writeUInt16LE(0xd113, 0), /page 7 .* has the magic 0xD113/],
    [
      'another address',
      (page: Buffer) => page.writeBigUInt64LE(77n, 8),
      /page 7 .* has the address 0x4d, and 0x10e000/,
    ],
    ['an upper half of another address', (page: Buffer) => page.writeUInt32LE(1, 12), /has the address 0x10010e000/],
    [
      'a timeline above the name',
      (page: Buffer) => page.writeUInt32LE(4, 4),
      /page 7 .* is of timeline 4, the page before it of timeline 2/,
    ],
    ['a timeline below the page before', (page: Buffer) => page.writeUInt32LE(1, 4), /page 7 .* is of timeline 1/],
  ])('by one page with %s', (_what, spoil, reason) => {
    const { bytes } = makeWal({ timeline: 2 });
    spoil(bytes.subarray(7 * PAGE, 8 * PAGE));
    const { broken } = look(bytes, 2);
    expect(broken).toMatchObject({ page: 7, offset: 7 * PAGE });
    expect(broken?.reason).toMatch(reason);
  });
});

test('a file that is read piece by piece tells the same as a whole one', () => {
  const spans = fc.record({ from: fc.integer({ min: 1, max: 127 }), to: fc.integer({ min: 1, max: 128 }) });
  fc.assert(
    fc.property(spans, fc.integer({ min: 1, max: 16 }), ({ from, to }, pages) => {
      const { bytes } = makeWal();
      if (from < to) bytes.fill(0, from * PAGE, to * PAGE);
      const reader = new PageReader(headerOf(bytes), 1);
      for (let at = 0; at < MIB; at += pages * PAGE) reader.take(bytes.subarray(at, at + pages * PAGE), at);
      expect(reader.result).toEqual(look(bytes));
      expect(reader.result.broken?.page ?? null).toBe(from < to && to < 128 ? from : null);
    }),
    { numRuns: 50 },
  );
});
