import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { acquireLock } from '../../src/durable/lock-file.ts';
import { resetReceiver } from '../../src/receiver/manage.ts';
import { causeOf, prepareToStream } from '../../src/receiver/preflight.ts';
import type { ReceiverSettings } from '../../src/receiver/receiver-settings.ts';
import { formatLsn } from '../../src/wal/lsn.ts';
import { parseWalName, segmentName, segmentNumber, segmentOfLsn, type WalName } from '../../src/wal/wal-name.ts';
import { CLI } from '../support/cli.ts';
import { withPostgres, type TestPostgres } from '../support/postgres.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { withStreamingHome } from './running-receiver.ts';
import { streamUntil, streamUntilFile, withReceiver, type TestReceiver } from '../receiver/with-receiver.ts';

const MIB = 1024 * 1024;
const ALIGNED = 'Nothing to do. Position of receive-wal is aligned.';

/** `keep`: WAL that the server keeps without being asked for it by a slot. */
async function withBoth<T>(
  body: (pg: TestPostgres, receiver: TestReceiver) => Promise<T>,
  { keep = '0' } = {},
): Promise<T> {
  return withPostgres({ settings: { min_wal_size: '2MB', max_wal_size: '2MB', wal_keep_size: keep } }, (pg) =>
    withReceiver(pg, {}, (receiver) => body(pg, receiver)),
  );
}

/** Receives until a segment that is written meanwhile is complete, and the next begun; tells its name. */
async function receiveSegment(pg: TestPostgres, settings: ReceiverSettings): Promise<WalName> {
  let name: WalName | null = null;
  await streamUntil(settings, 'a segment to be received', async () => {
    if (name === null) {
      if ((await pg.sql(`select 1 from pg_stat_replication where state = 'streaming'`)).length === 0) return false;
      name = await pg.switchWal();
      await pg.sql(`select pg_create_restore_point('the next segment begins')`);
    }
    const received = await readdir(settings.streamingDirectory);
    return received.includes(name) && received.includes(`${later(name, 1)}.partial`);
  });
  return name ?? expect.unreachable();
}

/** A received segment has the bytes of the server's own. */
async function expectSame(pg: TestPostgres, directory: string, name: string): Promise<void> {
  const received = await readFile(join(directory, name));
  expect(received.equals(await readFile(join(pg.walDir, name)))).toBe(true);
}

/** The segment so many behind another, of its timeline. */
function later(name: WalName, count: number): WalName {
  const parsed = parseWalName(name);
  if (parsed === undefined) throw new Error(`no WAL name: ${name}`);
  return segmentName(parsed.timeline, segmentNumber(parsed, MIB) + BigInt(count), MIB);
}

const listed = async (directory: string): Promise<string[]> => (await readdir(directory)).sort();

describe('where receiving begins', () => {
  test('in an empty directory it is where the slot is, not where the server is now', () =>
    withBoth(async (pg, { settings, streaming }) => {
      await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      const restart = await pg.value(`select pg_walfile_name(restart_lsn) from pg_replication_slots`);
      const last = await pg.writeSegments(3);
      await prepareToStream(settings);
      expect(await listed(streaming)).toEqual([`${restart}.partial`]);
      await streamUntilFile(settings, last);
      expect((await listed(streaming))[0]).toBe(restart);
      for (const name of await listed(streaming)) {
        if (!name.endsWith('.partial')) await expectSame(pg, streaming, name);
      }
    }));

  test('a partial file of a wrong size keeps what was received, and is completed', () =>
    withBoth(async (pg, receiver) => {
      const { settings, streaming } = receiver;
      const first = await receiveSegment(pg, settings);
      const partial = join(streaming, `${later(first, 1)}.partial`);
      const received = (await readFile(partial)).subarray(0, 70_001);
      await truncate(partial, 70_001);
      await prepareToStream(settings);
      expect((await stat(partial)).size).toBe(MIB);
      expect((await readFile(partial)).subarray(0, 70_001).equals(received)).toBe(true);
      const second = await receiveSegment(pg, settings);
      await expectSame(pg, streaming, second);

      const long = join(streaming, `${later(second, 1)}.partial`);
      await truncate(long, 3 * MIB);
      await prepareToStream(settings);
      expect((await stat(long)).size).toBe(MIB);
      expect(await listed(receiver.errors)).toEqual([
        expect.stringMatching(`^${later(second, 1)}\\.partial\\.\\d{8}T\\d{6}Z\\.unknown$`),
      ]);
      await expectSame(pg, streaming, await receiveSegment(pg, settings));
    }));

  test('a new slot that came too late is told with the WAL that it does not keep', () =>
    withBoth(async (pg, { settings, streaming, logged }) => {
      const first = await receiveSegment(pg, settings);
      await pg.sql(`select pg_drop_replication_slot('walwarden')`);
      await pg.writeSegments(4);
      await pg.sql('checkpoint');
      await prepareToStream(settings);
      const restart = await pg.value('select restart_lsn from pg_replication_slots');
      const position = parseWalName(later(first, 1));
      const received = formatLsn(segmentNumber(position ?? expect.unreachable(), MIB) * BigInt(MIB));
      expect(logged.filter(({ level }) => level >= 50).map(({ msg }) => msg)).toEqual([
        expect.stringMatching(`stands at ${restart}, and WAL was received up to ${received} only`),
      ]);
      expect(await listed(streaming)).toContain(`${later(first, 1)}.partial`);
    }));
});

