import type { CheckStrategy } from '../health/check-strategy.ts';
import type { StatusReport } from '../health/status-report.ts';
import {
  checkFileArchival,
  fileArchivalStatus,
  reportFileArchival,
  type FileArchivalStatus,
} from './file-archival-health.ts';
import { WalArchiver, type WalArchiverParts } from './wal-archiver.ts';
import { WalArchiverQueue } from './wal-archiver-queue.ts';
import { inspectClaimFirst, inspectWaiting, listWaiting, removeOldTemporaries } from './waiting-directory.ts';

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
    const options = { customMagic: this.#customMagic, signal: this.parts.drain };
    return new WalArchiverQueue({
      names,
      inspect: (name) => (claims.has(name) ? inspectClaimFirst : inspectWaiting)(this.directory, name, options),
      unknown,
      skip: ignored,
      batchSize: this.#batchSize,
    });
  }

  /** What PostgreSQL says of archive_command; never rejects. */
  async fetchRemoteStatus(): Promise<FileArchivalStatus> {
    return fileArchivalStatus(await this.parts.getRemoteStatus());
  }

  override async check(strategy: CheckStrategy): Promise<void> {
    checkFileArchival(strategy, await this.fetchRemoteStatus());
  }

  override async status(report: StatusReport): Promise<void> {
    reportFileArchival(report, await this.fetchRemoteStatus());
  }
}
