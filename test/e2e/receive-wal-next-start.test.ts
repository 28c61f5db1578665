import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import { isWalName, parseWalName, segmentNumber, walKind } from '../../src/wal/wal-name.ts';
import { moveSlotBack } from '../support/move-slot-back.ts';
import { until } from '../support/poll.ts';
import { pgReceivewalOf } from '../support/postgres-programs.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { withStreamingHome, type StreamingHome } from './running-receiver.ts';

/** A server that recycles what nothing reserves. */
const RECYCLING = { wal_keep_size: '0', min_wal_size: '2MB', max_wal_size: '2MB' };
const OPTIONS = { settings: RECYCLING, server: { archiver: 'on' } };

const listed = async (directory: string): Promise<string[]> => (await readdir(directory)).sort();

/** What archive_command does: each complete segment up to one is delivered, but for those that are left out. */
async function deliver(
  pg: TestPostgres,
  home: StreamingHome,
  last: string,
  without: readonly string[] = [],
): Promise<void> {
  for (const name of await listed(pg.walDir)) {
    const wanted = isWalName(name) && walKind(name) === 'segment' && name <= last && !without.includes(name);
    if (wanted) await copyFile(join(pg.walDir, name), join(home.home.incoming, name));
  }
}

/** Receives a segment and the beginning of the next; then nothing receives any more. Resolves to the partial file. */
async function receiveSome(pg: TestPostgres, home: StreamingHome): Promise<string> {
  const receiver = await home.startStreaming();
  const last = await pg.writeSegments(1);
  await pg.sql('create table more ()');
  await home.expectReceived(pg, last);
  const partial = await until('the next segment to begin', async () =>
    (await listed(home.streaming)).find((name) => name.endsWith('.partial') && name > last),
  );
  expect((await receiver.stop()).status).toBe(0);
  return partial;
}

/** As a new primary is: no slot, and what was not received is not there any more. Resolves to the segments that were written. */
async function recycle(pg: TestPostgres, meanwhile: (last: string) => Promise<void>): Promise<void> {
  await until(
    'the slot to be free',
    async () => (await pg.sql('select 1 from pg_replication_slots where active')).length === 0,
  );
  await pg.sql('select pg_drop_replication_slot(slot_name) from pg_replication_slots');
  // A checkpoint of its own may come at any time: what is written is delivered before it removes anything.
  await pg.sql(`select pg_create_physical_replication_slot('keeper', true)`);
  const last = await pg.writeSegments(5);
  await meanwhile(last);
  await pg.sql(`select pg_drop_replication_slot('keeper')`);
  await pg.sql('checkpoint');
}

const archive = async (home: StreamingHome): Promise<void> => {
  const pass = await home.cli(['archive-wal', 'main']);
  expect(pass.status, pass.stderr).toBe(0);
};

const restartLsn = (pg: TestPostgres): Promise<string> =>
  pg.value(`select restart_lsn from pg_replication_slots where slot_name = 'walwarden'`);

/** Receives, archives, and finds no gap in what is archived. */
async function expectNoGap(pg: TestPostgres, home: StreamingHome): Promise<void> {
  const last = await pg.writeSegments(2);
  await until('it to be received', async () => (await listed(home.streaming)).includes(last));
  await archive(home);
  const gaps = await home.cli(['list-wals', '--gaps', 'main']);
  expect(gaps.stdout).not.toMatch(/missing/i);
}

