import { describe, expect, test } from 'vitest';
import {
  checkPostgres,
  checkReplicationSlot,
  checkSystemIdentifiers,
  type PostgresCheckOptions,
  type SystemIdentifiers,
} from '../../src/health/postgres-checks.ts';
import { PostgresError } from '../../src/postgres/failure.ts';
import type { RemoteStatus } from '../../src/postgres/remote-status.ts';
import type { ReplicationSlot } from '../../src/postgres/replication-slot.ts';
import {
  remoteStatus,
  replicationSlot,
  serverStatus,
  slotStatus,
  streamingStatus,
  SYSTEM_IDENTIFIER,
  unreachable,
} from './remote.ts';

const OPTIONS: PostgresCheckOptions = {
  server: 'main',
  streams: true,
  separate: false,
  slotName: 'walwarden',
  notReceiving: null,
};
const FINE = remoteStatus({ streaming: streamingStatus(), slot: slotStatus(replicationSlot()) });

function run(remote: RemoteStatus, options: Partial<PostgresCheckOptions> = {}): string[] {
  const all = { ...OPTIONS, ...options };
  return [...checkPostgres(remote, all), ...checkReplicationSlot(remote, all)].map(
    ({ check, ok, hint }) => `${check}: ${ok ? 'OK' : 'FAILED'}${hint === null ? '' : ` (${hint})`}`,
  );
}

function slotLine(slot: ReplicationSlot | null, options: Partial<PostgresCheckOptions> = {}): string {
  return run({ ...FINE, slot: slotStatus(slot) }, options).at(-1) ?? '';
}

test('a server that streams passes all checks, in Barman’s order', () => {
  expect(run(FINE)).toEqual(['PostgreSQL: OK', 'PostgreSQL streaming: OK', 'wal_level: OK', 'replication slot: OK']);
});

test('without a streaming archiver and a slot only the connection and wal_level are checked', () => {
  expect(run(remoteStatus(), { streams: false, slotName: null })).toEqual(['PostgreSQL: OK', 'wal_level: OK']);
});

test('nothing is checked where conninfo is not set', () => {
  expect(run(remoteStatus({ server: null }), { streams: false, slotName: null })).toEqual([]);
});

test('a server that is down is one failure, with its reason and what to do', () => {
  const error = new PostgresError('unreachable', 'connection refused');
  const down = remoteStatus({
    server: unreachable(),
    streaming: streamingStatus({ error, walLevel: null }),
    slot: slotStatus(null, { error }),
  });
  expect(run(down)).toEqual(['PostgreSQL: FAILED (connection refused; see conninfo)']);
});

test('what works is told also when conninfo does not', () => {
  const status = remoteStatus({
    server: unreachable('authentication', 'wrong password'),
    streaming: streamingStatus(),
  });
  expect(run(status)).toEqual([
    'PostgreSQL: FAILED (wrong password; see conninfo)',
    'PostgreSQL streaming: OK',
    'wal_level: OK',
  ]);
});

test('a replication connection that is refused is a failure of its own', () => {
  const error = new PostgresError('pg-hba', 'no pg_hba.conf entry', { hint: 'add a line for "replication"' });
  expect(run({ ...FINE, streaming: streamingStatus({ error }) })).toContain(
    'PostgreSQL streaming: FAILED (no pg_hba.conf entry; add a line for "replication")',
  );
});

test('a role that may not see everything is no failure of the connection', () => {
  const error = new PostgresError('no-privilege', 'permission denied for pg_control_system', { hint: 'grant it' });
  expect(run(remoteStatus({ server: serverStatus({ error }) }))[0]).toBe(
    'PostgreSQL: OK (permission denied for pg_control_system; grant it)',
  );
});

test('a role without pg_monitor is told what it lacks', () => {
  const role = {
    name: 'barman',
    superuser: false,
    replication: true,
    monitor: false,
    switchWal: false,
    checkpoint: false,
  };
  expect(run(remoteStatus({ server: serverStatus({ role }) }))[0]).toBe(
    'PostgreSQL: OK (role "barman" does not see everything: grant it pg_monitor)',
  );
});

test('a connection that was lost on the way is a failure', () => {
  const error = new PostgresError('unreachable', 'terminating connection');
  expect(run(remoteStatus({ server: serverStatus({ error }) }))[0]).toBe('PostgreSQL: FAILED (terminating connection)');
});

