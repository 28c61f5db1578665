import type { RemoteStatus, ServerStatus, SlotStatus } from '../postgres/remote-status.ts';
import { describeHolder } from '../postgres/replication-slot.ts';
import { formatLsn, type Lsn } from '../wal/lsn.ts';
import { segmentOfLsn } from '../wal/wal-name.ts';
import { explain, formatBytes } from '../words.ts';
import type { StatusReport } from './status-report.ts';

/** What PostgreSQL says of itself; Barman's names and labels where it has them. */
export function reportPostgres(
  report: StatusReport,
  { server, streaming, slot }: RemoteStatus,
  slotName: string | null,
): void {
  if (server === null) {
    report.add('pg_version', 'PostgreSQL version', null, 'not asked: conninfo is not set');
  } else if (server.serverVersion === null) {
    const why = server.error === null ? 'no answer' : explain(server.error);
    report.add('pg_version', 'PostgreSQL version', null, `FAILED (${why})`);
  } else reportServer(report, server);
  if (streaming !== null) {
    const ok = streaming.error === null;
    report.add(
      'streaming',
      'PostgreSQL streaming',
      ok,
      streaming.error === null ? 'True' : `FAILED (${explain(streaming.error)})`,
    );
  }
  if (slot !== null && slotName !== null)
    reportSlot(report, slot, slotName, streaming?.currentLsn ?? server?.currentLsn ?? null);
}

function reportServer(report: StatusReport, server: ServerStatus): void {
  const { isInRecovery, versionText, serverVersion, timeline, currentLsn, segmentSize, systemIdentifier } = server;
  const text = (name: string, label: string, value: string | null): void => {
    if (value !== null && value !== '') report.add(name, label, value, value);
  };
  text('pg_version', 'PostgreSQL version', versionText ?? String(serverVersion));
  if (server.error !== null) text('pg_problem', 'PostgreSQL told not everything', explain(server.error));
  if (isInRecovery !== null) {
    report.add('is_in_recovery', 'Cluster state', isInRecovery, isInRecovery ? 'in archive recovery' : 'in production');
  }
  text('data_directory', 'PostgreSQL Data directory', server.dataDirectory);
  if (timeline !== null && currentLsn !== null && segmentSize !== null) {
    text('current_xlog', 'Current WAL segment', segmentOfLsn(timeline, currentLsn, segmentSize));
  }
  if (currentLsn !== null) text('current_lsn', 'Current LSN', formatLsn(currentLsn));
  if (timeline !== null) report.add('timeline', 'Timeline', timeline, `${timeline}`);
  if (segmentSize !== null) report.add('xlog_segment_size', 'WAL segment size', segmentSize, formatBytes(segmentSize));
  text('wal_level', "PostgreSQL 'wal_level' setting", server.walLevel);
  if (systemIdentifier !== null) text('systemid', 'System identifier', String(systemIdentifier));
}

function reportSlot(report: StatusReport, { error, slot }: SlotStatus, slotName: string, current: Lsn | null): void {
  const add = (value: Parameters<StatusReport['add']>[2], text: string): void =>
    report.add('replication_slot', 'Replication slot', value, text);
  if (error !== null) return add(null, `FAILED (${explain(error)})`);
  if (slot === null) return add(null, `${slotName} does not exist`);
  const { name, type, active, activePid, restartLsn, walStatus, applicationName, clientAddress, invalidationReason } =
    slot;
  const lag = restartLsn === null || current === null || current < restartLsn ? null : Number(current - restartLsn);
  const parts = [
    name,
    active ? `in use${activePid === null ? '' : ` by ${describeHolder(slot, 'backend')}`}` : 'not in use',
    restartLsn === null ? 'never used' : `at ${formatLsn(restartLsn)}`,
    lag === null ? '' : `${formatBytes(lag)} behind`,
    walStatus === null ? '' : `WAL ${walStatus}`,
    (invalidationReason ?? null) === null ? '' : `invalidated by ${invalidationReason}`,
  ];
  add(
    {
      name,
      type,
      active,
      pid: activePid,
      application_name: applicationName ?? null,
      client_addr: clientAddress ?? null,
      restart_lsn: restartLsn === null ? null : formatLsn(restartLsn),
      wal_status: walStatus,
      invalidation_reason: invalidationReason ?? null,
      lag_bytes: lag,
    },
    parts.filter((part) => part !== '').join(', '),
  );
}
