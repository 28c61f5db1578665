import type { CheckStrategy } from '../health/check-strategy.ts';
import type { StatusReport } from '../health/status-report.ts';
import type { PostgresError } from '../postgres/failure.ts';
import type { ArchiverStatistics, RemoteStatus } from '../postgres/remote-status.ts';
import { count, explain, formatMoment, formatTime, oneLine } from '../words.ts';

/** What PostgreSQL says of archive_command; every value that could not be known is null. */
export interface FileArchivalStatus {
  /** Why PostgreSQL could not be asked; null also where `conninfo` is not set. */
  readonly error: PostgresError | null;
  readonly isInRecovery: boolean | null;
  readonly archiveMode: string | null;
  readonly archiveCommand: string | null;
  readonly archiveLibrary: string | null;
  /** Seconds. */
  readonly archiveTimeout: number | null;
  readonly archiver: ArchiverStatistics | null;
}

/** What of `remote` concerns archive_command. */
export function fileArchivalStatus({ server }: RemoteStatus): FileArchivalStatus {
  return {
    error: server?.error ?? null,
    isInRecovery: server?.isInRecovery ?? null,
    archiveMode: server?.archiveMode ?? null,
    archiveCommand: server?.archiveCommand ?? null,
    archiveLibrary: server?.archiveLibrary ?? null,
    archiveTimeout: server?.archiveTimeout ?? null,
    archiver: server?.archiver ?? null,
  };
}

/** PostgreSQL shows this for an archive_command that archive_mode keeps out of use. */
const DISABLED = '(disabled)';
const SERVER_LOG = 'the log of the server has what it said';

/** `archive_mode`, `archive_command`, `continuous archiving`; none where PostgreSQL could not be asked. */
export function checkFileArchival(strategy: CheckStrategy, status: FileArchivalStatus, now = Date.now()): void {
  const { archiveMode, archiveCommand, archiver } = status;
  if (archiveMode === null) return;
  strategy.initCheck('archive_mode');
  strategy.result(isOn(archiveMode), isOn(archiveMode) ? onStandby(status) : MODE_OFF);
  strategy.initCheck('archive_command');
  const command = commandOf(status);
  if (command === null) {
    const unused =
      archiveCommand === DISABLED
        ? 'it is not in use as long as archive_mode is off'
        : 'it is empty: PostgreSQL keeps all WAL until it can deliver it; set it to a command that delivers to incoming';
    strategy.result(false, unused);
    return;
  }
  strategy.result(true);
  if (archiver === null) return;
  strategy.initCheck('continuous archiving');
  strategy.result(archiver.isArchiving, archiver.isArchiving ? null : failureOf(status, archiver, now));
}

const MODE_OFF = "it is off: set archive_mode = on in the server's postgresql.conf and restart it";

function isOn(archiveMode: string): boolean {
  return archiveMode === 'on' || archiveMode === 'always';
}

function onStandby({ isInRecovery, archiveMode }: FileArchivalStatus): string | null {
  return isInRecovery === true && archiveMode === 'on'
    ? 'this server is a standby, which archives with archive_mode = always only'
    : null;
}

/** The setting that is in effect, as it would be written; null when nothing would be archived. */
function commandOf({ archiveCommand, archiveLibrary }: FileArchivalStatus): string | null {
  if (archiveLibrary !== null && archiveLibrary !== '') return `archive_library = '${archiveLibrary}'`;
  if (archiveCommand === null || archiveCommand === '' || archiveCommand === DISABLED) return null;
  return `archive_command = '${oneLine(archiveCommand)}'`;
}

function failureOf(status: FileArchivalStatus, archiver: ArchiverStatistics, now: number): string {
  const { archivedCount, lastArchivedTime, lastFailedTime, lastFailedWal, failedCount } = archiver;
  const since =
    archivedCount > 0 && lastArchivedTime !== null
      ? `since ${formatMoment(lastArchivedTime, now)} nothing was archived`
      : 'it has never succeeded';
  const last =
    lastFailedTime === null ? '' : `, last at ${formatTime(lastFailedTime)} for ${lastFailedWal ?? 'a WAL file'}`;
  const setting = commandOf(status) ?? 'archive_command';
  return `${setting} fails (${count(failedCount, 'time')}${last}); ${since}; ${SERVER_LOG}`;
}

