import { lstat, open, readlink, rename, symlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf, WalwardenError } from '../errors.ts';
import { oddityOf, openDelivered } from './delivered-file.ts';
import { CANT_LINK, copyAsOurs, fsyncDirectory, isThere, linkUnlessThere, unlinkIfThere } from './durable-file.ts';

/** How a file is moved. */
export interface MoveOptions {
  /** The caller holds a lock that every writer of the target's directory takes, so that a look and rename(2) replace nothing. */
  readonly locked: boolean;
}

/**
 * Moves what others put there, whatever it is, to a name that is free; false
 * when it isn't. Both names are durable when it resolves, the target's before the
 * source goes. Nothing is replaced, no link followed, and no more copied than WAL
 * can have: throws `invalid-wal` for what is larger, which stays where it is.
 */
export async function moveNoReplace(source: string | Buffer, target: Buffer, options: MoveOptions): Promise<boolean> {
  const found = await lstat(source, { bigint: true });
  const odd = oddityOf(found);
  if (odd?.what === 'size') {
    throw new WalwardenError('invalid-wal', `${source.toString()} stays where it is: ${odd.reason}`);
  }
  try {
    if (!(await linkUnlessThere(source, target))) return false;
  } catch (error) {
    const errno = errnoOf(error) ?? '';
    if (!CANT_LINK.has(errno)) throw error;
    // Directories can't be linked; nor, where the kernel protects hard links, can files of another owner.
    if (errno !== 'EXDEV' && (options.locked || found.isDirectory())) return moveByRename(source, target);
    if (found.isSymbolicLink()) await symlink(await readlink(source, 'buffer'), target);
    else if (!found.isFile()) throw error;
    else if (!(await copyNoReplace(source, target))) return false;
  }
  await fsyncDirectory(dirnameOf(target));
  // Another file may have come under its name meanwhile; that one was not moved.
  if ((await inodeOf(source)) === found.ino) await unlinkIfThere(source);
  await fsyncDirectory(dirnameOf(source));
  return true;
}

async function moveByRename(source: string | Buffer, target: Buffer): Promise<boolean> {
  if (await isThere(target)) return false;
  await rename(source, target);
  await fsyncDirectory(dirnameOf(target));
  await fsyncDirectory(dirnameOf(source));
  return true;
}

/** Puts a durable copy under a name that is free; false when it isn't. Throws `invalid-wal` for what can't be a WAL file. */
export async function copyNoReplace(source: string | Buffer, target: Buffer): Promise<boolean> {
  await using original = await openDelivered(source);
  try {
    // Through the descriptor: it is this inode, whatever takes its name.
    await copyAsOurs(`/proc/self/fd/${original.handle.fd}`, target);
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false;
    throw error;
  }
  await using copy = await open(target, 'r');
  const { atime, mtime } = original.stat;
  await copy.utimes(atime, mtime);
  await copy.sync();
  await fsyncDirectory(dirnameOf(target));
  return true;
}

async function inodeOf(path: string | Buffer): Promise<bigint | null> {
  try {
    return (await lstat(path, { bigint: true })).ino;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

function dirnameOf(path: string | Buffer): string {
  // Only the name itself may be no UTF-8; the directory comes from the configuration.
  return typeof path === 'string' ? dirname(path) : path.toString('utf8', 0, path.lastIndexOf('/'));
}
