import { createReadStream } from 'node:fs';
import { open, rename, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { fsyncDirectory, isThere, makeDirectory, unlinkIfThere, writeFully } from '../durable/durable-file.ts';
import { errnoOf } from '../errors.ts';
import { isSegmentSize, isWalName, type WalName } from '../wal/wal-name.ts';

/** What an encrypted file was made of. Without this, nobody but the holder of the secret key could tell a duplicate. */
export interface DigestEntry {
  readonly name: WalName;
  /** SHA-256 of the plain bytes, in hexadecimal. */
  readonly plain: string;
  /** SHA-256 of the stored bytes; an entry whose file was never published or was replaced doesn't match. */
  readonly stored: string;
  readonly compression: string | null;
  /** In bytes; null for backup labels and history files. Nobody else can look into an encrypted segment. */
  readonly segmentSize: number | null;
}

const LINE = /^(\S+)\t([0-9a-f]{64})\t([0-9a-f]{64})\t(\S+)\t(\d+|None)$/;

/**
 * An append-only file of digests beside the archive. Entries are written before
 * their file is published, so an entry may be without a file, never a file
 * without its entry. A name may stand there several times.
 */
export class DigestJournal {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** Resolves once the entries would survive power loss. */
  async append(entries: readonly DigestEntry[]): Promise<void> {
    if (entries.length === 0) return;
    const isNew = !(await isThere(this.#path));
    if (isNew) await makeDirectory(dirname(this.#path));
    await using handle = await open(this.#path, 'a+', 0o600);
    const text = entries.map(formatEntry).join('');
    // After a torn line of a crash, a line break ends what can't be read anyway.
    await writeFully(handle, Buffer.from((await endsInNewline(handle)) ? text : `\n${text}`));
    await handle.datasync();
    if (isNew) await fsyncDirectory(dirname(this.#path));
  }

  /** All entries of a name, the latest last. */
  async find(name: WalName): Promise<DigestEntry[]> {
    const found: DigestEntry[] = [];
    for await (const entry of this.#read()) if (entry.name === name) found.push(entry);
    return found;
  }

  /** SHA-256 of the plain bytes of a file of which only that of the stored bytes is known; null when it has no entry. */
  async plainDigest(name: WalName, stored: string): Promise<string | null> {
    const entries = await this.find(name);
    return entries.findLast((entry) => entry.stored === stored)?.plain ?? null;
  }

  /** All entries, by name. */
  async all(): Promise<Map<WalName, DigestEntry[]>> {
    const entries = new Map<WalName, DigestEntry[]>();
    for await (const entry of this.#read()) {
      const known = entries.get(entry.name);
      if (known === undefined) entries.set(entry.name, [entry]);
      else known.push(entry);
    }
    return entries;
  }

  /** The size of the segments here; null when none is encrypted. */
  async segmentSize(): Promise<number | null> {
    for await (const { segmentSize } of this.#read()) if (segmentSize !== null) return segmentSize;
    return null;
  }

  /** Forgets names that are no longer archived. */
  async forget(names: ReadonlySet<WalName>): Promise<void> {
    if (names.size === 0 || !(await isThere(this.#path))) return;
    const temporary = `${this.#path}.tmp`;
    await unlinkIfThere(temporary);
    {
      await using handle = await open(temporary, 'wx', 0o600);
      for await (const entry of this.#read()) {
        if (!names.has(entry.name)) await writeFully(handle, Buffer.from(formatEntry(entry)));
      }
      await handle.sync();
    }
    await rename(temporary, this.#path);
    await fsyncDirectory(dirname(this.#path));
  }

  async *#read(): AsyncGenerator<DigestEntry> {
    const input = createReadStream(this.#path, 'utf8');
    try {
      for await (const line of createInterface({ input, crlfDelay: Infinity })) {
        const match = LINE.exec(line);
        const [, name = '', plain = '', stored = '', compression = '', segmentSize = ''] = match ?? [];
        if (match !== null && isWalName(name)) {
          yield {
            name,
            plain,
            stored,
            compression: compression === 'None' ? null : compression,
            // A torn number is no size.
            segmentSize: isSegmentSize(Number(segmentSize)) ? Number(segmentSize) : null,
          };
        }
      }
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    } finally {
      input.destroy();
    }
  }
}

function formatEntry(entry: DigestEntry): string {
  const { name, plain, stored, compression, segmentSize } = entry;
  return `${name}\t${plain}\t${stored}\t${compression ?? 'None'}\t${segmentSize ?? 'None'}\n`;
}

async function endsInNewline(handle: FileHandle): Promise<boolean> {
  const { size } = await handle.stat();
  if (size === 0) return true;
  const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, size - 1);
  return buffer[0] === 0x0a;
}
