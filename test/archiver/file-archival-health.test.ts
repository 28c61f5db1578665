import { expect, test } from 'vitest';
import {
  checkFileArchival,
  fileArchivalStatus,
  reportFileArchival,
  whyNothingIsDelivered,
} from '../../src/archiver/file-archival-health.ts';
import { CheckStrategy } from '../../src/health/check-strategy.ts';
import { StatusReport } from '../../src/health/status-report.ts';
import type { ServerStatus } from '../../src/postgres/remote-status.ts';
import { archiverStatistics, FAILING, NOW, remoteStatus, serverStatus, unreachable } from '../health/remote.ts';

const statusOf = (server: ServerStatus | null) => fileArchivalStatus(remoteStatus({ server }));

function run(changes: Partial<ServerStatus> = {}): string[] {
  const strategy = new CheckStrategy();
  checkFileArchival(strategy, statusOf(serverStatus(changes)), NOW);
  return strategy.results.map(
    ({ check, ok, hint }) => `${check}: ${ok ? 'OK' : 'FAILED'}${hint === null ? '' : ` (${hint})`}`,
  );
}

const why = (server: ServerStatus | null, ever = true): string => whyNothingIsDelivered(statusOf(server), ever, NOW);

test('a server that archives passes all checks, in Barman’s order', () => {
  expect(run()).toEqual(['archive_mode: OK', 'archive_command: OK', 'continuous archiving: OK']);
});

test('nothing is checked where PostgreSQL could not be asked', () => {
  const strategy = new CheckStrategy();
  checkFileArchival(strategy, statusOf(unreachable()), NOW);
  checkFileArchival(strategy, statusOf(null), NOW);
  expect(strategy.results).toEqual([]);
});

test('archive_mode = off fails, and with it archive_command, as in Barman', () => {
  expect(run({ archiveMode: 'off', archiveCommand: '(disabled)' })).toEqual([
    "archive_mode: FAILED (it is off: set archive_mode = on in the server's postgresql.conf and restart it)",
    'archive_command: FAILED (it is not in use as long as archive_mode is off)',
  ]);
});

test('an empty archive_command fails', () => {
  expect(run({ archiveCommand: '' })[1]).toMatch(/^archive_command: FAILED \(it is empty: PostgreSQL keeps all WAL/);
});

test('archive_library takes the place of archive_command', () => {
  expect(run({ archiveCommand: '', archiveLibrary: 'basic_archive' })).toEqual([
    'archive_mode: OK',
    'archive_command: OK',
    'continuous archiving: OK',
  ]);
});

test('an archive_command that fails is told with its text, since when, how often and for which WAL', () => {
  expect(run({ archiver: FAILING })[2]).toBe(
    "continuous archiving: FAILED (archive_command = 'cp %p /incoming/%f' fails (7 times, last at 2026-10-03 11:59:00 UTC" +
      ' for 000000010000000000000005); since 2026-10-03 11:57:00 UTC (3 min ago) nothing was archived; the log of the server has what it said)',
  );
  const never = { ...FAILING, archivedCount: 0, lastArchivedWal: null, lastArchivedTime: null };
  expect(run({ archiver: never })[2]).toMatch(/; it has never succeeded; /);
});

test('continuous archiving is left out where the statistics are not known', () => {
  expect(run({ archiver: null })).toEqual(['archive_mode: OK', 'archive_command: OK']);
});

test('a standby that archives nothing is told so', () => {
  expect(run({ isInRecovery: true })[0]).toMatch(/^archive_mode: OK \(this server is a standby.*always only/);
  expect(run({ isInRecovery: true, archiveMode: 'always' })[0]).toBe('archive_mode: OK');
});

test('why nothing arrives: PostgreSQL can not be asked', () => {
  expect(why(unreachable())).toBe("PostgreSQL can't be asked why: connection refused; see conninfo");
  expect(why(null)).toBe("conninfo is not set, so PostgreSQL can't be asked why");
});

test('why nothing arrives: settings of the server', () => {
  expect(why(serverStatus({ archiveMode: 'off', archiveCommand: '(disabled)' }))).toMatch(/^archive_mode is off/);
  expect(why(serverStatus({ archiveCommand: '' }))).toBe('archive_command is empty on the server');
  expect(why(serverStatus({ isInRecovery: true }))).toMatch(/standby/);
});

test('why nothing arrives: archive_command fails', () => {
  expect(why(serverStatus({ archiver: FAILING }))).toMatch(
    /^archive_command = 'cp %p \/incoming\/%f' fails \(7 times, last at .* for 000000010000000000000005\)/,
  );
});

test('why nothing arrives: it delivers elsewhere', () => {
  expect(why(serverStatus())).toBe(
    "archive_command = 'cp %p /incoming/%f' succeeds (its last archived WAL is 000000010000000000000004, " +
      '2026-10-03 11:57:00 UTC (3 min ago)): does it deliver to this directory?',
  );
});

test('why nothing arrives: no segment is finished yet', () => {
  const archiver = archiverStatistics({ archivedCount: 0, lastArchivedWal: null, lastArchivedTime: null });
  expect(why(serverStatus({ archiver }))).toMatch(/has not finished a segment yet .* archive_command = 'cp/);
  expect(why(serverStatus({ archiver: null }))).toMatch(/^the server has archive_command = 'cp/);
});

test('why nothing more arrives: the server is idle', () => {
  expect(why(serverStatus(), false)).toMatch(/; an idle server finishes no segment$/);
  expect(why(serverStatus({ archiveTimeout: 0 }), false)).toMatch(/; with archive_timeout = 0 an idle server/);
});

function report(server: ServerStatus | null): Record<string, { text: string; value: unknown }> {
  const status = new StatusReport();
  reportFileArchival(status, statusOf(server));
  return Object.fromEntries(status.entries.map(({ name, text, value }) => [name, { text, value }]));
}

test('status has Barman’s names, with values for JSON', () => {
  expect(report(serverStatus({ archiver: FAILING }))).toMatchObject({
    archive_mode: { value: 'on' },
    archive_command: { value: 'cp %p /incoming/%f' },
    last_archived_wal: {
      text: '000000010000000000000004, at 2026-10-03 11:57:00 UTC',
      value: { wal: '000000010000000000000004', time: NOW / 1000 - 180 },
    },
    failed_count: { value: 7, text: '7 (000000010000000000000005 at 2026-10-03 11:59:00 UTC)' },
    server_archived_wals_per_hour: { value: 3.6, text: '3.60/hour' },
    is_archiving: { value: false, text: 'False' },
  });
  const never = archiverStatistics({ lastArchivedWal: null, lastArchivedTime: null, archivedPerSecond: 0 });
  const fresh = report(serverStatus({ archiver: never, archiveCommand: '(disabled)', archiveLibrary: 'x' }));
  expect(fresh).toMatchObject({
    archive_command: { value: null, text: 'none' },
    archive_library: { value: 'x' },
    last_archived_wal: { value: null, text: 'No WAL segment shipped yet' },
  });
  expect(fresh).not.toHaveProperty('server_archived_wals_per_hour');
});

test('status says nothing of what is not known', () => {
  expect(report(unreachable())).toEqual({});
});
