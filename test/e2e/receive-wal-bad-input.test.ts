import { chmod, mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { causeOf, prepareToStream } from '../../src/receiver/preflight.ts';
import type { ReceiverCause } from '../../src/receiver/receiver-report.ts';
import type { ReceiverSettings } from '../../src/receiver/receiver-settings.ts';
import { findPostgres } from '../support/postgres-programs.ts';
import { until } from '../support/poll.ts';
import { withPostgres, type PostgresOptions, type TestPostgres } from '../support/postgres.ts';
import { withStreamingHome } from './running-receiver.ts';
import { streamUntil, withReceiver, type ReceiverOptions, type TestReceiver } from '../receiver/with-receiver.ts';

const PASSWORD = 'correct horse';

/** Why nothing can be received with these settings. */
async function refusal(settings: ReceiverSettings): Promise<ReceiverCause> {
  try {
    await prepareToStream(settings);
  } catch (error) {
    const cause = causeOf(error);
    expect(cause.hint).not.toBeNull();
    expect(cause.hint).not.toBe('');
    return cause;
  }
  throw new Error('it could stream');
}

/** The receiver of a server of its own. */
async function withServerAndReceiver<T>(
  options: PostgresOptions,
  body: (pg: TestPostgres, receiver: TestReceiver) => Promise<T>,
  receiver: ReceiverOptions = {},
): Promise<T> {
  return withPostgres(options, (pg) => withReceiver(pg, receiver, (its) => body(pg, its)));
}

/** Without the streaming connection's conninfo, everything else works. */
function streamingVia(streamingConninfo: string): ReceiverOptions {
  return { postgres: { streamingConninfo, walStreamingConninfo: streamingConninfo } };
}

describe('the connection', () => {
  const hba = [
    'host replication streamer 127.0.0.1/32 scram-sha-256',
    'host replication ordinary 127.0.0.1/32 trust',
    'host all all 127.0.0.1/32 trust',
  ];

  test('is refused for what it is, with the option to change, and without the password', () =>
    withServerAndReceiver({ tcp: true, hba }, async (pg, receiver) => {
      await pg.sql(`create role streamer login replication password '${PASSWORD}'`);
      await pg.sql('create role ordinary login');
      await pg.sql('create role unlisted login replication');
      const as = (user: string, more = ''): Promise<ReceiverCause> =>
        refusal(receiver.with(streamingVia(`${pg.tcpConninfo} user=${user} ${more}`)));

      const wrong = await as('streamer', `password='not the ${PASSWORD}'`);
      expect(wrong).toMatchObject({ failure: 'authentication', hint: expect.stringContaining('streaming_conninfo') });
      expect(wrong.message).toContain('password authentication failed for user "streamer"');
      expect(JSON.stringify(wrong)).not.toContain(PASSWORD);

      const none = await as('streamer');
      expect(none).toMatchObject({ failure: 'authentication', hint: expect.stringContaining('streaming_conninfo') });

      const nobody = await as('nobody_at_all');
      expect(['authentication', 'pg-hba']).toContain(nobody.failure);

      const ordinary = await as('ordinary');
      expect(ordinary).toMatchObject({ failure: 'no-privilege', hint: expect.stringMatching(/replication/i) });

      const unlisted = await as('unlisted');
      expect(unlisted).toMatchObject({ failure: 'pg-hba', hint: expect.stringContaining('pg_hba.conf') });
      expect(unlisted.message).toContain('streaming_conninfo of main');

      const right = receiver.with(streamingVia(`${pg.tcpConninfo} user=streamer password='${PASSWORD}'`));
      await expect(prepareToStream(right)).resolves.toMatchObject({ segmentSize: 1024 * 1024, synchronous: false });
    }));

  test('to nobody names what was tried; one that is not configured names the option', () =>
    withServerAndReceiver({ tcp: true }, async (pg, receiver) => {
      await pg.stop();
      const away = await refusal(receiver.with(streamingVia(`${pg.tcpConninfo} user=postgres`)));
      expect(away).toMatchObject({ failure: 'unreachable', message: expect.stringContaining(String(pg.port)) });
      const unset = { postgres: { streamingConninfo: null, walStreamingConninfo: null } };
      expect(await refusal(receiver.with(unset))).toMatchObject({
        failure: 'misconfigured',
        message: "WAL can't be received from main: streaming_conninfo is not set",
        hint: 'set streaming_conninfo (or conninfo) of [main]',
      });
      const other = { postgres: { walStreamingConninfo: `${pg.tcpConninfo} user=other` } };
      expect((await refusal(receiver.with(other))).message).toContain('wal_streaming_conninfo of main');
    }));

  test('is one too many when max_wal_senders is exhausted', () =>
    withServerAndReceiver({ settings: { max_wal_senders: '1' } }, async (pg, receiver) => {
      {
        await using _other = await connect(pg.conninfo, { replication: true });
        const cause = await refusal(receiver.settings);
        expect(cause).toMatchObject({
          failure: 'too-many-walsenders',
          hint: expect.stringContaining('max_wal_senders'),
        });
      }
      // One is enough: the preflight leaves none behind that pg_receivewal would miss.
      await streamUntil(receiver.settings, 'pg_receivewal to stream', async () => {
        return (await pg.sql('select 1 from pg_stat_replication')).length === 1;
      });
    }));

  test('meets a server that sends no WAL at all', () =>
    withServerAndReceiver({ settings: { wal_level: 'minimal', max_wal_senders: '0' } }, async (pg, receiver) => {
      const cause = await refusal(receiver.settings);
      expect(cause).toMatchObject({ failure: 'wal-level', hint: expect.stringContaining('wal_level') });
      expect(cause.message).toBe('PostgreSQL of main runs with wal_level = minimal, and sends no WAL to anybody');
      // With nobody to ask, both possible reasons are told.
      const alone = await refusal(receiver.with({ postgres: { conninfo: null, walConninfo: null } }));
      expect(alone).toMatchObject({ failure: expect.stringMatching(/^(too-many-walsenders|wal-level)$/) });
      expect(pg.running).toBe(true);
    }));
});

describe('pg_receivewal', () => {
  test('older than the server is refused, naming path_prefix and what to install', () =>
    withServerAndReceiver({}, async (pg, receiver) => {
      const bin = join(receiver.home, 'old');
      await mkdir(bin);
      await writeFile(join(bin, 'pg_receivewal'), '#!/bin/sh\necho "pg_receivewal (PostgreSQL) 9.6.24"\n');
      await chmod(join(bin, 'pg_receivewal'), 0o755);
      const { major } = findPostgres();
      expect(await refusal(receiver.with({ pathPrefix: [bin] }))).toEqual({
        failure: 'server-newer',
        message: `${bin}/pg_receivewal is version 9.6.24, and can't receive from PostgreSQL ${major}, which main is`,
        hint: expect.stringMatching(`postgresql-client-${major}.*path_prefix`),
      });
      expect(await pg.sql('select * from pg_replication_slots')).toEqual([]);
    }));

  test('that can not be found is told with the option that says where to look', () =>
    withServerAndReceiver({}, async (_pg, receiver) => {
      const path = process.env['PATH'];
      process.env['PATH'] = receiver.home;
      try {
        expect(await refusal(receiver.with({ pathPrefix: ['/nowhere'] }))).toMatchObject({
          failure: 'program-missing',
          hint: expect.stringContaining('path_prefix'),
        });
      } finally {
        process.env['PATH'] = path;
      }
    }));
});

describe('the replication slot', () => {
  test('that is missing is made with create_slot = auto only', () =>
    withServerAndReceiver({}, async (pg, receiver) => {
      const slots = (): Promise<readonly unknown[]> =>
        pg.sql('select slot_name, slot_type, restart_lsn is not null from pg_replication_slots');
      const cause = await refusal(receiver.with({ createSlot: 'manual' }));
      expect(cause).toMatchObject({
        failure: 'slot-missing',
        message: 'replication slot "walwarden" of main does not exist',
        hint: expect.stringMatching(/receive-wal --create-slot main.*create_slot = auto/),
      });
      expect(await slots()).toEqual([]);
      // Without conninfo too.
      const streamingOnly = { postgres: { conninfo: null, walConninfo: null } };
      expect(await refusal(receiver.with({ ...streamingOnly, createSlot: 'manual' }))).toEqual(cause);
      await prepareToStream(receiver.with(streamingOnly));
      expect(await slots()).toEqual([['walwarden', 'physical', 't']]);
      await prepareToStream(receiver.settings);
    }));

  test('in use by somebody else names that process', () =>
    withServerAndReceiver({}, async (pg, receiver) => {
      await withReceiver(pg, { postgres: { streamingName: 'the_other_one' } }, (other) =>
        streamUntil(other.settings, 'the slot to be refused', async () => {
          const rows = await pg.sql('select active_pid from pg_replication_slots where active');
          const pid = rows[0]?.[0];
          if (pid === undefined || pid === null) return false;
          const cause = await refusal(receiver.settings);
          expect(cause).toMatchObject({
            failure: 'slot-active',
            message: `replication slot "walwarden" of main is in use by server process ${pid}, "the_other_one"`,
            hint: expect.stringContaining('slot_name'),
          });
          return true;
        }),
      );
    }));

  test('of a logical kind belongs to something else', () =>
    withServerAndReceiver({ settings: { wal_level: 'logical' } }, async (pg, receiver) => {
      await pg.sql(`select pg_create_logical_replication_slot('walwarden', 'pgoutput')`);
      expect(await refusal(receiver.settings)).toMatchObject({
        failure: 'misconfigured',
        message: 'replication slot "walwarden" of main is a logical one, not physical',
        hint: expect.stringContaining('slot_name'),
      });
    }));

  test('that was lost says so, and what to do', () =>
    withServerAndReceiver(
      { settings: { max_slot_wal_keep_size: '1MB', min_wal_size: '2MB', max_wal_size: '2MB' } },
      async (pg, receiver) => {
        await prepareToStream(receiver.settings);
        await until('the slot to be lost', async () => {
          await pg.writeSegments(3);
          await pg.sql('checkpoint');
          return (await pg.value('select wal_status from pg_replication_slots')) === 'lost';
        });
        expect(await refusal(receiver.settings)).toMatchObject({
          failure: 'wal-removed',
          hint: expect.stringMatching(/--drop-slot main.*--create-slot.*--reset.*max_slot_wal_keep_size/),
        });
      },
    ));

  test('can not be made when max_replication_slots is exhausted', () =>
    withServerAndReceiver({ settings: { max_replication_slots: '1' } }, async (pg, receiver) => {
      await pg.sql(`select pg_create_physical_replication_slot('taken')`);
      expect(await refusal(receiver.settings)).toMatchObject({
        failure: 'slot-exhausted',
        hint: expect.stringContaining('max_replication_slots'),
      });
    }));
});

describe('the cluster', () => {
  test('behind the same address is another one: both identifiers are named, and nothing is made there', () =>
    withServerAndReceiver({}, async (pg, receiver) => {
      const address = join(receiver.home, 'address');
      const viaAddress = streamingVia(`host=${address} user=postgres`);
      await symlink(pg.socketDir, address);
      await prepareToStream(receiver.with(viaAddress));
      const ours = await pg.systemIdentifier();
      await withPostgres({}, async (other) => {
        await rm(address);
        await symlink(other.socketDir, address);
        const cause = await refusal(receiver.with(viaAddress));
        const found = await other.systemIdentifier();
        expect(cause.failure).toBe('other-cluster');
        expect(cause.message).toContain(`its system identifier is ${found}, and this archive belongs to ${ours}`);
        expect(cause.hint).toMatch(/streaming_conninfo.*pg_upgrade.*--accept-identity main.*--reset main/);
        expect(await other.sql('select * from pg_replication_slots')).toEqual([]);
      });
    }));
});

describe('streaming_wals_directory', () => {
  test('that is missing is told before anything else', () =>
    withServerAndReceiver({}, async (_pg, receiver) => {
      await rm(receiver.streaming, { recursive: true });
      expect(await refusal(receiver.settings)).toMatchObject({
        failure: 'directory',
        message: `there is no directory ${receiver.streaming}`,
        hint: expect.stringContaining('streaming_wals_directory'),
      });
      expect((await readdir(join(receiver.home, 'main'))).includes('streaming')).toBe(false);
    }));
});

describe('the process', () => {
  test('meets another cluster behind the same address, receives nothing of it, and says so', () =>
    withStreamingHome({}, async (pg, home) => {
      const address = join(home.home.home, 'address');
      await symlink(pg.socketDir, address);
      const viaAddress = await home.with({ conninfo: `host=${address} user=postgres dbname=postgres` });
      const receiver = await viaAddress.startStreaming();
      const last = await pg.switchWal();
      await viaAddress.expectReceived(pg, last);
      await withPostgres({}, async (other) => {
        await rm(address);
        await symlink(other.socketDir, address);
        await pg.stop();
        const { cause } = await viaAddress.reaches('blocked', receiver);
        expect(cause).toMatchObject({
          failure: 'other-cluster',
          message: expect.stringContaining(`its system identifier is ${await other.systemIdentifier()}`),
          hint: expect.stringContaining('streaming_conninfo'),
        });
        expect((await viaAddress.log()).some(({ level, failure }) => level === 50 && failure === 'other-cluster')).toBe(
          true,
        );
        const before = await readdir(home.streaming);
        // Somebody says that this is right.
        await receiver.stop();
        const accepted = await viaAddress.cli(['errors', 'resolve', '--accept-identity', 'main']);
        expect(accepted.stdout).toContain(
          `this archive belongs to system identifier ${await other.systemIdentifier()} from now on`,
        );
        const again = await viaAddress.cli(['errors', 'resolve', '--accept-identity', 'main']);
        expect(again.stdout).toContain('already');
        const next = viaAddress.start();
        expect((await viaAddress.reaches('blocked', next)).cause?.hint).toContain('--reset main');
        expect(await next.stop()).toEqual({ status: 0, signal: null });
        expect((await readdir(home.streaming)).sort()).toEqual(before.sort());
        const reset = await viaAddress.cli(['receive-wal', '--reset', 'main']);
        expect(reset).toMatchObject({ status: 0, stdout: expect.stringContaining('Creating status file') });
        await viaAddress.startStreaming();
      });
    }));

  test('does not begin without streaming_conninfo, and names the option', () =>
    withStreamingHome({ start: false }, async (_pg, home) => {
      const result = await (await home.with({ conninfo: '' })).cli(['receive-wal', 'main']);
      expect(result).toMatchObject({ status: 1, stderr: expect.stringContaining('streaming_conninfo') });
    }));

  test('waits for a pg_receivewal as new as the server, naming the option that says where it is', () =>
    withStreamingHome({}, async (_pg, home) => {
      const bin = join(home.home.home, 'bin');
      await mkdir(bin);
      await writeFile(join(bin, 'pg_receivewal'), '#!/bin/sh\necho "pg_receivewal (PostgreSQL) 9.6.24"\n', {
        mode: 0o755,
      });
      const older = await home.with({ path_prefix: bin });
      const receiver = older.start();
      const { cause } = await older.reaches('blocked', receiver);
      expect(cause).toMatchObject({ failure: 'server-newer', hint: expect.stringContaining('path_prefix') });
      expect(await receiver.stop()).toEqual({ status: 0, signal: null });
    }));

  test('refuses --reset while it runs, with the exit status that a script sees', () =>
    withStreamingHome({}, async (_pg, home) => {
      const receiver = await home.startStreaming();
      const refused = await home.cli(['receive-wal', '--reset', 'main']);
      expect(refused.status).toBe(1);
      expect(refused.stderr).toBe(
        'ERROR: Unable to reset the status of receive-wal for server main. Process is still running\n' +
          'HINT: stop it first: walwarden receive-wal --stop main\n',
      );
      await receiver.stop();
      expect(await home.cli(['receive-wal', '--reset', 'main'])).toMatchObject({
        status: 0,
        stdout: 'Nothing to do. Position of receive-wal is aligned.\n',
      });
    }));
});
