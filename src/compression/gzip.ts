import type { Codec, DecompressOptions } from './codec.ts';
import { asBuffer, cutShort, damaged, tooLarge } from './decompress-errors.ts';

const MIB = 1024 * 1024;

/** The trailer's size is believed up to here; beyond, zlib's output comes in pieces of PIECE bytes. */
const MAX_HINT = 256 * MIB;
const PIECE = 4 * MIB;
/** A trailer that says too little must not make millions of pieces. */
const SMALLEST_PIECE = 64 * 1024;

/** gzip (RFC 1952) by Node's zlib. Its format lets us tell damage (CRC-32 and size) and every cut but one between two members. */
export const GZIP: Codec = {
  extension: '.gz',
  magic: Uint8Array.of(0x1f, 0x8b, 0x08),
  inMemory: true,
  levels: { min: 1, max: 9, low: 1, medium: 6, high: 9 },
  compressor: (level) => async (data) => {
    const { gzipSync } = await import('node:zlib');
    return gzipSync(data, { level, memLevel: 9, chunkSize: MIB });
  },
  decompress: gunzip,
  start: gunzipStart,
};

async function gunzip(data: Uint8Array, { maxSize }: DecompressOptions): Promise<Buffer> {
  const { gunzipSync } = await import('node:zlib');
  let result: unknown;
  try {
    // One piece of the right size saves joining pieces. One byte more, or zlib asks for another to see that it is done.
    const chunkSize = Math.max(Math.min(sizeHint(data), maxSize) + 1, SMALLEST_PIECE);
    result = gunzipSync(data, { chunkSize, maxOutputLength: Math.max(maxSize, 1), info: true });
  } catch (error) {
    throw translated(error, maxSize);
  }
  const { buffer, consumed } = unpackInfo(result);
  // Node stops at a zero byte after a member. Like gzip(1) we take zeros for padding, and nothing else.
  if (data.subarray(consumed).some((byte) => byte !== 0)) throw damaged('gzip', 'something else follows its end');
  if (buffer.length > maxSize) throw tooLarge('gzip', maxSize);
  return buffer;
}

async function gunzipStart(data: Uint8Array, length: number): Promise<Buffer | null> {
  const { createGunzip } = await import('node:zlib');
  const stream = createGunzip({ chunkSize: Math.max(length, 1024) });
  const pieces: Buffer[] = [];
  let size = 0;
  stream.end(data);
  try {
    // Leaving the loop ends the stream.
    for await (const piece of stream) {
      if (!Buffer.isBuffer(piece)) return null;
      pieces.push(piece);
      size += piece.length;
      if (size >= length) break;
    }
  } catch {
    return null; // what is wrong with it, the whole of it tells better
  }
  return Buffer.concat(pieces).subarray(0, length);
}

/** What the last member says of its size; a piece's size where that can't be or is too much to be believed. */
function sizeHint(data: Uint8Array): number {
  if (data.length < 18) return 0;
  const hint = asBuffer(data).readUInt32LE(data.length - 4);
  // Deflate makes at most 1032 bytes of one.
  return hint > MAX_HINT || hint > data.length * 1032 ? PIECE : hint;
}

function translated(error: unknown, maxSize: number): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error;
  switch (error.code) {
    case 'Z_BUF_ERROR':
      return cutShort('gzip', error.message, error);
    case 'Z_DATA_ERROR':
    case 'Z_NEED_DICT':
      return damaged('gzip', error.message, error);
    case 'ERR_BUFFER_TOO_LARGE':
      return tooLarge('gzip', maxSize);
    default:
      return error;
  }
}

/** The `info` option is declared, its result is not. */
function unpackInfo(result: unknown): { readonly buffer: Buffer; readonly consumed: number } {
  if (typeof result === 'object' && result !== null && 'buffer' in result && 'engine' in result) {
    const { buffer, engine } = result;
    if (Buffer.isBuffer(buffer) && typeof engine === 'object' && engine !== null && 'bytesWritten' in engine) {
      if (typeof engine.bytesWritten === 'number') return { buffer, consumed: engine.bytesWritten };
    }
  }
  throw new TypeError('zlib gave no info');
}
