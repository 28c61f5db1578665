import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  checkStreaming,
  fetchStreamingStatus,
  receivedWithoutSlotUntil,
  reportStreaming,
  whyNothingIsReceived,
  type StreamingArchivalStatus,
} from '../../src/archiver/streaming-health.ts';
import { WalwardenError } from '../../src/errors.ts';
import { CheckStrategy } from '../../src/health/check-strategy.ts';
import { StatusReport } from '../../src/health/status-report.ts';
import type { ReceiverReport, ReceiverState } from '../../src/receiver/receiver-report.ts';
import { MINUTE, NOW } from '../health/remote.ts';
import { withTempDir } from '../support/temp-dir.ts';

const REPORT: ReceiverReport = {
  pid: 42,
  state: 'streaming',
  since: NOW - 5 * MINUTE,
  startedAt: NOW - 60 * MINUTE,
  lastStreamed: NOW - 1_000,
  restarts: 2,
  stalls: 1,
  lastStall: 1_699_999_000_000,
  cause: null,
  retryAt: null,
  slotName: 'walwarden',
  withoutSlotUntil: null,
  synchronous: false,
  program: '15.18',
};
const FINE: StreamingArchivalStatus = {
  server: 'main',
  program: { path: '/usr/bin/pg_receivewal', version: '15.18', major: 15 },
  serverVersion: 150_018,
  owner: 42,
  report: REPORT,
};
const CAUSE = { failure: 'unreachable', message: 'connection refused', hint: 'start PostgreSQL' } as const;

function run(changes: Partial<StreamingArchivalStatus> = {}): string[] {
  const strategy = new CheckStrategy();
  checkStreaming(strategy, { ...FINE, ...changes }, NOW);
  return strategy.results.map(
    ({ check, ok, hint }) => `${check}: ${ok ? 'OK' : 'FAILED'}${hint === null ? '' : ` (${hint})`}`,
  );
}

const told = (changes: Partial<ReceiverReport>): string | null =>
  whyNothingIsReceived({ ...FINE, report: { ...REPORT, ...changes } }, NOW);

test('a receiver at work passes all checks, under Barman’s names', () => {
  expect(run()).toEqual([
    'pg_receivexlog: OK (/usr/bin/pg_receivewal, version 15.18)',
    'pg_receivexlog compatible: OK',
    'receive-wal running: OK (process 42, receiving since 2026-10-03 11:55:00 UTC (5 min ago))',
  ]);
});

test('what is received without the slot is told of the receiver that runs, and only while it receives', () => {
  const report = { ...REPORT, withoutSlotUntil: '0/5000000' };
  expect(receivedWithoutSlotUntil(FINE, NOW)).toBeNull();
  expect(receivedWithoutSlotUntil({ ...FINE, report }, NOW)).toBe('0/5000000');
  expect(receivedWithoutSlotUntil({ ...FINE, report, owner: 43 }, NOW)).toBeNull();
  expect(receivedWithoutSlotUntil({ ...FINE, report, owner: null }, NOW)).toBeNull();
  expect(receivedWithoutSlotUntil({ ...FINE, report: { ...report, state: 'blocked' } }, NOW)).toBeNull();
});

test('a missing program is one failure, with what to install', () => {
  const program = new WalwardenError('program', 'pg_receivewal is not found', { hint: 'set path_prefix' });
  expect(run({ program })).toEqual([
    'pg_receivexlog: FAILED (pg_receivewal is not found; set path_prefix)',
    expect.stringMatching(/^receive-wal running: OK/),
  ]);
});

