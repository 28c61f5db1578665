import type { FileHandle } from 'node:fs/promises';
import { readXlogdbLine, type WalFileInfo } from '../wal/wal-file-info.ts';
import { readTail } from './xlogdb-lines.ts';

/** The size of a catalogue, and what stands at its ends. */
export interface XlogdbExtent {
  /** Files, which is lines: that every line is a sound one is not looked at. */
  readonly files: number;
  readonly first: WalFileInfo | null;
  readonly last: WalFileInfo | null;
  /** The one that was written last, of about the last thousand. */
  readonly newest: WalFileInfo | null;
}

const CHUNK = 1024 * 1024;
const NEWLINE = 0x0a;

/** Counts lines without taking them apart: a million of them in a tenth of a second. */
export async function readExtent(handle: FileHandle, size: number): Promise<XlogdbExtent> {
  const buffer = Buffer.allocUnsafe(Math.min(size, CHUNK));
  let files = 0;
  let first: WalFileInfo | null = null;
  for (let position = 0; position < size;) {
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, size - position), position);
    if (bytesRead === 0) break;
    if (position === 0) first = firstIn(buffer.subarray(0, bytesRead));
    position += bytesRead;
    for (let at = 0; at < bytesRead; at += 1) if (buffer[at] === NEWLINE) files += 1;
  }
  const { lines } = await readTail(handle, size);
  let newest: WalFileInfo | null = null;
  for (const info of lines) if (newest === null || info.mtime >= newest.mtime) newest = info;
  return { files, first, last: lines.at(-1) ?? null, newest };
}

function firstIn(head: Buffer): WalFileInfo | null {
  const end = head.indexOf(NEWLINE);
  return end === -1 ? null : (readXlogdbLine(head.toString('latin1', 0, end)) ?? null);
}
