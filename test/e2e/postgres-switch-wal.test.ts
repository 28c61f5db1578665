import { describe, expect, test } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { createPhysicalSlot, dropSlot } from '../../src/postgres/replication-slot.ts';
import { switchWal } from '../../src/postgres/switch-wal.ts';
import { formatLsn } from '../../src/wal/lsn.ts';
import { CLEAN } from '../postgres/attempt.ts';
import { sharedPostgres } from '../postgres/shared-postgres.ts';

const pg = sharedPostgres({ tcp: true }, async (server) => {
  await server.sql('create role plain login');
});

describe('switchWal', () => {
  test('closes the current segment when there is something in it, and only then', async () => {
    await pg().switchWal();
    await pg().sql(`select pg_create_restore_point('something')`);
    const first = await switchWal(pg().conninfo);
    expect(first).toMatchObject({ closed: first.before, isStandby: false });
    expect(first.after).not.toBe(first.before);
    expect(await switchWal(pg().conninfo)).toEqual({
      closed: null,
      before: first.after,
      after: first.after,
      isStandby: false,
    });
  });

  test('with force has something to close', async () => {
    await switchWal(pg().conninfo);
    const forced = await switchWal(pg().conninfo, { force: true });
    expect(forced.closed).toBe(forced.before);
    expect(forced.closed).not.toBeNull();
  });

  test('does nothing to a standby', async () => {
    const standby = await pg().standby();
    const nothing = { closed: null, before: null, after: null, isStandby: true };
    expect(await switchWal(standby.conninfo)).toEqual(nothing);
    expect(await switchWal(standby.conninfo, { force: true })).toEqual(nothing);
  });

  test('says which privilege is missing', async () => {
    const conninfo = `${pg().tcpConninfo} user=plain`;
    await expect(switchWal(conninfo, { environment: CLEAN })).rejects.toMatchObject({
      failure: 'no-privilege',
      hint: 'on the server: GRANT EXECUTE ON FUNCTION pg_switch_wal() TO plain',
    });
    await pg().sql('grant execute on function pg_switch_wal() to plain');
    await expect(switchWal(conninfo, { environment: CLEAN })).resolves.toMatchObject({ isStandby: false });
    const forced = switchWal(conninfo, { force: true, environment: CLEAN });
    await expect(forced).rejects.toMatchObject({
      failure: 'no-privilege',
      hint: expect.stringMatching(/CHECKPOINT|pg_checkpoint/),
    });
  });
});

/** Where a receiver that has nothing yet begins. */
async function segmentStart(): Promise<string> {
  return formatLsn((await pg().currentLsn()) & ~BigInt(pg().segmentSize - 1));
}

describe('a replication slot', () => {
  test('is created so that it keeps WAL at once, and dropped', async () => {
    await using replication = await connect(pg().conninfo, { replication: true });
    await createPhysicalSlot(replication, 'ours');
    expect(await pg().value(`select restart_lsn is not null from pg_replication_slots where slot_name = 'ours'`)).toBe(
      't',
    );
    await expect(createPhysicalSlot(replication, 'ours')).rejects.toMatchObject({ sqlState: '42710' });
    await dropSlot(replication, 'ours');
    expect(await pg().value('select count(*) from pg_replication_slots where not active')).toBe('0');
    await expect(dropSlot(replication, 'ours')).rejects.toMatchObject({ failure: 'slot-missing', sqlState: '42704' });
  });

  test('has a name that PostgreSQL allows', async () => {
    await using replication = await connect(pg().conninfo, { replication: true });
    await expect(createPhysicalSlot(replication, 'Not allowed')).rejects.toMatchObject({ sqlState: '42602' });
    await expect(dropSlot(replication, 'no; such')).rejects.toMatchObject({ failure: 'slot-missing' });
  });

  test('in use is not dropped', async () => {
    await using replication = await connect(pg().conninfo, { replication: true });
    await createPhysicalSlot(replication, 'busy');
    const receiver = await connect(pg().conninfo, { replication: true });
    const stream = receiver.query(`START_REPLICATION SLOT busy ${await segmentStart()}`).catch(() => undefined);
    try {
      await expect.poll(() => pg().value(`select active from pg_replication_slots where slot_name = 'busy'`)).toBe('t');
      await expect(dropSlot(replication, 'busy')).rejects.toMatchObject({ failure: 'slot-active', sqlState: '55006' });
    } finally {
      await receiver[Symbol.asyncDispose]();
      await stream;
    }
    await expect
      .poll(() =>
        dropSlot(replication, 'busy').then(
          () => true,
          () => false,
        ),
      )
      .toBe(true);
  });
});
