import { describe, expect, test } from 'vitest';
import { crc32c } from '../../src/wal/crc32c.ts';
import { findEndOfWal } from '../../src/wal/end-of-wal.ts';
import { continuationOf, endInside, isFilled } from '../../src/wal/inner-end.ts';
import { endOfContent } from '../../src/wal/padding.ts';
import { decodeLongPageHeader } from '../../src/wal/page-header.ts';
import { realSegments } from '../support/fixture.ts';
import { makeWal } from '../support/make-wal.ts';
import { partialWal, spliced } from './partial-wal.ts';

const wal = await partialWal();
const segments = await realSegments();
const zeros = Buffer.alloc(wal.whole.length);
const PAGE = 8192;

/** What no WAL ends in. */
const sevens = Buffer.alloc(wal.whole.length, 7);

/** The bytes of a record of pg_switch_wal (XLOG_SWITCH), which has no data. */
function switchRecord(previous: bigint): Buffer {
  const record = Buffer.alloc(24);
  record.writeUInt32LE(24, 0);
  record.writeBigUInt64LE(previous, 8);
  record.writeUInt8(0x40, 16);
  record.writeUInt32LE(crc32c([record.subarray(0, 20)]), 20);
  return record;
}

/** The WAL up to its last record, and then a switch. */
function switched(): Buffer {
  const bytes = Buffer.from(wal.padded);
  switchRecord(wal.padded.readBigUInt64LE(8) + BigInt(wal.lastRecord)).copy(bytes, wal.end);
  return bytes;
}

describe('the WAL of a segment ends inside', () => {
  test('where its records end, and zeros or the rest of a recycled file follow', () => {
    expect(endInside(wal.recycled)).toBe(wal.end);
    expect(endInside(wal.padded)).toBe(endOfContent(wal.padded));
    expect(endInside(wal.shorter)).toBe(endOfContent(wal.shorter));
  });

  test('also where a record is cut short, as long as only zeros follow', () => {
    for (let at = wal.lastRecord + 24; at < wal.end - 8; at += 8) {
      const cut = spliced(wal.whole, at, zeros);
      expect(endInside(cut)).toBe(endOfContent(cut));
      // What a recycled file held may be the rest of it.
      expect(endInside(spliced(wal.whole, at, sevens))).toBeNull();
    }
  });

  test('at the end of any page, and in the middle of any record that spans pages', () => {
    for (let at = PAGE; at <= wal.whole.length - 2 * PAGE; at += 3 * PAGE) {
      for (const offset of [at - 16, at, at + 24, at + 48]) {
        const cut = spliced(wal.whole, offset, zeros);
        expect(endInside(cut)).toBe(endOfContent(cut));
      }
    }
  });

  test('not in a full one', () => {
    for (const bytes of segments.values()) expect(endInside(bytes)).toBeNull();
  });

  test('not in one that a switch ended, though zeros follow', () => {
    expect(findEndOfWal(switched())).toEqual({ end: wal.end + 24, certain: true });
    expect(endInside(switched())).toBeNull();
    // In a recycled file that nothing was written to behind it.
    expect(endInside(spliced(switched(), wal.end + 24, sevens))).toBeNull();
    // Without its checksum it is no switch.
    const torn = switched();
    torn.writeUInt8((torn[wal.end + 20] ?? 0) ^ 1, wal.end + 20);
    expect(endInside(torn)).not.toBeNull();
  });

  test('not in one that a switch ended over two pages', () => {
    for (const before of [8, 16]) {
      const bytes = spliced(wal.whole, 3 * PAGE - before, zeros);
      const record = switchRecord(1n);
      wal.whole.copy(bytes, 3 * PAGE, 3 * PAGE, 3 * PAGE + 24);
      record.copy(bytes, 3 * PAGE - before, 0, before);
      record.copy(bytes, 3 * PAGE + 24, before);
      expect(endInside(bytes)).toBeNull();
    }
  });

  test('not where PostgreSQL 10 left the headers of the pages behind a switch', () => {
    const old = switched();
    for (let at = Math.ceil(wal.end / PAGE) * PAGE; at < old.length; at += PAGE) {
      old.copy(old, at, PAGE, PAGE + 24);
      old.writeUInt16LE(0, at + 2);
      old.writeUInt32LE(0, at + 16);
      old.writeBigUInt64LE(old.readBigUInt64LE(8) + BigInt(at), at + 8);
    }
    expect(endInside(old)).toBeNull();
  });

  test('not where nobody can tell: big-endian WAL, no segment, a wrong size', () => {
    expect(endInside(zeros)).toBeNull();
    expect(endInside(Buffer.alloc(0))).toBeNull();
    expect(endInside(wal.padded.subarray(0, 500_000))).toBeNull();
    const big = Buffer.from(wal.padded);
    big.subarray(0, 2).swap16();
    big.subarray(32, 36).swap32();
    expect(endInside(big)).toBeNull();
  });

  test('of invented records only where the pages stop', () => {
    const { bytes } = makeWal();
    expect(endInside(bytes)).toBeNull();
    expect(endInside(makeWal({ content: 'zeros' }).bytes)).toBeNull();
    expect(endInside(spliced(bytes, 300_000, Buffer.alloc(bytes.length)))).toBe(300_000);
  });

  test('a stale page of an older timeline at the end does not make a segment full', () => {
    const stale = spliced(wal.padded, wal.padded.length - PAGE, wal.whole);
    const young = Buffer.from(stale);
    for (let at = 0; at < young.length - PAGE; at += PAGE) {
      if (young.readUInt16LE(at) !== 0) young.writeUInt32LE(young.readUInt32LE(at + 4) + 1, at + 4);
    }
    const decoded = decodeLongPageHeader(young);
    expect(decoded.ok && isFilled(young.subarray(-PAGE), decoded.header)).toBe(false);
  });
});

