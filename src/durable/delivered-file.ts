import { closeSync, constants, fstatSync, lstatSync, openSync, type BigIntStats, type StatsBase } from 'node:fs';
import { lstat, open, type FileHandle } from 'node:fs/promises';
import { errnoOf, WalwardenError } from '../errors.ts';
import { MAX_SEGMENT_SIZE } from '../wal/wal-name.ts';

// Others may write where WAL is delivered, received, and set aside. What lies there may be a link to a file that only we
// may read, a fifo that holds a thread until the other side comes, a device without an end. So nothing there is opened
// in any other way than this. The directories above are ours, or the administrator's.

/** A segment of the largest size, and what a compressor adds where nothing can be compressed. In bytes. */
export const MAX_DELIVERED_SIZE = MAX_SEGMENT_SIZE + MAX_SEGMENT_SIZE / 64;

/** A file that others may have put where it lies: regular, and no larger than WAL can be. */
export interface DeliveredFile extends AsyncDisposable {
  readonly handle: FileHandle;
  /** Of the inode that was opened. */
  readonly stat: BigIntStats;
}

/** Why something can't be a WAL file, by its inode alone; `what` says whether its type or its size is wrong. */
export interface Oddity {
  readonly what: 'type' | 'size';
  readonly reason: string;
}

/** Null for a regular file that is no larger than WAL can be. */
export function oddityOf(stat: StatsBase<bigint> | StatsBase<number>): Oddity | null {
  if (!stat.isFile()) return { what: 'type', reason: `it is ${typeOf(stat)}, not a regular file` };
  if (stat.size <= MAX_DELIVERED_SIZE) return null;
  return {
    what: 'size',
    reason: `it has ${stat.size} bytes, and no WAL file has more than ${MAX_DELIVERED_SIZE}`,
  };
}

/**
 * Opens what others may have put there, without following a link and without
 * waiting for anything. Throws `invalid-wal` for what can't be a WAL file, and
 * the system's own error for what can't be opened.
 */
export async function openDelivered(path: string | Buffer, access = constants.O_RDONLY): Promise<DeliveredFile> {
  // Opening a device may have effects of its own.
  refuseOdd(path, await lstat(path, { bigint: true }));
  const handle = await open(path, access | GUARDED).catch((error: unknown) => {
    throw swapped(path, error);
  });
  try {
    const stat = await handle.stat({ bigint: true });
    refuseOdd(path, stat);
    return { handle, stat, [Symbol.asyncDispose]: () => handle.close() };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** {@link openDelivered} for a worker thread, which has nothing else to do. The descriptor is the caller's to close. */
export function openDeliveredSync(path: string): { readonly fd: number; readonly stat: BigIntStats } {
  refuseOdd(path, lstatSync(path, { bigint: true }));
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | GUARDED);
  } catch (error) {
    throw swapped(path, error);
  }
  try {
    const stat = fstatSync(fd, { bigint: true });
    refuseOdd(path, stat);
    return { fd, stat };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** The bytes of a file that others may have put there. Throws as {@link openDelivered} does. */
export async function readDelivered(path: string | Buffer): Promise<Buffer> {
  await using file = await openDelivered(path);
  return readWhole(file);
}

/** As many bytes as it had when it was opened, or fewer; another process that appends all the time must not keep us here. */
export async function readWhole({ handle, stat }: Pick<DeliveredFile, 'handle' | 'stat'>): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(Number(stat.size));
  let done = 0;
  while (done < bytes.length) {
    const { bytesRead } = await handle.read(bytes, done, bytes.length - done, done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes.subarray(0, done);
}

const GUARDED = constants.O_NOFOLLOW | constants.O_NONBLOCK;

function refuseOdd(path: string | Buffer, stat: BigIntStats): void {
  const odd = oddityOf(stat);
  if (odd !== null) throw refused(path, odd.reason);
}

/** Something else may have taken its place since the look; a link and a socket say so in their own way. */
function swapped(path: string | Buffer, error: unknown): unknown {
  if (errnoOf(error) === 'ELOOP') return refused(path, 'it is a symbolic link, not a regular file');
  if (errnoOf(error) === 'ENXIO') return refused(path, 'it is a socket or a device, not a regular file');
  return error;
}

function refused(path: string | Buffer, reason: string): WalwardenError {
  return new WalwardenError('invalid-wal', `${path.toString()} is not read: ${reason}`, {
    hint: 'see who put it there',
  });
}

function typeOf(stat: StatsBase<bigint> | StatsBase<number>): string {
  if (stat.isDirectory()) return 'a directory';
  if (stat.isSymbolicLink()) return 'a symbolic link';
  if (stat.isFIFO()) return 'a fifo';
  return stat.isSocket() ? 'a socket' : 'a device';
}
