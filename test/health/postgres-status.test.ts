import { expect, test } from 'vitest';
import { reportPostgres } from '../../src/health/postgres-status.ts';
import { StatusReport } from '../../src/health/status-report.ts';
import { PostgresError } from '../../src/postgres/failure.ts';
import type { RemoteStatus } from '../../src/postgres/remote-status.ts';
import {
  remoteStatus,
  replicationSlot,
  slotStatus,
  streamingStatus,
  SYSTEM_IDENTIFIER,
  unreachable,
} from './remote.ts';

function entries(remote: RemoteStatus, slotName: string | null = 'walwarden'): [Record<string, unknown>, string[]] {
  const report = new StatusReport();
  reportPostgres(report, remote, slotName);
  const values = report.entries.map(({ name, value }) => [name, value] as const);
  return [Object.fromEntries(values), report.entries.map(({ label, text }) => `${label}: ${text}`)];
}

test('a server that streams is told by Barman’s labels, the lag of its slot in bytes', () => {
  const remote = remoteStatus({ streaming: streamingStatus(), slot: slotStatus(replicationSlot()) });
  const [values, lines] = entries(remote);
  expect(lines).toEqual([
    'PostgreSQL version: 15.18',
    'Cluster state: in production',
    'PostgreSQL Data directory: /var/lib/postgresql/15/main',
    'Current WAL segment: 000000010000000000000005',
    'Current LSN: 0/5000028',
    'Timeline: 1',
    'WAL segment size: 16.0 MiB',
    "PostgreSQL 'wal_level' setting: replica",
    `System identifier: ${SYSTEM_IDENTIFIER}`,
    'PostgreSQL streaming: True',
    'Replication slot: walwarden, in use by backend 4711, at 0/4000000, 16.0 MiB behind, WAL reserved',
  ]);
  expect(values).toMatchObject({
    pg_version: '15.18',
    is_in_recovery: false,
    timeline: 1,
    systemid: '7123456789012345678',
    replication_slot: { restart_lsn: '0/4000000', lag_bytes: 0x100_0028, active: true, pid: 4711 },
  });
});

test('a server that is down is one line with the reason', () => {
  const [values, lines] = entries(remoteStatus({ server: unreachable() }));
  expect(lines).toEqual(['PostgreSQL version: FAILED (connection refused; see conninfo)']);
  expect(values).toEqual({ pg_version: null });
});

test('where conninfo is not set, that is told', () => {
  expect(entries(remoteStatus({ server: null }))[1]).toEqual(['PostgreSQL version: not asked: conninfo is not set']);
});

test('a replication connection and a slot that can not be asked are told, and so is a slot that is not there', () => {
  const error = new PostgresError('pg-hba', 'no entry');
  const failing = remoteStatus({
    server: null,
    streaming: streamingStatus({ error }),
    slot: slotStatus(null, { error }),
  });
  expect(entries(failing)[1].slice(1)).toEqual([
    'PostgreSQL streaming: FAILED (no entry)',
    'Replication slot: FAILED (no entry)',
  ]);
  const missing = remoteStatus({ server: null, slot: slotStatus(null) });
  expect(entries(missing)[1].slice(1)).toEqual(['Replication slot: walwarden does not exist']);
  expect(entries(missing, null)[1]).toHaveLength(1);
});
