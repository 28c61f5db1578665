import { describe, expect, test } from 'vitest';
import { describeClients, isHidden, isOwnReceiver } from '../../src/health/replication-clients.ts';
import { formatClients, formatClientsBriefly, formatLag } from '../../src/health/replication-table.ts';
import type { ReplicationClient } from '../../src/postgres/remote-status.ts';
import { parseLsn } from '../../src/wal/lsn.ts';

const NOW = parseLsn('0/5000000');
const OWN = { applicationName: 'barman_receive_wal', slotName: 'barman' };

const nobody: ReplicationClient = {
  pid: 1,
  user: null,
  applicationName: '',
  clientAddress: null,
  clientPort: null,
  backendStart: null,
  slotName: null,
  state: null,
  syncState: null,
  syncPriority: null,
  sentLsn: null,
  writeLsn: null,
  flushLsn: null,
  replayLsn: null,
  writeLag: null,
  flushLag: null,
  replayLag: null,
};

const receiver: ReplicationClient = {
  ...nobody,
  pid: 30,
  user: 'streaming_barman',
  applicationName: 'barman_receive_wal',
  clientAddress: '10.0.0.9',
  clientPort: 40_112,
  backendStart: Date.UTC(2026, 10, 21, 9, 5, 3),
  slotName: 'barman',
  state: 'streaming',
  syncState: 'async',
  syncPriority: 0,
  sentLsn: NOW,
  writeLsn: NOW,
  flushLsn: parseLsn('0/4FFF000'),
  writeLag: 0.4,
  flushLag: 2_300,
};

const standby: ReplicationClient = {
  ...receiver,
  pid: 20,
  user: 'replicator',
  applicationName: 'replica1',
  clientAddress: null,
  clientPort: null,
  slotName: null,
  syncState: 'sync',
  syncPriority: 1,
  flushLsn: NOW,
  replayLsn: parseLsn('0/3000000'),
  writeLag: null,
  flushLag: null,
  replayLag: 4_000_000,
};

describe('clients', () => {
  test('our own comes first, then the synchronous ones by priority', () => {
    const clients = [
      { ...standby, pid: 5, applicationName: 'late', syncState: 'async', syncPriority: 0 },
      { ...standby, pid: 6, applicationName: 'second', syncPriority: 2 },
      receiver,
      { ...standby, pid: 7, applicationName: 'spare', syncState: 'potential', syncPriority: 3 },
      standby,
    ];
    const names = describeClients(clients, NOW, OWN).map(({ client }) => client.applicationName);
    expect(names).toEqual(['barman_receive_wal', 'replica1', 'second', 'spare', 'late']);
  });

  test.each([
    ['with our slot, under any name', { slotName: 'barman', applicationName: 'pg_receivewal' }, OWN, true],
    ['with our name and another slot', { slotName: 'other' }, OWN, false],
    ['with our name and no slot', { slotName: null }, OWN, true],
    ['with our name, where we have no slot', { slotName: 'other' }, { ...OWN, slotName: null }, true],
    ['with another name and no slot', { slotName: null, applicationName: 'x' }, OWN, false],
  ])('%s: is it ours?', (_what, row, own, expected) => {
    expect(isOwnReceiver({ ...receiver, ...row }, own)).toBe(expected);
  });

  test('that the role may not see are known by what is missing', () => {
    expect(isHidden({ ...nobody, applicationName: 'x' })).toBe(true);
    expect(isHidden(receiver)).toBe(false);
    // A base backup streams without a position.
    expect(isHidden({ ...nobody, state: 'backup', backendStart: 1 })).toBe(false);
  });

  test.each([
    ['wal-streamer', '3/3 Remote write', {}],
    ['wal-streamer', '2/3 WAL Sent (min)', { writeLsn: parseLsn('0/4000000') }],
    ['wal-streamer', '1/3 1-safe', { writeLsn: null, sentLsn: parseLsn('0/4000000') }],
    ['hot-standby', '5/5 Hot standby (max)', { replayLsn: NOW }],
    ['hot-standby', '4/5 2-safe', { replayLsn: parseLsn('0/1'), flushLsn: NOW }],
    ['hot-standby', '3/5 Remote write', { replayLsn: parseLsn('0/1') }],
    ['hot-standby', '2/5 WAL Sent (min)', { replayLsn: parseLsn('0/1'), writeLsn: parseLsn('0/2') }],
  ])('a %s is at stage %s', (kind, syncStage, row) => {
    expect(describeClients([{ ...receiver, ...row }], NOW, OWN)).toMatchObject([{ kind, syncStage }]);
  });

  test('ahead of the position that we know are not behind', () => {
    const [client] = describeClients([{ ...receiver, sentLsn: NOW + 8n }], NOW, OWN);
    expect(client?.progress.sent).toEqual({ lsn: NOW + 8n, lagBytes: 0, lagMs: null });
  });
});

