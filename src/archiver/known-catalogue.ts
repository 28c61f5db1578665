import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fsyncDirectory, replaceFile } from '../durable/durable-file.ts';
import { messageOf } from '../errors.ts';

/**
 * Remembers, outside of the archive, that there was a catalogue, and where: a
 * mount point without its file system looks like an archive that was never used;
 * what was archived would be called absent, and what is stored there disappears
 * with the next mount.
 */
export class KnownCatalogue {
  readonly #path: string;
  readonly #catalogue: string;
  readonly #seen: Set<string>;
  readonly #onProblem: (problem: string) => void;

  /** `seen`: catalogues that this process has seen; a file system may go away with everything that remembers it, while we live. */
  constructor(path: string, catalogue: string, seen: Set<string>, onProblem: (problem: string) => void) {
    this.#path = path;
    this.#catalogue = catalogue;
    this.#seen = seen;
    this.#onProblem = onProblem;
  }

  /** Whether it was there once, as far as is known. */
  async wasThere(): Promise<boolean> {
    return this.#seen.has(this.#catalogue) || this.#isRemembered();
  }

  /** It is there. Never rejects: a home that can't be written to is no reason not to archive. */
  async isThere(): Promise<void> {
    if (this.#seen.has(this.#catalogue)) return;
    this.#seen.add(this.#catalogue);
    if (await this.#isRemembered()) return;
    const content = Buffer.from(`${JSON.stringify({ catalogue: this.#catalogue })}\n`);
    try {
      await replaceFile(this.#path, content, { mode: 0o600 });
      await fsyncDirectory(dirname(this.#path));
    } catch (error) {
      this.#onProblem(`can't write ${this.#path}: ${messageOf(error)}`);
    }
  }

  async #isRemembered(): Promise<boolean> {
    try {
      const remembered: unknown = JSON.parse(await readFile(this.#path, 'utf8'));
      if (typeof remembered !== 'object' || remembered === null || !('catalogue' in remembered)) return false;
      return remembered.catalogue === this.#catalogue;
    } catch {
      // None, or not to be understood: then only we ourselves can know.
      return false;
    }
  }
}
