import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  checkSegmentSize,
  historyName,
  isSegmentSize,
  isWalName,
  parseWalName,
  segmentName,
  segmentNumber,
  segmentOfLsn,
  segmentStart,
  segmentsPerLog,
  walDirectory,
  walKind,
  walName,
} from '../../src/wal/wal-name.ts';
import { segments, timelines, walNames } from './arbitraries.ts';

const MIB = 1024 * 1024;

describe('names of WAL files', () => {
  test('every kind is told apart, and keeps its bytes', () => {
    fc.assert(
      fc.property(walNames, (name) => {
        const parsed = parseWalName(name);
        expect(parsed?.name).toBe(name);
        expect(parsed?.kind).toBe(walKind(name));
        expect(isWalName(name)).toBe(true);
        expect(walName(name)).toBe(name);
      }),
    );
  });

  test.each([
    ['000000010000000000000001', 'segment', '0000000100000000'],
    ['00000001000000000000000a', 'segment', '0000000100000000'],
    ['000000010000000000000001.partial', 'partial', '0000000100000000'],
    ['000000010000000000000014.00000028.backup', 'backup', '0000000100000000'],
    ['00000002.history', 'history', ''],
  ] as const)('%s is a %s and lies in %j', (text, kind, directory) => {
    expect(walKind(walName(text))).toBe(kind);
    expect(walDirectory(walName(text))).toBe(directory);
  });

  test.each([
    '',
    '.',
    '..',
    '../000000010000000000000001',
    '00000001000000000000000',
    '0000000100000000000000011',
    '00000001000000000000000G',
    '000000010000000000000001\n',
    '\n000000010000000000000001',
    ' 000000010000000000000001',
    '000000010000000000000001.tmp',
    '000000010000000000000001.partial.partial',
    '000000010000000000000001.0000028.backup',
    '00000001.history.gz',
    '00000001.HISTORY',
    '٠٠٠٠٠٠٠١٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠١',
    '000000010000000000000001\0',
    'x'.repeat(255),
  ])('%j is no WAL name', (text) => {
    expect(isWalName(text)).toBe(false);
    expect(parseWalName(text)).toBeUndefined();
    expect(() => walName(text, 'a test')).toThrowError(/not the name of a WAL file: .*\(from a test\)/);
  });

  test('arbitrary text is a name only where the pattern says so, and never with a slash or a control character', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          walNames.chain((name) => fc.string().map((more) => name + more)),
        ),
        (text) => {
          // oxlint-disable-next-line no-control-regex
          if (/[/\u0000-\u001f]/.test(text)) expect(isWalName(text)).toBe(false);
          expect(isWalName(text)).toBe(parseWalName(text) !== undefined);
        },
      ),
    );
  });
});

describe('arithmetic of segments', () => {
  test('name and number are the inverse of each other, for every segment size', () => {
    fc.assert(
      fc.property(timelines, segments, (timeline, { number, size }) => {
        const parsed = parseWalName(segmentName(timeline, number, size));
        if (parsed === undefined) throw new Error('no name');
        expect(parsed.kind).toBe('segment');
        expect(parsed.timeline).toBe(timeline);
        expect(segmentNumber(parsed, size)).toBe(number);
        expect(segmentStart(parsed, size)).toBe(number * BigInt(size));
      }),
    );
  });

  test('the next segment begins where this one ends, and sorts after it', () => {
    fc.assert(
      fc.property(timelines, segments, (timeline, { number, size }) => {
        fc.pre(number > 0n);
        const name = segmentName(timeline, number, size);
        const previous = parseWalName(segmentName(timeline, number - 1n, size));
        if (previous === undefined) throw new Error('no name');
        expect(previous.name < name).toBe(true);
        expect(segmentStart(previous, size) + BigInt(size)).toBe(number * BigInt(size));
      }),
    );
  });

  test('every LSN lies in the segment that is computed for it', () => {
    fc.assert(
      fc.property(timelines, segments, fc.bigInt({ min: 0n, max: 2n ** 30n - 1n }), (timeline, segment, offset) => {
        const { number, size } = segment;
        const lsn = number * BigInt(size) + (offset % BigInt(size));
        expect(segmentOfLsn(timeline, lsn, size)).toBe(segmentName(timeline, number, size));
      }),
    );
  });

  test.each([
    [MIB, 4096, '000000010000000000000FFF', '000000010000000100000000'],
    [16 * MIB, 256, '0000000100000000000000FF', '000000010000000100000000'],
    [64 * MIB, 64, '00000001000000000000003F', '000000010000000100000000'],
    [1024 * MIB, 4, '000000010000000000000003', '000000010000000100000000'],
  ])('with segments of %i bytes a log has %i, and %s is followed by %s', (size, perLog, last, next) => {
    expect(segmentsPerLog(size)).toBe(perLog);
    const parsed = parseWalName(last);
    if (parsed === undefined) throw new Error('no name');
    expect(segmentName(1, segmentNumber(parsed, size) + 1n, size)).toBe(next);
  });

  test('a segment that the size rules out is an error that names both', () => {
    const parsed = parseWalName('000000010000000000000100');
    if (parsed === undefined) throw new Error('no name');
    expect(() => segmentNumber(parsed, 16 * MIB)).toThrowError(
      /000000010000000000000100 has segment number 256.*has 256/,
    );
  });

  test.each([0, -MIB, MIB / 2, 3 * MIB, 2048 * MIB, 1.5 * MIB, Number.NaN, Infinity])(
    '%d is no segment size',
    (size) => {
      expect(isSegmentSize(size)).toBe(false);
      expect(() => checkSegmentSize(size)).toThrowError(/power of two from 1 MiB to 1 GiB/);
    },
  );

  test('a history file is named after its timeline', () => {
    expect(historyName(2)).toBe('00000002.history');
    expect(historyName(0xffff_ffff)).toBe('FFFFFFFF.history');
  });
});