test('a server whose WAL nobody can verify is too old', () => {
  const server = serverStatus({ serverVersion: 90_624, versionText: '9.6.24' });
  expect(run(remoteStatus({ server }))[0]).toMatch(/^PostgreSQL: FAILED \(version 9\.6\.24 is too old/);
});

test('wal_level = minimal fails, naming the setting', () => {
  const server = serverStatus({ walLevel: 'minimal' });
  expect(run(remoteStatus({ server }))[1]).toMatch(/^wal_level: FAILED \(it is minimal.* wal_level = replica/);
});

test('the server that WAL comes from has names of its own where it is another one', () => {
  expect(run({ ...FINE, server: serverStatus() }, { separate: true })).toEqual([
    'PostgreSQL: OK',
    'wal_level: OK',
    'PostgreSQL streaming (WAL streaming): OK',
    'wal_level (WAL streaming): OK',
    'replication slot (WAL streaming): OK',
  ]);
});

test('the server that WAL comes from is checked also when that of conninfo is down', () => {
  const error = new PostgresError('pg-hba', 'no entry');
  const remote = { ...FINE, server: unreachable(), slot: slotStatus(null, { error }) };
  expect(run(remote, { separate: true })).toEqual([
    'PostgreSQL: FAILED (connection refused; see conninfo)',
    'PostgreSQL streaming (WAL streaming): OK',
    'wal_level (WAL streaming): OK',
    'replication slot (WAL streaming): FAILED (no entry)',
  ]);
});

test('a missing slot fails, with the command that makes it', () => {
  expect(slotLine(null)).toBe(
    'replication slot: FAILED (slot "walwarden" does not exist on the server: walwarden receive-wal --create-slot main, or create_slot = auto)',
  );
});

test('a missing slot that receive-wal makes by itself, or on the wrong server, gets no advice to create it', () => {
  expect(slotLine(null, { createSlot: 'auto', notReceiving: 'no receive-wal runs' })).toBe(
    'replication slot: FAILED (slot "walwarden" does not exist on the server: as create_slot = auto, the next start of receive-wal makes it; no receive-wal runs)',
  );
  expect(slotLine(null, { isOtherCluster: true, createSlot: 'auto' })).toBe(
    'replication slot: FAILED (slot "walwarden" does not exist on the server, which seems to be the wrong one: see systemid coherence)',
  );
});

test('a slot that was never used fails, and says why nothing is received', () => {
  const slot = replicationSlot({ restartLsn: null, active: false });
  expect(slotLine(slot, { notReceiving: 'no receive-wal runs' })).toBe(
    'replication slot: FAILED (slot "walwarden" was never used: no receive-wal runs)',
  );
});

test('a slot that is not in use fails, and says how much WAL the server keeps for it', () => {
  expect(slotLine(replicationSlot({ active: false }))).toBe(
    'replication slot: FAILED (slot "walwarden" is not in use, and the server keeps WAL for it since 0/4000000, 16.0 MiB: no receiver is connected)',
  );
});

test('a slot that is not in use yet, while receive-wal receives what comes before it, is no failure', () => {
  const idle = replicationSlot({ active: false });
  expect(slotLine(idle, { withoutSlotUntil: '0/4000000' })).toBe(
    'replication slot: OK (not in use yet: receive-wal first receives, without it, what the server still has before 0/4000000)',
  );
  expect(slotLine(replicationSlot({ active: false, type: 'logical' }), { withoutSlotUntil: '0/4000000' })).toMatch(
    /FAILED/,
  );
  expect(slotLine(null, { withoutSlotUntil: '0/4000000' })).toMatch(/FAILED .*does not exist/);
});

test('a lost slot fails, with the way out', () => {
  const slot = replicationSlot({ walStatus: 'lost', active: false, restartLsn: null });
  expect(slotLine(slot)).toMatch(/FAILED \(slot "walwarden" is lost.*max_slot_wal_keep_size.*--reset.*--gaps main/);
});

test('a slot that a limit of the server can end is not said to keep its WAL', () => {
  const idle = replicationSlot({
    active: false,
    maxSlotWalKeepSize: '2GB',
    safeWalSize: 3 * 1024 ** 2,
    idleTimeout: '1d',
  });
  expect(slotLine(idle)).toBe(
    'replication slot: FAILED (slot "walwarden" is not in use, and the server keeps WAL for it since 0/4000000, 16.0 MiB, but only until max_slot_wal_keep_size (2GB, 3.00 MiB to go) or idle_replication_slot_timeout (1d) ends that: no receiver is connected)',
  );
});

test('a slot that was lost for being idle is told with that cause', () => {
  const lost = replicationSlot({
    active: false,
    walStatus: 'lost',
    invalidationReason: 'idle_timeout',
    idleTimeout: '1d',
    maxSlotWalKeepSize: '-1',
  });
  const line = slotLine(lost);
  expect(line).toMatch(/FAILED \(slot "walwarden" is lost.*idle_replication_slot_timeout.*--reset main/);
  expect(line).not.toMatch(/max_slot_wal_keep_size|keeps WAL/);
});

describe('a slot in use', () => {
  const check = (slot: Partial<ReplicationSlot>, notReceiving: string | null): string =>
    slotLine(replicationSlot(slot), { streamingName: 'barman_receive_wal', notReceiving });

  test('by our own receiver is fine', () => {
    expect(check({ applicationName: 'barman_receive_wal' }, null)).toBe('replication slot: OK');
    // A role without pg_monitor sees no name.
    expect(check({ applicationName: null }, null)).toBe('replication slot: OK');
  });

  test('by another process names that', () => {
    const line = check({ applicationName: 'standby1', clientAddress: '10.0.0.3' }, 'no receive-wal runs');
    expect(line).toBe(
      'replication slot: FAILED (slot "walwarden" is in use by server process 4711, "standby1" from 10.0.0.3, which is not our receiver: stop it, or set slot_name of [main] to a slot of its own; no receive-wal runs)',
    );
    expect(check({ applicationName: 'standby1' }, null)).toMatch(/FAILED .*process 4711, "standby1"/);
  });

  test('by a receiver of the same name, while ours receives nothing, names that', () => {
    expect(check({ applicationName: 'barman_receive_wal' }, 'no receive-wal runs')).toMatch(
      /FAILED .*in use by server process 4711, "barman_receive_wal", .*another machine.*no receive-wal runs/,
    );
  });
});

test('a slot that is about to be lost fails', () => {
  expect(slotLine(replicationSlot({ walStatus: 'unreserved' }))).toMatch(/FAILED .*about to be lost/);
});

test('a slot for which the server keeps more than max_wal_size is told, and no failure', () => {
  expect(slotLine(replicationSlot({ walStatus: 'extended' }))).toBe(
    'replication slot: OK (the server keeps more WAL for it than max_wal_size since 0/4000000, 16.0 MiB)',
  );
});

test('a logical slot is the wrong kind', () => {
  expect(slotLine(replicationSlot({ type: 'logical' }))).toMatch(/FAILED .* is a logical one/);
});

test('a slot that nothing needs any more is a warning, as in Barman', () => {
  expect(slotLine(replicationSlot(), { streams: false })).toMatch(/^replication slot: OK \(WARNING: .*is in use/);
  expect(slotLine(replicationSlot({ active: false }), { streams: false })).toMatch(/OK \(WARNING: .*exists/);
  expect(slotLine(null, { streams: false })).toBe('wal_level: OK');
});

const IDS: SystemIdentifiers = {
  server: SYSTEM_IDENTIFIER,
  streaming: SYSTEM_IDENTIFIER,
  archive: SYSTEM_IDENTIFIER,
  path: '/home/main/identity.json',
  options: ['conninfo', 'streaming_conninfo'],
};
const coherence = (changes: Partial<SystemIdentifiers>): { ok: boolean; hint: string | null } =>
  checkSystemIdentifiers('systemid coherence', 'main', { ...IDS, ...changes });

test('system identifiers that agree pass', () => {
  expect(coherence({})).toEqual({ check: 'systemid coherence', ok: true, hint: null });
});

test('what is not known yet passes, and says so, as in Barman', () => {
  expect(coherence({ server: null, streaming: null })).toMatchObject({
    ok: true,
    hint: expect.stringMatching(/not known/),
  });
  expect(coherence({ archive: null })).toMatchObject({ ok: true, hint: expect.stringMatching(/identity\.json/) });
});

test('connections to different clusters fail, naming the option that is wrong', () => {
  const { ok, hint } = coherence({ streaming: 42n });
  expect(ok).toBe(false);
  expect(hint).toMatch(
    /conninfo reaches .*5678, and streaming_conninfo another cluster: 42; .*streaming_conninfo is wrong/,
  );
  expect(coherence({ server: 42n }).hint).toMatch(/so conninfo is wrong/);
});

test('another cluster than the archive’s fails, with both identifiers and the way after pg_upgrade', () => {
  const { ok, hint } = coherence({ server: 42n, streaming: null });
  expect(ok).toBe(false);
  expect(hint).toMatch(/conninfo reaches system identifier 42, but this archive belongs to 7123456789012345678/);
  expect(hint).toMatch(/--accept-identity main/);
});
