import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import { isWalName, parseWalName, segmentNumber, walKind } from '../../src/wal/wal-name.ts';
import { sharedPostgres } from '../postgres/shared-postgres.ts';
import { moveSlotBack } from '../support/move-slot-back.ts';
import { until } from '../support/poll.ts';
import { pgReceivewalOf } from '../support/postgres-programs.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { withHomeOf, type StreamingHome } from './running-receiver.ts';

/** One server for all of them, that recycles what nothing reserves. */
const shared = sharedPostgres({ settings: { wal_keep_size: '0', min_wal_size: '2MB', max_wal_size: '2MB' } });

const ARCHIVING = { archiver: 'on' } as const;

/** Such a server, without a slot, and a home that has received nothing yet. */
async function withBoth(
  server: Readonly<Record<string, string>>,
  body: (pg: TestPostgres, home: StreamingHome) => Promise<void>,
): Promise<void> {
  const pg = shared();
  try {
    await withHomeOf(pg, server, (home) => body(pg, home));
  } finally {
    await slotsFree(pg);
    await pg.sql('select pg_drop_replication_slot(slot_name) from pg_replication_slots');
  }
}

async function slotsFree(pg: TestPostgres): Promise<void> {
  const used = 'select 1 from pg_replication_slots where active';
  await until('the slots to be free', async () => (await pg.sql(used)).length === 0);
}

/** With another value of a setting as long as the body takes. */
async function withSetting(
  pg: TestPostgres,
  name: string,
  [value, before]: readonly [value: string, before: string],
  body: () => Promise<void>,
): Promise<void> {
  const set = async (to: string): Promise<void> => {
    await pg.configure({ [name]: to });
    await until(`${name} = ${to}`, async () => (await pg.value(`show ${name}`)) === to);
  };
  await set(value);
  try {
    await body();
  } finally {
    await set(before);
  }
}

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
  await pg.sql('create table if not exists more ()');
  await pg.sql('drop table more');
  await home.expectReceived(pg, last);
  const partial = await until('the next segment to begin', async () =>
    (await listed(home.streaming)).find((name) => name.endsWith('.partial') && name > last),
  );
  expect((await receiver.stop()).status).toBe(0);
  return partial;
}

