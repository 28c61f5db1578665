import { copyFile, readdir, readFile, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { segmentNumber, segmentName, parseWalName } from '../../src/wal/wal-name.ts';
import { makeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { withPostgres, type TestPostgres } from '../support/postgres.ts';
import { findPostgres } from '../support/postgres-programs.ts';
import { expectAllHandedOut, withArchivedPostgres, type Archive, type Archiving } from './postgres-archive.ts';

/** Passes of archive-wal, back to back, as long as something is being written. */
async function archiveMeanwhile<T>(archive: Archive, writing: Promise<T>): Promise<T> {
  const written = new AbortController();
  const passes = async (): Promise<void> => {
    while (!written.signal.aborted) await archive.pass();
  };
  const [result] = await Promise.all([writing.finally(() => written.abort()), passes()]);
  return result;
}

describe('archive_command = cp', () => {
  test.each([
    { segmentSizeMb: 1, segments: 16, compression: 'none' },
    { segmentSizeMb: 1, segments: 16, compression: 'zstd' },
    { segmentSizeMb: 16, segments: 4, compression: 'gzip' },
    { segmentSizeMb: 64, segments: 2, compression: 'lz4' },
  ])(
    'every segment of $segmentSizeMb MiB is archived while PostgreSQL writes, and comes out as it was ($compression)',
    ({ segmentSizeMb, segments, compression }) =>
      withArchivedPostgres({ segmentSizeMb, server: { compression } }, async (pg, archive) => {
        const last = await archiveMeanwhile(archive, pg.writeSegments(segments));
        await pg.archived(last);
        await archive.pass();

        expect(await readdir(archive.incoming)).toEqual([]);
        const names = await expectAllHandedOut(pg, archive, last);
        expect(await archive.timelines()).toMatchObject([
          { timeline: 1, segments: names.length, ranges: [{ first: names[0], last }], gaps: [] },
        ]);
        expect(await readdir(archive.errors)).toEqual([]);
      }),
  );

  test('what another cluster delivers goes to errors, and the log names both', () =>
    withArchivedPostgres({}, async (pg, archive) => {
      await pg.archived(await pg.writeSegments(2));
      await archive.pass();
      const before = await archive.timelines();
      await withPostgres({ archiveCommand: archive.copyCommand }, async (other) => {
        const strange = await other.writeSegments(5);
        await other.archived(strange);
        const { status, pass } = await archive.anyPass();
        expect(status).toBe(1);
        expect(pass.archived).toEqual([]);
        expect(pass.unknown.map(({ name }) => name)).toContain(strange);
        expect((await readdir(archive.errors)).filter((name) => name.startsWith(strange))).toEqual([
          expect.stringMatching(/^[0-9A-F]{24}\.\d{8}T\d{6}Z\.unknown$/),
        ]);
        const told = (await archive.log()).split('\n').find((line) => line.includes(strange));
        expect(told).toContain(String(await pg.systemIdentifier()));
        expect(told).toContain(String(await other.systemIdentifier()));
      });
      expect(await archive.timelines()).toEqual(before);
      // Our own is still welcome.
      const next = await pg.switchWal();
      await pg.archived(next);
      expect((await archive.pass()).archived.map(({ name }) => name)).toEqual([next]);
    }));
});

/** How a machine without Barman's clients sends its WAL; over the network, `ssh user@host walwarden …` takes the place of the command. */
const PUSH_WAL = `#!/bin/sh
# push-wal PATH COMMAND...: gives a WAL file and its checksum to "walwarden put-wal"
set -eu
directory=$(dirname "$1"); wal=$(basename "$1"); shift
sums=$(mktemp -d); trap 'rm -r "$sums"' EXIT
cd "$directory"
sha256sum "$wal" > "$sums/SHA256SUMS"
tar -cf - "$wal" -C "$sums" SHA256SUMS | "$@"
`;

const byPutWal: Archiving = async (pg, archive) => {
  const script = join(pg.directory, 'push-wal');
  await writeFile(script, PUSH_WAL, { mode: 0o755 });
  return { archive_command: `${script} %p ${archive.command('put-wal', 'main')}` };
};

async function archiver(pg: TestPostgres): Promise<{ archived: number; failed: number; lastFailed: string | null }> {
  const [row] = await pg.sql('select archived_count, failed_count, last_failed_wal from pg_stat_archiver');
  return { archived: Number(row?.[0]), failed: Number(row?.[1]), lastFailed: row?.[2] ?? null };
}

const isReady = (pg: TestPostgres, name: string): boolean =>
  existsSync(join(pg.walDir, name)) && existsSync(join(pg.walDir, 'archive_status', `${name}.ready`));

describe('archive_command = walwarden put-wal', () => {
  test('takes what tar and sha256sum send; PostgreSQL counts successes only', () =>
    withArchivedPostgres({ archiving: byPutWal, server: { compression: 'lz4' } }, async (pg, archive) => {
      const last = await archiveMeanwhile(archive, pg.writeSegments(8));
      await pg.archived(last);
      await archive.pass();
      const names = await expectAllHandedOut(pg, archive, last);
      await until('pg_stat_archiver to be up to date', async () => (await archiver(pg)).archived === names.length);
      expect(await readdir(archive.incoming)).toEqual([]);
      expect(await readdir(archive.errors)).toEqual([]);
    }));

  test('what was put in place, or archived, before a crash of PostgreSQL is taken again', () =>
    withArchivedPostgres({ archiving: byPutWal }, async (pg, archive) => {
      const first = await pg.writeSegments(2);
      await pg.archived(first);
      await archive.pass();
      const second = await pg.switchWal();
      await pg.archived(second);
      const { archived } = await archiver(pg);
      // As after a crash between archive_command's success and PostgreSQL's note of it.
      await pg.stop();
      for (const name of [first, second]) {
        const status = join(pg.walDir, 'archive_status', name);
        await copyFile(`${status}.done`, `${status}.ready`);
        await pg.giveToServer(`${status}.ready`);
      }
      await pg.start();
      const last = await pg.switchWal();
      await pg.archived(last);
      await until('both to be taken again', async () => !isReady(pg, first) && !isReady(pg, second));
      expect(archived).toBeGreaterThan(0);
      await archive.pass();
      await expectAllHandedOut(pg, archive, last);
      expect(await readdir(archive.errors)).toEqual([]);
    }));

  test('PostgreSQL keeps the WAL of a cluster that the archive does not belong to', () =>
    withArchivedPostgres({}, async (pg, archive) => {
      await pg.archived(await pg.switchWal());
      await archive.pass();
      await withPostgres({ archiveCommand: 'false' }, async (other) => {
        await other.configure(await byPutWal(other, archive));
        const strange = await other.switchWal();
        await until('archive_command to fail', async () => (await readFile(other.logFile, 'utf8')).includes('refused'));
        await until('PostgreSQL to count it', async () => (await archiver(other)).failed > 0);
        expect((await archiver(other)).lastFailed).not.toBeNull();
        expect(isReady(other, strange)).toBe(true);
        const told = (await readFile(other.logFile, 'utf8')).split('\n').find((line) => line.includes('refused'));
        expect(told).toContain(String(await pg.systemIdentifier()));
        expect(told).toContain(String(await other.systemIdentifier()));
      });
      expect(await readdir(archive.incoming)).toEqual([]);
      expect(await readdir(archive.errors)).toEqual([]);
    }));

  test('another content under an archived name is refused as often as it comes, and kept in errors once', () =>
    withArchivedPostgres({ archiving: async () => ({ archive_command: 'false' }) }, async (pg, archive) => {
      // What a clone of this cluster could have archived under the name that comes next.
      const current = parseWalName(await pg.value('select pg_walfile_name(pg_current_wal_lsn())'));
      if (current === undefined) throw new Error('no current segment');
      const segment = segmentNumber(current, pg.segmentSize);
      const { name, bytes } = makeWal({
        major: pg.programs.major,
        segment,
        systemIdentifier: await pg.systemIdentifier(),
      });
      expect(name).toBe(segmentName(1, segment, pg.segmentSize));
      await writeFile(join(archive.incoming, name), bytes);
      await pg.giveToServer(join(archive.incoming, name));
      await archive.pass();

      await pg.configure(await byPutWal(pg, archive));
      expect(await pg.switchWal()).toBe(name);
      const refusals = async (): Promise<number> =>
        (await readFile(pg.logFile, 'utf8')).split(`${name} is there already`).length - 1;
      await until('archive_command to fail again and again', async () => (await refusals()) >= 3);
      await until('PostgreSQL to count it', async () => (await archiver(pg)).failed >= 3);
      expect(await archiver(pg)).toMatchObject({ lastFailed: name });
      expect(isReady(pg, name)).toBe(true);
      expect(await readdir(archive.errors)).toEqual([expect.stringMatching(/\.duplicate$/)]);
      expect((await archive.getWal(name)).bytes.equals(bytes)).toBe(true);
    }));
});

const { bin, major } = findPostgres();
const basicArchive = ['lib', 'lib/postgresql'].map((lib) => join(bin, '..', lib, 'basic_archive.so')).some(existsSync);
const byBasicArchive: Archiving = async (_pg, archive) => ({
  archive_library: 'basic_archive',
  'basic_archive.archive_directory': archive.incoming,
});

describe('archive_library = basic_archive', () => {
  // Where tests must be complete, its absence is a failure, not a gap.
  test.skipIf(!basicArchive && process.env['CI'] !== 'true')(
    'writes into incoming; its temporary files are nobody’s business',
    () => {
      if (!basicArchive) throw new Error(`PostgreSQL ${major} in ${bin} has no contrib module basic_archive`);
      const temporary = 'archtemp.000000010000000000000001.4711.1700000000000';
      return withArchivedPostgres(
        { archiving: byBasicArchive, server: { compression: 'zstd' } },
        async (pg, archive) => {
          // PostgreSQL was killed in the middle of a file, once.
          await writeFile(join(archive.incoming, temporary), makeWal().bytes.subarray(0, 100_000));
          await pg.giveToServer(join(archive.incoming, temporary));
          const last = await archiveMeanwhile(archive, pg.writeSegments(10));
          await pg.archived(last);
          await archive.pass();
          await expectAllHandedOut(pg, archive, last);
          expect(await readdir(archive.incoming)).toEqual([temporary]);
          expect(await readdir(archive.errors)).toEqual([]);
          expect(await archive.log()).not.toContain('archtemp');
        },
      );
    },
  );
});
