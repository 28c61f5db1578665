import { copyFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { until } from '../support/poll.ts';
import { describeS3 } from '../support/s3.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { expectAllHandedOut, makeArchive, withArchivedPostgres } from './postgres-archive.ts';
import {
  expectOnlyInBucket,
  keysIn,
  PATIENCE_MS,
  PREFIX,
  PUSH_WAL,
  rowsOf,
  s3Options,
  segmentKey,
  writeRow,
} from './s3-archive.ts';
import { PACKINGS } from './s3-packings.ts';

const timelineOf = (pg: TestPostgres): Promise<string> =>
  pg.value('select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)');

describeS3(
  'recovery of a PostgreSQL from a bucket',
  (s3) => {
    test.each(PACKINGS)('brings every row back: $label', ({ extension, packing }) =>
      s3.withBucket((endpoint) =>
        withArchivedPostgres({}, (pg, plain) =>
          packing(pg, async (options) => {
            const archive = await makeArchive(pg, { ...s3Options(endpoint), ...options });
            expect(archive.incoming).toBe(plain.incoming);
            await writeRow(pg, '1 before the backup');
            const backup = await pg.baseBackup();
            await pg.sql('create table t as select i, md5(i::text) from generate_series(1, 20000) i');
            await pg.archived(await pg.writeSegments(3));
            await archive.pass();
            // The other way of delivery.
            const pushWal = join(pg.directory, 'push-wal');
            await copyFile(PUSH_WAL, pushWal);
            await pg.configure({ archive_command: `${pushWal} %p ${archive.command('put-wal', 'main')}` });
            const last = await writeRow(pg, '2 after it');
            await archive.pass();
            const names = await expectAllHandedOut(pg, archive, last);
            await pg.kill9();
            await expectOnlyInBucket(archive);
            const keys = await keysIn(endpoint);
            for (const name of names) expect(keys).toContain(segmentKey(name, extension));

            const restored = await pg.restore(backup, { restoreCommand: archive.restoreCommand });
            await restored.writable(PATIENCE_MS);
            expect(await rowsOf(restored)).toEqual(['1 before the backup', '2 after it']);
            expect(await restored.value('select count(*) from t')).toBe('20000');
            expect(await timelineOf(restored)).toBe('00000002');
            expect(await archive.timelines()).toMatchObject([{ timeline: 1, gaps: [], backups: 1 }]);
            expect(await keysIn(endpoint)).toEqual(keys);
          }),
        ),
      ),
    );

    test('ends at a point in time; what came after it comes back when it is asked for', () =>
      s3.withBucket((endpoint) =>
        withArchivedPostgres({ server: { ...s3Options(endpoint), compression: 'zstd' } }, async (pg, archive) => {
          await writeRow(pg, '1 before the backup');
          const backup = await pg.baseBackup();
          await writeRow(pg, '2 before the mistake');
          await pg.sql(`select pg_create_restore_point('before the mistake')`);
          await pg.sql('delete from ledger');
          await writeRow(pg, '3 after the mistake');
          await archive.pass();
          await pg.kill9();
          await expectOnlyInBucket(archive);

          const target = { recovery_target_name: 'before the mistake', recovery_target_action: 'promote' };
          const earlier = await pg.restore(backup, { restoreCommand: archive.restoreCommand, settings: target });
          await earlier.writable(PATIENCE_MS);
          expect(await rowsOf(earlier)).toEqual(['1 before the backup', '2 before the mistake']);
          await earlier.kill9();

          const latest = await pg.restore(backup, { restoreCommand: archive.restoreCommand });
          await latest.writable(PATIENCE_MS);
          expect(await rowsOf(latest)).toEqual(['3 after the mistake']);
        }),
      ));

    test('follows a new timeline by its history file; one that is not there ends nothing by itself', () =>
      s3.withBucket((endpoint) =>
        withArchivedPostgres({ server: { ...s3Options(endpoint), compression: 'gzip' } }, async (pg, archive) => {
          const backup = await pg.baseBackup();
          const last = await writeRow(pg, '1 on timeline 1');
          await archive.pass();
          await pg.kill9();

          const second = await pg.restore(backup, {
            restoreCommand: archive.restoreCommand,
            settings: { archive_mode: 'on', archive_command: archive.copyCommand },
          });
          await second.writable(PATIENCE_MS);
          await writeRow(second, '2 on timeline 2');
          await second.archived('00000002.history');
          const newest = await writeRow(second, '3 on timeline 2');
          expect(newest).toMatch(/^00000002/);
          // A history file is left alone for a second, for it may still be written.
          await until('everything to be archived', async () => (await archive.pass()).waiting === 0, PATIENCE_MS);
          const history = await readFile(join(second.walDir, '00000002.history'), 'utf8');
          await second.kill9();
          await expectOnlyInBucket(archive);

          expect(await archive.getWal('00000002.history')).toMatchObject({ status: 0, stdout: history });
          expect(await archive.getWal('00000003.history')).toMatchObject({ status: 1, stdout: '' });
          expect(await archive.getWal(`${newest.slice(0, 23)}F`)).toMatchObject({ status: 1, stdout: '' });
          expect(await archive.timelines()).toMatchObject([
            { timeline: 1, backups: 1, histories: 0, ranges: [{ last }], gaps: [] },
            { timeline: 2, histories: 1, ranges: [{ last: newest }], gaps: [] },
          ]);
          const keys = await keysIn(endpoint);
          expect(keys).toContain(`${PREFIX}/main/wals/00000002.history.gz`);
          expect(keys).toContain(segmentKey(newest, '.gz'));

          const third = await pg.restore(backup, { restoreCommand: archive.restoreCommand });
          await third.writable(PATIENCE_MS);
          expect(await rowsOf(third)).toEqual(['1 on timeline 1', '2 on timeline 2', '3 on timeline 2']);
          expect(await timelineOf(third)).toBe('00000003');
        }),
      ));
  },
  ['rgw'],
);
