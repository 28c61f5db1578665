import { readFile } from 'node:fs/promises';
import { replaceFile } from '../durable/durable-file.ts';
import { errnoOf, messageOf } from '../errors.ts';
import type { Logger } from '../logging.ts';
import { hexOfMagic } from '../wal/page-header.ts';

/**
 * Says once for each page magic that we don't know that a server's WAL has it: a
 * pre-release, a fork, a PostgreSQL that is newer than we are. What was said is
 * remembered in a small file, because the next pass may be another process.
 */
export class UnknownMagics {
  readonly #path: string;
  readonly #server: string;
  readonly #logger: Logger;
  readonly #told = new Set<number>();

  constructor(path: string, server: string, logger: Logger) {
    this.#path = path;
    this.#server = server;
    this.#logger = logger;
  }

  /** Never rejects: the worst that comes of it is that something is said twice. */
  async tell(magic: number): Promise<void> {
    if (this.#told.has(magic)) return;
    this.#told.add(magic);
    try {
      const known = await this.#read();
      if (known.includes(magic)) return;
      this.#warn(magic);
      await replaceFile(this.#path, Buffer.from(`${JSON.stringify({ magics: [...known, magic] })}\n`), { mode: 0o600 });
    } catch (error) {
      this.#logger.debug({ server: this.#server }, `can't remember it in ${this.#path}: ${messageOf(error)}`);
    }
  }

  #warn(magic: number): void {
    this.#logger.warn(
      { server: this.#server, magic: hexOfMagic(magic) },
      `the WAL of ${this.#server} has the page magic ${hexOfMagic(magic)}, of a PostgreSQL that this version does not know: ` +
        'it is taken, for the rest of its page headers is right',
    );
  }

  async #read(): Promise<number[]> {
    try {
      const found: unknown = JSON.parse(await readFile(this.#path, 'utf8'));
      if (typeof found !== 'object' || found === null || !('magics' in found) || !Array.isArray(found.magics))
        return [];
      return found.magics.filter((magic): magic is number => typeof magic === 'number');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return [];
      this.#logger.debug({ server: this.#server }, `can't read ${this.#path}: ${messageOf(error)}`);
      return [];
    }
  }
}
