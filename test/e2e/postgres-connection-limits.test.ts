import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { PostgresError } from '../../src/postgres/failure.ts';
import { until } from '../support/poll.ts';
import { withPostgres } from '../support/postgres.ts';
import { CLEAN, failureOf } from '../postgres/attempt.ts';

test('an exhausted server says of what it has too few', () =>
  withPostgres(
    {
      tcp: true,
      settings: {
        max_connections: '4',
        superuser_reserved_connections: '1',
        max_wal_senders: '1',
        max_replication_slots: '1',
      },
    },
    async (pg) => {
      await pg.sql(
        'create role alice login; create role lonely login connection limit 0; create role repl login replication',
      );
      const alice = `${pg.tcpConninfo} user=alice`;
      const repl = `${pg.tcpConninfo} user=repl`;
      await expect(failureOf(`${pg.tcpConninfo} user=lonely`)).resolves.toMatchObject({
        failure: 'too-many-connections',
        sqlState: '53300',
      });
      {
        await using sender = await connect(repl, { replication: true, environment: CLEAN });
        expect(await failureOf(repl, { replication: true })).toMatchObject({
          failure: 'too-many-walsenders',
          sqlState: '53300',
        });
        await sender.query('CREATE_REPLICATION_SLOT one PHYSICAL');
        const second = sender.query('CREATE_REPLICATION_SLOT two PHYSICAL');
        await expect(second).rejects.toMatchObject({ failure: 'slot-exhausted', sqlState: '53400' });
        await expect(sender.query('DROP_REPLICATION_SLOT two')).rejects.toMatchObject({ failure: 'slot-missing' });
        await expect(sender.query('START_REPLICATION SLOT two 0/0')).rejects.toMatchObject({ failure: 'slot-missing' });
      }
      await using _one = await connect(alice, { environment: CLEAN });
      await using _two = await connect(alice, { environment: CLEAN });
      await using _three = await connect(alice, { environment: CLEAN });
      expect(await failureOf(alice)).toMatchObject({ failure: 'too-many-connections', sqlState: '53300' });
    },
  ));

test('a server without WAL senders says so', () =>
  withPostgres({ tcp: true, settings: { wal_level: 'minimal', max_wal_senders: '0' } }, async (pg) => {
    const error = await failureOf(`${pg.tcpConninfo} user=postgres`, { replication: true });
    expect(error).toMatchObject({ failure: 'too-many-walsenders' });
    await using connection = await connect(pg.conninfo);
    const slot = connection.query(`select pg_create_physical_replication_slot('x')`);
    await expect(slot).rejects.toMatchObject({ failure: 'wal-level' });
  }));

test('a server that starts up, and one that is down, are told apart', () =>
  withPostgres({ tcp: true }, async (pg) => {
    const conninfo = `${pg.tcpConninfo} user=postgres`;
    await pg.stop();
    expect(await failureOf(conninfo)).toMatchObject({ failure: 'unreachable', sqlState: null });
    expect(await failureOf(pg.conninfo)).toMatchObject({ failure: 'unreachable', sqlState: null });

    // It waits for the archive before it is consistent.
    const go = join(pg.directory, 'go');
    await pg.configure({ restore_command: `while [ ! -e ${go} ]; do sleep 0.05; done; false` });
    await writeFile(join(pg.dataDir, 'recovery.signal'), '');
    await pg.giveToServer(join(pg.dataDir, 'recovery.signal'));
    const started = pg.start();
    const failures = new Set<string>();
    await until('the server to say that it starts up', async () => {
      failures.add((await failureOf(conninfo)).failure);
      return failures.has('starting-up');
    });
    await writeFile(go, '');
    await started;
    await until('the server to take connections', async () => {
      try {
        await using _connection = await connect(conninfo, { environment: CLEAN });
        return true;
      } catch (error) {
        return error instanceof PostgresError && error.failure === 'starting-up' ? false : Promise.reject(error);
      }
    });
    expect([...failures].filter((failure) => failure !== 'unreachable')).toEqual(['starting-up']);
  }));

test('a server that is killed is an unreachable one', () =>
  withPostgres({}, async (pg) => {
    await using connection = await connect(pg.conninfo);
    const query = connection.query('select pg_sleep(600)');
    const failed = expect(query).rejects.toMatchObject({ failure: 'unreachable' });
    await pg.kill9();
    await failed;
  }));
