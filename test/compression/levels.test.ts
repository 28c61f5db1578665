import { beforeAll, describe, expect, it } from 'vitest';
import { COMPRESSION_NAMES, type CompressionName } from '../../src/compression/codec.ts';
import { createCompressor } from '../../src/compression/codecs.ts';
import { realSegments } from '../support/fixture.ts';
import { SYSTEM_TOOLS, pipe } from './system-tools.ts';

type StandardName = keyof typeof SYSTEM_TOOLS;
const STANDARD = COMPRESSION_NAMES.filter((name) => name !== 'custom');

/** All levels of Barman's documentation, pigz as gzip. */
const LEVELS: Readonly<Record<StandardName, readonly number[]>> = {
  gzip: range(1, 9),
  pygzip: [6],
  pigz: range(1, 9),
  bzip2: range(1, 9),
  pybzip2: [9],
  xz: range(1, 9),
  zstd: [-22, -7, -3, -1, ...range(0, 22)],
  lz4: range(0, 16),
  snappy: [0],
};

let wal: Buffer = Buffer.alloc(0);

beforeAll(async () => {
  // Half of the one with most in it: the highest levels are slow.
  wal = [...(await realSegments()).values()].at(-1)?.subarray(0, 512 * 1024) ?? wal;
});

it.each(STANDARD)(
  '%s makes at every level at most 1.05 times what the system tool makes',
  async (name) => {
    const tool = SYSTEM_TOOLS[name];
    for (const level of LEVELS[name]) {
      const ours = await createCompressor({ compression: name, level }).compress(wal);
      const theirs = await pipe(tool.compress(name === 'lz4' ? Math.min(level, 12) : level), wal);
      expect(ours.length / theirs.length, `level ${level}: ${ours.length} and ${theirs.length}`).toBeLessThan(1.05);
      expect((await pipe(tool.decompress, ours)).equals(wal), `level ${level}`).toBe(true);
    }
  },
  240_000,
);

describe('levels', () => {
  const sizeAt = async (compression: CompressionName, level: number | 'low' | 'medium' | 'high'): Promise<number> =>
    (await createCompressor({ compression, level }).compress(wal)).length;

  it.each([
    ['gzip', 1, 6, 9],
    ['pigz', 1, 6, 9],
    ['bzip2', 1, 5, 9],
    ['xz', 1, 3, 5],
    ['zstd', 1, 4, 9],
    ['lz4', 0, 6, 10],
  ] as const)('of %s have the words low, medium and high, and medium as default', async (name, low, medium, high) => {
    expect(await sizeAt(name, 'low')).toBe(await sizeAt(name, low));
    expect(await sizeAt(name, 'medium')).toBe(await sizeAt(name, medium));
    expect(await sizeAt(name, 'high')).toBe(await sizeAt(name, high));
    const byDefault = await createCompressor({ compression: name }).compress(wal);
    expect(byDefault.length).toBe(await sizeAt(name, medium));
  });

  it.each([
    ['gzip', 1, 9],
    ['bzip2', 1, 9],
    ['xz', 1, 9],
    ['zstd', -22, 22],
    ['lz4', 0, 16],
  ] as const)('of %s are clipped to its range', async (name, min, max) => {
    expect(await sizeAt(name, min - 1000)).toBe(await sizeAt(name, min));
    expect(await sizeAt(name, max + 1000)).toBe(await sizeAt(name, max));
  });

  it('change from file to file on one thread (zstd keeps its context)', async () => {
    const before = await sizeAt('zstd', 1);
    expect(await sizeAt('zstd', 19)).toBeLessThan(before);
    expect(await sizeAt('zstd', 1)).toBe(before);
  });
});

function range(from: number, to: number): readonly number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}
