import { expect, it } from 'vitest';
import { segmentName } from '../../src/wal/wal-name.ts';
import { withCatalogue } from './with-catalogue.ts';

const nameOf = (segment: number): string => segmentName(1, BigInt(segment), 2 ** 24);

it('finds a file wherever its line stands in a large catalogue, and none that has no line', () =>
  withCatalogue(async ({ xlogdb, put }) => {
    // Several times what is read at once.
    const lines = Array.from({ length: 60_000 }, (_, index) => `${nameOf(2 * index)}\t16777216\t1.5\tNone\tNone\n`);
    await put(lines.join(''));
    for (const index of [0, 1, 23_000, 23_001, 23_002, 46_603, 59_999]) {
      expect((await xlogdb.find(segmentName(1, BigInt(2 * index), 2 ** 24)))?.name).toBe(nameOf(2 * index));
      expect(await xlogdb.find(segmentName(1, BigInt(2 * index + 1), 2 ** 24))).toBeUndefined();
    }
  }));

it('a name that only stands in a line that is none is not found', () =>
  withCatalogue(async ({ xlogdb, put }) => {
    await put(`${nameOf(1)} is mentioned here\n${nameOf(2)}\t1\t1.5\tNone\tNone\n`);
    expect(await xlogdb.find(segmentName(1, 1n, 2 ** 24))).toBeUndefined();
    expect((await xlogdb.find(segmentName(1, 2n, 2 ** 24)))?.size).toBe(1);
  }));
