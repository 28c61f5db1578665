import { link, lstat, open, rename, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CANT_LINK, isThere, unlinkIfThere } from '../durable/durable-file.ts';
import { errnoOf } from '../errors.ts';

export type Published =
  | 'published'
  /** There is a file under the final name already; it was not touched. */
  | 'taken'
  /** What was prepared, or the directory, is not there any more. */
  | 'gone'
  /** This inode can't be linked there: another file system, or not allowed. */
  | 'not-linkable';

export interface Publisher {
  /** Gives prepared bytes their final name, and never replaces anything. `own`: the file is a temporary of ours in the same directory. */
  publish(prepared: string, final: string, own: boolean): Promise<Published>;
}

/** link(2) decides the race between two archivers; where a file system has none, lstat and rename under both locks must do. */
export function createPublisher(onNoHardLinks: (directory: string) => void): Publisher {
  let hardLinks = true;

  async function publish(prepared: string, final: string, own: boolean): Promise<Published> {
    if (!hardLinks && own) return publishByRename(prepared, final);
    try {
      await link(prepared, final);
      return 'published';
    } catch (error) {
      const errno = errnoOf(error) ?? '';
      if (errno === 'EEXIST') return 'taken';
      if (errno === 'ENOENT') return 'gone';
      if (!CANT_LINK.has(errno)) throw error;
      if (!own) return 'not-linkable';
      if (await linksWork(dirname(final))) throw error;
      hardLinks = false;
      onNoHardLinks(dirname(final));
      return publishByRename(prepared, final);
    }
  }
  return { publish };
}

async function publishByRename(prepared: string, final: string): Promise<Published> {
  if (await isThere(final)) return 'taken';
  try {
    await lstat(prepared);
    await rename(prepared, final);
    return 'published';
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return 'gone';
    throw error;
  }
}

/** Tries it with two names of ours, so that no policy about other people's files is mistaken for the file system's. */
async function linksWork(directory: string): Promise<boolean> {
  const probe = join(directory, `.walwarden-probe-${process.pid}`);
  await unlinkIfThere(probe);
  await unlinkIfThere(`${probe}-2`);
  await (await open(probe, 'wx', 0o600)).close();
  try {
    await link(probe, `${probe}-2`);
    await unlink(`${probe}-2`);
    return true;
  } catch {
    // Whatever the errno: no link was made.
    return false;
  } finally {
    await unlinkIfThere(probe);
  }
}