describe('receive-wal of a server that has removed what comes next', () => {
  test('goes on by itself where the slot keeps WAL, when everything up to there is archived', () =>
    withStreamingHome(OPTIONS, async (pg, home) => {
      const partial = await receiveSome(pg, home);
      const bytes = await readFile(join(home.streaming, partial));
      await recycle(pg, (last) => deliver(pg, home, last));
      await archive(home);
      await home.startStreaming();
      const [moved = '', ...more] = await listed(home.home.errors);
      expect(moved).toMatch(new RegExp(`^${partial}\\.\\d{8}T\\d{6}Z\\.reset$`));
      expect((await readFile(join(home.home.errors, moved))).equals(bytes)).toBe(true);
      expect(more).toEqual([]);
      await expectNoGap(pg, home);
      expect(await pg.value('select active from pg_replication_slots')).toBe('t');
    }));

  test('stays blocked at a hole, starts nothing with the slot, and a reset leads out', () =>
    withStreamingHome(OPTIONS, async (pg, home) => {
      await receiveSome(pg, home);
      let hole = '';
      await recycle(pg, async (last) => {
        hole = (await listed(pg.walDir)).filter((name) => isWalName(name) && name < last).at(-2) ?? '';
        await copyFile(join(pg.walDir, hole), join(home.home.home, hole));
        await deliver(pg, home, last, [hole]);
      });
      await archive(home);
      const blocked = home.start();
      const { cause } = await home.reaches('blocked', blocked);
      expect(cause).toMatchObject({
        failure: 'wal-removed',
        message: expect.stringMatching(/it is archived up to \S+ only, and replication slot "walwarden" stands at/),
        hint: expect.stringContaining('walwarden receive-wal --reset main'),
      });
      const place = await restartLsn(pg);
      await blocked.stop();
      // The first time only.
      expect((await home.messages()).filter((said) => said.includes('starting log streaming at'))).toHaveLength(1);
      expect(await restartLsn(pg)).toBe(place);

      const reset = await home.cli(['receive-wal', '--reset', 'main']);
      expect(reset).toMatchObject({ status: 0, stdout: expect.stringContaining('Creating status file') });
      expect(await restartLsn(pg)).toBe(place);
      const receiver = await home.startStreaming();
      const last = await pg.writeSegments(1);
      await until('it to be received', async () => (await listed(home.streaming)).includes(last));
      await receiver.stop();
    }));

  test('goes on once the hole is filled', () =>
    withStreamingHome(OPTIONS, async (pg, home) => {
      await receiveSome(pg, home);
      let hole = '';
      await recycle(pg, async (last) => {
        hole = last;
        await copyFile(join(pg.walDir, hole), join(home.home.home, hole));
        await deliver(pg, home, last, [hole]);
      });
      await archive(home);
      const blocked = home.start();
      await home.reaches('blocked', blocked);
      await blocked.stop();
      await copyFile(join(home.home.home, hole), join(home.home.incoming, hole));
      await archive(home);
      await home.startStreaming();
      await expectNoGap(pg, home);
    }));

  test('stays blocked without a slot, and a reset leads out', () =>
    withStreamingHome({ ...OPTIONS, server: { archiver: 'on', slot_name: '' } }, async (pg, home) => {
      const partial = await receiveSome(pg, home);
      await recycle(pg, (last) => deliver(pg, home, last));
      await archive(home);
      const blocked = home.start();
      expect((await home.reaches('blocked', blocked)).cause).toMatchObject({
        failure: 'wal-removed',
        message: expect.stringContaining('has already been removed'),
        hint: expect.stringMatching(/--reset main.*slot_name, create_slot = auto/),
      });
      await blocked.stop();
      const reset = await home.cli(['receive-wal', '--reset', 'main']);
      expect(reset.status, reset.stderr).toBe(0);
      expect(await listed(home.home.errors)).toEqual([expect.stringMatching(`^${partial}\\..*\\.reset$`)]);
      // Without a slot a checkpoint could come before the WAL sender.
      await pg.configure({ wal_keep_size: '64MB' });
      await home.startStreaming();
      const last = await pg.writeSegments(1);
      await until('it to be received', async () => (await listed(home.streaming)).includes(last));
    }));

  test('asks for the slot first where it may not make one, and then goes on by itself', () =>
    withStreamingHome(OPTIONS, async (pg, first) => {
      await receiveSome(pg, first);
      const home = await first.with({ create_slot: 'manual' });
      await recycle(pg, (last) => deliver(pg, home, last));
      await archive(home);
      const before = await listed(home.streaming);
      const refused = await home.cli(['receive-wal', '--reset', 'main']);
      expect(refused.status).toBe(1);
      expect(refused.stderr).toContain('walwarden receive-wal --create-slot main');
      expect(await listed(home.streaming)).toEqual(before);
      expect((await home.cli(['receive-wal', '--create-slot', 'main'])).status).toBe(0);
      expect((await home.cli(['receive-wal', '--reset', 'main'])).status).toBe(0);
      await home.startStreaming();
      await expectNoGap(pg, home);
    }));

  test('finds a slot that was moved back to where the WAL is gone, and moves it forward again', () =>
    withStreamingHome(OPTIONS, async (pg, home) => {
      const partial = await receiveSome(pg, home);
      const position = formatLsn(
        segmentNumber(parseWalName(partial) ?? expect.unreachable(), pg.segmentSize) * BigInt(pg.segmentSize),
      );
      await recycle(pg, (last) => deliver(pg, home, last));
      await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      await moveSlotBack(pg, 'walwarden', position);
      await until(
        'the slot to be free',
        async () => (await pg.sql('select 1 from pg_replication_slots where active')).length === 0,
      );
      // The archive is not complete yet.
      const blocked = home.start();
      expect((await home.reaches('blocked', blocked)).cause).toMatchObject({
        failure: 'wal-removed',
        hint: expect.stringContaining('--reset main'),
      });
      await blocked.stop();
      expect(await restartLsn(pg)).toBe(position);
      await archive(home);
      await home.startStreaming();
      await expectNoGap(pg, home);
      expect(await listed(home.home.errors)).toEqual([expect.stringMatching(`^${partial}\\..*\\.reset$`)]);
    }));

  test('a reset of a slot that was moved back leads out, also with nothing archived', () =>
    withStreamingHome(OPTIONS, async (pg, home) => {
      const partial = await receiveSome(pg, home);
      const position = formatLsn(
        segmentNumber(parseWalName(partial) ?? expect.unreachable(), pg.segmentSize) * BigInt(pg.segmentSize),
      );
      await recycle(pg, async () => undefined);
      await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      await moveSlotBack(pg, 'walwarden', position);
      const reset = await home.cli(['receive-wal', '--reset', 'main']);
      expect(reset, reset.stderr).toMatchObject({ status: 0, stdout: expect.stringContaining('base backup') });
      await home.startStreaming();
      const last = await pg.writeSegments(1);
      await until('it to be received', async () => (await listed(home.streaming)).includes(last));
    }));

  test('moves a slot forward that stands where the WAL is gone', () =>
    withStreamingHome(OPTIONS, async (pg, home) => {
      await receiveSome(pg, home);
      const last = await pg.writeSegments(5);
      await deliver(pg, home, last);
      await archive(home);
      const current = await pg.value('select pg_walfile_name(pg_current_wal_lsn())');
      for (const name of await listed(pg.walDir)) {
        if (isWalName(name) && walKind(name) === 'segment' && name < current) await rm(join(pg.walDir, name));
      }
      const place = await restartLsn(pg);
      const reset = await home.cli(['receive-wal', '--reset', 'main']);
      expect(reset, reset.stderr).toMatchObject({ status: 0, stdout: expect.stringContaining('it is archived') });
      expect(await pg.value(`select restart_lsn > '${place}' from pg_replication_slots`)).toBe('t');
      await home.startStreaming();
      await expectNoGap(pg, home);
    }));

  test('makes a slot again that was lost', () =>
    withStreamingHome(OPTIONS, async (pg, home) => {
      await receiveSome(pg, home);
      await pg.configure({ max_slot_wal_keep_size: '1MB' });
      await until('the slot to be lost', async () => {
        await deliver(pg, home, await pg.writeSegments(3));
        await pg.sql('checkpoint');
        return (await pg.value('select wal_status from pg_replication_slots')) === 'lost';
      });
      await archive(home);
      const blocked = home.start();
      expect((await home.reaches('blocked', blocked)).cause).toMatchObject({
        failure: 'wal-removed',
        message: expect.stringContaining('max_slot_wal_keep_size'),
        hint: expect.stringContaining('--reset main'),
      });
      await blocked.stop();
      await pg.configure({ max_slot_wal_keep_size: '-1' });
      const reset = await home.cli(['receive-wal', '--reset', 'main']);
      expect(reset.status, reset.stderr).toBe(0);
      await home.startStreaming();
      await expectNoGap(pg, home);
    }));
});

