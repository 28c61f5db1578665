import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../errors.ts';
import type { Codec, CompressFunction, DecompressOptions } from './codec.ts';
import { asBuffer, cutShort, damaged, isStartOf, startsWith, tooLarge } from './decompress-errors.ts';
import {
  maxCompressedSize,
  pipeThrough,
  plainEnvironment,
  programFailed,
  reasonIn,
  runFilter,
  type Command,
} from './external-program.ts';

const KIB = 1024;
const MAGIC = Uint8Array.of(0x04, 0x22, 0x4d, 0x18);
/** By the number in the frame descriptor. */
const BLOCK_SIZES: Readonly<Record<number, number>> = { 4: 64 * KIB, 5: 256 * KIB, 6: 1024 * KIB, 7: 4096 * KIB };
const LARGEST_BLOCK = 4096 * KIB;
/** More frames than any writer of WAL makes: a list of millions takes more memory than any content. */
const MOST_FRAMES = 1000;
/** One byte of an LZ4 block makes at most 255. */
const MAX_RATIO = 255;
/** From here on liblz4 uses its high compression mode (LZ4HC_CLEVEL_MIN), which the library lacks. */
const FIRST_HC_LEVEL = 3;
/** liblz4 takes everything above for this (LZ4HC_CLEVEL_MAX). */
const LAST_HC_LEVEL = 12;

/**
 * LZ4 frames (lz4/doc/lz4_Frame_format.md), with a content checksum. The
 * library has one level, that of `lz4 -1`; the program lz4 gives the others.
 */
export const LZ4: Codec = {
  extension: '.lz4',
  magic: MAGIC,
  inMemory: true,
  levels: { min: 0, max: 16, low: 0, medium: 6, high: 10 },
  compressor: (level) => (level < FIRST_HC_LEVEL ? compressFast : compressHigh(level)),
  program,
  decompress: unlz4,
  // Without the program, the content is bounded all the same.
  start: async (data, length, { signal }) =>
    isInPath('lz4')
      ? (
          await runFilter({ program: 'lz4', args: ['-d', '-c', '-q'] }, data, {
            maxOutput: length,
            env: plainEnvironment(),
            signal,
          })
        ).output
      : null,
};

async function compressFast(data: Uint8Array): Promise<Buffer> {
  const { compressFrameSync } = (await import('lz4-napi')).default;
  // A copy of the right size: the library's buffer is larger than it says, and the garbage collector doesn't know;
  // over many segments the process grew by 100 MB.
  return Buffer.from(compressFrameSync(asBuffer(data), { contentChecksum: true }));
}

function compressHigh(level: number): CompressFunction {
  return (data, signal) =>
    pipeThrough('lz4', programArgs(level), data, {
      maxOutput: maxCompressedSize(data.length),
      env: plainEnvironment(),
      signal,
    });
}

function programArgs(level: number): readonly string[] {
  return ['-z', `-${Math.min(Math.max(level, 1), LAST_HC_LEVEL)}`, '-c', '-q', '--frame-crc'];
}

/**
 * From file to file the program is as quick as the library, and takes none of
 * our memory, of which the library wants three times a segment. For the levels
 * that the library has, the program need not be installed.
 */
function program(level: number): Command | null {
  return level < FIRST_HC_LEVEL && !isInPath('lz4') ? null : { program: 'lz4', args: programArgs(level) };
}