/** As a new primary is: no slot, and what was not received is not there any more. Resolves to the segments that were written. */
async function recycle(pg: TestPostgres, meanwhile: (last: string) => Promise<void>): Promise<void> {
  await slotsFree(pg);
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
    withBoth(ARCHIVING, async (pg, home) => {
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
    withBoth(ARCHIVING, async (pg, home) => {
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
    withBoth(ARCHIVING, async (pg, home) => {
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

  test.each([
    ['a reset', 'reset'],
    ['a slot, where everything is archived,', 'slot'],
  ] as const)('stays blocked without a slot, and %s leads out', (_what, way) =>
    withBoth({ ...ARCHIVING, slot_name: '' }, async (pg, without) => {
      let partial = '';
      // Without a slot a checkpoint could come before the WAL sender.
      const keeping = (body: () => Promise<void>): Promise<void> =>
        withSetting(pg, 'wal_keep_size', ['64MB', '0'], body);
      await keeping(async () => void (partial = await receiveSome(pg, without)));
      await recycle(pg, (last) => deliver(pg, without, last));
      await archive(without);
      const blocked = without.start();
      expect((await without.reaches('blocked', blocked)).cause).toMatchObject({
        failure: 'wal-removed',
        message: expect.stringContaining('has already been removed'),
        hint: expect.stringMatching(/--reset main.*where it has, a slot \(slot_name, create_slot = auto\) is enough/),
      });
      await blocked.stop();
      const home = way === 'slot' ? await without.with({ slot_name: 'walwarden' }) : without;
      const lead = async (): Promise<void> => {
        await home.startStreaming();
        expect(await listed(home.home.errors)).toEqual([expect.stringMatching(`^${partial}\\..*\\.reset$`)]);
        if (way === 'slot') return expectNoGap(pg, home);
        const last = await pg.writeSegments(1);
        await until('it to be received', async () => (await listed(home.streaming)).includes(last));
      };
      if (way === 'slot') return lead();
      const reset = await home.cli(['receive-wal', '--reset', 'main']);
      expect(reset.status, reset.stderr).toBe(0);
      return keeping(lead);
    }),
  );

  test('asks for the slot first where it may not make one, and then goes on by itself', () =>
    withBoth(ARCHIVING, async (pg, first) => {
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
    withBoth(ARCHIVING, async (pg, home) => {
      const partial = await receiveSome(pg, home);
      const position = formatLsn(
        segmentNumber(parseWalName(partial) ?? expect.unreachable(), pg.segmentSize) * BigInt(pg.segmentSize),
      );
      await recycle(pg, (last) => deliver(pg, home, last));
      await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      await moveSlotBack(pg, 'walwarden', position);
      await slotsFree(pg);
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
    withBoth(ARCHIVING, async (pg, home) => {
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
    withBoth(ARCHIVING, async (pg, home) => {
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
    withBoth(ARCHIVING, async (pg, home) => {
      await receiveSome(pg, home);
      await withSetting(pg, 'max_slot_wal_keep_size', ['1MB', '-1'], async () => {
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
      });
      const reset = await home.cli(['receive-wal', '--reset', 'main']);
      expect(reset.status, reset.stderr).toBe(0);
      await home.startStreaming();
      await expectNoGap(pg, home);
    }));
});

/** A pg_receivewal that waits until it may start; `asked` resolves once it is there. */
async function gated(
  pg: TestPostgres,
  { home }: StreamingHome,
): Promise<{ readonly path_prefix: string; readonly asked: () => Promise<unknown>; readonly go: () => Promise<void> }> {
  const bin = join(home.home, 'bin');
  await mkdir(bin);
  const go = join(home.home, 'go');
  const script = `#!/bin/sh
case "$*" in *--version*) ;; *) touch '${go}.asked'; while [ ! -e '${go}' ]; do sleep 0.05; done ;; esac
exec '${pgReceivewalOf(pg.programs)}' "$@"
`;
  await writeFile(join(bin, 'pg_receivewal'), script, { mode: 0o755 });
  return {
    path_prefix: bin,
    asked: () => until('pg_receivewal to be started', async () => (await listed(home.home)).includes('go.asked')),
    go: () => writeFile(go, ''),
  };
}

test('what the slot does not reserve, and the server still has, is received without moving the slot back, which is no failure', () =>
  withBoth(ARCHIVING, (pg, first) =>
    withSetting(pg, 'wal_keep_size', ['1GB', '0'], async () => {
      await receiveSome(pg, first);
      await recycle(pg, async () => undefined);
      await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      const place = await restartLsn(pg);
      const gate = await gated(pg, first);
      const home = await first.with({ path_prefix: gate.path_prefix });
      const receiver = home.start();
      await gate.asked();
      const check = await until('the report', async () => {
        if ((await home.report())?.withoutSlotUntil === null) return undefined;
        return home.cli(['check', 'main']);
      });
      expect(check.stdout).toMatch(/replication slot: OK \(not in use yet: receive-wal first receives, without it, /);
      await gate.go();
      await home.reaches('streaming', receiver);
      await until(
        'the slot to be in use',
        async () => (await pg.value('select active from pg_replication_slots')) === 't',
      );
      // The server keeps whole segments.
      const segmentOf = (lsn: string): bigint => parseLsn(lsn) / BigInt(pg.segmentSize);
      expect(segmentOf(await restartLsn(pg))).toBeGreaterThanOrEqual(segmentOf(place));
      await expectNoGap(pg, home);
      expect(await listed(home.home.errors)).toEqual([]);
      expect(await home.report()).toMatchObject({ withoutSlotUntil: null });
    }),
  ));

test('a checkpoint between the decision and the start changes nothing where a slot reserves the place', () =>
  withBoth(ARCHIVING, async (pg, first) => {
    await receiveSome(pg, first);
    await recycle(pg, (last) => deliver(pg, first, last));
    await archive(first);
    const gate = await gated(pg, first);
    const home = await first.with({ path_prefix: gate.path_prefix });
    const receiver = home.start();
    await gate.asked();
    await pg.writeSegments(4);
    await pg.sql('checkpoint');
    await gate.go();
    await home.reaches('streaming', receiver);
    await expectNoGap(pg, home);
  }));
