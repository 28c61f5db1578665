import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { isThere } from '../../src/durable/durable-file.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { withArchivedPostgres, type Archive } from './postgres-archive.ts';

/** Writes a row and ends the segment that holds it; with `archived`, until it is out of PostgreSQL's hands. */
async function write(pg: TestPostgres, text: string): Promise<string> {
  await pg.sql(`create table if not exists ledger (t text); insert into ledger values ('${text}')`);
  const name = await pg.switchWal();
  await pg.archived(name);
  return name;
}

const ledger = async (pg: TestPostgres): Promise<(string | null)[]> =>
  (await pg.sql('select t from ledger order by t')).map((row) => row[0] ?? null);

const timelineOf = (pg: TestPostgres): Promise<string> =>
  pg.value('select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)');

/** Settings with which a restored server archives where its parent did. */
const archivingTo = (archive: Archive): Record<string, string> => ({
  archive_mode: 'on',
  archive_command: archive.copyCommand,
});

describe('recovery from the archive', () => {
  test('after a crash another server takes over, archives its new timeline, and is restored itself along that one', () =>
    withArchivedPostgres({ server: { compression: 'zstd' } }, async (pg, archive) => {
      await write(pg, '1 before the backup');
      const backup = await pg.baseBackup();
      await write(pg, '2 archived');
      await archive.pass();
      const last = await write(pg, '3 in incoming');
      await pg.sql(`insert into ledger values ('4 never archived')`);
      await pg.kill9();

      const second = await pg.restore(backup, {
        restoreCommand: archive.restoreCommand,
        settings: archivingTo(archive),
      });
      await second.writable();
      expect(await ledger(second)).toEqual(['1 before the backup', '2 archived', '3 in incoming']);
      expect(await timelineOf(second)).toBe('00000002');
      await write(second, '5 on timeline 2');
      await second.archived('00000002.history');
      await archive.pass();
      const newest = await write(second, '6 on timeline 2, in incoming');
      expect(newest).toMatch(/^00000002/);

      const [first, next, ...more] = await archive.timelines();
      expect(more).toEqual([]);
      expect(first).toMatchObject({ timeline: 1, backups: 1, histories: 0, gaps: [] });
      expect(first?.ranges.at(-1)?.last).toBe(last);
      expect(next).toMatchObject({ timeline: 2, histories: 1, gaps: [] });
      expect((await archive.getWal('00000002.history')).stdout).toBe(
        await readFile(join(second.walDir, '00000002.history'), 'utf8'),
      );
      await second.kill9();

      // From the backup of timeline 1, over the switch point, to the end of timeline 2.
      const third = await pg.restore(backup, { restoreCommand: archive.restoreCommand });
      await third.writable();
      expect(await ledger(third)).toEqual([
        '1 before the backup',
        '2 archived',
        '3 in incoming',
        '5 on timeline 2',
        '6 on timeline 2, in incoming',
      ]);
      expect(await timelineOf(third)).toBe('00000003');
      expect(await readdir(archive.errors)).toEqual([]);
    }));

  test('the backup taken on a new timeline is enough to follow it', () =>
    withArchivedPostgres({ server: { compression: 'gzip' } }, async (pg, archive) => {
      const backup = await pg.baseBackup();
      await write(pg, '1 on timeline 1');
      const second = await pg.restore(backup, {
        restoreCommand: archive.restoreCommand,
        mode: 'standby',
        settings: archivingTo(archive),
      });
      const caughtUp = `select to_regclass('ledger') is not null`;
      await until('the standby to catch up', async () => (await second.value(caughtUp)) === 't');
      await second.promote();
      await write(second, '2 on timeline 2');
      const newBackup = await second.baseBackup();
      await write(second, '3 on timeline 2');
      await archive.pass();
      await second.kill9();

      const third = await pg.restore(newBackup, { restoreCommand: archive.restoreCommand });
      await third.writable();
      expect(await ledger(third)).toEqual(['1 on timeline 1', '2 on timeline 2', '3 on timeline 2']);
      const timelines = await archive.timelines();
      expect(timelines).toMatchObject([
        { timeline: 1, backups: 1 },
        { timeline: 2, backups: 1, histories: 1, gaps: [] },
      ]);
    }));
});

/** Flips bytes in the middle of a stored file; undo it with the result. */
async function damage(archive: Archive, name: string): Promise<() => Promise<void>> {
  const path = archive.stored(name);
  const good = await readFile(path);
  const bad = Buffer.from(good);
  const middle = Math.floor(bad.length / 2);
  bad.fill(0x55, middle, middle + 16);
  await writeFile(path, bad);
  return () => writeFile(path, good);
}

describe('recovery when a stored file is damaged', () => {
  test('stops, rather than end early and promote', () =>
    withArchivedPostgres({ server: { compression: 'zstd' } }, async (pg, archive) => {
      const backup = await pg.baseBackup();
      await write(pg, '1');
      const damaged = await write(pg, '2');
      await write(pg, '3');
      await archive.pass();
      await pg.stop();
      const repair = await damage(archive, damaged);

      // Without hot_standby it answers only once recovery has ended: here, never.
      const options = { restoreCommand: archive.restoreCommand, settings: { hot_standby: 'off' } };
      const attempt = pg.restore(backup, options);
      await expect(attempt).rejects.toThrow(
        new RegExp(`could not restore file "${damaged}" from archive: child process exited with exit code 200`),
      );
      const restored = join(pg.directory, 'pg1');
      expect(await readFile(join(pg.directory, 'pg1.log'), 'utf8')).toContain(`ERROR: ${archive.stored(damaged)}`);
      expect(await isThere(join(restored, 'recovery.signal'))).toBe(true);
      expect(await isThere(join(restored, 'pg_wal', '00000002.history'))).toBe(false);

      await repair();
      const whole = await pg.restore(backup, options);
      await whole.writable();
      expect(await ledger(whole)).toEqual(['1', '2', '3']);
    }));

  test('keeps a standby waiting, which goes on by itself once the file is repaired', () =>
    withArchivedPostgres({ server: { compression: 'zstd' } }, async (pg, archive) => {
      const backup = await pg.baseBackup();
      await write(pg, '1');
      const damaged = await write(pg, '2');
      await write(pg, '3');
      await archive.pass();
      const repair = await damage(archive, damaged);

      const standby = await pg.restore(backup, {
        restoreCommand: archive.restoreCommand,
        mode: 'standby',
        settings: { wal_retrieve_retry_interval: '100ms' },
      });
      const complaints = async (): Promise<number> =>
        (await readFile(standby.logFile, 'utf8')).split(`ERROR: ${archive.stored(damaged)}`).length - 1;
      await until('the standby to ask for the damaged file twice', async () => (await complaints()) >= 2);
      expect(standby.running).toBe(true);
      expect(await standby.value('select pg_is_in_recovery()')).toBe('t');
      expect(await ledger(standby)).toEqual(['1']);

      await repair();
      await until('the standby to catch up', async () => (await ledger(standby)).length === 3);
      expect(await standby.value('select pg_is_in_recovery()')).toBe('t');
    }));

  test('an archive that can not be reached stops a recovery too', () =>
    withArchivedPostgres({}, async (pg, archive) => {
      const backup = await pg.baseBackup();
      await write(pg, '1');
      await archive.pass();
      await pg.stop();
      const elsewhere = archive.restoreCommand.replace(archive.config, join(archive.home, 'gone.conf'));
      const attempt = pg.restore(backup, { restoreCommand: elsewhere, settings: { hot_standby: 'off' } });
      await expect(attempt).rejects.toThrow(/from archive: child process exited with exit code 200/);
    }));
});
