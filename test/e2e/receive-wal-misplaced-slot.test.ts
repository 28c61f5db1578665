import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { resetReceiver } from '../../src/receiver/manage.ts';
import { findOwnWalsender } from '../../src/receiver/own-walsender.ts';
import { prepareToStream } from '../../src/receiver/preflight.ts';
import type { ReceiverSettings } from '../../src/receiver/receiver-settings.ts';
import { formatLsn } from '../../src/wal/lsn.ts';
import { parseWalName, segmentName, segmentNumber, walKind, walName, type WalName } from '../../src/wal/wal-name.ts';
import { sharedPostgres } from '../postgres/shared-postgres.ts';
import { streamUntil, streamUntilFile, withReceiver } from '../receiver/with-receiver.ts';
import { moveSlotBack } from '../support/move-slot-back.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';

const pg = sharedPostgres(
  { settings: { min_wal_size: '2MB', max_wal_size: '2MB', wal_keep_size: '0' } },
  async (server) => void (await server.sql('create role watcher login in role pg_monitor')),
);

async function slotsFree(): Promise<void> {
  const used = 'select 1 from pg_replication_slots where active';
  await until('the slot to be free', async () => (await pg().sql(used)).length === 0);
}

afterEach(async () => {
  await slotsFree();
  await pg().sql('select pg_drop_replication_slot(slot_name) from pg_replication_slots');
});

/** What archive_command has delivered of a server, in order. */
class Archive {
  readonly #files = new Map<WalName, Buffer>();

  add(name: WalName, bytes: Buffer): void {
    this.#files.set(name, bytes);
  }