test('a server that is newer than the program fails', () => {
  expect(run({ serverVersion: 170_002 })[1]).toMatch(
    /^pg_receivexlog compatible: FAILED \(PostgreSQL 17 can't be received by \/usr\/bin\/pg_receivewal 15\.18: .*path_prefix/,
  );
  expect(run({ serverVersion: 130_002 })[1]).toBe('pg_receivexlog compatible: OK');
});

test('whether they fit is left out where the server could not be asked', () => {
  expect(run({ serverVersion: null })).toHaveLength(2);
});

test('nobody receives, and nobody ever did', () => {
  expect(run({ owner: null, report: null })[2]).toBe(
    'receive-wal running: FAILED (no receive-wal runs for this server; ' +
      'start it with walwarden receive-wal main, or let walwarden cron do it)',
  );
});

test('nobody receives since a receiver was stopped, or killed', () => {
  const stopped = { ...REPORT, state: 'stopped', cause: CAUSE } as const;
  expect(run({ owner: null, report: stopped })[2]).toMatch(
    /it stopped at 2026-10-03 11:55:00 UTC \(connection refused; start PostgreSQL\), it received until 2026-10-03 11:59:59 UTC/,
  );
  expect(run({ owner: null })[2]).toMatch(/process 42 is gone without having stopped/);
});

test('a lock that can not be looked at is a failure', () => {
  const owner = new WalwardenError('storage', "can't open the lock file /x: EACCES");
  expect(run({ owner })[2]).toBe("receive-wal running: FAILED (it can't be told: can't open the lock file /x: EACCES)");
});

test('a receiver that says nothing, such as Barman’s own, passes', () => {
  expect(run({ owner: 77 })[2]).toBe('receive-wal running: OK (process 77, which does not tell what it does)');
  expect(run({ owner: 77, report: null })[2]).toMatch(/OK \(process 77/);
  expect(run({ owner: 0, report: null })[2]).toBe('receive-wal running: OK (another program holds its lock)');
});

test.each<[ReceiverState, RegExp]>([
  [
    'waiting',
    /receives nothing since .*: connection refused; start PostgreSQL; it tries again at 2026-10-03 12:01:00 UTC/,
  ],
  ['blocked', /can't receive until somebody acts, since .*: connection refused/],
  ['low-disk', /^paused for lack of disk space since .*; it goes on by itself/],
  ['preparing', /^it tries again since .*, after connection refused/],
  ['stopping', /is ending/],
])('a receiver that is %s fails, with the cause', (state, expected) => {
  expect(told({ state, cause: CAUSE, retryAt: NOW + MINUTE })).toMatch(expected);
});

test('a process that has stopped does not run, though its number stands in a lock file that somebody looks at', () => {
  expect(told({ state: 'stopped', since: NOW - 1_000 })).toMatch(/process 42 is ending/);
  expect(told({ state: 'stopped' })).toMatch(
    /^no receive-wal runs for this server; it stopped at 2026-10-03 11:55:00 UTC.*start it with/,
  );
});

test('many who ask at once do not take each other for a receiver', () =>
  withTempDir(async (directory) => {
    const lockPath = join(directory, '.main-receive-wal.lock');
    await writeFile(lockPath, '1\n');
    const sources = { server: 'main', pathPrefix: null, lockPath, reportPath: join(directory, 'none.json') };
    const nobody = { server: null, streaming: null, slot: null };
    const found = await Promise.all(Array.from({ length: 8 }, () => fetchStreamingStatus(sources, nobody)));
    expect(found.map(({ owner }) => owner)).toEqual(Array.from({ length: 8 }, () => null));
  }));

test('a receiver that has just been started passes', () => {
  expect(told({ state: 'preparing', lastStreamed: null })).toBeNull();
});

test('a receiver that gives no sign of life fails', () => {
  expect(told({ lastStreamed: NOW - 10 * MINUTE })).toMatch(
    /last sign of life at 2026-10-03 11:50:00 UTC \(10 min ago\)/,
  );
});

test('status tells program, lock, state, cause, restarts and slot', () => {
  const report = new StatusReport();
  reportStreaming(report, { ...FINE, report: { ...REPORT, state: 'waiting', cause: CAUSE } }, NOW);
  expect(Object.fromEntries(report.entries.map(({ name, value }) => [name, value]))).toEqual({
    pg_receivexlog: { path: '/usr/bin/pg_receivewal', version: '15.18' },
    receive_wal_running: false,
    receive_wal_pid: 42,
    receive_wal_state: 'waiting',
    receive_wal_since: NOW / 1000 - 300,
    receive_wal_last_streamed: NOW / 1000 - 1,
    receive_wal_restarts: 2,
    receive_wal_stalls: { stalls: 1, last: 1_699_999_000 },
    receive_wal_cause: CAUSE,
    receive_wal_slot: 'walwarden',
    receive_wal_synchronous: false,
  });
});

test('a pg_receivewal that hung fails the check until another one streams, and is counted from then on', () => {
  const message = 'pg_receivewal hangs: nothing was received for 1 min';
  const cause = { failure: 'stalled', message, hint: 'see the network' } as const;
  expect(told({ state: 'preparing', cause })).toContain(`${message}; see the network`);
  const report = new StatusReport();
  reportStreaming(report, FINE, 1_699_999_060_000);
  expect(report.entries.find(({ name }) => name === 'receive_wal_stalls')?.text).toBe(
    '1, the last at 2023-11-14 21:56:40 UTC (1 min ago)',
  );
});

test('status tells whose words are told when nobody holds the lock', () => {
  const report = new StatusReport();
  reportStreaming(report, { ...FINE, owner: null }, NOW);
  const texts = Object.fromEntries(report.entries.map(({ name, text }) => [name, text]));
  expect(texts).toMatchObject({
    receive_wal_running: expect.stringMatching(/^False \(no receive-wal runs/),
    receive_wal_pid: 'none',
    receive_wal_state: 'streaming, told by process 42',
  });
});