describe('receive-wal --reset', () => {
  test('has nothing to do where streaming can go on, or where nothing was received', () =>
    withBoth(async (pg, { settings, streaming }) => {
      expect(await resetReceiver(settings)).toBe(ALIGNED);
      expect(await listed(streaming)).toEqual([]);
      await receiveSegment(pg, settings);
      const before = await listed(streaming);
      await pg.writeSegments(3);
      expect(await resetReceiver(settings)).toBe(ALIGNED);
      expect(await listed(streaming)).toEqual(before);
    }));

  test('begins at the slot’s position when the server has removed what comes next, and keeps the old partial file', () =>
    withBoth(async (pg, receiver) => {
      const { settings, streaming, errors } = receiver;
      const first = await receiveSegment(pg, settings);
      const old = `${later(first, 1)}.partial`;
      const bytes = await readFile(join(streaming, old));
      await pg.sql(`select pg_drop_replication_slot('walwarden')`);
      await pg.writeSegments(5);
      await pg.sql('checkpoint');
      await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      const restart = await pg.value('select pg_walfile_name(restart_lsn) from pg_replication_slots');

      const told = await resetReceiver(settings);
      const [moved = ''] = await listed(errors);
      expect(moved).toMatch(new RegExp(`^${old}\\.\\d{8}T\\d{6}Z\\.reset$`));
      expect((await readFile(join(errors, moved))).equals(bytes)).toBe(true);
      expect(told.split('\n')).toEqual([
        'Resetting receive-wal directory status',
        `Moving status file ${join(streaming, old)} to ${join(errors, moved)}`,
        `Creating status file ${join(streaming, `${restart}.partial`)}`,
        expect.stringMatching(/^WAL from \S+ to \S+ will not be received: .* base backup$/),
      ]);
      expect(await listed(streaming)).toEqual([first, `${restart}.partial`]);
      expect((await stat(join(streaming, `${restart}.partial`))).size).toBe(0);
      expect(await resetReceiver(settings)).toBe(ALIGNED);
      await expectSame(pg, streaming, await receiveSegment(pg, settings));
    }));

  test('begins at the server’s position without a slot', () =>
    withBoth(
      async (pg, receiver) => {
        const settings = receiver.with({ postgres: { slotName: null } });
        const first = await receiveSegment(pg, settings);
        await pg.writeSegments(3);
        const current = segmentOfLsn(1, await pg.currentLsn(), MIB);
        const told = await resetReceiver(settings);
        expect(told).toContain(`Creating status file ${receiver.streaming}/${current}.partial`);
        expect(await listed(receiver.streaming)).toEqual([first, `${current}.partial`]);
        await expectSame(pg, receiver.streaming, await receiveSegment(pg, settings));
      },
      { keep: '64MB' },
    ));

  test.each([
    ['a later segment', '000000010000000000000F00'],
    ['a later timeline', '000000070000000000000002.partial'],
  ])('refuses when the files are ahead of the server, by %s, and changes nothing', async (_by, name) =>
    withBoth(async (pg, { settings, streaming, errors }) => {
      await writeFile(join(streaming, '000000010000000000000001'), Buffer.alloc(MIB));
      await writeFile(join(streaming, name), Buffer.alloc(MIB));
      const before = await listed(streaming);
      const current = segmentOfLsn(1, await pg.currentLsn(), MIB);
      await expect(resetReceiver(settings)).rejects.toMatchObject({
        code: 'receiver',
        message: `The receive-wal position is ahead of PostgreSQL current WAL lsn (${name} > ${current})`,
        hint: expect.stringContaining('right server'),
      });
      expect(await listed(streaming)).toEqual(before);
      expect(await listed(errors)).toEqual([]);
      const { failure, hint } = causeOf(await prepareToStream(settings).catch((error: unknown) => error));
      expect({ failure, hint }).toEqual({
        failure: 'timeline-diverged',
        hint: expect.stringContaining('make sure that streaming_conninfo leads to the right server'),
      });
    }),
  );

  test('sets a complete segment aside, too, when an interrupted pass has claimed its name', () =>
    withBoth(async (pg, { settings, streaming, errors }) => {
      await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      // Of another cluster, so that it is in the way.
      const old = await writeWal(streaming, { segment: 900 });
      await writeFile(join(streaming, `.walwarden-${old.name}`), 'claimed before');
      expect(await resetReceiver(settings)).toContain(`Moving status file ${old.path} to ${errors}/${old.name}.`);
      expect(await listed(errors)).toEqual([expect.stringMatching(`^${old.name}\\.\\d{8}T\\d{6}Z\\.reset$`)]);
      expect(await readFile(join(streaming, `.walwarden-${old.name}`), 'utf8')).toBe('claimed before');
      await expectSame(pg, streaming, await receiveSegment(pg, settings));
    }));

  test('waits for nobody who receives', () =>
    withBoth(async (_pg, { settings }) => {
      await using _running = await acquireLock(settings.lockPath);
      await expect(resetReceiver(settings)).rejects.toMatchObject({
        code: 'locked',
        message: 'Unable to reset the status of receive-wal for server main. Process is still running',
        hint: 'stop it first: walwarden receive-wal --stop main',
      });
    }));

  test('sets aside what came from the cluster that was replaced, whatever its position', () =>
    withBoth(async (pg, { settings, streaming, home, errors }) => {
      const old = await writeWal(streaming, { timeline: 5, segment: 900 });
      const partial = makeWal({ timeline: 5, segment: 901 });
      await writeFile(join(streaming, `${partial.name}.partial`), partial.bytes);
      // What the hint of the refusal says to do.
      await writeFile(
        join(home, 'main', 'identity.json'),
        JSON.stringify({ systemid: String(await pg.systemIdentifier()), version: String(pg.programs.major) }),
      );
      const refused = causeOf(await prepareToStream(settings).catch((error: unknown) => error));
      expect(refused).toMatchObject({ failure: 'other-cluster', hint: expect.stringContaining('--reset main') });
      expect(await resetReceiver(settings)).toContain(`Leaving ${old.name} to archive-wal`);
      expect(await listed(errors)).toEqual([expect.stringMatching(`^${partial.name}\\.partial\\..*\\.reset$`)]);
      expect(await listed(streaming)).toEqual([
        `.walwarden-${old.name}`,
        expect.stringMatching(/^00000001[0-9A-F]{16}\.partial$/),
      ]);
      await expectSame(pg, streaming, await receiveSegment(pg, settings));
    }));
});

