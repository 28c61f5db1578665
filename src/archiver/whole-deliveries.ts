import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDirectory, replaceFile, unlinkIfThere } from '../durable/durable-file.ts';
import { errnoOf, messageOf } from '../errors.ts';
import type { Logger } from '../logging.ts';
import type { FileIdentity } from '../storage/file-identity.ts';
import type { WalName } from '../wal/wal-name.ts';

/**
 * Notes which files in incoming came with a checksum that was right, where the
 * headers of WAL aren't verified: a pass need not wait until those are unchanged
 * for a while. A note that is lost only makes it wait.
 */
export class WholeDeliveries {
  readonly #path: string;
  readonly #logger: Logger;

  constructor(path: string, logger: Logger) {
    this.#path = path;
    this.#logger = logger;
  }

  /** Before the file has its name. Never rejects. */
  async note(name: WalName, identity: FileIdentity): Promise<void> {
    try {
      await makeDirectory(this.#path);
      await replaceFile(join(this.#path, name), Buffer.from(textOf(identity)), { mode: 0o600 });
    } catch (error) {
      this.#logger.debug({ wal: name }, `can't note in ${this.#path} that ${name} is whole: ${messageOf(error)}`);
    }
  }

  /** Whether this very file, and not another one of its name, came with a checksum. */
  async has(name: WalName, identity: FileIdentity): Promise<boolean> {
    try {
      return (await readFile(join(this.#path, name), 'utf8')) === textOf(identity);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') {
        this.#logger.debug({ wal: name }, `can't read the note of ${name} in ${this.#path}: ${messageOf(error)}`);
      }
      return false;
    }
  }

  /** Drops notes that are older than a file has to wait without one. Never rejects. */
  async prune(ageMs: number, now = Date.now()): Promise<void> {
    try {
      for (const entry of await readdir(this.#path)) {
        const path = join(this.#path, entry);
        if (now - (await stat(path)).mtimeMs > ageMs) await unlinkIfThere(path);
      }
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return;
      this.#logger.debug(`can't remove old notes from ${this.#path}: ${messageOf(error)}`);
    }
  }
}

function textOf({ dev, ino, size, mtimeNs }: FileIdentity): string {
  return `${dev} ${ino} ${size} ${mtimeNs}\n`;
}
