import { closeSync, fstatSync, readSync } from 'node:fs';
import { RECOGNITION_BYTES } from '../compression/codecs.ts';
import { openDeliveredSync } from '../durable/delivered-file.ts';
import { OUT_OF_RESOURCES } from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { LONG_PAGE_HEADER_SIZE } from '../wal/page-header.ts';
import { identityOf, sameIdentity } from './file-identity.ts';
import type { StageFailure, TransformTask } from './staged.ts';

/** Something is wrong with this one file; others may be fine. */
export class SourceFault extends Error {
  constructor(cause: unknown) {
    super(messageOf(cause), { cause });
  }
}

/** Opens the source, if it still is the file that was looked at, for `work`. What goes wrong becomes a value. */
export async function withSource<T>(task: TransformTask, work: (fd: number) => Promise<T>): Promise<T | StageFailure> {
  let fd: number;
  try {
    ({ fd } = openDeliveredSync(task.source));
  } catch (error) {
    const errno = errnoOf(error) ?? '';
    if (errno === 'ENOENT') return { outcome: 'changed', reason: 'it is gone' };
    const side = OUT_OF_RESOURCES.has(errno) ? 'destination' : 'source';
    return { outcome: 'failed', side, reason: messageOf(error), errno: errno === '' ? null : errno };
  }
  try {
    if (!isStill(task, fd)) return { outcome: 'changed', reason: 'it changed since it was looked at' };
    return await work(fd);
  } catch (error) {
    const side = error instanceof SourceFault ? 'source' : 'destination';
    const cause = error instanceof SourceFault ? error.cause : error;
    const hint = error instanceof WalwardenError ? error.hint : undefined;
    return { outcome: 'failed', side, reason: messageOf(error), hint, errno: errnoOf(cause) ?? null };
  } finally {
    closeSync(fd);
  }
}

/** Nobody wrote to it since it was looked at. */
export function isStill(task: TransformTask, fd: number): boolean {
  return sameIdentity(identityOf(fstatSync(fd, { bigint: true })), task.identity);
}

/** Enough to tell what it is. */
export function readHead(fd: number): Buffer {
  const head = Buffer.alloc(Math.max(LONG_PAGE_HEADER_SIZE, RECOGNITION_BYTES));
  return head.subarray(0, readAt(fd, head, 0));
}

export function readFully(fd: number, into: Buffer, position = 0): void {
  let done = 0;
  while (done < into.length) {
    const count = readAt(fd, into.subarray(done), position + done);
    if (count === 0) throw new SourceFault(new Error('it became shorter while it was read'));
    done += count;
  }
}

function readAt(fd: number, into: Buffer, position: number): number {
  try {
    return readSync(fd, into, 0, into.length, position);
  } catch (error) {
    throw new SourceFault(error);
  }
}
