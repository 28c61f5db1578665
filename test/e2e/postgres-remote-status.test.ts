import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { PostgresError } from '../../src/postgres/failure.ts';
import { fetchRemoteStatus, type PostgresSettings, type RemoteStatus } from '../../src/postgres/remote-status.ts';
import { formatLsn } from '../../src/wal/lsn.ts';
import { until } from '../support/poll.ts';
import { withPostgres } from '../support/postgres.ts';
import { CLEAN } from '../postgres/attempt.ts';
import { withFakeServer } from '../postgres/fake-server.ts';
import { sharedPostgres } from '../postgres/shared-postgres.ts';

const ROLES = 'create role plain login; create role seer login in role pg_monitor; create role repl login replication';

function settings(conninfo: string | null, changes: Partial<PostgresSettings> = {}): PostgresSettings {
  return {
    conninfo,
    streamingConninfo: conninfo,
    walConninfo: conninfo,
    walStreamingConninfo: conninfo,
    slotName: null,
    streamingName: 'barman_receive_wal',
    ...changes,
  };
}

function fetchStatus(from: PostgresSettings): Promise<RemoteStatus> {
  return fetchRemoteStatus(from, { environment: CLEAN });
}

describe('fetchRemoteStatus', () => {
  /** Where a receiver that has nothing yet begins. */
  const segmentStart = async (): Promise<string> =>
    formatLsn((await pg().currentLsn()) & ~BigInt(pg().segmentSize - 1));

  const pg = sharedPostgres(
    {
      tcp: true,
      segmentSizeMb: 2,
      settings: { synchronous_standby_names: 'ANY 1 (a, b)', synchronous_commit: 'local' },
    },
    async (server) => {
      await server.sql(ROLES);
      await server.sql(`select pg_create_physical_replication_slot('ours', true)`);
      await server.sql(`select pg_create_physical_replication_slot('fresh')`);
    },
  );

  test('tells everything of a primary', async () => {
    const before = await pg().currentLsn();
    const { server, streaming, slot } = await fetchStatus(settings(pg().conninfo, { slotName: 'ours' }));
    const systemIdentifier = await pg().systemIdentifier();
    const known = { error: null, systemIdentifier, timeline: 1, segmentSize: 2 * 1024 * 1024, walLevel: 'replica' };
    expect(server).toMatchObject({
      ...known,
      isInRecovery: false,
      dataDirectory: pg().dataDir,
      archiveMode: 'off',
      archiveCommand: '(disabled)',
      archiveTimeout: 0,
      maxWalSenders: 10,
      maxReplicationSlots: 10,
      synchronousStandbyNames: 'ANY 1 (a, b)',
      archiver: { archivedCount: 0, lastArchivedWal: null, isArchiving: false },
      // Our own question is no receiver.
      replication: [],
      role: { name: 'postgres', superuser: true, replication: true, monitor: true, switchWal: true, checkpoint: true },
    });
    expect(Math.floor((server?.serverVersion ?? 0) / 10_000)).toBe(pg().programs.major);
    expect(server?.versionText).toMatch(/^\d+\.\d+$/);
    expect(server?.currentLsn).toBeGreaterThanOrEqual(before);
    expect(streaming).toMatchObject({ ...known, serverVersion: server?.serverVersion });
    expect(streaming?.currentLsn).toBeGreaterThanOrEqual(before);
    expect(slot).toMatchObject({
      error: null,
      systemIdentifier,
      synchronousStandbyNames: 'ANY 1 (a, b)',
      slot: { name: 'ours', type: 'physical', active: false, activePid: null },
    });
    expect(slot?.slot?.restartLsn).not.toBeNull();
    expect(slot?.slot?.walStatus).toBe(pg().programs.major >= 13 ? 'reserved' : null);
  });

  test('knows a slot that was never used from one that is not there', async () => {
    const fresh = await fetchStatus(settings(pg().conninfo, { slotName: 'fresh' }));
    expect(fresh.slot).toMatchObject({ error: null, slot: { name: 'fresh', restartLsn: null } });
    const missing = await fetchStatus(settings(pg().conninfo, { slotName: "it's missing" }));
    expect(missing.slot).toMatchObject({ error: null, slot: null });
  });

  test('lists who receives WAL, and by which slot', async () => {
    await using receiver = await connect(`${pg().conninfo} application_name=somebody`, { replication: true });
    const stream = receiver.query(`START_REPLICATION SLOT ours ${await segmentStart()}`).catch(() => undefined);
    const { server, slot } = await until('the receiver to stream', async () => {
      const status = await fetchStatus(settings(pg().conninfo, { slotName: 'ours' }));
      return status.server?.replication?.some(({ sentLsn }) => sentLsn !== null) === true ? status : undefined;
    });
    expect(server?.replication).toMatchObject([
      {
        applicationName: 'somebody',
        user: 'postgres',
        slotName: 'ours',
        clientAddress: null,
        clientPort: null,
        syncState: 'async',
        syncPriority: 0,
      },
    ]);
    const [client] = server?.replication ?? [];
    expect(client?.backendStart).toBeGreaterThan(Date.now() - 60_000);
    expect(slot?.slot).toMatchObject({ active: true, activePid: client?.pid });
    await receiver[Symbol.asyncDispose]();
    await stream;
  });

  test('tells a role without privileges what it may see, and what it lacks', async () => {
    await pg().sql('revoke execute on function pg_control_system() from public');
    try {
      const { server, slot, streaming } = await fetchStatus(
        settings(`${pg().tcpConninfo} user=plain`, { slotName: 'ours' }),
      );
      expect(server).toMatchObject({
        systemIdentifier: null,
        dataDirectory: null,
        timeline: 1,
        walLevel: 'replica',
        role: {
          name: 'plain',
          superuser: false,
          replication: false,
          monitor: false,
          switchWal: false,
          checkpoint: false,
        },
      });
      expect(server?.error).toMatchObject({
        failure: 'no-privilege',
        message: 'user "plain" may not see data_directory, pg_control_system()',
        hint: 'on the server: GRANT pg_monitor TO "plain"',
      });
      expect(slot).toMatchObject({ systemIdentifier: null, slot: { name: 'ours' } });
      expect(streaming?.error).toMatchObject({ failure: 'no-privilege', sqlState: '42501' });
      expect(streaming?.error?.hint).toContain('REPLICATION, for the user of streaming_conninfo');
    } finally {
      await pg().sql('grant execute on function pg_control_system() to public');
    }
  });

  test('is content with a role that has pg_monitor, and one that has REPLICATION', async () => {
    const { server, streaming } = await fetchStatus(
      settings(`${pg().tcpConninfo} user=seer`, { walStreamingConninfo: `${pg().tcpConninfo} user=repl` }),
    );
    expect(server).toMatchObject({ error: null, dataDirectory: pg().dataDir, role: { name: 'seer', monitor: true } });
    expect(streaming).toMatchObject({ error: null, timeline: 1 });
  });

  test('asks nothing where nothing is configured', async () => {
    expect(await fetchStatus(settings(null))).toEqual({ server: null, streaming: null, slot: null });
  });

  test('never rejects: each connection has its own reason, and names its option', async () => {
    const status = await fetchStatus({
      ...settings(pg().conninfo),
      conninfo: 'host=127.0.0.1 port=1 password=s3cret',
      walConninfo: 'hots=127.0.0.1 password=s3cret',
      walStreamingConninfo: `${pg().tcpConninfo} user=repl sslmode=require password=s3cret`,
    });
    expect(status.server).toMatchObject({ serverVersion: null, archiver: null, error: { failure: 'unreachable' } });
    expect(status.server?.error?.hint).toContain('are host and port in conninfo right?');
    expect(status.slot).toMatchObject({
      slot: null,
      error: { failure: 'misconfigured', hint: 'correct wal_conninfo' },
    });
    expect(status.streaming).toMatchObject({ timeline: null, error: { failure: 'tls' } });
    expect(status.streaming?.error?.hint).toContain('in wal_streaming_conninfo');
    for (const part of Object.values(status)) {
      expect(part?.error).toBeInstanceOf(PostgresError);
      expect(`${part?.error?.message} ${part?.error?.hint}`).not.toContain('s3cret');
    }
  });

  test('does not wait longer than it is told to, or than anybody wants to know', () =>
    withFakeServer([], async ({ conninfo }) => {
      const late = await fetchRemoteStatus(settings(conninfo), { timeoutMs: 100, environment: CLEAN });
      for (const part of Object.values(late)) expect(part).toMatchObject({ error: { failure: 'unreachable' } });
      const signal = AbortSignal.timeout(100);
      const aborted = await fetchRemoteStatus(settings(conninfo), { signal, environment: CLEAN });
      for (const part of Object.values(aborted)) expect(part?.error?.message).toContain('interrupted');
    }));

  test('asks two servers where WAL comes from a standby', async () => {
    const standby = await pg().standby();
    await pg().writeSegments(2);
    await standby.replayed(await pg().currentLsn());
    const from = { walConninfo: standby.conninfo, walStreamingConninfo: standby.conninfo, slotName: 'ours' };
    const { server, streaming, slot } = await fetchStatus(settings(pg().conninfo, from));
    expect(server).toMatchObject({ isInRecovery: false, error: null });
    expect(streaming).toMatchObject({ systemIdentifier: server?.systemIdentifier, timeline: 1, error: null });
    // A slot is not copied to a standby.
    expect(slot).toMatchObject({ slot: null, error: null });

    const own = await fetchStatus(settings(standby.conninfo));
    expect(own.server).toMatchObject({
      isInRecovery: true,
      timeline: 1,
      error: null,
      systemIdentifier: server?.systemIdentifier,
    });
    expect(own.server?.currentLsn).toBe(await pg().currentLsn());
    await standby.promote();
    const promoted = await fetchStatus(settings(standby.conninfo));
    expect(promoted.server).toMatchObject({ isInRecovery: false, timeline: 2 });
    expect(promoted.streaming).toMatchObject({ timeline: 2 });
  });
});

test('the archiver is told to work, to fail and to work again', () =>
  withPostgres({ archiveCommand: 'false' }, async (pg) => {
    const archiver = async () => (await fetchStatus(settings(pg.conninfo))).server?.archiver;
    const flag = join(pg.directory, 'ok');
    await pg.configure({ archive_command: `test -e ${flag}` });
    const failed = await pg.switchWal();
    const failing = await until('archive_command to fail', async () => {
      const found = await archiver();
      return found !== null && found !== undefined && found.failedCount > 0 ? found : undefined;
    });
    expect(failing).toMatchObject({ isArchiving: false, lastFailedWal: failed, archivedCount: 0 });
    expect(failing.lastFailedTime).toBeGreaterThan(Date.now() - 60_000);

    await pg.configure({ archive_command: 'true' });
    await pg.archived(failed);
    const working = await until('the success to be counted', async () => {
      const found = await archiver();
      return found?.isArchiving === true ? found : undefined;
    });
    expect(working).toMatchObject({ lastArchivedWal: failed, archivedCount: 1 });
    expect(working.archivedPerSecond).toBeGreaterThan(0);
    expect(working.lastArchivedTime).toBeGreaterThanOrEqual(failing.lastFailedTime ?? 0);
  }));
