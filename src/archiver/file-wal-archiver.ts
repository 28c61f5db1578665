import { join } from 'node:path';
import { claimPath } from '../storage/claim.ts';
import type { WalName } from '../wal/wal-name.ts';
import { WalArchiver, type WalArchiverParts } from './wal-archiver.ts';
import { WalArchiverQueue } from './wal-archiver-queue.ts';
import { inspectWaiting, listWaiting, removeOldTemporaries, type Inspection } from './waiting-directory.ts';

export interface FileWalArchiverSettings {
  readonly incoming: string;
  /** `archiver_batch_size`; 0 for no limit. */
  readonly batchSize: number;
  /** `custom_compression_magic`. */
  readonly customMagic?: Uint8Array | undefined;
}

/** Archives what PostgreSQL's archive_command (or put-wal) put into the incoming directory. */
export class FileWalArchiver extends WalArchiver {
  override readonly directory: string;
  readonly #batchSize: number;
  readonly #customMagic: Uint8Array | undefined;

  constructor(parts: WalArchiverParts, settings: FileWalArchiverSettings) {
    super('file archival', parts);
    this.directory = settings.incoming;
    this.#batchSize = settings.batchSize;
    this.#customMagic = settings.customMagic;
  }

  override async getNextBatch(): Promise<WalArchiverQueue> {
    const { names, claims, unknown, ignored } = await listWaiting(this.directory);
    await removeOldTemporaries(this.directory, ignored);
    return new WalArchiverQueue({
      names,
      inspect: (name) => this.#inspect(name, claims.has(name)),
      unknown,
      skip: ignored,
      batchSize: this.#batchSize,
    });
  }

  async #inspect(name: WalName, hasClaim: boolean): Promise<Inspection> {
    const options = { customMagic: this.#customMagic, signal: this.parts.drain };
    if (!hasClaim) return inspectWaiting(this.directory, name, options);
    // What an interrupted pass claimed is finished first; a new arrival of its name waits for the next pass, unless
    // power loss took the bytes of the claim: then the arrival is the file that PostgreSQL sent again.
    const claim = await inspectWaiting(this.directory, name, { ...options, claimed: true });
    if (claim.state === 'ready') return claim;
    const arrival = await inspectWaiting(this.directory, name, options);
    if (arrival.state === 'ready' || claim.state === 'gone') return arrival;
    return { ...claim, path: claimPath(join(this.directory, name), name) };
  }
}