test('what the slot does not reserve, and the server still has, is received without moving the slot back', () =>
  withStreamingHome({ server: { archiver: 'on' } }, async (pg, home) => {
    await receiveSome(pg, home);
    await recycle(pg, async () => undefined);
    await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
    const place = await restartLsn(pg);
    await home.startStreaming();
    await until(
      'the slot to be in use',
      async () => (await pg.value('select active from pg_replication_slots')) === 't',
    );
    // The server keeps whole segments.
    const segmentOf = (lsn: string): bigint => parseLsn(lsn) / BigInt(pg.segmentSize);
    expect(segmentOf(await restartLsn(pg))).toBeGreaterThanOrEqual(segmentOf(place));
    await expectNoGap(pg, home);
    expect(await listed(home.home.errors)).toEqual([]);
  }));

test('a checkpoint between the decision and the start changes nothing where a slot reserves the place', () =>
  withStreamingHome(OPTIONS, async (pg, first) => {
    await receiveSome(pg, first);
    await recycle(pg, (last) => deliver(pg, first, last));
    await archive(first);
    // pg_receivewal, and what happens on the server right before it starts.
    const bin = join(first.home.home, 'bin');
    await mkdir(bin);
    const go = join(first.home.home, 'go');
    const script = `#!/bin/sh
case "$*" in *--version*) ;; *) touch '${go}.asked'; while [ ! -e '${go}' ]; do sleep 0.05; done ;; esac
exec '${pgReceivewalOf(pg.programs)}' "$@"
`;
    await writeFile(join(bin, 'pg_receivewal'), script, { mode: 0o755 });
    const home = await first.with({ path_prefix: bin });
    const receiver = home.start();
    await until('pg_receivewal to be started', async () => (await listed(home.home.home)).includes('go.asked'));
    await pg.writeSegments(4);
    await pg.sql('checkpoint');
    await writeFile(go, '');
    await home.reaches('streaming', receiver);
    await expectNoGap(pg, home);
  }));