function isInPath(name: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((directory) => {
    try {
      accessSync(join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false; // not in this one
    }
  });
}

async function unlz4(data: Uint8Array, options: DecompressOptions): Promise<Buffer> {
  const { frames, sizeBound } = scanLz4(asBuffer(data));
  // The library decompresses without a limit, but never beyond the bound. Only odd frames have one that says nothing.
  const isUsual = frames.length <= MOST_FRAMES && sizeBound <= options.maxSize + LARGEST_BLOCK;
  const content = isUsual ? await unlz4Frames(frames) : await unlz4Program(data, options);
  if (content.length > options.maxSize) throw tooLarge('lz4', options.maxSize);
  return content;
}

async function unlz4Frames(frames: readonly Buffer[]): Promise<Buffer> {
  const { decompressFrameSync } = (await import('lz4-napi')).default;
  try {
    const pieces = frames.map((frame) => decompressFrameSync(frame));
    const [only] = pieces;
    return only !== undefined && pieces.length === 1 ? only : Buffer.concat(pieces);
  } catch (error) {
    throw damaged('lz4', messageOf(error), error);
  }
}

async function unlz4Program(data: Uint8Array, { maxSize, signal }: DecompressOptions): Promise<Buffer> {
  const command = { program: 'lz4', args: ['-d', '-c', '-q'] };
  const end = await runFilter(command, data, { maxOutput: maxSize, env: plainEnvironment(), signal });
  if (end.tooMuch) throw tooLarge('lz4', maxSize);
  if (end.status === null) throw programFailed(command, end, maxSize);
  if (end.status !== 0) throw damaged('lz4', reasonIn(end.messages));
  return end.output;
}

export interface Lz4Scan {
  /** All of them, or {@link MOST_FRAMES} and one more. */
  readonly frames: readonly Buffer[];
  /** No more than so many bytes of content can come out of the frames. */
  readonly sizeBound: number;
}

/**
 * Walks over the frames without decompressing: the library takes a frame
 * without its end mark for a whole one, and forgets what follows the first.
 *
 * @throws WalwardenError `incomplete-wal` when the last frame isn't complete, `damaged` when something else is found
 */
export function scanLz4(data: Buffer): Lz4Scan {
  const frames: Buffer[] = [];
  let sizeBound = 0;
  let at = 0;
  while (at < data.length) {
    const rest = data.subarray(at);
    if (isStartOf(rest, MAGIC)) throw cutShort('lz4', 'the last frame is not complete');
    if (isSkippable(rest)) {
      at += 8 + readUInt32(rest, 4);
      if (at > data.length) throw cutShort('lz4', 'the last frame is not complete');
    } else if (startsWith(rest, MAGIC)) {
      const frame = scanFrame(rest);
      if (frames.length <= MOST_FRAMES) frames.push(rest.subarray(0, frame.size));
      sizeBound += frame.sizeBound;
      at += frame.size;
    } else {
      throw damaged('lz4', frames.length === 0 ? 'it has no frame' : 'something else follows its end');
    }
  }
  return { frames, sizeBound };
}

function scanFrame(data: Buffer): { readonly size: number; readonly sizeBound: number } {
  const flags = readByte(data, 4);
  const blockSize = BLOCK_SIZES[(readByte(data, 5) >> 4) & 7];
  if (flags >> 6 !== 1) throw damaged('lz4', `its frames have version ${flags >> 6}, expected 1`);
  if (blockSize === undefined) throw damaged('lz4', 'its frame descriptor names no valid block size');
  const has = (bit: number): boolean => ((flags >> bit) & 1) === 1;
  const [blockChecksum, contentSize, contentChecksum, dictionary] = [has(4), has(3), has(2), has(0)];
  let at = 7 + (contentSize ? 8 : 0) + (dictionary ? 4 : 0);
  let sizeBound = 0;
  for (;;) {
    const header = readUInt32(data, at);
    at += 4;
    if (header === 0) break;
    const length = header & 0x7fffffff;
    if (length > blockSize) throw damaged('lz4', `a block of ${length} bytes, at most ${blockSize} expected`);
    // The highest bit marks a block that is stored as it is.
    sizeBound += header > 0x7fffffff ? length : Math.min(blockSize, length * MAX_RATIO);
    at += length + (blockChecksum ? 4 : 0);
  }
  at += contentChecksum ? 4 : 0;
  if (at > data.length) throw cutShort('lz4', 'the last frame is not complete');
  return { size: at, sizeBound };
}

function isSkippable(data: Buffer): boolean {
  return data.length >= 4 && (data.readUInt32LE(0) & 0xfffffff0) === 0x184d2a50;
}

function readByte(data: Buffer, at: number): number {
  const byte = data[at];
  if (byte === undefined) throw cutShort('lz4', 'the last frame is not complete');
  return byte;
}

function readUInt32(data: Buffer, at: number): number {
  if (at + 4 > data.length) throw cutShort('lz4', 'the last frame is not complete');
  return data.readUInt32LE(at);
}
