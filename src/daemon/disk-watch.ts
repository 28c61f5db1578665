import { lstat, open } from 'node:fs/promises';
import { join } from 'node:path';
import { unlinkIfThere } from '../durable/durable-file.ts';

/** A directory that does not answer, since when (milliseconds of the monotonic clock). */
interface Step {
  readonly directory: string;
  readonly since: number;
}

/** Looks are shared for so long, in milliseconds. */
const FRESH_MS = 1_000;

/**
 * Notices a disk that does not answer, by writing a small file there. Calls that
 * never return hold a thread each, so there is one look at a time, whoever asks,
 * and one call of it.
 */
export class DiskWatch {
  readonly #patienceMs: number;
  #look: Promise<void> | null = null;
  #step: Step | null = null;
  #endedAt = -Infinity;

  /** `patienceMs`: a call that takes longer is stuck. */
  constructor(patienceMs: number) {
    this.#patienceMs = patienceMs;
  }

  /** The directory that does not answer, of these; null when all do. */
  async stuck(directories: Iterable<string>): Promise<string | null> {
    if (this.#look === null) {
      if (performance.now() - this.#endedAt < FRESH_MS) return null;
      this.#look = this.#lookAt([...new Set(directories)]);
    }
    const look = this.#look;
    for (;;) {
      const step = this.#step;
      const leftMs = step === null ? this.#patienceMs : this.#patienceMs - (performance.now() - step.since);
      if (leftMs <= 0 && step !== null) return step.directory;
      if (await endsWithin(look, leftMs)) return null;
    }
  }

  async #lookAt(directories: readonly string[]): Promise<void> {
    const disks = new Set<bigint>();
    for (const directory of directories) {
      this.#step = { directory, since: performance.now() };
      try {
        const { dev } = await lstat(directory, { bigint: true });
        if (!disks.has(dev)) await writeIn(directory);
        disks.add(dev);
      } catch {
        // An error is an answer: what is wrong is told by passes, and by check.
      }
    }
    this.#step = null;
    this.#look = null;
    this.#endedAt = performance.now();
  }
}

/** What is only read may come from memory, though the disk is gone. */
async function writeIn(directory: string): Promise<void> {
  const path = join(directory, `.walwarden-disk-${process.pid}`);
  try {
    await using handle = await open(path, 'w', 0o600);
    await handle.write('x');
    await handle.sync();
  } finally {
    await unlinkIfThere(path);
  }
}

async function endsWithin(look: Promise<void>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => (timer = setTimeout(resolve, ms, false)));
  try {
    return await Promise.race([look.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
