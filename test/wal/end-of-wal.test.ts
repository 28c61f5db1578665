import { describe, expect, test } from 'vitest';
import { crc32c } from '../../src/wal/crc32c.ts';
import { findEndOfWal, holdSameWal } from '../../src/wal/end-of-wal.ts';
import { makeWal } from '../support/make-wal.ts';
import { realSegments } from '../support/fixture.ts';
import { partialWal, spliced } from './partial-wal.ts';

const wal = await partialWal();
const zeros = Buffer.alloc(wal.whole.length);

test('CRC-32C is the one that everybody calls so', () => {
  // RFC 3720, B.4
  expect(crc32c([Buffer.from('123456789')])).toBe(0xe3069283);
  expect(crc32c([Buffer.alloc(32)])).toBe(0x8a9136aa);
  expect(crc32c([Buffer.from('1234'), Buffer.alloc(0), Buffer.from('56789')])).toBe(0xe3069283);
  expect(crc32c([])).toBe(0);
});

describe('the end of WAL', () => {
  test('is found in real segments: where pg_switch_wal left zeros, or before a record that ends in the next one', async () => {
    const segments = await realSegments();
    let compared = 0;
    for (const [name, bytes] of segments) {
      const number = Number.parseInt(name.slice(16), 16) + 1;
      const next = segments.get(name.slice(0, 16) + number.toString(16).toUpperCase().padStart(8, '0'));
      if (next === undefined) continue;
      compared += 1;
      const found = findEndOfWal(bytes);
      const isContinued = (next.readUInt16LE(2) & 1) !== 0;
      expect(found?.certain).toBe(!isContinued);
      if (!isContinued) expect(bytes.subarray(found?.end).every((byte) => byte === 0)).toBe(true);
    }
    expect(compared).toBeGreaterThan(2);
  });

  test('is where the records end, followed by zeros or by what a recycled file held', () => {
    expect(wal.end).toBeGreaterThan(wal.lastRecord);
    expect(findEndOfWal(wal.padded)).toEqual({ end: wal.end, certain: true });
    expect(findEndOfWal(wal.recycled)).toEqual({ end: wal.end, certain: true });
    expect(findEndOfWal(wal.shorter)).toEqual({ end: wal.lastRecord, certain: true });
  });

  test('is before a record that is cut short, and then not certain: the rest may be somewhere', () => {
    for (let at = wal.lastRecord + 17; at < wal.end - 8; at += 8) {
      const found = findEndOfWal(spliced(wal.whole, at, zeros));
      // Cut in its padding, or in zeros of its own, it is whole after all.
      if (found?.end !== wal.end) expect(found).toEqual({ end: wal.lastRecord, certain: false });
    }
  });

  test('is at a page that was never written', () => {
    const page = 20 * 8192;
    const { end } = findEndOfWal(spliced(wal.whole, page, zeros)) ?? { end: 0 };
    expect(end).toBeGreaterThan(page - 8192);
    expect(end).toBeLessThanOrEqual(page);
  });

  test('is before a record whose bytes are damaged', () => {
    // Its checksum, its resource manager, its data.
    for (const at of [20, 17, 24]) {
      const damaged = Buffer.from(wal.padded);
      damaged.writeUInt8((damaged[wal.lastRecord + at] ?? 0) ^ 1, wal.lastRecord + at);
      expect(findEndOfWal(damaged)).toEqual({ end: wal.lastRecord, certain: false });
    }
  });

  test('can not be told of what is no segment', () => {
    expect(findEndOfWal(Buffer.alloc(0))).toBeNull();
    expect(findEndOfWal(zeros)).toBeNull();
    expect(findEndOfWal(wal.whole.subarray(0, 500_000))).toBeNull();
    const odd = makeWal({ content: 'zeros' }).bytes;
    odd.writeUInt32LE(100, 36);
    expect(findEndOfWal(odd)).toBeNull();
  });

  test('can not be told when the record that the segment begins with does not end in it', () => {
    const { bytes } = makeWal({ content: 'zeros' });
    bytes.writeUInt16LE(0x0003, 2);
    bytes.writeUInt32LE(20_000, 16);
    expect(findEndOfWal(bytes)).toBeNull();
    bytes.writeUInt32LE(2 << 20, 16);
    expect(findEndOfWal(bytes)).toBeNull();
  });

  test('whatever the bytes are, nothing is thrown', () => {
    for (let at = 40; at < wal.end; at += 4_099) {
      const broken = Buffer.from(wal.padded);
      broken.fill(0xff, at, at + 64);
      expect(findEndOfWal(broken)?.end ?? 0).toBeLessThanOrEqual(wal.end);
    }
  });
});

describe('two copies hold the same WAL', () => {
  test('when only what fills them up differs', () => {
    expect(holdSameWal(wal.padded, wal.recycled)).toBe(true);
    expect(holdSameWal(wal.recycled, wal.padded)).toBe(true);
  });

  test('not when one has a record more, or a byte of another, or half a record', () => {
    expect(holdSameWal(wal.padded, wal.shorter)).toBe(false);
    expect(holdSameWal(wal.shorter, wal.recycled)).toBe(false);
    expect(holdSameWal(wal.padded, wal.whole)).toBe(false);
    expect(holdSameWal(wal.shorter, spliced(wal.whole, wal.lastRecord + 18, zeros))).toBe(false);
    const other = Buffer.from(wal.padded);
    // Where no record's checksum sees it: in the padding of a page's header.
    other[8192 + 20] = 1;
    expect(holdSameWal(wal.padded, other)).toBe(false);
  });

  test('not when one has a hole: zeros where a record begins, and its own pages behind them', () => {
    const boundary = Math.ceil(wal.end / 8192) * 8192;
    // From a record on to the next page, or to a later one; only the last page of all may be left.
    for (const to of [boundary, boundary + 8192, wal.whole.length - 8192]) {
      const hole = spliced(spliced(wal.whole, wal.end, zeros), to, wal.whole);
      const ended = findEndOfWal(hole);
      expect(ended).toEqual({ end: wal.end, certain: false });
      expect(holdSameWal(wal.padded, hole)).toBe(false);
      expect(holdSameWal(hole, wal.recycled)).toBe(false);
    }
    // At a page's beginning: no page there, and one behind it.
    const atPage = spliced(spliced(wal.whole, boundary, zeros), boundary + 8192, wal.whole);
    expect(findEndOfWal(atPage)?.certain).toBe(false);
  });

  test('not when nobody can tell', () => {
    expect(holdSameWal(zeros, zeros)).toBe(false);
    expect(holdSameWal(wal.padded, wal.padded.subarray(0, -8192))).toBe(false);
  });
});