test('a promoted standby that was behind is named, and after a reset its timeline is received', () =>
  withBoth(async (primary, receiver) => {
    const { settings, streaming, errors } = receiver;
    const standby = await primary.standby();
    await standby.replayed(await primary.currentLsn());
    await standby.stop();
    const first = await receiveSegment(primary, settings);
    await primary.writeSegments(2);
    const last = await receiveSegment(primary, settings);
    await primary.stop('immediate');
    await standby.start();
    const { conninfo } = standby;
    const after = receiver.with({
      postgres: { conninfo, streamingConninfo: conninfo, walConninfo: conninfo, walStreamingConninfo: conninfo },
    });
    // As long as it is a standby, it may catch up.
    const behind = causeOf(await prepareToStream(after).catch((error: unknown) => error));
    expect(behind).toMatchObject({
      failure: 'other',
      message: expect.stringMatching(
        /^WAL of main was received up to \S+ of timeline 1, but the server has only written up to/,
      ),
      hint: 'it is a standby that lags behind: it has to catch up first',
    });
    await expect(resetReceiver(after)).rejects.toMatchObject({ hint: expect.stringContaining('lags behind') });

    await standby.promote();
    const cause = causeOf(await prepareToStream(after).catch((error: unknown) => error));
    expect(cause).toMatchObject({
      failure: 'timeline-diverged',
      message: expect.stringMatching(
        /^WAL of main was received up to \S+ of timeline 1, but the server, now on timeline 2, left that timeline at \S+$/,
      ),
      hint: expect.stringMatching(/streaming_conninfo.*walwarden receive-wal --reset main$/),
    });
    expect(await standby.sql('select * from pg_replication_slots')).toEqual([]);

    const before = await listed(streaming);
    expect(before).toEqual([first, later(first, 1), later(first, 2), last, `${later(last, 1)}.partial`]);
    const told = await resetReceiver(after);
    expect(told).toContain(`Leaving ${last} to archive-wal`);
    expect(await listed(errors)).toEqual([expect.stringMatching(`^${later(last, 1)}\\.partial\\..*\\.reset$`)]);
    // Nothing of the old timeline is lost: what would mislead pg_receivewal waits for the archiver under another name.
    const names = await listed(streaming);
    for (const name of [first, later(first, 1), later(first, 2), last]) {
      expect(names.includes(name) !== names.includes(`.walwarden-${name}`)).toBe(true);
    }
    const received = await receiveSegment(standby, after);
    expect(received.slice(0, 8)).toBe('00000002');
    await expectSame(standby, streaming, received);
    expect(await listed(streaming)).toContain('00000002.history');
    expect(await resetReceiver(after)).toBe(ALIGNED);
  }));

