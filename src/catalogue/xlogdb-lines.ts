import type { FileHandle } from 'node:fs/promises';
import { readXlogdbLine, type WalFileInfo } from '../wal/wal-file-info.ts';
import { isWalName, type WalName } from '../wal/wal-name.ts';

/** A line of the catalogue as it stands in the file. */
export interface XlogdbLine {
  /** Counted from 1. */
  readonly number: number;
  /** Its bytes as latin1, without the newline: what goes back into a file is what came out. */
  readonly text: string;
  /** False for what stands after the last newline, and for the pieces of a line too long to be one. */
  readonly ended: boolean;
  /** Undefined when the text is no catalogue line, or not certainly a whole one. */
  readonly info: WalFileInfo | undefined;
}

const CHUNK = 256 * 1024;
const NEWLINE = 0x0a;
// Names have at most 41 bytes; a line that passes this is binary rubbish, read in pieces to bound the memory.
const LONGEST_LINE = 64 * 1024;
const TAIL = 64 * 1024;

/** What Barman and we write as the last field. None of them begins another, so that a line that ends in one is whole. */
const LAST_FIELDS: readonly (string | undefined)[] = ['None', 'gpg'];

/**
 * What a line without newline says, if it is certain that only the newline is
 * missing. Four fields are not enough: they are a whole line of an older
 * Barman, or a line cut before its encryption. A cut mtime looks like a mtime.
 */
export function readUnendedLine(text: string): WalFileInfo | undefined {
  const fields = text.split('\t');
  return fields.length === 5 && LAST_FIELDS.includes(fields[4]) ? readXlogdbLine(text) : undefined;
}

/** The WAL names that stand before a tab anywhere in damaged text: it may be two lines run into one. */
export function namesIn(text: string): WalName[] {
  const names = text.matchAll(
    /(?=([0-9A-Fa-f]{8}\.history|[0-9A-Fa-f]{24}(?:\.partial|\.[0-9A-Fa-f]{8}\.backup)?)\t)/g,
  );
  return [...names].map(([, name = '']) => name).filter(isWalName);
}

/** Whether a text stands anywhere in a file before `end`: much quicker to find out than to read its lines. */
export async function containsText(handle: FileHandle, text: string, end: number): Promise<boolean> {
  const wanted = Buffer.from(text, 'latin1');
  const buffer = Buffer.allocUnsafe(4 * CHUNK);
  let held = 0;
  for (let position = 0; position < end;) {
    const { bytesRead } = await handle.read(buffer, held, Math.min(buffer.length - held, end - position), position);
    if (bytesRead === 0) break;
    position += bytesRead;
    const filled = held + bytesRead;
    if (buffer.subarray(0, filled).includes(wanted)) return true;
    // It may begin here and end in the next piece.
    held = Math.min(filled, wanted.length - 1);
    buffer.copyWithin(0, filled - held, filled);
  }
  return false;
}

/** The lines of `handle` from its beginning to `end`, a chunk at a time. Reads by position: leaves that of the handle alone. */
export async function* readLines(handle: FileHandle, end: number): AsyncGenerator<readonly XlogdbLine[]> {
  const buffer = Buffer.allocUnsafe(CHUNK);
  let position = 0;
  let held = 0;
  let number = 1;
  let continued = false;
  while (position < end) {
    const { bytesRead } = await handle.read(buffer, held, Math.min(CHUNK - held, end - position), position);
    if (bytesRead === 0) break;
    position += bytesRead;
    const filled = held + bytesRead;
    const lines: XlogdbLine[] = [];
    let start = 0;
    for (;;) {
      const newline = buffer.indexOf(NEWLINE, start);
      if (newline === -1 || newline >= filled) break;
      const text = buffer.toString('latin1', start, newline);
      // The end of a line that was too long may look like one by accident.
      lines.push({ number, text, ended: true, info: continued ? undefined : readXlogdbLine(text) });
      continued = false;
      number += 1;
      start = newline + 1;
    }
    if (filled - start > LONGEST_LINE) {
      lines.push({ number, text: buffer.toString('latin1', start, filled), ended: false, info: undefined });
      continued = true;
      start = filled;
    }
    buffer.copyWithin(0, start, filled);
    held = filled - start;
    if (lines.length > 0) yield lines;
  }
  if (held > 0) {
    const text = buffer.toString('latin1', 0, held);
    yield [{ number, text, ended: false, info: continued ? undefined : readUnendedLine(text) }];
  }
}

/** True when the file doesn't end with a newline: a crash tore its last line, or left a hole of zero bytes. */
export async function isTorn(handle: FileHandle, size: number): Promise<boolean> {
  if (size === 0) return false;
  const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, size - 1);
  return buffer[0] !== NEWLINE;
}

/** The end of the catalogue, which is all that an append has to know. */
export interface XlogdbTail {
  /** The last lines, in the order of the file. */
  readonly lines: readonly WalFileInfo[];
  /** True when {@link lines} are all that there are. */
  readonly whole: boolean;
}

/** Reads the last lines of a catalogue of `size` bytes that isn't torn; the cost doesn't depend on the size. */
export async function readTail(handle: FileHandle, size: number): Promise<XlogdbTail> {
  const start = Math.max(0, size - TAIL);
  const buffer = Buffer.allocUnsafe(size - start);
  let filled = 0;
  while (filled < buffer.length) {
    const { bytesRead } = await handle.read(buffer, filled, buffer.length - filled, start + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  const texts = buffer.toString('latin1', 0, filled).split('\n');
  texts.pop();
  // The first one may be the rest of a line that begins before the tail.
  const whole = start === 0;
  const lines = (whole ? texts : texts.slice(1)).map(readXlogdbLine).filter((info) => info !== undefined);
  return { lines, whole };
}
