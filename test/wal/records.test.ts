import { describe, expect, test } from 'vitest';
import { crc32c } from '../../src/wal/crc32c.ts';
import { decodeLongPageHeader, type LongPageHeader } from '../../src/wal/page-header.ts';
import { followRecords, rightRecords, type RecordsEnd } from '../../src/wal/records.ts';
import { realSegments } from '../support/fixture.ts';
import { partialWal, spliced } from './partial-wal.ts';

const PAGE = 8192;
const wal = await partialWal();
const segments = await realSegments();
const timeline = Number.parseInt(wal.name.slice(0, 8), 16);
const zeros = Buffer.alloc(wal.whole.length);

function headerOf(bytes: Buffer): LongPageHeader {
  const decoded = decodeLongPageHeader(bytes);
  if (!decoded.ok) throw new Error(decoded.reason);
  return decoded.header;
}

const header = headerOf(wal.whole);
const follow = (bytes: Buffer): RecordsEnd => followRecords(bytes, header, timeline);

/** A copy in which some bytes are others. */
function changed(bytes: Buffer, at: number, change: (byte: number) => number, length = 1): Buffer {
  const copy = Buffer.from(bytes);
  for (let next = at; next < at + length; next += 1) copy.writeUInt8(change(copy[next] ?? 0) & 0xff, next);
  return copy;
}

/** Where records lie that begin and end in one page. */
function inOnePage(bytes: Buffer): { start: number; end: number }[] {
  return [...rightRecords(bytes, header, timeline)].filter(
    ({ start, end }) => Math.floor(start / PAGE) === Math.floor((end - 1) / PAGE),
  );
}

describe('the records of a segment', () => {
  test('are followed into the one that goes on behind it: in everything that PostgreSQL wrote', () => {
    for (const [name, bytes] of segments) {
      const found = followRecords(bytes, headerOf(bytes), Number.parseInt(name.slice(0, 8), 16));
      expect({ name, found }).toMatchObject({ name, found: { ending: 'goes-on' } });
      expect(found.end).toBeGreaterThan(bytes.length - 2 * PAGE);
    }
  });

  test('are followed to a switch, whatever stands behind it', () => {
    const begin = wal.end;
    const record = Buffer.alloc(24);
    record.writeUInt32LE(24, 0);
    record.writeBigUInt64LE(header.pageAddress + BigInt(wal.lastRecord), 8);
    record.writeUInt8(0x40, 16);
    record.writeUInt32LE(crc32c([record.subarray(0, 20)]), 20);
    for (const rest of [wal.padded, wal.recycled, wal.whole]) {
      const switched = Buffer.from(rest);
      record.copy(switched, begin);
      expect(follow(switched)).toEqual({ ending: 'switch', end: begin + 24 });
    }
  });

  test('end inside it where nothing of this segment follows: zeros, what the file held before, a record cut short', () => {
    expect(follow(wal.padded)).toEqual({ ending: 'inside', end: wal.end, certain: true });
    expect(follow(wal.recycled)).toEqual({ ending: 'inside', end: wal.end, certain: true });
    const cut = follow(spliced(wal.whole, wal.lastRecord + 24, zeros));
    expect(cut).toEqual({ ending: 'inside', end: wal.lastRecord, certain: false });
  });

  test('are damaged where one has a byte of another, and a page of this segment follows', () => {
    const records = inOnePage(wal.whole).filter(({ end }) => end < wal.whole.length - 2 * PAGE);
    expect(records.length).toBeGreaterThan(100);
    for (const { start, end } of records.filter((_record, index) => index % 97 === 0)) {
      // Its length, transaction, link to the record before, kind, checksum and last byte.
      for (const at of [start, start + 1, start + 4, start + 8, start + 12, start + 17, start + 20, end - 1]) {
        const found = follow(changed(wal.whole, at, (byte) => byte ^ 0x40));
        expect({ at, found }).toMatchObject({ at, found: { ending: 'damaged', end: start } });
      }
    }
  });

  test('are not called damaged in the last page, behind which a crash may have ended the WAL', () => {
    const last = inOnePage(wal.padded).at(-1);
    if (last === undefined) throw new Error('no record');
    const found = follow(changed(wal.padded, last.start + 20, (byte) => byte ^ 1));
    expect(found).toEqual({ ending: 'inside', end: last.start, certain: false });
  });

  test('are not called damaged for a record that goes on behind the segment, whatever it holds', () => {
    for (const [name, bytes] of segments) {
      const own = headerOf(bytes);
      const found = followRecords(bytes, own, timeline);
      if (found.ending !== 'goes-on') continue;
      const spoiled = changed(bytes, bytes.length - 1, (byte) => byte ^ 1);
      expect({ name, found: followRecords(spoiled, own, timeline) }).toEqual({ name, found });
    }
  });

  test('are not called damaged for the one that began in the segment before', () => {
    for (const [, bytes] of segments) {
      const own = headerOf(bytes);
      if ((bytes.readUInt16LE(2) & 1) === 0) continue;
      const spoiled = changed(bytes, 40, (byte) => byte ^ 1);
      expect(followRecords(spoiled, own, timeline)).toEqual(followRecords(bytes, own, timeline));
      spoiled.writeUInt32LE(bytes.readUInt32LE(16) + PAGE, 16);
      expect(followRecords(spoiled, own, timeline).ending).toBe('unknown');
    }
  });

  test('are not judged where a page says that a record was given up', () => {
    const { start } = inOnePage(wal.whole).find((record) => record.start > 20 * PAGE) ?? { start: 0 };
    const page = Math.ceil(start / PAGE) * PAGE;
    const spoiled = changed(wal.whole, start + 20, (byte) => byte ^ 1);
    expect(follow(spoiled).ending).toBe('damaged');
    spoiled.writeUInt16LE(spoiled.readUInt16LE(page + 2) | 0x0008, page + 2);
    expect(follow(spoiled).ending).toBe('unknown');
  });

  test('are not judged of a big-endian machine', () => {
    expect(followRecords(wal.whole, { ...header, littleEndian: false }, timeline)).toMatchObject({
      ending: 'unknown',
      end: 0,
    });
  });
});