test('through the commands: a failover to a standby that was behind, and nothing received is lost', () =>
  withStreamingHome({}, async (primary, home) => {
    const receiver = await home.startStreaming();
    const standby = await primary.standby();
    await standby.replayed(await primary.currentLsn());
    await standby.stop();
    const last = await primary.writeSegments(4);
    const names = await home.expectReceived(primary, last);
    const bytes = await Promise.all(names.map((name) => readFile(join(home.streaming, name))));
    await receiver.stop();
    await primary.stop('immediate');
    await standby.start();
    await standby.promote();

    const after = await home.with({ conninfo: standby.conninfo });
    const blocked = after.start();
    expect((await after.reaches('blocked', blocked)).cause?.failure).toBe('timeline-diverged');
    await blocked.stop();
    const reset = await after.cli(['receive-wal', '--reset', 'main']);
    expect(reset).toMatchObject({ status: 0, stdout: expect.stringContaining('Creating status file') });
    const claims = async (): Promise<string[]> =>
      (await listed(after.streaming)).filter((name) => name.startsWith('.walwarden'));
    const claimed = await claims();
    expect(claimed.length).toBeGreaterThan(0);
    // What ends a pass before its time must not tell pg_receivewal the old place again.
    const ended = await after.with({ pre_archive_retry_script: `sh -c 'exit 63'` });
    expect((await ended.cli(['archive-wal', 'main'])).status).toBe(1);
    expect(await claims()).toEqual(claimed);
    const called = join(after.home.home, 'called');
    const retried = await after.with({ pre_archive_retry_script: `sh -c 'touch ${called}; exit 1'` });
    const pass = spawn(process.execPath, [CLI, '-c', retried.config, 'archive-wal', 'main'], { stdio: 'ignore' });
    const over = once(pass, 'close');
    try {
      await until('the script to be called', () => existsSync(called));
      pass.kill('SIGTERM');
    } finally {
      await over;
    }
    expect(await claims()).toEqual(claimed);

    await after.startStreaming();
    const next = await standby.switchWal();
    await until(`${next} to be received`, async () => (await readdir(after.streaming)).includes(next));
    expect(next.slice(0, 8)).toBe('00000002');

    expect(await after.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
    for (const [index, name] of names.entries()) {
      const archived = await after.cli(['get-wal', 'main', name]);
      expect(archived.bytes.equals(bytes[index] ?? Buffer.alloc(0)), name).toBe(true);
    }
    expect(await claims()).toEqual([]);
  }));