describe('a longer copy', () => {
  const end = (bytes: Buffer): number => endInside(bytes) ?? -1;

  test.each([
    ['the whole segment', wal.padded, wal.whole, 'goes on'],
    ['the whole segment, of a recycled file', wal.recycled, wal.whole, 'goes on'],
    ['a record more', wal.shorter, wal.padded, 'goes on'],
    ['a record more, in a recycled file', wal.shorter, wal.recycled, 'goes on'],
    ['half a record more', wal.shorter, spliced(wal.whole, wal.lastRecord + 24, zeros), 'goes on'],
    ['some pages more', wal.padded, spliced(wal.whole, wal.end + 3 * PAGE, zeros), 'goes on'],
    ['the same bytes', wal.padded, wal.padded, 'same'],
    ['the same WAL, filled up with something else', wal.padded, wal.recycled, 'same'],
    ['the same WAL, filled up with zeros', wal.recycled, wal.padded, 'same'],
    ['less', wal.padded, wal.shorter, 'other'],
    ['less, in a recycled file', wal.recycled, wal.shorter, 'other'],
    ['nothing', wal.padded, zeros, 'other'],
    ['another size', wal.padded, wal.whole.subarray(0, -PAGE), 'other'],
    ['half a record more, and then what was there before', wal.shorter, half(), 'unknown'],
  ] as const)('with %s', (_what, segment, copy, expected) => {
    expect(continuationOf(copy, segment, end(segment))).toBe(expected);
  });

  test('with any byte of another in what it should begin with is another', () => {
    for (let at = 0; at < end(wal.padded); at += 4_999) {
      const other = Buffer.from(wal.whole);
      other[at] = (other[at] ?? 0) ^ 1;
      expect(continuationOf(other, wal.padded, end(wal.padded))).toBe('other');
    }
  });

  test('goes on from wherever real WAL is cut', () => {
    for (const bytes of segments.values()) {
      for (let at = PAGE; at <= bytes.length - 2 * PAGE; at += 50_003) {
        const cut = spliced(bytes, at, zeros);
        expect(continuationOf(bytes, cut, end(cut))).toBe('goes on');
        expect(continuationOf(cut, cut, end(cut))).toBe('same');
      }
    }
  });

  /** The last record without its end, which nobody can tell from what follows. */
  function half(): Buffer {
    return spliced(wal.whole, wal.lastRecord + 24, sevens);
  }
});
