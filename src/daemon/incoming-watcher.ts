import { watch, type FSWatcher } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { errnoOf, messageOf } from '../errors.ts';

/** Why the kernel takes no watch more. */
const LIMITS: Readonly<Record<string, string>> = {
  ENOSPC: 'raise the limit fs.inotify.max_user_watches',
  EMFILE: 'raise the limit fs.inotify.max_user_instances, or that of open files (ulimit -n; systemd: LimitNOFILE)',
};

interface Watch {
  readonly watcher: FSWatcher;
  /** Of the directory that is watched: another one may be mounted over it, or take its name. */
  readonly inode: bigint;
  readonly device: bigint;
}

/**
 * Wakes somebody when something arrives in directories. It is a wake-up only:
 * what is there, the directory itself says. So the kernel's word for the
 * directory as a whole is enough, and costs the same however many files it holds;
 * a library that knows each file would hold hundreds of megabytes for a backlog.
 */
export class IncomingWatcher {
  readonly #directories: readonly string[];
  readonly #onArrival: () => void;
  readonly #watches = new Map<string, Watch>();
  #closed = false;

  /** `onArrival`: something came, changed or went. */
  constructor(directories: readonly string[], onArrival: () => void) {
    this.#directories = directories;
    this.#onArrival = onArrival;
  }

  /** All of the directories are watched, as far as is known. */
  get isComplete(): boolean {
    return this.#directories.every((directory) => this.#watches.has(directory));
  }

  /**
   * Watches what is not watched (any more). Returns why a directory can't be;
   * null when all are. What arrived in a directory before is not told: look
   * there after this.
   */
  async ensure(): Promise<string | null> {
    let problem: string | null = null;
    for (const directory of this.#directories) problem ??= await this.#ensureOne(directory);
    return problem;
  }

  close(): void {
    this.#closed = true;
    for (const directory of this.#directories) this.#drop(directory);
  }

  async #ensureOne(directory: string): Promise<string | null> {
    try {
      const { ino, dev } = await stat(directory, { bigint: true });
      const known = this.#watches.get(directory);
      if (known !== undefined && known.inode === ino && known.device === dev) return null;
      this.#drop(directory);
      if (!this.#closed) this.#watches.set(directory, { watcher: this.#watch(directory), inode: ino, device: dev });
      return null;
    } catch (error) {
      this.#drop(directory);
      const advice = LIMITS[errnoOf(error) ?? ''];
      return advice === undefined ? messageOf(error) : `${messageOf(error)}; ${advice}`;
    }
  }

  #watch(directory: string): FSWatcher {
    const watcher = watch(directory, { persistent: false });
    const lost = (): void => {
      if (this.#watches.get(directory)?.watcher !== watcher) return;
      this.#drop(directory);
      this.#onArrival();
    };
    watcher.on('change', (event, name) => {
      // The directory itself was removed, or moved away.
      if (name === basename(directory)) lost();
      else if (name === null || isOfInterest(event, String(name))) this.#onArrival();
    });
    watcher.on('error', lost);
    return watcher;
  }

  #drop(directory: string): void {
    this.#watches.get(directory)?.watcher.close();
    this.#watches.delete(directory);
  }
}

/** Claims and temporaries are ours, or not for us yet; and pg_receivewal writes into its partial file all the time. */
function isOfInterest(event: string, name: string): boolean {
  if (name.startsWith('.') || name.endsWith('.tmp')) return false;
  return event === 'rename' || !name.endsWith('.partial');
}
