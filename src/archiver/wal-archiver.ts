import { join } from 'node:path';
import { messageOf } from '../errors.ts';
import type { CheckStrategy } from '../health/check-strategy.ts';
import type { StatusReport } from '../health/status-report.ts';
import type { Logger } from '../logging.ts';
import type { RemoteStatus } from '../postgres/remote-status.ts';
import type { SaveObserver, SaveResult, WaitingWal, WalStorageStrategy } from '../storage/wal-storage-strategy.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { isWalName, walKind } from '../wal/wal-name.ts';
import { formatSpan } from '../words.ts';
import type { ErrorKind, ErrorsDirectory } from './errors-directory.ts';
import type { HeaderVerification } from './header-verification.ts';
import type { Told } from './told.ts';
import type { PassedOver, WalArchiverQueue } from './wal-archiver-queue.ts';

export interface WalArchiverParts {
  readonly server: string;
  readonly strategy: WalStorageStrategy;
  readonly errors: ErrorsDirectory;
  readonly logger: Logger;
  /** What PostgreSQL says; asked for once, and never rejects. */
  readonly getRemoteStatus: () => Promise<RemoteStatus>;
  readonly headers: HeaderVerification;
  /** After so many milliseconds without a change, an incomplete file is told. */
  readonly incompleteTimeoutMs: number;
  /** Take no more files; finish those in hand. */
  readonly drain?: AbortSignal | undefined;
  readonly observer?: ArchiveObserver | undefined;
  /** What earlier passes of this process told; by default each pass tells everything. */
  readonly told?: Told | undefined;
}

/** Told what becomes of each file, as it happens; must not throw. */
export interface ArchiveObserver extends SaveObserver {
  /** `archiver`: its name. */
  concluded(archiver: string, result: SaveResult): void;
}

/** A file that was not archived. */
export interface NotArchived {
  readonly name: string;
  readonly reason: string;
  /** Its name in the errors directory, where it went there. */
  readonly movedTo: string | null;
}

/** What one pass did. */
export interface ArchiveSummary {
  readonly archiver: string;
  readonly archived: WalFileInfo[];
  /** Met again with the same content: nothing but the source was removed. */
  readonly duplicates: WalFileInfo[];
  /** Another content under an archived name. */
  readonly conflicts: NotArchived[];
  readonly unknown: NotArchived[];
  readonly failed: NotArchived[];
  /** Incomplete for longer than `incomplete_wal_timeout`. */
  readonly overdue: NotArchived[];
  incomplete: number;
  /** Files that wait for a later pass. */
  waiting: number;
}

const IS_SHORT = 'its WAL ends inside, and there is a copy that begins with all of it and goes on';

/** Takes WAL files from where they are delivered to where they are kept. */
export abstract class WalArchiver {
  /** What this archiver is called in messages. */
  readonly name: string;
  protected readonly parts: WalArchiverParts;

  constructor(name: string, parts: WalArchiverParts) {
    this.name = name;
    this.parts = parts;
  }

  /** The files to be archived in one pass. The caller holds the archive-wal lock. */
  abstract getNextBatch(): Promise<WalArchiverQueue>;

  /** The directory that they are delivered to. */
  abstract readonly directory: string;

  /** What to look at when a file there stays incomplete. */
  protected readonly incompleteAdvice: string = 'see whether its archive_command was interrupted';

  /** Called for a file that stays where it is (`handling = keep`), once nothing more is to be done with it. */
  protected async remember(_wal: WaitingWal): Promise<void> {}

  /** What this archiver adds to `check`. */
  abstract check(strategy: CheckStrategy): Promise<void>;

  /** What this archiver adds to `status`. */
  abstract status(report: StatusReport): Promise<void>;

  /**
   * One pass: archives what waits, in WAL order; what is no WAL, or another
   * content under an archived name, goes to the errors directory. Throws when
   * nothing more can be stored; what was not archived then is still there.
   * `verbose` tells also that there was nothing to do.
   */
  async archive(verbose = true): Promise<ArchiveSummary> {
    const { server, strategy, logger, drain, observer } = this.parts;
    const batch = await this.getNextBatch();
    const summary = newSummary(this.name);
    if (batch.runSize > 0) {
      const found = batch.totalSize > batch.runSize ? `${batch.runSize} of ${batch.totalSize}` : `${batch.totalSize}`;
      logger.debug(
        { server, archiver: this.name, files: batch.totalSize },
        `${found} files waiting in ${this.directory}`,
      );
    } else if (verbose) {
      logger.debug({ server, archiver: this.name }, `nothing waits in ${this.directory}`);
    }
    try {
      for await (const result of strategy.save(batch, { expected: batch.runSize, drain, observer })) {
        observer?.concluded(this.name, result);
        await this.#conclude(result, summary);
      }
    } finally {
      // Also after a failure, so that the log tells of them.
      for (const found of batch.failed) this.#fail(found.entry, found.reason, summary);
      for (const found of batch.incomplete) await this.#leaveIncomplete(found, summary);
    }
    for (const found of batch.errors) await this.#moveToErrors('unknown', found, summary);
    this.parts.told?.passOver(this.name);
    const moved = [...summary.conflicts, ...summary.unknown].filter(
      ({ name, movedTo }) => isWalName(name) && movedTo !== null,
    );
    summary.waiting = batch.totalSize - summary.archived.length - summary.duplicates.length - moved.length;
    return summary;
  }