describe('the table', () => {
  const table = {
    server: 'main',
    target: 'all',
    isInRecovery: false,
    currentLsn: NOW,
    clients: describeClients([standby, receiver], NOW, OWN),
  } as const;

  test('says of each client who it is and how far behind', () => {
    expect(formatClients(table)).toBe(`Status of streaming clients for server 'main':
  Current LSN on master: 0/5000000
  Number of streaming clients: 2

  1. Async WAL streamer (this is our receive-wal)
     Application name: barman_receive_wal
     Sync stage      : 3/3 Remote write
     Communication   : TCP/IP
     IP Address      : 10.0.0.9 / Port: 40112 / Host: -
     User name       : streaming_barman
     Current state   : streaming (async)
     Replication slot: barman
     WAL sender PID  : 30
     Started at      : 2026-11-21 09:05:03 UTC
     Sent LSN   : 0/5000000 (diff: 0 B)
     Write LSN  : 0/5000000 (diff: 0 B, lag: 0.4 ms)
     Flush LSN  : 0/4FFF000 (diff: 4.00 KiB, lag: 2.3 s)

  2. #1 Sync standby
     Application name: replica1
     Sync stage      : 4/5 2-safe
     Communication   : Unix domain socket
     User name       : replicator
     Current state   : streaming (sync)
     WAL sender PID  : 20
     Started at      : 2026-11-21 09:05:03 UTC
     Sent LSN   : 0/5000000 (diff: 0 B)
     Write LSN  : 0/5000000 (diff: 0 B)
     Flush LSN  : 0/5000000 (diff: 0 B)
     Replay LSN : 0/3000000 (diff: 32.0 MiB, lag: 1 h 6 min)
`);
  });

  test('has a form of one line a client', () => {
    expect(formatClientsBriefly(table)).toBe(`Streaming clients for master 'main' (LSN @ 0/5000000):
  1. W) streaming_barman@10.0.0.9 S:0/5000000 W:0/5000000 P:0 AN:barman_receive_wal (this is our receive-wal)
  2. S) replicator@socket S:0/5000000 F:0/5000000 R:0/3000000 P:1 AN:replica1
`);
  });

  test.each([
    ['all', 'No streaming clients attached'],
    ['hot-standby', 'No hot standby servers attached'],
    ['wal-streamer', 'No WAL streamers attached'],
  ] as const)('says of %s that there are none', (target, words) => {
    const empty = { ...table, target, clients: [] };
    expect(formatClients(empty)).toContain(`  ${words}\n`);
    expect(formatClientsBriefly(empty)).toContain(`  ${words}\n`);
  });

  test('names a standby as one', () => {
    const onStandby = { ...table, isInRecovery: true };
    expect(formatClients(onStandby)).toContain('  Last LSN replayed by standby: 0/5000000\n');
    expect(formatClientsBriefly(onStandby)).toMatch(/^Streaming clients for slave 'main':\n/);
  });

  test('survives clients without any position', () => {
    const clients = describeClients([{ ...nobody, state: 'backup', backendStart: 1 }], null, OWN);
    expect(formatClients({ ...table, currentLsn: null, clients })).toContain('Current state   : backup (unknown)\n');
  });

  test.each([
    [0.04, '0.0 ms'],
    [3.21, '3.2 ms'],
    [812, '812 ms'],
    [59_900, '59.9 s'],
    [150_000, '2 min'],
    [3_600_000 * 30, '30 h 0 min'],
  ])('a lag of %d ms is %s', (ms, text) => {
    expect(formatLag(ms)).toBe(text);
  });
});
