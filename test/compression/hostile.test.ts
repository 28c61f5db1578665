import { describe, expect, test } from 'vitest';
import type { CompressionName } from '../../src/compression/codec.ts';
import { decompress } from '../../src/compression/codecs.ts';
import { firstDictionary } from '../../src/compression/xz-header.ts';
import { run } from '../support/run.ts';

const MIB = 1024 * 1024;
const MAX_SIZE = 16 * MIB;

async function filter(program: string, args: readonly string[], input: Buffer): Promise<Buffer> {
  const { status, bytes, stderr } = await run(program, args, { input });
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`);
  return bytes;
}

/** What the process holds more, at its peak, while this runs. These tests come first: the peak is that of the process. */
async function grownBy(work: () => Promise<unknown>): Promise<number> {
  const before = process.memoryUsage().rss;
  await work().catch(() => undefined);
  return process.resourceUsage().maxRSS * 1024 - before;
}

/** Many of one piece: what is kept for each piece must not add up. */
async function millionsOf(compression: 'zstd' | 'lz4' | 'snappy' | 'gzip'): Promise<Buffer> {
  if (compression === 'snappy') {
    // An uncompressed chunk of one byte, with the CRC-32C of a zero, masked.
    const chunk = Buffer.from([0x01, 0x05, 0, 0, 0, 0, 0, 0, 0]);
    return Buffer.concat([Buffer.from('ff060000734e61507059', 'hex'), Buffer.alloc(16 * MIB, chunk)]);
  }
  const program = compression === 'gzip' ? 'gzip' : compression;
  const one = await filter(program, ['-c'], Buffer.alloc(0));
  const pieces = Math.floor((16 * MIB) / one.length);
  return Buffer.alloc(pieces * one.length, one);
}

test.each(['zstd', 'lz4', 'snappy', 'gzip'] as const)(
  'millions of pieces of %s take no more memory than their content may have',
  async (compression) => {
    const many = await millionsOf(compression);
    const grown = await grownBy(() => decompress(many, compression, { maxSize: MAX_SIZE }));
    expect(grown).toBeLessThan(100 * MIB);
  },
  30_000,
);

const zeros = Buffer.alloc(64 * MIB);

describe('what decompresses to more than there can be', () => {
  test.each<[CompressionName, string, string[]]>([
    ['zstd', 'zstd', ['-c', '-q']],
    ['zstd', 'zstd', ['-c', '-q', '-1', '--long=31']],
    ['gzip', 'gzip', ['-c']],
    ['bzip2', 'bzip2', ['-c']],
    ['xz', 'xz', ['-c', '-1']],
    ['lz4', 'lz4', ['-c', '-q']],
  ])('%s (%s %j) is damaged', async (compression, program, args) => {
    const bomb = await filter(program, args, zeros);
    await expect(decompress(bomb, compression, { maxSize: MAX_SIZE })).rejects.toMatchObject({ code: 'damaged' });
    const fits = await filter(program, args, zeros.subarray(0, MAX_SIZE));
    expect((await decompress(fits, compression, { maxSize: MAX_SIZE })).equals(zeros.subarray(0, MAX_SIZE))).toBe(true);
  });

  test('gzip, also when its trailer says that it is tiny', async () => {
    const bomb = Buffer.concat([await filter('gzip', ['-c'], zeros), await filter('gzip', ['-c'], Buffer.alloc(1))]);
    await expect(decompress(bomb, 'gzip', { maxSize: MAX_SIZE })).rejects.toMatchObject({ code: 'damaged' });
  });
});

test('a frame of zstd with a window of 128 MiB, or of 2 GiB, is read like any other', async () => {
  const content = Buffer.alloc(3 * MIB, 'some content that repeats, ');
  for (const long of [27, 31]) {
    const frame = await filter('zstd', ['-c', '-q', '-1', `--long=${long}`], content);
    expect((await decompress(frame, 'zstd', { maxSize: MAX_SIZE })).equals(content)).toBe(true);
  }
});

describe('a dictionary of xz', () => {
  test.each([1, 4, 48, 64, 96, 128, 192])('of %d MiB is told by its header', async (mib) => {
    const file = await filter('xz', ['-c', `--lzma2=preset=1,dict=${mib}MiB`], Buffer.alloc(100_000));
    expect(firstDictionary(file)).toBe(mib * MIB);
  });

  test('is found behind other filters, and behind the sizes of a block', async () => {
    const file = await filter('xz', ['-c', '--x86', '--delta=dist=4', '--lzma2=preset=1,dict=96MiB'], Buffer.alloc(9));
    expect(firstDictionary(file)).toBe(96 * MIB);
    const sized = await filter(
      'xz',
      ['-c', '-T2', '--block-size=65536', '--lzma2=preset=1,dict=96MiB'],
      Buffer.alloc(200_000),
    );
    expect(firstDictionary(sized)).toBe(96 * MIB);
    expect(firstDictionary(file.subarray(0, 14))).toBe(0);
  });

  test('is refused where it is larger than allowed, in any block, and read where there is no limit', async () => {
    const content = Buffer.alloc(100_000, 'content');
    const small = await filter('xz', ['-c', '--lzma2=preset=1,dict=64MiB'], content);
    const large = await filter('xz', ['-c', '--lzma2=preset=1,dict=65MiB'], content);
    const limits = { maxSize: MAX_SIZE, maxDictionary: 64 * MIB };
    expect((await decompress(small, 'xz', limits)).equals(content)).toBe(true);
    for (const file of [large, Buffer.concat([small, large])]) {
      await expect(decompress(file, 'xz', limits)).rejects.toMatchObject({
        code: 'damaged',
        message: expect.stringContaining('dictionary'),
      });
      expect((await decompress(file, 'xz', { maxSize: MAX_SIZE })).length).toBeGreaterThanOrEqual(content.length);
    }
  });
});
