import { open } from 'node:fs/promises';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { parseIni, type Ini } from './ini.ts';

const MAX_BYTES = 4 * 1024 * 1024;

/** Reads and parses one configuration file. Throws `config` when that can't be done. */
export async function readIni(file: string): Promise<Ini> {
  return parseIni(await readText(file), file);
}

/** The text of a small UTF-8 file, undefined when there is no such file. Throws `config` for anything that isn't one. */
export async function readTextIfThere(file: string): Promise<string | undefined> {
  try {
    return await readText(file);
  } catch (error) {
    if (error instanceof WalwardenError && errnoOf(error.cause) === 'ENOENT') return undefined;
    throw error;
  }
}

async function readText(file: string): Promise<string> {
  const bytes = await readBytes(file);
  if (bytes.length > MAX_BYTES) {
    throw new WalwardenError(
      'config',
      `${file}: expected a configuration file of at most ${MAX_BYTES} bytes, found more`,
    );
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new WalwardenError('config', `${file}:${lineOfBadByte(bytes)}: expected UTF-8 text, found other bytes`, {
      cause: error,
    });
  }
}

async function readBytes(file: string): Promise<Buffer> {
  try {
    await using handle = await open(file, 'r');
    // One byte more than allowed, and no more: the file may be an endless device.
    const buffer = Buffer.alloc(MAX_BYTES + 1);
    let length = 0;
    while (length < buffer.length) {
      const { bytesRead } = await handle.read(buffer, length, buffer.length - length, null);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    return buffer.subarray(0, length);
  } catch (error) {
    const errno = errnoOf(error);
    const reason = errno === 'ENOENT' ? 'no such file' : errno === 'EISDIR' ? 'a directory' : messageOf(error);
    throw new WalwardenError('config', `${file}: can't read the configuration: ${reason}`, {
      cause: error,
      ...(errno === 'EACCES' && { hint: 'run as the user that owns the WAL archive, or let that user read the file' }),
    });
  }
}

function lineOfBadByte(bytes: Buffer): number {
  // Only lines are decoded one by one, so that the first bad one shows.
  let line = 1;
  let start = 0;
  const decoder = new TextDecoder('utf-8', { fatal: true });
  for (;;) {
    const end = bytes.indexOf(0x0a, start);
    try {
      decoder.decode(bytes.subarray(start, end < 0 ? bytes.length : end));
    } catch {
      return line;
    }
    if (end < 0) return line;
    start = end + 1;
    line += 1;
  }
}
