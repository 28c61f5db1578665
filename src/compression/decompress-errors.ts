import { WalwardenError } from '../errors.ts';

/** The data ends before its format says so: somebody may still be writing it. */
export function cutShort(format: string, reason: string, cause?: unknown): WalwardenError {
  return new WalwardenError('incomplete-wal', `the ${format} data is cut short: ${reason}`, { cause });
}

/** The data is not what its format demands. */
export function damaged(format: string, reason: string, cause?: unknown): WalwardenError {
  return new WalwardenError('damaged', `the ${format} data is damaged: ${reason}`, { cause });
}

export function tooLarge(format: string, maxSize: number): WalwardenError {
  return damaged(format, `it decompresses to more than the ${maxSize} bytes that can be expected here`);
}

/** True when these are the first few bytes of the magic number, and no more. */
export function isStartOf(data: Uint8Array, magic: Uint8Array): boolean {
  return data.length < magic.length && data.every((byte, index) => byte === magic[index]);
}

export function startsWith(data: Uint8Array, magic: Uint8Array): boolean {
  return data.length >= magic.length && magic.every((byte, index) => byte === data[index]);
}

/** The same bytes as a Buffer, not copied. */
export function asBuffer(data: Uint8Array): Buffer {
  return Buffer.isBuffer(data) ? data : Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}
