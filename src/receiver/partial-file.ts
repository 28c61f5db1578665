import { constants } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { openDelivered } from '../durable/delivered-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import type { StreamingFile } from './streaming-directory.ts';

const CHUNK = 1024 * 1024;

/**
 * Gives partial files a size that pg_receivewal takes: it refuses any but 0 and
 * that of a segment. A crash or a full disk while it padded a new file leaves a
 * short one.
 *
 * Barman truncates such a file to nothing. That throws away what was received
 * and, with --synchronous, acknowledged to a server that may not live to send
 * it again. pg_receivewal starts over at the segment's first byte either way
 * and writes the same bytes over the old ones, so a short file is filled up with
 * zeros instead, as pg_receivewal itself does; of a long one a copy goes to
 * errors before it is cut.
 */
export async function repairPartials(
  settings: Pick<ReceiverSettings, 'server' | 'streamingDirectory' | 'errors' | 'logger'>,
  files: readonly StreamingFile[],
  segmentSize: number,
): Promise<void> {
  for (const file of files) {
    if (!file.partial || file.compressed || file.size === 0 || file.size === segmentSize) continue;
    const path = join(settings.streamingDirectory, file.entry);
    try {
      await repair(settings, file, path, segmentSize);
    } catch (cause) {
      if (errnoOf(cause) === 'ENOENT') continue;
      throw new WalwardenError('storage', `can't give ${path} the size of a segment: ${messageOf(cause)}`, {
        cause,
        hint: `it has ${file.size} bytes, and pg_receivewal refuses to go on with it; nothing of it is lost`,
      });
    }
  }
}

async function repair(
  { server, errors, logger }: Pick<ReceiverSettings, 'server' | 'errors' | 'logger'>,
  { entry, size }: StreamingFile,
  path: string,
  segmentSize: number,
): Promise<void> {
  const sizes = `has ${size} bytes, and a segment of this server has ${segmentSize}`;
  const facts = { server, file: entry, size, segmentSize };
  // Listed before the server was asked: another receiver, left over from somebody killed, may have written since.
  const unchanged = async (handle: FileHandle): Promise<boolean> => (await handle.stat()).size === size;
  if (size < segmentSize) {
    // Appended: whatever is written at the same time, nothing of it is written over.
    await using file = await openDelivered(path, constants.O_WRONLY | constants.O_APPEND);
    const { handle } = file;
    if (!(await unchanged(handle))) return;
    await fillUp(handle, size, segmentSize);
    await handle.sync();
    logger.warn(facts, `${path} ${sizes}: filled up with zeros, so that pg_receivewal can go on with it`);
    return;
  }
  await using file = await openDelivered(path, constants.O_WRONLY);
  const { handle } = file;
  if (!(await unchanged(handle))) return;
  const copy = await errors.takeCopy(path, entry, 'unknown', `it ${sizes}; the rest was cut off in streaming`);
  if (!(await unchanged(handle))) return;
  await handle.truncate(segmentSize);
  await handle.sync();
  logger.warn(facts, `${path} ${sizes}: cut, so that pg_receivewal can go on with it; a copy is in errors as ${copy}`);
}

/** With real zeros, not a hole: a full disk shows now, and not in the middle of a segment. */
async function fillUp(handle: FileHandle, from: number, to: number): Promise<void> {
  const zeros = Buffer.alloc(Math.min(CHUNK, to - from));
  for (let at = from; at < to;) {
    const { bytesWritten } = await handle.write(zeros, 0, Math.min(zeros.length, to - at));
    at += bytesWritten;
  }
  // Somebody has filled it up at the same time: what is too much are our zeros.
  if ((await handle.stat()).size > to) await handle.truncate(to);
}
