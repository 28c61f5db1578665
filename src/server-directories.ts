import { access } from 'node:fs/promises';
import { makeDirectory } from './durable/durable-file.ts';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from './errors.ts';

// The directories of a server, and what keeps them from being made.

/** Of a directory that WAL is delivered to: the destination is not to blame. */
export function asSourceError(error: unknown): unknown {
  if (!isErrorCode(error, 'storage')) return error;
  const { message, hint, cause } = error;
  return new WalwardenError('source', message, { cause, ...(hint === undefined ? {} : { hint }) });
}

const DIRECTORY_HINTS: Readonly<Record<string, string>> = {
  EEXIST: 'move that away',
  ENOSPC: 'make space there',
  EDQUOT: 'raise the quota of the user that walwarden runs as, or make space there',
  EROFS: 'mount the file system for writing; errors of the disk make it read-only, see the kernel log',
};

/**
 * Makes a directory of a server. The home itself is never made: when it is
 * missing, a file system is probably not mounted, and what was archived beneath
 * the mount point would disappear with the next mount.
 */
export async function makeServerDirectory(path: string, home: string): Promise<void> {
  try {
    if (path.startsWith(`${home}/`)) await access(home);
    await makeDirectory(path);
  } catch (cause) {
    const errno = errnoOf(cause);
    const why = errno === 'EEXIST' ? 'there is something else of that name' : messageOf(cause);
    const missing = errno === 'ENOENT' ? `barman_home ${home} does not exist` : `can't make directory ${path}: ${why}`;
    throw new WalwardenError('storage', missing, {
      cause,
      hint: DIRECTORY_HINTS[errno ?? ''] ?? 'mount or create it, owned by the user that walwarden runs as',
    });
  }
}