describe('the right records of what is left of a segment', () => {
  test('are all of a whole one, those in its last page included', () => {
    let end = 0;
    for (const record of rightRecords(wal.padded, header, timeline)) {
      expect(record.start).toBeGreaterThanOrEqual(end);
      end = record.end;
    }
    expect(Math.ceil(end / 8) * 8).toBe(wal.end);
  });

  test('are those before and behind damage', () => {
    const all = [...rightRecords(wal.whole, header, timeline)];
    const hole = spliced(spliced(wal.whole, 20 * PAGE, zeros), 40 * PAGE, wal.whole);
    const left = [...rightRecords(hole, header, timeline)];
    expect(left.length).toBeLessThan(all.length);
    const missing = all.filter(({ start }) => !left.some((record) => record.start === start));
    for (const { start, end } of missing) {
      expect(end).toBeGreaterThan(20 * PAGE);
      // Those that begin in the hole, and what the page behind it continues.
      expect(start).toBeLessThan(40 * PAGE);
    }
    expect(left.at(-1)).toEqual(all.at(-1));
  });

  test('are found without the first page, and in a file that was cut', () => {
    const all = [...rightRecords(wal.whole, header, timeline)];
    const headless = spliced(zeros.subarray(0, PAGE), PAGE, Buffer.alloc(0));
    const left = [...rightRecords(Buffer.concat([headless, wal.whole.subarray(PAGE)]), header, timeline)];
    expect(left.at(-1)).toEqual(all.at(-1));
    expect(left[0]?.start).toBeGreaterThan(PAGE);
    const cut = [...rightRecords(wal.whole.subarray(0, 10 * PAGE + 100), header, timeline)];
    expect(cut).toEqual(all.filter(({ end }) => end <= 10 * PAGE));
  });

  test('are none in what holds no page of this segment', () => {
    expect([...rightRecords(zeros, header, timeline)]).toEqual([]);
    expect([...rightRecords(Buffer.alloc(0), header, timeline)]).toEqual([]);
  });

  test('whatever the bytes are, nothing is thrown', () => {
    for (let at = 0; at < wal.whole.length; at += 50_021) {
      for (const byte of [0, 0x7f, 0xff]) {
        const broken = changed(wal.whole, at, () => byte, 64);
        follow(broken);
        for (const record of rightRecords(broken, header, timeline)) expect(record.end).toBeGreaterThan(record.start);
      }
    }
  });
});
