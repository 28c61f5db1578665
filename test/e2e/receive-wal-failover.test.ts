import { copyFile, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { endOfContent } from '../../src/receiver/partial-content.ts';
import { isWalName, walKind } from '../../src/wal/wal-name.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { withStreamingHome, type StreamingHome } from './running-receiver.ts';

/** A server that recycles what nothing reserves. */
const RECYCLING = { wal_keep_size: '0', min_wal_size: '2MB', max_wal_size: '2MB' };
const OPTIONS = { settings: RECYCLING, server: { archiver: 'on' } };

const listed = async (directory: string): Promise<string[]> => (await readdir(directory)).sort();

/** What archive_command does, up to a segment. */
async function deliver(pg: TestPostgres, { home }: StreamingHome, last: string): Promise<void> {
  for (const name of await listed(pg.walDir)) {
    if (!isWalName(name) || walKind(name) === 'partial') continue;
    if (walKind(name) === 'history' || name <= last) await copyFile(join(pg.walDir, name), join(home.incoming, name));
  }
}

/** Everything that waits, history files included: those are taken once they are at rest. */
async function archive(home: StreamingHome): Promise<void> {
  await until('incoming to be archived', async () => {
    const pass = await home.cli(['archive-wal', 'main']);
    expect(pass.status, pass.stderr).toBe(0);
    return (await listed(home.home.incoming)).length === 0;
  });
}

/** The new primary writes on, delivers what it writes, and recycles it. */
async function goOnWithout(standby: TestPostgres, home: StreamingHome): Promise<void> {
  await standby.sql(`select pg_create_physical_replication_slot('keeper', true)`);
  await deliver(standby, home, await standby.writeSegments(5));
  await standby.sql(`select pg_drop_replication_slot('keeper')`);
  await standby.sql('checkpoint');
  await archive(home);
}

/** Until the partial file holds a position of a server. */
async function received(home: StreamingHome, pg: TestPostgres): Promise<string> {
  await pg.sql('create table if not exists flush_now ()');
  await pg.sql('drop table flush_now');
  const lsn = await pg.currentLsn();
  const name = `${await pg.value('select pg_walfile_name(pg_current_wal_lsn())')}.partial`;
  await until('it to be received', async () => {
    if (!(await listed(home.streaming)).includes(name)) return false;
    return (await endOfContent(join(home.streaming, name))) >= Number(lsn % BigInt(pg.segmentSize)) - 8;
  });
  return name;
}

async function expectNoGap(pg: TestPostgres, home: StreamingHome): Promise<void> {
  const last = await pg.writeSegments(2);
  await until('it to be received', async () => (await listed(home.streaming)).includes(last));
  await archive(home);
  const gaps = await home.cli(['list-wals', '--gaps', 'main']);
  expect(gaps.stdout).not.toMatch(/missing/i);
}

test('a synchronous receiver goes on by itself at a new primary that has no slot and has recycled what comes next', () =>
  withStreamingHome(OPTIONS, async (primary, before) => {
    const standby = await primary.standby({ settings: RECYCLING });
    const receiver = await before.startStreaming();
    await primary.writeSegments(1);
    const partial = await received(before, primary);
    await receiver.stop();
    await deliver(primary, before, await primary.writeSegments(2));
    await standby.replayed(await primary.currentLsn());
    await primary.stop();
    await standby.promote();
    await goOnWithout(standby, before);
    await standby.configure({ synchronous_standby_names: 'barman_receive_wal' });
    await until(
      'the setting',
      async () => (await standby.value('show synchronous_standby_names')) === 'barman_receive_wal',
    );
    const commit = standby.sql('create table waits_for_us ()');

    const home = await before.with({ conninfo: standby.conninfo });
    const report = await home.reaches('streaming', home.start());
    expect(report.synchronous).toBe(true);
    await commit;
    expect(await listed(home.home.errors)).toEqual([expect.stringMatching(`^${partial}\\..*\\.reset$`)]);
    await expectNoGap(standby, home);
  }));

test('a failover that lost confirmed commits stays blocked, keeps them, and a reset leads out', () =>
  withStreamingHome(OPTIONS, async (primary, before) => {
    const standby = await primary.standby({ settings: RECYCLING });
    const receiver = await before.startStreaming();
    await primary.writeSegments(1);
    await received(before, primary);
    await standby.replayed(await primary.currentLsn());
    await standby.stop();
    await primary.sql('create table confirmed_and_lost ()');
    const partial = await received(before, primary);
    await receiver.stop();
    const bytes = await readFile(join(before.streaming, partial));
    await primary.stop('immediate');
    await standby.start();
    await standby.promote();
    await goOnWithout(standby, before);

    const home = await before.with({ conninfo: standby.conninfo });
    const blocked = home.start();
    expect((await home.reaches('blocked', blocked)).cause).toMatchObject({
      failure: 'wal-removed',
      message: expect.stringMatching(
        new RegExp(`${partial} holds WAL up to \\S+ that the archived \\S+ does not begin`),
      ),
      hint: expect.stringContaining('--reset main'),
    });
    await blocked.stop();
    expect((await readFile(join(home.streaming, partial))).equals(bytes)).toBe(true);
    expect(await listed(home.home.errors)).toEqual([]);

    const reset = await home.cli(['receive-wal', '--reset', 'main']);
    expect(reset.status, reset.stderr).toBe(0);
    const [moved = ''] = await listed(home.home.errors);
    expect(moved).toMatch(new RegExp(`^${partial}\\..*\\.reset$`));
    expect((await readFile(join(home.home.errors, moved))).equals(bytes)).toBe(true);
    await home.startStreaming();
    const last = await standby.writeSegments(1);
    await until('it to be received', async () => (await listed(home.streaming)).includes(last));
  }));

test('a history file that the server has lost is taken from the archive, and without that is named as what is missing', () =>
  withStreamingHome({ server: { archiver: 'on' } }, async (primary, before) => {
    const standby = await primary.standby({ settings: { wal_keep_size: '1GB' } });
    await standby.replayed(await primary.currentLsn());
    await primary.stop();
    await standby.promote();
    const home = await before.with({ conninfo: standby.conninfo });
    const history = join(standby.walDir, '00000002.history');
    const bytes = await readFile(history);
    await copyFile(history, join(home.home.home, 'kept.history'));
    await rm(history);
    const blocked = home.start();
    expect((await home.reaches('blocked', blocked)).cause).toMatchObject({
      failure: 'history-missing',
      message: expect.stringContaining('00000002.history'),
      hint: expect.stringMatching(/copy it into pg_wal.*archive of main/),
    });
    await blocked.stop();

    await copyFile(join(home.home.home, 'kept.history'), join(home.home.incoming, '00000002.history'));
    await archive(home);
    await home.startStreaming();
    expect((await readFile(join(home.streaming, '00000002.history'))).equals(bytes)).toBe(true);
    const last = await standby.writeSegments(1);
    await until('it to be received', async () => (await listed(home.streaming)).includes(last));
  }));
