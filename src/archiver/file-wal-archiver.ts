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
import type { WholeDeliveries } from './whole-deliveries.ts';
import { inspectClaimFirst, listWaiting, removeOldTemporaries } from './waiting-directory.ts';

export interface FileWalArchiverSettings {
  readonly incoming: string;
  /** Where files of incoming are claimed. */
  readonly claims: string;
  /** `archiver_batch_size`; 0 for no limit. */
  readonly batchSize: number;
  /** `custom_compression_magic`. */
  readonly customMagic?: Uint8Array | undefined;
  readonly whole: WholeDeliveries;
}

/** Archives what PostgreSQL's archive_command (or put-wal) put into the incoming directory. */
export class FileWalArchiver extends WalArchiver {
  override readonly directory: string;
  readonly #claims: string;
  readonly #batchSize: number;
  readonly #customMagic: Uint8Array | undefined;
  readonly #whole: WholeDeliveries;

  constructor(parts: WalArchiverParts, settings: FileWalArchiverSettings) {
    super('file archival', parts);
    this.directory = settings.incoming;
    this.#claims = settings.claims;
    this.#batchSize = settings.batchSize;
    this.#customMagic = settings.customMagic;
    this.#whole = settings.whole;
  }

  override async getNextBatch(): Promise<WalArchiverQueue> {
    const { names, claims, unknown, ignored } = await listWaiting(this.directory, this.#claims);
    await removeOldTemporaries(this.directory, ignored);
    const { headers, incompleteTimeoutMs: waitMs, drain } = this.parts;
    const known = names.length === 0 ? null : await headers.opaque();
    if (headers.isOff) await this.#whole.prune(waitMs);
    const isWhole = this.#whole.has.bind(this.#whole);
    const opaque = known === null ? null : { ...known, waitMs, isWhole };
    const options = { claims: this.#claims, customMagic: this.#customMagic, opaque, signal: drain };
    return new WalArchiverQueue({
      names,
      inspect: (name) => inspectClaimFirst(this.directory, name, claims.get(name), options),
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
