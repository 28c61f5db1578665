import type { CCtx, DCtx } from 'zstd-napi/binding.js';
import { messageOf, WalwardenError } from '../errors.ts';
import type { Codec, DecompressOptions } from './codec.ts';
import { asBuffer, cutShort, damaged, tooLarge } from './decompress-errors.ts';

/** A segment of 64 MiB and what zstd adds to it. Larger buffers are not kept. */
const MAX_SCRATCH = 65 * 1024 * 1024;
/** Sizes that are tried for what doesn't say how large it is: the usual one of a segment first. */
const ATTEMPTS = [16, 64, 256].map((mib) => mib * 1024 * 1024);

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
let beginning: DCtx | undefined;

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
  start: unzstdStart,
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

/**
 * In one call, into a buffer as large as the content may be: the content itself
 * is the window then, however large that is, and takes no memory of its own.
 */
async function unzstd(data: Uint8Array, { maxSize }: DecompressOptions): Promise<Buffer> {
  const zstd = await loadBinding();
  decompression ??= new zstd.DCtx();
  const bytes = asBuffer(data);
  for (const size of sizesOf(zstd, bytes, maxSize)) {
    // A byte more than may come out, or nothing to decompress is no buffer.
    const target = Buffer.allocUnsafeSlow(size + 1);
    try {
      const produced = decompression.decompress(target, bytes);
      if (produced > maxSize) throw tooLarge('zstd', maxSize);
      // Not to hold so much for so little.
      return produced < size / 2 ? Buffer.from(target.subarray(0, produced)) : target.subarray(0, produced);
    } catch (error) {
      if (error instanceof WalwardenError) throw error;
      // ZSTD_error_dstSize_tooSmall; the binding passes the text only.
      if (messageOf(error) !== 'Destination buffer is too small') throw whyNot(zstd, bytes, error);
    }
  }
  throw tooLarge('zstd', maxSize);
}

/** Null for a window of more than 128 MiB, the library's own limit. Up to that it is reserved, and only what is written of it is used. */
async function unzstdStart(data: Uint8Array, length: number): Promise<Buffer | null> {
  const zstd = await loadBinding();
  beginning ??= new zstd.DCtx();
  beginning.reset(zstd.ResetDirective.sessionOnly);
  const target = Buffer.allocUnsafeSlow(length);
  let size = 0;
  try {
    for (let rest = asBuffer(data); size < length;) {
      const [missing, produced, consumed] = beginning.decompressStream(target.subarray(size), rest);
      rest = rest.subarray(consumed);
      size += produced;
      if ((missing === 0 && rest.length === 0) || (produced === 0 && consumed === 0)) break;
    }
  } catch {
    return null; // what is wrong with it, the whole of it tells better
  }
  return target.subarray(0, size);
}

/** What the content may have in bytes, to be tried in this order. */
function sizesOf(zstd: Binding, data: Buffer, maxSize: number): number[] {
  const isWhole = frameSize(zstd, data) === data.length;
  const said = isWhole && !isSkippable(data) ? zstd.getFrameContentSize(data) : null;
  if (said === null) return [...ATTEMPTS.filter((size) => size < maxSize), maxSize];
  return said > maxSize ? [] : [said];
}

/** Which frame is cut short or damaged: the library tells one for the other when there are several. */
function whyNot(zstd: Binding, data: Buffer, error: unknown): WalwardenError {
  for (let at = 0; at < data.length;) at += frameSize(zstd, data.subarray(at));
  return damaged('zstd', messageOf(error), error);
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

/** Frames 0x184D2A50 to 0x184D2A5F hold no content. */
function isSkippable(frame: Buffer): boolean {
  return frame.length >= 8 && (frame.readUInt32LE(0) & 0xfffffff0) === 0x184d2a50;
}
