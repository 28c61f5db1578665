import type { Readable } from 'node:stream';
import { messageOf } from '../errors.ts';

/** A program may write without ever ending a line; we hold no more of one than this. */
const MAX_LINE = 8192;

/**
 * Hands on what a program writes, line by line, without the newlines. Resolves
 * at the end of the stream and never rejects; a line that never ends comes in
 * pieces of some thousand characters.
 */
export async function forEachLine(stream: Readable, onLine: (line: string) => void): Promise<void> {
  stream.setEncoding('utf8');
  let rest = '';
  try {
    for await (const chunk of stream) {
      const lines = (rest + String(chunk)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) onLine(line.replace(/\r$/, ''));
      if (rest.length > MAX_LINE) {
        onLine(rest);
        rest = '';
      }
    }
  } catch (error) {
    onLine(`(its output can't be read: ${messageOf(error)})`);
  }
  if (rest !== '') onLine(rest);
}
