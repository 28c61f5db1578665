import type { CCtx, DCtx } from 'zstd-napi/binding.js';
import { messageOf } from '../errors.ts';
import type { Codec, DecompressOptions } from './codec.ts';
import { asBuffer, cutShort, damaged, tooLarge } from './decompress-errors.ts';

/** A segment of 64 MiB and what zstd adds to it. Larger buffers are not kept. */
const MAX_SCRATCH = 65 * 1024 * 1024;
const MAX_BLOCK = 128 * 1024;
const MAX_PIECE = 16 * 1024 * 1024;

/** The binding itself: the package's own classes allocate a worst-case buffer for every call, and decompress without a limit. */
const loadBinding = async () => (await import('zstd-napi/binding.js')).default;
type Binding = Awaited<ReturnType<typeof loadBinding>>;

/**
 * What a thread keeps from file to file. Contexts hold megabytes that the
 * garbage collector doesn't see: one each, for ever.
 */
let compression: { readonly context: CCtx; readonly level: number } | undefined;
let scratch: Buffer | undefined;
let decompression: DCtx | undefined;

/** zstd frames (RFC 8878), with a content checksum. */
export const ZSTD: Codec = {
  extension: '.zst',
  magic: Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd),
  inMemory: true,
  levels: { min: -22, max: 22, low: 1, medium: 4, high: 9 },
  compressor: (level) => async (data) => {
    const zstd = await loadBinding();
    // Copied before anybody else can have a turn, who would overwrite it.
    return Buffer.from(compressIntoScratch(zstd, level, data));
  },
  transientCompressor: (level) => async (data, _signal, into) =>
    compressIntoScratch(await loadBinding(), level, data, into),
  decompress: unzstd,
};

/** Into the caller's buffer, or the one that all compressions of this thread share. */
function compressIntoScratch(zstd: Binding, level: number, data: Uint8Array, into?: Buffer): Buffer {
  const bound = zstd.compressBound(data.length);
  const target = into !== undefined && into.length >= bound ? into : scratchFor(bound);
  const size = contextFor(zstd, level).compress2(target, data);
  return target.subarray(0, size);
}

function contextFor(zstd: Binding, level: number): CCtx {
  if (compression?.level !== level) {
    const context = compression?.context ?? new zstd.CCtx();
    context.reset(zstd.ResetDirective.sessionAndParameters);
    context.setParameter(zstd.CParameter.compressionLevel, level);
    context.setParameter(zstd.CParameter.checksumFlag, 1);
    compression = { context, level };
  }
  return compression.context;
}

function scratchFor(size: number): Buffer {
  if (scratch !== undefined && scratch.length >= size) return scratch;
  const buffer = Buffer.allocUnsafeSlow(size);
  if (size <= MAX_SCRATCH) scratch = buffer;
  return buffer;
}

async function unzstd(data: Uint8Array, { maxSize }: DecompressOptions): Promise<Buffer> {
  const zstd = await loadBinding();
  decompression ??= new zstd.DCtx();
  const pieces: Buffer[] = [];
  let size = 0;
  for (let rest = asBuffer(data); rest.length > 0;) {
    const frame = rest.subarray(0, frameSize(zstd, rest));
    rest = rest.subarray(frame.length);
    if (isSkippable(frame)) continue;
    const piece = unzstdFrame(zstd, decompression, frame, maxSize - size);
    if (piece === null) throw tooLarge('zstd', maxSize);
    pieces.push(piece);
    size += piece.length;
  }
  const [only] = pieces;
  return only !== undefined && pieces.length === 1 ? only : Buffer.concat(pieces, size);
}

/** Bytes of the frame at the beginning, found by walking over its blocks: it tells a cut from damage. */
function frameSize(zstd: Binding, data: Buffer): number {
  try {
    return zstd.findFrameCompressedSize(data);
  } catch (error) {
    const message = messageOf(error);
    // ZSTD_error_srcSize_wrong; the binding passes the text only.
    if (message === 'Src size is incorrect') throw cutShort('zstd', 'the last frame is not complete', error);
    throw damaged('zstd', message, error);
  }
}

/** Null when the frame holds more than `limit` bytes. */
function unzstdFrame(zstd: Binding, context: DCtx, frame: Buffer, limit: number): Buffer | null {
  try {
    const size = zstd.getFrameContentSize(frame);
    if (size === null) return unzstdUnknownSize(zstd, context, frame, limit);
    if (size > limit) return null;
    const target = Buffer.allocUnsafeSlow(size);
    return target.subarray(0, context.decompress(target, frame));
  } catch (error) {
    throw damaged('zstd', messageOf(error), error);
  }
}

/** Writers that stream don't know the size when they begin the frame. */
function unzstdUnknownSize(zstd: Binding, context: DCtx, frame: Buffer, limit: number): Buffer | null {
  context.reset(zstd.ResetDirective.sessionOnly);
  const pieceSize = Math.min(Math.max(frame.length * 4, MAX_BLOCK), MAX_PIECE);
  const pieces: Buffer[] = [];
  let size = 0;
  let rest = frame;
  for (;;) {
    const piece = Buffer.allocUnsafeSlow(Math.min(pieceSize, limit + 1 - size));
    const [missing, produced, consumed] = context.decompressStream(piece, rest);
    rest = rest.subarray(consumed);
    size += produced;
    if (size > limit) return null;
    pieces.push(piece.subarray(0, produced));
    if (missing === 0) return Buffer.concat(pieces, size);
    if (produced === 0 && consumed === 0) throw new Error('its last block is missing');
  }
}

/** Frames 0x184D2A50 to 0x184D2A5F hold no content. */
function isSkippable(frame: Buffer): boolean {
  return frame.length >= 8 && (frame.readUInt32LE(0) & 0xfffffff0) === 0x184d2a50;
}
