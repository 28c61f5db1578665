import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { WalFileInfo } from '../../src/wal/wal-file-info.ts';
import { segmentName, walName } from '../../src/wal/wal-name.ts';
import { summariseWals } from '../../src/wal/wal-ranges.ts';
import { segmentSizes } from './arbitraries.ts';

const SIZE = 16 * 1024 * 1024;

const info = (name: string, facts: Partial<WalFileInfo> = {}): WalFileInfo => ({
  name: walName(name),
  size: 100,
  mtime: 1.5,
  compression: null,
  encryption: null,
  ...facts,
});

const segment = (timeline: number, number: number, size = SIZE): WalFileInfo =>
  info(segmentName(timeline, BigInt(number), size));

describe('the summary of a catalogue', () => {
  test('has ranges and gaps of every timeline, across the boundary of logs', async () => {
    const files = [...[254, 255, 256, 260, 262].map((n) => segment(1, n)), segment(2, 256), segment(2, 257)];
    const [first, second, ...others] = await summariseWals([files], SIZE);
    expect(others).toEqual([]);
    expect(first).toMatchObject({
      timeline: 1,
      segments: 5,
      ranges: [
        { first: '0000000100000000000000FE', last: '000000010000000100000000', segments: 3 },
        { first: '000000010000000100000004', last: '000000010000000100000004', segments: 1 },
        { first: '000000010000000100000006', last: '000000010000000100000006', segments: 1 },
      ],
      gaps: [
        { first: '000000010000000100000001', last: '000000010000000100000003', segments: 3 },
        { first: '000000010000000100000005', last: '000000010000000100000005', segments: 1 },
      ],
    });
    // Timeline 2 begins at its switch point: nothing is missing before it.
    expect(second).toMatchObject({ timeline: 2, segments: 2, gaps: [] });
  });

  test('counts every kind of file, and bytes by compression', async () => {
    const files = [
      info('00000002.history', { compression: 'zstd', size: 10 }),
      info('000000020000000000000001', { compression: 'zstd', encryption: 'gpg', size: 20 }),
      info('000000020000000000000001.00000028.backup', { size: 30 }),
      info('000000020000000000000002.partial', { compression: 'gzip', size: 40 }),
    ];
    const [summary] = await summariseWals([files], SIZE);
    expect(summary).toMatchObject({
      timeline: 2,
      firstName: '00000002.history',
      lastName: '000000020000000000000002.partial',
      segments: 1,
      partials: 1,
      backups: 1,
      histories: 1,
      stored: { files: 4, bytes: 100 },
      encrypted: { files: 1, bytes: 20 },
      misfits: 0,
      duplicates: 0,
    });
    expect(summary?.byCompression).toEqual(
      new Map([
        ['zstd', { files: 2, bytes: 30 }],
        ['none', { files: 1, bytes: 30 }],
        ['gzip', { files: 1, bytes: 40 }],
      ]),
    );
  });

  test('tells of segments that the segment size rules out', async () => {
    const [summary] = await summariseWals([[info('000000010000000000000001'), info('0000000100000000000001FF')]], SIZE);
    expect(summary).toMatchObject({ segments: 1, misfits: 1, gaps: [] });
  });

  test('of nothing is nothing', async () => {
    expect(await summariseWals([], SIZE)).toEqual([]);
  });

  test('refuses what is no segment size', async () => {
    await expect(summariseWals([], 5)).rejects.toThrow('not a WAL segment size');
  });

  test('is the same as that of a set of numbers, in whatever order the lines come', async () => {
    const numbers = fc.array(fc.integer({ min: 4000, max: 4200 }), { maxLength: 150 });
    await fc.assert(
      fc.asyncProperty(numbers, segmentSizes, async (list, size) => {
        const [summary] = await summariseWals(
          list.map((number) => [segment(1, number, size)]),
          size,
        );
        const set = new Set(list);
        const edges = [...set].sort((a, b) => a - b).filter((number) => !set.has(number - 1));
        expect(summary?.segments ?? 0).toBe(set.size);
        expect(summary?.duplicates ?? 0).toBe(list.length - set.size);
        expect(summary?.ranges.map(({ first }) => first) ?? []).toEqual(
          edges.map((number) => segmentName(1, BigInt(number), size)),
        );
        const count = (ranges: readonly { segments: number }[] = []): number =>
          ranges.reduce((sum, { segments }) => sum + segments, 0);
        expect(count(summary?.ranges)).toBe(set.size);
        const span = list.length === 0 ? 0 : Math.max(...list) - Math.min(...list) + 1;
        expect(count(summary?.gaps)).toBe(span - set.size);
      }),
    );
  });
});
