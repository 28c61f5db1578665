import type { FileHandle } from 'node:fs/promises';
import { openDelivered } from '../durable/delivered-file.ts';

const CHUNK = 1024 * 1024;

/** How many bytes of a partial file, up to a limit, were received: the zeros at its end are what it was padded with. */
export async function endOfContent(path: string, limit = Infinity): Promise<number> {
  await using file = await openDelivered(path);
  let end = Math.min(Number(file.stat.size), limit);
  const buffer = Buffer.alloc(Math.min(CHUNK, end));
  while (end > 0) {
    const start = Math.max(0, end - buffer.length);
    const last = (await readAt(file.handle, buffer.subarray(0, end - start), start)).findLastIndex(
      (byte) => byte !== 0,
    );
    if (last >= 0) return start + last + 1;
    end = start;
  }
  return 0;
}

/** Whether two files have the same bytes up to here. */
export async function haveSamePrefix(a: FileHandle, b: FileHandle, length: number): Promise<boolean> {
  const [ours, theirs] = [Buffer.alloc(Math.min(CHUNK, length)), Buffer.alloc(Math.min(CHUNK, length))];
  for (let at = 0; at < length; at += CHUNK) {
    const size = Math.min(CHUNK, length - at);
    const [one, other] = await Promise.all([
      readAt(a, ours.subarray(0, size), at),
      readAt(b, theirs.subarray(0, size), at),
    ]);
    if (one.length < size || !one.equals(other)) return false;
  }
  return true;
}

/** Whether anything but zeros stands there. */
export async function hasContentAt(handle: FileHandle, at: number, length: number): Promise<boolean> {
  return (await readAt(handle, Buffer.alloc(length), at)).some((byte) => byte !== 0);
}

/** Fewer bytes than asked for only where the file ends. */
async function readAt(handle: FileHandle, buffer: Buffer, at: number): Promise<Buffer> {
  let done = 0;
  while (done < buffer.length) {
    const { bytesRead } = await handle.read(buffer, done, buffer.length - done, at + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}
