import type { StoredSize } from '../storage/wal-storage-strategy.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import type { WalName } from '../wal/wal-name.ts';

/** Files of one kind: how many, and the first of them by name. */
export interface FoundFiles<T = WalName> {
  readonly count: number;
  readonly first: readonly T[];
}

/** A stored file whose size is not that of its line, or 0, which no archived file has. */
export interface OddSize {
  readonly name: WalName;
  /** Bytes as stored; of several objects the largest. */
  readonly stored: number;
  /** Bytes by its line. */
  readonly listed: number;
}

/** What a catalogue says, held against what is stored. */
export interface CatalogueComparison {
  /** Stored files, and their bytes. */
  readonly files: number;
  readonly bytes: number;
  /** They have a line and are not stored. */
  readonly missing: FoundFiles;
  /** They are stored and have no line. */
  readonly unlisted: FoundFiles;
  readonly oddSizes: FoundFiles<OddSize>;
}

/** Collects up to a limit, and counts all. */
class Finds<T> {
  readonly first: T[] = [];
  readonly #most: number;
  count = 0;

  constructor(most: number) {
    this.#most = most;
  }

  add(value: T): void {
    this.count += 1;
    if (this.first.length < this.#most) this.first.push(value);
  }
}

/**
 * Merges the two, both in the order of the names, one entry a name: memory does
 * not grow with either. `most` of each kind of find are kept by name.
 */
export async function compareCatalogue(
  listed: AsyncIterable<readonly WalFileInfo[]>,
  stored: AsyncIterable<readonly StoredSize[]>,
  most: number,
): Promise<CatalogueComparison> {
  const missing = new Finds<WalName>(most);
  const unlisted = new Finds<WalName>(most);
  const oddSizes = new Finds<OddSize>(most);
  let files = 0;
  let bytes = 0;
  const lines = new Ahead(listed);
  try {
    for await (const batch of stored) {
      for (const { name, sizes } of batch) {
        files += 1;
        for (const size of sizes) bytes += size;
        let line = lines.current ?? (await lines.fetch());
        while (line !== undefined && line.name < name) {
          missing.add(line.name);
          line = lines.step() ?? (await lines.fetch());
        }
        if (line?.name !== name) {
          unlisted.add(name);
          continue;
        }
        const largest = Math.max(...sizes);
        if (largest === 0 || !sizes.includes(line.size)) oddSizes.add({ name, stored: largest, listed: line.size });
        lines.step();
      }
    }
    for (;;) {
      const line = lines.current ?? (await lines.fetch());
      if (line === undefined) break;
      missing.add(line.name);
      lines.step();
    }
  } finally {
    await lines.close();
  }
  return { files, bytes, missing, unlisted, oddSizes };
}

/** One element at a time of what comes in batches; a promise is awaited only where a batch ends. */
class Ahead<T> {
  readonly #batches: AsyncIterator<readonly T[]>;
  #batch: readonly T[] = [];
  #at = 0;

  constructor(batches: AsyncIterable<readonly T[]>) {
    this.#batches = batches[Symbol.asyncIterator]();
  }

  get current(): T | undefined {
    return this.#batch[this.#at];
  }

  /** Goes on by one. */
  step(): T | undefined {
    this.#at += 1;
    return this.current;
  }

  /** The first of the next batch that has any; undefined at the end. */
  async fetch(): Promise<T | undefined> {
    while (this.current === undefined) {
      const { done, value } = await this.#batches.next();
      if (done === true) return undefined;
      [this.#batch, this.#at] = [value, 0];
    }
    return this.current;
  }

  /** Lets go of what is not read to its end. */
  async close(): Promise<void> {
    await this.#batches.return?.();
  }
}
