import * as fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { COMPRESSION_NAMES, type CompressionName } from '../../src/compression/codec.ts';
import { createCompressor, decompress } from '../../src/compression/codecs.ts';
import { WalwardenError } from '../../src/errors.ts';
import { realSegments } from '../support/fixture.ts';
import { SYSTEM_TOOLS, pipe } from './system-tools.ts';

const STANDARD = COMPRESSION_NAMES.filter((name) => name !== 'custom' && name !== 'pygzip' && name !== 'pybzip2');
const MIB = 1024 * 1024;

let wal: Buffer = Buffer.alloc(0);
/** By codec: a file of ours and one of the system tool. */
const files = new Map<CompressionName, readonly Buffer[]>();

beforeAll(async () => {
  wal = [...(await realSegments()).values()][1] ?? wal;
  for (const name of STANDARD) {
    const file = await createCompressor({ compression: name }).compress(wal);
    files.set(name, [file, await pipe(SYSTEM_TOOLS[name].compress(1), wal)]);
  }
});

/** What decompression says: the bytes, or the code of its error. Anything but our own errors is a failure. */
async function outcome(data: Uint8Array, name: CompressionName, maxSize = wal.length): Promise<Buffer | string> {
  try {
    return await decompress(data, name, { maxSize });
  } catch (error) {
    if (!(error instanceof WalwardenError)) throw error;
    expect(error.message).toMatch(/^the \w+ data is (cut short|damaged): [^\n]*[^\n .:;]$/);
    expect(error.message).toContain(name === 'pigz' ? /pigz|gzip/.exec(error.message)?.[0] : name);
    return error.code;
  }
}

function ours(name: CompressionName): Buffer {
  return files.get(name)?.[0] ?? Buffer.alloc(0);
}

describe.each(STANDARD)('%s', (name) => {
  it('tells a file cut short, wherever it is cut', async () => {
    for (const file of files.get(name) ?? []) {
      const middle = Array.from({ length: 20 }, (_, index) => 30 + Math.floor(((file.length - 60) * index) / 20));
      const cuts = [...range(0, 30), ...middle, ...range(file.length - 30, file.length - 1)];
      const boundaries = name === 'snappy' ? chunkBoundaries(file) : new Set<number>();
      for (const cut of cuts) {
        const result = await outcome(file.subarray(0, cut), name);
        // Documented: snappy's stream has no end mark.
        if (boundaries.has(cut)) expect(Buffer.isBuffer(result) && result.length < wal.length, `${cut}`).toBe(true);
        else expect(result, `cut at ${cut} of ${file.length}`).toBe('incomplete-wal');
      }
    }
  });

  it('tells a second file that is cut short', async () => {
    const file = ours(name);
    for (const length of [1, 2, file.length >> 1, file.length - 1]) {
      const both = Buffer.concat([file, file.subarray(0, length)]);
      expect(await outcome(both, name, 2 * wal.length), `${length}`).toBe('incomplete-wal');
    }
  });

  it('never gives wrong bytes for a flipped bit', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.nat(7), async (position, bit) => {
        const [first, second] = files.get(name) ?? [];
        for (const file of [first, second]) {
          if (file === undefined) throw new Error('no file');
          const result = await outcome(flipped(file, position % file.length, bit), name);
          // Some bits of a header say nothing of the content (a time stamp, who wrote it).
          if (Buffer.isBuffer(result)) expect(result.equals(wal)).toBe(true);
          else expect(['damaged', 'incomplete-wal']).toContain(result);
        }
      }),
      { numRuns: 60 },
    );
  });

  it('says damaged for flipped bits in the middle and in the last checksum', async () => {
    const file = ours(name);
    // gzip ends in CRC and size, xz in a footer, the others in a checksum (bzip2's last bits are padding).
    for (const position of [file.length >> 1, (file.length >> 1) + 1, file.length - 5]) {
      expect(await outcome(flipped(file, position, 2), name), `${position} of ${file.length}`).toBe('damaged');
    }
  });

  it('says damaged for a wrong magic number', async () => {
    const file = ours(name);
    expect(await outcome(flipped(file, 0, 0), name)).toBe('damaged');
    expect(await outcome(wal, name)).toBe('damaged');
  });

  it('says damaged when something follows', async () => {
    const file = ours(name);
    for (const garbage of ['x', 'garb', 'garbage that is long enough for a header']) {
      const result = await outcome(Buffer.concat([file, Buffer.from(garbage)]), name);
      // Nothing is taken, but so few bytes are not looked at: they could be the beginning of a chunk or a member.
      const headerSize = name === 'snappy' ? 4 : name === 'gzip' || name === 'pigz' ? 2 : 0;
      const isShort = garbage.length < headerSize;
      expect(result, garbage).toBe(isShort ? 'incomplete-wal' : 'damaged');
    }
    expect(await outcome(Buffer.concat([file, wal.subarray(0, 8192)]), name)).not.toBeInstanceOf(Buffer);
  });

  it('takes exactly maxSize bytes and not one more', async () => {
    for (const file of files.get(name) ?? []) {
      expect(isBytes(await outcome(file, name, wal.length), wal)).toBe(true);
      expect(await outcome(file, name, wal.length - 1)).toBe('damaged');
    }
  });
});

