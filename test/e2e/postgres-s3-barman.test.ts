import { readFile, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { run } from '../support/run.ts';
import { describeS3 } from '../support/s3.ts';
import type { S3Endpoint } from '../support/s3-endpoint.ts';
import { expectAllHandedOut, makeArchive, withArchivedPostgres, type Archive } from './postgres-archive.ts';
import {
  expectOnlyInBucket,
  keysIn,
  locationOf,
  PATIENCE_MS,
  rowsOf,
  s3Options,
  segmentKey,
  writeRow,
} from './s3-archive.ts';
import { PACKINGS } from './s3-packings.ts';

/** One of Debian's programs for archives in a bucket, with what both take, for a shell. */
function barmanCloud(program: 'archive' | 'restore', endpoint: S3Endpoint, ...args: readonly string[]): string {
  const path = `/usr/bin/barman-cloud-wal-${program}`;
  if (!existsSync(path)) throw new Error(`${path} not found: apt-get install barman-cli-cloud`);
  return [path, '--endpoint-url', endpoint.url, ...args].join(' ');
}

const catalogueOf = (archive: Archive): string => join(archive.home, 'main', 'wals', 'main-xlog.db');

async function rebuild(archive: Archive): Promise<string[]> {
  const { status, stderr } = await archive.walwarden(['rebuild-xlogdb', 'main']);
  expect(status, stderr).toBe(0);
  return linesOf(archive);
}

async function linesOf(archive: Archive): Promise<string[]> {
  return (await readFile(catalogueOf(archive), 'utf8')).trimEnd().split('\n');
}

/** Both timelines of a server that was restored once, with a backup label and a history file, in the bucket. */
async function archiveEverything(pg: TestPostgres, archive: Archive): Promise<string> {
  await writeRow(pg, '1');
  const backup = await pg.baseBackup();
  await writeRow(pg, '2');
  await archive.pass();
  await pg.kill9();
  const second = await pg.restore(backup, {
    restoreCommand: archive.restoreCommand,
    settings: { archive_mode: 'on', archive_command: archive.copyCommand },
  });
  await second.writable(PATIENCE_MS);
  await writeRow(second, '3');
  await second.archived('00000002.history');
  // A history file is left alone for a second, for it may still be written.
  await until('everything to be archived', async () => (await archive.pass()).waiting === 0, PATIENCE_MS);
  await second.kill9();
  await expectOnlyInBucket(archive);
  return backup;
}

describeS3(
  'a bucket beside Barman’s programs',
  (s3) => {
    test.each([{ compression: 'gzip' }, { compression: 'none' }])(
      'barman-cloud-wal-restore recovers a server from what we archived ($compression)',
      ({ compression }) =>
        s3.withBucket((endpoint) =>
          withArchivedPostgres({ server: { ...s3Options(endpoint), compression } }, async (pg, archive) => {
            const backup = await archiveEverything(pg, archive);
            const restoreCommand = barmanCloud('restore', endpoint, locationOf(endpoint), 'main', '%f', '%p');
            const restored = await pg.restore(backup, { restoreCommand });
            await restored.writable(PATIENCE_MS);
            expect(await rowsOf(restored)).toEqual(['1', '2', '3']);
            expect(await restored.value('select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)')).toBe('00000003');
          }),
        ),
    );

    test.each([
      { label: 'gzip', args: ['--gzip'], extension: '.gz' },
      { label: 'no compression', args: [], extension: '' },
    ])(
      'get-wal recovers a server from what barman-cloud-wal-archive stored, and archiving goes on behind it ($label)',
      ({ args, extension }) =>
        s3.withBucket((endpoint) => {
          const command = barmanCloud('archive', endpoint, ...args, locationOf(endpoint), 'main', '%p');
          const options = {
            archiving: async () => ({ archive_command: command }),
            server: { ...s3Options(endpoint), compression: 'zstd' },
          };
          return withArchivedPostgres(options, async (pg, archive) => {
            await writeRow(pg, '1');
            const backup = await pg.baseBackup();
            const theirs = await writeRow(pg, '2');
            const lines = await rebuild(archive);
            const kinds = lines.map((line) => line.split('\t').slice(3).join());
            expect(new Set(kinds)).toEqual(new Set([extension === '.gz' ? 'gzip,None' : 'None,None']));
            await expectAllHandedOut(pg, archive, theirs);

            // What comes to us now is compressed otherwise; what comes again is there already.
            await pg.configure({ archive_command: archive.copyCommand });
            const ours = await writeRow(pg, '3');
            const copied = await run('cp', [join(pg.walDir, theirs), join(archive.incoming, theirs)], pg.owner);
            expect(copied.status).toBe(0);
            const pass = await archive.pass();
            expect(pass.archived.map(({ name }) => name)).toEqual([ours]);
            expect(pass.duplicates).toEqual([theirs]);
            const keys = await keysIn(endpoint);
            expect(keys.filter((key) => key.includes(theirs))).toEqual([segmentKey(theirs, extension)]);
            expect(keys).toContain(segmentKey(ours, '.zst'));
            await pg.kill9();
            await expectOnlyInBucket(archive);

            const restored = await pg.restore(backup, { restoreCommand: archive.restoreCommand });
            await restored.writable(PATIENCE_MS);
            expect(await rowsOf(restored)).toEqual(['1', '2', '3']);
          });
        }),
    );
  },
  ['rgw'],
);

describeS3(
  'rebuild-xlogdb',
  (s3) => {
    test.each(PACKINGS.filter(({ extension }) => extension !== '.zst'))(
      'makes the lost catalogue of a bucket anew, with the same lines ($label)',
      ({ packing }) =>
        s3.withBucket((endpoint) =>
          withArchivedPostgres({}, (pg) =>
            packing(pg, async (options) => {
              const archive = await makeArchive(pg, { ...s3Options(endpoint), ...options });
              await archiveEverything(pg, archive);
              const before = await linesOf(archive);
              expect(before.filter((line) => line.startsWith('00000002.history'))).toHaveLength(1);
              expect(before.filter((line) => line.includes('.backup'))).toHaveLength(1);
              const { compression = 'None', encryption = 'None' } = options;
              expect(new Set(before.map((line) => line.split('\t').slice(3).join(' ')))).toEqual(
                new Set([`${compression} ${encryption}`]),
              );
              await rm(catalogueOf(archive));
              const missing = await archive.getWal('00000009.history');
              expect(missing).toMatchObject({ status: 200, stdout: '' });
              expect(missing.stderr).toContain('walwarden rebuild-xlogdb main');
              expect(await rebuild(archive)).toEqual(before);
              expect((await archive.getWal('00000009.history')).status).toBe(1);
              expect(await rebuild(archive)).toEqual(before);
            }),
          ),
        ),
    );
  },
  ['rgw'],
);
