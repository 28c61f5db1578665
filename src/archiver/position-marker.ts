import { readFile } from 'node:fs/promises';
import { sameIdentity } from '../storage/file-identity.ts';
import { replaceFile, unlinkIfThere } from '../durable/durable-file.ts';
import { isWalName } from '../wal/wal-name.ts';
import type { MarkedFile } from './streaming-position.ts';

/**
 * Remembers, across processes, which position markers need no second look: what
 * they hold is archived, or a copy is in errors. Nothing is ever removed because
 * of it. Where it is missing or damaged, a marker is compared once more.
 */
export class MarkerMemory {
  readonly #path: string;
  /** What could not be written: a process that goes on must not compare the same file for ever. */
  #unwritten: readonly MarkedFile[] = [];

  constructor(path: string) {
    this.#path = path;
  }

  /** The files that were remembered last. Also drops what a crash left of a write. */
  async read(): Promise<readonly MarkedFile[]> {
    try {
      await unlinkIfThere(`${this.#path}.tmp`);
      const remembered: unknown = JSON.parse(await readFile(this.#path, 'utf8'));
      return [...this.#unwritten, ...(Array.isArray(remembered) ? remembered.flatMap(toMarkedFile) : [])];
    } catch {
      // Whatever it is: that a marker is compared once more is no reason to fail.
      return this.#unwritten;
    }
  }

  /** Remembers these files and no others. */
  async write(files: readonly MarkedFile[]): Promise<void> {
    const facts = files.map(({ name, dev, ino, size, mtimeNs, ctimeNs }) => ({
      name,
      // JSON's numbers are too small.
      dev: String(dev),
      ino: String(ino),
      size: String(size),
      mtimeNs: String(mtimeNs),
      ctimeNs: String(ctimeNs),
    }));
    this.#unwritten = files;
    await replaceFile(this.#path, Buffer.from(`${JSON.stringify(facts, null, 2)}\n`), { mode: 0o600 });
    this.#unwritten = [];
  }
}

/** Whether this is a file that was remembered, and nothing touched it since. */
export function isRemembered(remembered: readonly MarkedFile[], file: MarkedFile): boolean {
  return remembered.some(
    (known) => known.name === file.name && sameIdentity(known, file) && known.ctimeNs === file.ctimeNs,
  );
}

function toMarkedFile(value: unknown): MarkedFile[] {
  if (typeof value !== 'object' || value === null) return [];
  const facts = new Map<string, unknown>(Object.entries(value));
  const name = facts.get('name');
  const number = (key: string): bigint => {
    const text = facts.get(key);
    return typeof text === 'string' && /^\d+$/.test(text) ? BigInt(text) : -1n;
  };
  if (typeof name !== 'string' || !isWalName(name)) return [];
  const [dev, ino, size, mtimeNs, ctimeNs] = [
    number('dev'),
    number('ino'),
    number('size'),
    number('mtimeNs'),
    number('ctimeNs'),
  ];
  return [{ name, dev, ino, size, mtimeNs, ctimeNs }];
}
