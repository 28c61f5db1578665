import { isErrorCode } from '../errors.ts';
import type { CompressionName, DecompressOptions } from './codec.ts';
import { asBuffer } from './decompress-errors.ts';
import { plainEnvironment, runFilter, type Command } from './external-program.ts';

/**
 * What comes out of damaged compressed data before the damage, as far as its
 * format lets any come out; empty otherwise. No checksum vouches for it.
 */
export async function decompressBeginning(
  data: Uint8Array,
  compression: CompressionName,
  options: DecompressOptions,
): Promise<Buffer> {
  try {
    switch (compression) {
      case 'gzip':
      case 'pygzip':
      case 'pigz':
        return await gunzipBeginning(data, options.maxSize);
      case 'zstd':
        return await unzstdBeginning(data, options.maxSize);
      case 'bzip2':
      case 'pybzip2':
        return await outputOf({ program: 'bzip2', args: ['-d', '-c', '-q'] }, data, options);
      case 'xz':
        return await outputOf({ program: 'xz', args: ['-d', '-c', '-q', '--format=xz', '-T1'] }, data, options);
      case 'lz4':
        return await outputOf({ program: 'lz4', args: ['-d', '-c', '-q'] }, data, options);
      case 'custom': {
        const shell = options.custom?.decompress;
        return shell === undefined ? Buffer.alloc(0) : await outputOf({ shell }, data, options);
      }
      case 'snappy':
        return Buffer.alloc(0);
    }
  } catch (error) {
    // Without its program nothing is known of the beginning.
    if (!isErrorCode(error, 'program')) throw error;
    return Buffer.alloc(0);
  }
}

async function gunzipBeginning(data: Uint8Array, maxSize: number): Promise<Buffer> {
  const { createGunzip } = await import('node:zlib');
  const gunzip = createGunzip();
  const pieces: Buffer[] = [];
  let size = 0;
  gunzip.end(data);
  try {
    for await (const piece of gunzip) {
      if (!Buffer.isBuffer(piece)) break;
      pieces.push(piece);
      size += piece.length;
      if (size > maxSize) break;
    }
  } catch {
    // That is where it is damaged.
  }
  return Buffer.concat(pieces).subarray(0, maxSize);
}

const PIECE = 128 * 1024;

async function unzstdBeginning(data: Uint8Array, maxSize: number): Promise<Buffer> {
  const zstd = (await import('zstd-napi/binding.js')).default;
  const context = new zstd.DCtx();
  const pieces: Buffer[] = [];
  let size = 0;
  let rest = asBuffer(data);
  try {
    while (size < maxSize) {
      const piece = Buffer.allocUnsafeSlow(PIECE);
      // Not all at once: what a call has written is not told when it fails.
      const [, produced, consumed] = context.decompressStream(piece, rest.subarray(0, PIECE));
      if (produced === 0 && consumed === 0) break;
      rest = rest.subarray(consumed);
      pieces.push(piece.subarray(0, produced));
      size += produced;
    }
  } catch {
    // That is where it is damaged.
  }
  return Buffer.concat(pieces).subarray(0, maxSize);
}

async function outputOf(command: Command, data: Uint8Array, { maxSize, signal }: DecompressOptions): Promise<Buffer> {
  const env = 'shell' in command ? process.env : plainEnvironment();
  const end = await runFilter(command, data, { maxOutput: maxSize, env, signal });
  return end.output;
}
