import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { makeDirectory, unlinkIfThere, writeFully } from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';

const HINTS: Readonly<Record<string, string>> = {
  ELOOP: 'a symbolic link would be replaced by a file: let xlogdb_directory name the directory that really holds it',
  EISDIR: 'move the directory away; walwarden rebuild-xlogdb makes the catalogue anew',
  EACCES: 'walwarden must run as the user that owns the catalogue and its directory',
  EPERM: 'walwarden must run as the user that owns the catalogue and its directory',
  EROFS: 'the file system is mounted read-only',
  ENOSPC: 'free some space; nothing is lost, the files are archived again in the next pass',
  EDQUOT: 'raise the quota; nothing is lost, the files are archived again in the next pass',
};

/** A `catalogue` error from whatever went wrong with it; errors that are ours already pass unchanged. */
export function catalogueError(path: string, doing: string, cause: unknown): WalwardenError {
  if (cause instanceof WalwardenError) return cause;
  const errno = errnoOf(cause);
  const what =
    errno === 'ELOOP'
      ? 'it is a symbolic link'
      : errno === 'EISDIR'
        ? 'it is a directory'
        : (errno ?? messageOf(cause));
  const hint = errno === undefined ? undefined : HINTS[errno];
  return new WalwardenError('catalogue', `can't ${doing} the catalogue ${path}: ${what}`, {
    cause,
    ...(hint === undefined ? {} : { hint }),
  });
}

/** Opens a catalogue; undefined when there is none. Anything but a regular file is an error. */
export async function openCatalogue(path: string, access: 'read' | 'write'): Promise<FileHandle | undefined> {
  // Without O_NONBLOCK a fifo of this name would keep us waiting for ever. Only who replaces the file minds a link.
  const flags = access === 'read' ? constants.O_RDONLY : constants.O_RDWR | constants.O_APPEND | constants.O_NOFOLLOW;
  let handle: FileHandle;
  try {
    handle = await open(path, flags | constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw catalogueError(path, access === 'read' ? 'read' : 'open', error);
  }
  const stat = await handle.stat();
  if (stat.isFile()) return handle;
  await handle.close();
  throw new WalwardenError(
    'catalogue',
    `can't open the catalogue ${path}: expected a regular file, found ${stat.isDirectory() ? 'a directory' : 'something else'}`,
    { hint: 'move it away; walwarden rebuild-xlogdb makes the catalogue anew' },
  );
}

/** Opens a file that must not exist yet, for reading and writing; makes its directory when that is missing. */
export async function createFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'wx+', 0o600);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
  await makeDirectory(dirname(path));
  return open(path, 'wx+', 0o600);
}

/** Removes what a failed step left behind. Its own failure is kept quiet: the one that brought us here is what matters. */
export async function discard(path: string): Promise<void> {
  try {
    await unlinkIfThere(path);
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
  }
}

/** Collects text and writes it in one piece. */
export class TextWriter {
  readonly #handle: FileHandle;
  #parts: string[] = [];

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  /** `text` is latin1: one byte a character. */
  add(text: string): void {
    this.#parts.push(text);
  }

  async flush(): Promise<void> {
    if (this.#parts.length === 0) return;
    const data = Buffer.from(this.#parts.join(''), 'latin1');
    this.#parts = [];
    await writeFully(this.#handle, data);
  }
}