/** Why nothing comes into incoming, as far as PostgreSQL can tell; `ever`: nothing was ever archived. */
export function whyNothingIsDelivered(status: FileArchivalStatus, ever: boolean, now = Date.now()): string {
  const { error, archiveMode, archiver } = status;
  if (error !== null) return `PostgreSQL can't be asked why: ${explain(error)}`;
  if (archiveMode === null) return "conninfo is not set, so PostgreSQL can't be asked why";
  if (!isOn(archiveMode)) return 'archive_mode is off on the server: set it to on, and restart the server';
  const command = commandOf(status);
  if (command === null) return 'archive_command is empty on the server';
  const standby = onStandby(status);
  if (standby !== null) return standby;
  if (archiver === null) return `the server has ${command}`;
  if (!archiver.isArchiving) return failureOf(status, archiver, now);
  const { lastArchivedWal, lastArchivedTime } = archiver;
  if (lastArchivedWal === null || lastArchivedTime === null) {
    return `PostgreSQL has not finished a segment yet (pg_switch_wal finishes one); the server has ${command}`;
  }
  const last = `its last archived WAL is ${lastArchivedWal}, ${formatMoment(lastArchivedTime, now)}`;
  if (ever) return `${command} succeeds (${last}): does it deliver to this directory?`;
  const idle =
    status.archiveTimeout === 0
      ? 'with archive_timeout = 0 an idle server finishes no segment'
      : 'an idle server finishes no segment';
  return `${command} succeeds (${last}); ${idle}`;
}

/** What `status` says of them; Barman's names and labels. */
export function reportFileArchival(report: StatusReport, status: FileArchivalStatus): void {
  const { archiveMode, archiveCommand, archiveLibrary, archiver } = status;
  if (archiveMode === null) return;
  report.add('archive_mode', "PostgreSQL 'archive_mode' setting", archiveMode, archiveMode);
  const command = archiveCommand === DISABLED || archiveCommand === '' ? null : archiveCommand;
  report.add(
    'archive_command',
    "PostgreSQL 'archive_command' setting",
    command,
    command === null ? 'none' : oneLine(command),
  );
  if (archiveLibrary !== null && archiveLibrary !== '') {
    report.add('archive_library', "PostgreSQL 'archive_library' setting", archiveLibrary, archiveLibrary);
  }
  if (archiver !== null) reportStatistics(report, archiver);
}

function reportStatistics(report: StatusReport, archiver: ArchiverStatistics): void {
  const { lastArchivedWal, lastArchivedTime, failedCount, lastFailedWal, lastFailedTime } = archiver;
  const at = (time: number | null): string => (time === null ? '' : `, at ${formatTime(time)}`);
  report.add('is_archiving', 'PostgreSQL is archiving', archiver.isArchiving, archiver.isArchiving ? 'True' : 'False');
  report.add('archived_count', 'WAL files archived by PostgreSQL', archiver.archivedCount, `${archiver.archivedCount}`);
  report.add(
    'last_archived_wal',
    'Last archived WAL',
    lastArchivedWal === null ? null : { wal: lastArchivedWal, time: toSeconds(lastArchivedTime) },
    lastArchivedWal === null ? 'No WAL segment shipped yet' : `${lastArchivedWal}${at(lastArchivedTime)}`,
  );
  report.add('failed_count', 'Failures of WAL archiver', failedCount, failuresText(archiver));
  if (failedCount > 0) {
    report.add(
      'last_failed_wal',
      'Last failed WAL',
      lastFailedWal === null ? null : { wal: lastFailedWal, time: toSeconds(lastFailedTime) },
      `${lastFailedWal ?? 'unknown'}${at(lastFailedTime)}`,
    );
  }
  if (archiver.archivedPerSecond !== null && archiver.archivedPerSecond > 0) {
    const perHour = archiver.archivedPerSecond * 3600;
    report.add('server_archived_wals_per_hour', 'Server WAL archiving rate', perHour, `${perHour.toFixed(2)}/hour`);
  }
}

function failuresText({ failedCount, lastFailedWal, lastFailedTime }: ArchiverStatistics): string {
  if (failedCount === 0 || lastFailedTime === null) return `${failedCount}`;
  return `${failedCount} (${lastFailedWal ?? 'unknown'} at ${formatTime(lastFailedTime)})`;
}

/** Times in JSON are seconds since the epoch. */
function toSeconds(ms: number | null): number | null {
  return ms === null ? null : ms / 1000;
}
