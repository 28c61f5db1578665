import { constants } from 'node:fs';
import { copyFile, lchown, link, lstat, mkdir, open, rename, stat, unlink, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf } from '../errors.ts';

/** Makes the names in a directory durable. A file's own fsync says nothing about its name. */
export async function fsyncDirectory(path: string): Promise<void> {
  await using handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  await syncNamed(handle, path);
}

/** The system's own message doesn't tell which file. */
async function syncNamed(handle: FileHandle, path: string): Promise<void> {
  try {
    await handle.sync();
  } catch (error) {
    if (error instanceof Error) error.message += ` '${path}'`;
    throw error;
  }
}

/**
 * Creates a directory with those above it where they are missing, private to
 * us, their names durable. One by one: Node's recursive mkdir says ENOENT when
 * the disk is full or read-only.
 */
export async function makeDirectory(path: string): Promise<void> {
  try {
    if (!(await makeOneDirectory(path))) return;
  } catch (error) {
    const above = dirname(path);
    if (errnoOf(error) !== 'ENOENT' || above === path) throw error;
    await makeDirectory(above);
    if (!(await makeOneDirectory(path))) return;
  }
  await fsyncDirectory(dirname(path));
}

/** False when it was there. */
async function makeOneDirectory(path: string): Promise<boolean> {
  try {
    await mkdir(path, 0o700);
    return true;
  } catch (error) {
    // There may be one whatever is said: some file systems look at their own state first.
    if (await isDirectory(path)) return false;
    throw error;
  }
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false; // whoever asks has a better error
  }
}

/** Makes the bytes of a file durable that somebody else wrote. */
export async function fsyncFile(path: string): Promise<void> {
  await using handle = await open(path, constants.O_RDONLY);
  await syncNamed(handle, path);
}

/** Writes all bytes, at the position where the handle stands; write(2) may take fewer than it was given. */
export async function writeFully(handle: FileHandle, data: Uint8Array): Promise<void> {
  let done = 0;
  while (done < data.length) {
    const { bytesWritten } = await handle.write(data, done, data.length - done);
    done += bytesWritten;
  }
}

/**
 * Creates a file that did not exist, with these bytes, durable but for its
 * name. On failure nothing is left behind.
 */
export async function writeNewFile(
  path: string,
  data: Uint8Array,
  options: { readonly mode: number; readonly mtime?: number },
): Promise<void> {
  const handle = await open(path, 'wx', options.mode);
  try {
    try {
      await writeFully(handle, data);
      // The mode given to open(2) is subject to the umask; this one is not.
      await handle.chmod(options.mode);
      if (options.mtime !== undefined) await handle.utimes(options.mtime, options.mtime);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    await unlinkIfThere(path);
    throw error;
  }
}

/**
 * Copies a file to a name that is free (EEXIST when it isn't), a reflink where
 * the file system can. The copy is ours: from Node 22 on, copyFile gives what
 * root copies the owner of the source, who could change it from then on. Not durable yet.
 */
export async function copyAsOurs(source: string | Buffer, target: string | Buffer): Promise<void> {
  await copyFile(source, target, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  try {
    const [uid, gid] = [process.geteuid?.(), process.getegid?.()];
    const copy = await lstat(target);
    if (uid !== undefined && gid !== undefined && (copy.uid !== uid || copy.gid !== gid)) {
      await lchown(target, uid, gid);
    }
  } catch (error) {
    await unlinkIfThere(target);
    throw error;
  }
}

/**
 * Puts these bytes in the place of a file, at once and as a whole; durable but
 * for its name. One writer at a time: what a crash left is removed by the next.
 */
export async function replaceFile(path: string, data: Uint8Array, options: { readonly mode: number }): Promise<void> {
  const temporary = `${path}.tmp`;
  await unlinkIfThere(temporary);
  await writeNewFile(temporary, data, options);
  await rename(temporary, path);
}

/** unlink(2); true when the file was there. */
export async function unlinkIfThere(path: string | Buffer): Promise<boolean> {
  try {
    await unlink(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** What link(2) says where this link, or any, is impossible: another file system, a policy, no hard links at all. */
export const CANT_LINK: ReadonlySet<string> = new Set(['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS']);

/** The process or the machine is at its limit; no file is to blame. */
export const OUT_OF_RESOURCES: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOMEM']);

/** link(2), which decides a race: false when the new name was taken. Never replaces anything. */
export async function linkUnlessThere(from: string | Buffer, to: string | Buffer): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false;
    throw error;
  }
}

/** Moves a file to a name that is free; false when it isn't. Where there are no hard links, a look and rename(2) must do. */
export async function moveUnlessThere(from: string, to: string): Promise<boolean> {
  try {
    if (!(await linkUnlessThere(from, to))) return false;
  } catch (error) {
    if (!CANT_LINK.has(errnoOf(error) ?? '')) throw error;
    if (await isThere(to)) return false;
    await rename(from, to);
    return true;
  }
  await unlinkIfThere(from);
  return true;
}

/** True when there is something of this name: a file, a directory, a dangling link. */
export async function isThere(path: string | Buffer): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Fsyncs the directories that hold these files, each once. */
export async function fsyncParents(paths: Iterable<string>): Promise<void> {
  for (const directory of new Set([...paths].map((path) => dirname(path)))) {
    await fsyncDirectory(directory);
  }
}
