import type { WaitingWal } from '../storage/wal-storage-strategy.ts';
import type { WalName } from '../wal/wal-name.ts';
import type { Inspection } from './waiting-directory.ts';

/** A file that is not archived in this pass, and why. */
export interface PassedOver {
  /** Byte for byte (latin1). */
  readonly entry: string;
  readonly reason: string;
  /** When the file changed last, in milliseconds since the epoch. */
  readonly changedMs: number;
  /** Where it is, unless under this name in the directory. */
  readonly path?: string | undefined;
}

export interface QueueParts {
  /** Names in the order in which they are to be archived. */
  readonly names: readonly WalName[];
  readonly inspect: (name: WalName) => Promise<Inspection>;
  /** Entries that can't be WAL files by their names. */
  readonly unknown?: readonly string[];
  /** Entries that can't be archived, and that nobody may move away. */
  readonly failed?: readonly PassedOver[];
  /** Entries that were ignored. */
  readonly skip?: readonly string[];
  /** Files to be archived in this pass at most; 0 means all. */
  readonly batchSize?: number;
}

/**
 * The files of one archive pass. They are looked at one by one while the pass
 * goes on, so the first is archived as soon with 100,000 waiting as with one.
 * `errors`, `incomplete` and `failed` fill up meanwhile.
 */
export class WalArchiverQueue implements AsyncIterable<WaitingWal> {
  /** Files that are no WAL, to be moved to the errors directory. */
  readonly errors: PassedOver[];
  /** Files that are still being written, as far as we can tell. */
  readonly incomplete: PassedOver[] = [];
  /** Files that can't be read. */
  readonly failed: PassedOver[];
  readonly skip: readonly string[];
  readonly batchSize: number;
  /** WAL files waiting, whether they fit in the batch or not. */
  readonly totalSize: number;
  readonly #parts: QueueParts;

  constructor(parts: QueueParts) {
    this.#parts = parts;
    this.errors = (parts.unknown ?? []).map((entry) => ({
      entry,
      reason: 'it has not the name of a WAL file',
      changedMs: 0,
    }));
    this.failed = [...(parts.failed ?? [])];
    this.skip = parts.skip ?? [];
    this.batchSize = parts.batchSize ?? 0;
    this.totalSize = parts.names.length;
  }

  /** Files that this pass takes at most. */
  get runSize(): number {
    return this.batchSize === 0 ? this.totalSize : Math.min(this.batchSize, this.totalSize);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<WaitingWal> {
    let taken = 0;
    for (const name of this.#parts.names) {
      // Only what can be archived counts, so that odd files never block the others.
      if (taken === this.runSize) return;
      const found = await this.#parts.inspect(name);
      if (found.state === 'ready') {
        taken += 1;
        yield found.wal;
      } else if (found.state !== 'gone') {
        const { reason, changedMs, path } = found;
        const list = found.state === 'unknown' ? this.errors : this[found.state];
        list.push({ entry: name, reason, changedMs, path });
      }
    }
  }
}
