import { describe, expect, test } from 'vitest';
import { WalwardenError } from '../../src/errors.ts';
import { PostgresError } from '../../src/postgres/failure.ts';
import { causeOf, prepareToStream } from '../../src/receiver/preflight.ts';
import { until } from '../support/poll.ts';
import { withPostgres } from '../support/postgres.ts';
import { withReceiver } from './with-receiver.ts';

describe('causeOf', () => {
  const errno = (code: string): Error => Object.assign(new Error(`${code}: it failed`), { code });

  test.each([
    ['PostgreSQL’s own word', new PostgresError('pg-hba', 'rejected', { hint: 'add a line' }), 'pg-hba', 'add a line'],
    [
      'a missing program',
      new WalwardenError('program', 'none'),
      'program-missing',
      expect.stringContaining('path_prefix'),
    ],
    ['a directory', new WalwardenError('storage', 'gone', { hint: 'mount it' }), 'directory', 'mount it'],
    ['a system error', errno('EACCES'), 'directory', expect.stringContaining('streaming_wals_directory')],
    ['a full disk', errno('ENOSPC'), 'low-disk', expect.stringContaining('free space')],
    [
      'a full disk behind another error',
      new WalwardenError('storage', 'full', { cause: errno('EDQUOT') }),
      'low-disk',
      expect.stringContaining('free space'),
    ],
    ['anything else', new Error('surprise'), 'other', expect.stringContaining('log')],
    ['no error at all', 'surprise', 'other', expect.stringContaining('log')],
  ])('of %s', (_what, error, failure, hint) => {
    expect(causeOf(error)).toMatchObject({ failure, hint });
  });

  test('always says what to do', () => {
    for (const failure of ['unreachable', 'wal-removed', 'other', 'misconfigured'] as const) {
      expect(causeOf(new PostgresError(failure, 'x')).hint).toMatch(/\S/);
    }
  });
});

describe('prepareToStream', () => {
  test('asks for --synchronous when synchronous_standby_names lists us, by the real grammar', () =>
    withPostgres({ settings: { synchronous_commit: 'off' } }, (pg) =>
      withReceiver(pg, {}, async ({ settings }) => {
        for (const [names, synchronous] of [
          ['', false],
          ['barman_receive_wal', true],
          ['FIRST 1 (other, "barman_receive_wal")', true],
          ['ANY 1 (*)', true],
          ['other, barman_receive_wal_2', false],
        ] as const) {
          await pg.configure({ synchronous_standby_names: names });
          await until('the setting', async () => (await pg.value('show synchronous_standby_names')) === names);
          expect(await prepareToStream(settings), names).toMatchObject({ synchronous });
        }
      }),
    ));

  test('tells what pg_receivewal is started with, and works without conninfo', () =>
    withPostgres({ segmentSizeMb: 4 }, (pg) =>
      withReceiver(pg, { postgres: { conninfo: null, walConninfo: null } }, async ({ settings }) => {
        expect(await prepareToStream(settings)).toEqual({
          program: expect.objectContaining({ path: expect.stringMatching(/\/pg_receivewal$/) }),
          serverVersion: Number(await pg.value('show server_version_num')),
          systemIdentifier: await pg.systemIdentifier(),
          segmentSize: 4 * 1024 * 1024,
          synchronous: false,
        });
      }),
    ));

  test('streams all the same when the slot can’t be asked for, and says why', () =>
    withPostgres({}, (pg) =>
      withReceiver(pg, { postgres: { walConninfo: `${pg.conninfo} user=nobody_at_all` } }, async (receiver) => {
        await prepareToStream(receiver.settings);
        const [warning] = receiver.logged.filter(({ level }) => level === 40);
        expect(warning?.msg).toMatch(
          /^can't ask for the state of replication slot "walwarden": wal_conninfo of main: .*nobody/,
        );
        expect(await pg.value('select slot_name from pg_replication_slots')).toBe('walwarden');
      }),
    ));

  test('records whose archive this is, once, and follows what somebody corrected there', () =>
    withPostgres({}, (pg) =>
      withReceiver(pg, {}, async ({ settings }) => {
        await prepareToStream(settings);
        const systemid = String(await pg.systemIdentifier());
        expect(await settings.identity.current()).toMatchObject({ systemid });
        await settings.identity.replace({ systemid: '42', version: '15' });
        await expect(prepareToStream(settings)).rejects.toMatchObject({ failure: 'other-cluster' });
        await settings.identity.replace({ systemid, version: '15' });
        await prepareToStream(settings);
      }),
    ));

  test('ends when it is asked to', () =>
    withPostgres({}, (pg) =>
      withReceiver(pg, {}, async ({ settings }) => {
        await expect(prepareToStream(settings, AbortSignal.abort())).rejects.toThrow();
        expect(await pg.sql('select 1 from pg_replication_slots')).toEqual([]);
      }),
    ));
});