describe('a bomb', () => {
  const ZEROS = 256 * MIB;
  const cases: readonly (readonly [CompressionName, string])[] = [
    ['gzip', 'gzip -1'],
    ['bzip2', 'bzip2 -1'],
    ['xz', 'xz -0 -T1'],
    ['zstd', 'zstd -q -1'],
    ['lz4', 'lz4 -q -1'],
    ['lz4', 'lz4 -q -1 -BD -B4'],
  ];

  it.each(cases)('of %s made by %s is stopped before it takes memory', async (name, command) => {
    const bomb = await pipe(['sh', '-c', `head -c ${ZEROS} /dev/zero | ${command} -c`], Buffer.alloc(0));
    const before = process.resourceUsage().maxRSS;
    expect(await outcome(bomb, name, MIB)).toBe('damaged');
    // KiB.
    expect(process.resourceUsage().maxRSS - before).toBeLessThan(32 * 1024);
  });

  it('of zstd that says its size, or lies about it, is stopped', async () => {
    const zeros = Buffer.alloc(64 * MIB);
    const bomb = await createCompressor({ compression: 'zstd' }).compress(zeros);
    expect(await outcome(bomb, 'zstd', MIB)).toBe('damaged');
    // Frame_Content_Size of 4 bytes behind magic number and descriptor, for a single segment.
    bomb.writeUInt32LE(1000, 5);
    expect(await outcome(bomb, 'zstd', MIB)).toBe('damaged');
    bomb.writeUInt32LE(0xfffffff0, 5);
    expect(await outcome(bomb, 'zstd', MIB)).toBe('damaged');
  });

  it('of snappy, by its chunks or by what one promises, is stopped', async () => {
    const bomb = await createCompressor({ compression: 'snappy' }).compress(Buffer.alloc(64 * MIB));
    expect(await outcome(bomb, 'snappy', MIB)).toBe('damaged');
    const one = await createCompressor({ compression: 'snappy' }).compress(Buffer.alloc(65536));
    // The block's size, three bytes behind identifier, chunk header and checksum, becomes 128 KiB.
    one.writeUInt8(one.readUInt8(20) << 1, 20);
    expect(await outcome(one, 'snappy', MIB)).toBe('damaged');
  });

  it('of gzip whose trailer lies about its size is stopped, or read where it is honest', async () => {
    const two = Buffer.concat([
      ours('gzip'),
      await createCompressor({ compression: 'gzip' }).compress(Buffer.from('x')),
    ]);
    expect(await outcome(two, 'gzip', wal.length)).toBe('damaged');
    const both = Buffer.concat([wal, Buffer.from('x')]);
    expect(isBytes(await outcome(two, 'gzip', both.length), both)).toBe(true);
  });
});

/** Not toEqual: it takes seconds for a segment. */
function isBytes(result: Buffer | string, expected: Buffer): boolean {
  return Buffer.isBuffer(result) && result.equals(expected);
}

function flipped(file: Buffer, position: number, bit: number): Buffer {
  const copy = Buffer.from(file);
  copy.writeUInt8(copy.readUInt8(position) ^ (1 << bit), position);
  return copy;
}

function range(from: number, to: number): readonly number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}

function chunkBoundaries(file: Buffer): ReadonlySet<number> {
  const boundaries = new Set<number>();
  for (let at = 0; at < file.length; at += 4 + file.readUIntLE(at + 1, 3)) if (at > 0) boundaries.add(at);
  return boundaries;
}