  async #conclude(result: SaveResult, summary: ArchiveSummary): Promise<void> {
    const { server, logger } = this.parts;
    const { wal } = result;
    const { name } = wal;
    switch (result.outcome) {
      case 'stored': {
        const { size, compression, encryption } = result.info;
        logger.info(
          { server, wal: name, size, compression, encryption },
          result.info.name === name ? `archived ${name}` : `archived ${name} as ${result.info.name}: ${IS_SHORT}`,
        );
        summary.archived.push(result.info);
        break;
      }
      case 'already-stored':
        logger.info(
          { server, wal: name },
          result.info.name === name
            ? `${name} was archived already, with the same content`
            : `${name} was archived already, as ${result.info.name}: ${IS_SHORT}`,
        );
        summary.duplicates.push(result.info);
        break;
      case 'conflict':
        await this.#refuse('duplicate', wal, result.reason, summary);
        break;
      case 'invalid':
        await this.#refuse('unknown', wal, result.reason, summary);
        break;
      case 'incomplete':
        await this.#leaveIncomplete(
          { entry: name, reason: result.reason, changedMs: wal.changedMs, path: wal.path },
          summary,
        );
        break;
      case 'changed':
        logger.debug({ server, wal: name }, `${name} waits for the next pass: ${result.reason}`);
        break;
      case 'failed':
        this.#fail(name, result.reason, summary);
        break;
    }
    const archived = 'info' in result && result.hooksDue !== true;
    if (archived && wal.handling === 'keep') await this.remember(wal);
  }

  async #refuse(kind: ErrorKind, wal: WaitingWal, reason: string, summary: ArchiveSummary): Promise<void> {
    const found = { entry: wal.name, reason, changedMs: wal.changedMs, path: wal.path };
    const stays = wal.handling === 'keep';
    if ((await this.#moveToErrors(kind, found, summary, stays)) && stays) await this.remember(wal);
  }

  async #leaveIncomplete(found: PassedOver, summary: ArchiveSummary): Promise<void> {
    const { server, logger, incompleteTimeoutMs } = this.parts;
    const ageMs = Date.now() - found.changedMs;
    // Whoever delivers it again may be kept from it by the one that is there, and recoveries are.
    if (ageMs >= incompleteTimeoutMs && isTextFile(found.entry)) {
      const reason = `it has been incomplete, and unchanged, for ${formatSpan(ageMs)}: ${found.reason}; copy it from pg_wal`;
      await this.#moveToErrors('unknown', { ...found, reason }, summary);
      return;
    }
    summary.incomplete += 1;
    if (ageMs < incompleteTimeoutMs) {
      logger.debug({ server, wal: found.entry }, `${found.entry} is not complete yet: ${found.reason}`);
      return;
    }
    const reason = `incomplete, and unchanged for ${Math.round(ageMs / 1000)} s: ${found.reason}`;
    logger[this.#isNews(found.entry, reason) ? 'warn' : 'debug'](
      { server, wal: found.entry },
      `${join(this.directory, found.entry)} is ${reason}; it is left alone, ${this.incompleteAdvice}`,
    );
    summary.overdue.push({ name: found.entry, reason, movedTo: null });
  }

  #fail(entry: string, reason: string, summary: ArchiveSummary): void {
    const { server, logger } = this.parts;
    const level = this.#isNews(entry, reason) ? 'error' : 'debug';
    logger[level]({ server, wal: entry }, `can't archive ${join(this.directory, entry)}: ${reason}; it is left alone`);
    summary.failed.push({ name: entry, reason, movedTo: null });
  }

  #isNews(entry: string, reason: string): boolean {
    return this.parts.told?.isNews(this.name, entry, reason) ?? true;
  }

  /** `stays`: only a copy of it goes there. False when it could not be moved. */
  async #moveToErrors(kind: ErrorKind, found: PassedOver, summary: ArchiveSummary, stays = false): Promise<boolean> {
    const { server, logger, errors } = this.parts;
    const shown = Buffer.from(found.entry, 'latin1').toString('utf8');
    const source = found.path ?? Buffer.concat([Buffer.from(`${this.directory}/`), Buffer.from(found.entry, 'latin1')]);
    try {
      const take = stays
        ? errors.takeCopy(source, found.entry, kind, found.reason)
        : errors.take(source, found.entry, kind, found.reason);
      const movedTo = await take;
      const what = kind === 'duplicate' ? 'is archived already, and was not replaced' : "can't be archived";
      logger.warn(
        { server, wal: shown, movedTo },
        `${JSON.stringify(shown)} ${what}: ${found.reason}; ${stays ? 'it stays where it is, and a copy is in' : 'moved to'} errors as ${JSON.stringify(movedTo)}`,
      );
      const list = kind === 'duplicate' ? summary.conflicts : summary.unknown;
      list.push({ name: shown, reason: found.reason, movedTo });
      return true;
    } catch (error) {
      // It stays where it is, and must not keep the others waiting.
      this.#fail(shown, `${found.reason}, and it can't be moved to errors: ${messageOf(error)}`, summary);
      return false;
    }
  }
}

/** PostgreSQL writes each of these once, in one go: nobody completes it after a while. */
function isTextFile(entry: string): boolean {
  return isWalName(entry) && ['history', 'backup'].includes(walKind(entry));
}

function newSummary(archiver: string): ArchiveSummary {
  return {
    archiver,
    archived: [],
    duplicates: [],
    conflicts: [],
    unknown: [],
    failed: [],
    overdue: [],
    incomplete: 0,
    waiting: 0,
  };
}