  get names(): WalName[] {
    return [...this.#files.keys()].sort();
  }

  /** As a receiver sees it, but for one segment that it lacks. */
  without(hole?: WalName): Pick<ReceiverSettings, 'archivedAmong' | 'readArchived' | 'newestArchived'> {
    return {
      newestArchived: async () => this.names.at(-1) ?? null,
      archivedAmong: async (names) => new Set(names.filter((name) => name !== hole && this.#files.has(name))),
      readArchived: async (name) => (name === hole ? null : (this.#files.get(name) ?? null)),
    };
  }
}

/** A slot whose WAL was removed by hand, and an archive of all that. */
async function loseWal(server: TestPostgres): Promise<Archive> {
  await server.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
  const begin = await server.value('select pg_walfile_name(restart_lsn) from pg_replication_slots');
  await server.writeSegments(5);
  const current = await server.value('select pg_walfile_name(pg_current_wal_lsn())');
  const archive = new Archive();
  for (const entry of await readdir(server.walDir)) {
    if (!/^[0-9A-F]{24}$/.test(entry) || entry >= current) continue;
    const name = walName(entry, 'pg_wal');
    const path = join(server.walDir, entry);
    if (walKind(name) === 'segment' && entry >= begin) archive.add(name, await readFile(path));
    await rm(path);
  }
  // From here on PostgreSQL does not need it itself.
  await server.sql('checkpoint');
  return archive;
}

const restartLsn = (): Promise<string> => pg().value('select restart_lsn from pg_replication_slots');

/** Whatever is written from now on is received. */
async function expectStreaming(settings: ReceiverSettings): Promise<void> {
  await streamUntilFile(settings, await pg().writeSegments(2));
}

describe('an empty directory, and a slot whose WAL is gone', () => {
  test('receiving begins where the archive ends, once that has everything from the slot on', () =>
    withReceiver(pg(), {}, async ({ with: vary, streaming }) => {
      const archive = await loseWal(pg());
      const [first, hole] = archive.names;
      const place = await restartLsn();
      for (const [lacks, message] of [
        [first, /none of what follows \S+ is archived$/],
        [hole, /it is archived up to \S+ only$/],
      ] as const) {
        await expect(prepareToStream(vary(archive.without(lacks)))).rejects.toMatchObject({
          failure: 'wal-removed',
          message: expect.stringMatching(message),
          hint: expect.stringMatching(/receiving begins by itself; .*--reset main/),
        });
      }
      expect(await readdir(streaming)).toEqual([]);
      expect(await restartLsn()).toBe(place);

      const settings = vary(archive.without());
      await prepareToStream(settings);
      const last = parseWalName(archive.names.at(-1) ?? '') ?? expect.unreachable();
      const next = segmentNumber(last, pg().segmentSize) + 1n;
      expect(await readdir(streaming)).toEqual([`${segmentName(1, next, pg().segmentSize)}.partial`]);
      expect(await restartLsn()).toBe(formatLsn(next * BigInt(pg().segmentSize)));
      await expectStreaming(settings);
    }));

  test('a reset goes on where the archive ends, or behind the hole', () =>
    withReceiver(pg(), {}, async ({ with: vary, streaming }) => {
      const archive = await loseWal(pg());
      const lacking = vary(archive.without(archive.names[1]));
      expect(await resetReceiver(lacking)).toContain(`Replication slot 'walwarden' made again`);
      await expectStreaming(lacking);

      for (const entry of await readdir(streaming)) await rm(join(streaming, entry));
      await pg().sql(`select pg_drop_replication_slot('walwarden')`);
      const complete = vary((await loseWal(pg())).without());
      expect(await resetReceiver(complete)).toContain('it was moved to where the archive ends');
      await expectStreaming(complete);
    }));

  test('a reset asks for the slot that is missing where it may not make one', () =>
    withReceiver(pg(), { createSlot: 'manual' }, async ({ settings }) => {
      await expect(resetReceiver(settings)).rejects.toMatchObject({
        failure: 'slot-missing',
        hint: expect.stringContaining('walwarden receive-wal --create-slot main'),
      });
      await pg().sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      expect(await resetReceiver(settings)).toContain('aligned');
      await expectStreaming(settings);
    }));

  test('a slot that was made while an idle server makes a checkpoint, behind all that is flushed, is of use', () =>
    withReceiver(pg(), {}, async ({ settings }) => {
      await pg().sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      await pg().switchWal();
      const flushed = await pg().currentLsn();
      await moveSlotBack(pg(), 'walwarden', formatLsn(flushed + 40n), formatLsn(flushed));
      await slotsFree();
      expect(await resetReceiver(settings)).toContain('aligned');
      await expectStreaming(settings);
    }));
});

test.each([
  ['without conninfo', 'misconfigured', (): string | null => null],
  ['without the right to', 'no-privilege', (): string | null => pg().conninfo.replace('user=postgres', 'user=watcher')],
] as const)(
  'a slot that has to be moved forward, %s, is made again by the reset that is advised',
  (_how, failure, to) =>
    withReceiver(pg(), { postgres: { walConninfo: to() } }, async ({ with: vary, streaming, errors }) => {
      const archive = await loseWal(pg());
      const settings = vary(archive.without());
      const partial = `${archive.names[0]}.partial`;
      await writeFile(join(streaming, partial), '');
      await expect(prepareToStream(settings)).rejects.toMatchObject({
        failure,
        hint: expect.stringContaining('let walwarden receive-wal --reset main make the slot again'),
      });
      expect(await readdir(streaming)).toEqual([partial]);
      const done = await resetReceiver(settings);
      expect(done).toContain(`Replication slot 'walwarden' made again`);
      expect(await readdir(errors)).toEqual([expect.stringMatching(`^${partial}\\..*\\.reset$`)]);
      await expectStreaming(settings);
    }),
);

test('the walsender of a foreign process that has the slot is not taken for ours', () =>
  withReceiver(pg(), {}, async ({ settings, with: vary }) => {
    const { signal } = new AbortController();
    const foreign = vary({ postgres: { streamingName: 'foreign' } });
    await streamUntil(foreign, 'a foreign process to have the slot', async () => {
      const active = `select active_pid from pg_replication_slots where active`;
      const [row] = await pg().sql(active);
      if (row === undefined) return false;
      const pid = row[0];
      expect(await findOwnWalsender(settings, { withSlot: true }, signal)).toMatchObject({ pid: null, written: null });
      expect(await findOwnWalsender(settings, { withSlot: false }, signal)).toMatchObject({ pid: null });
      expect(await findOwnWalsender(foreign, { withSlot: true }, signal)).toMatchObject({ pid });
      expect(await findOwnWalsender(foreign, { withSlot: false }, signal)).toMatchObject({ pid });
      return true;
    });
  }));
