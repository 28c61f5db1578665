import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { segmentName } from '../../src/wal/wal-name.ts';
import { ensureBuilt } from '../support/cli.ts';
import { writeWal } from '../support/make-wal.ts';
import { catalogueLines, json, withServer, type TestServer } from './with-server.ts';

const wal = (segment: number, timeline = 1): string => segmentName(timeline, BigInt(segment), 1 << 20);
const ID = '20261121T085513';
const info = (begin: string, status = 'DONE', end = begin): string =>
  `begin_wal=${begin}\nend_wal=${end}\nstatus=${status}\nsystemid=7123\n`;

/** Segments 1 to 6 of timeline 1 and 5 and 6 of timeline 2, all of them old, and what Barman has of backups. */
async function withBackups(
  files: Readonly<Record<string, string>>,
  body: (server: TestServer) => Promise<void>,
  options: Readonly<Record<string, string>> = {},
): Promise<void> {
  await withServer(options, async (server) => {
    const mtime = Date.now() / 1000 - 30 * 86_400;
    for (const segment of [1, 2, 3, 4, 5, 6]) await writeWal(server.incoming, { segment, mtime });
    for (const segment of [5, 6]) await writeWal(server.incoming, { segment, timeline: 2, mtime });
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
    for (const [path, text] of Object.entries(files)) {
      const full = join(server.home, 'main', path);
      await mkdir(dirname(full), { recursive: true });
      await writeFile(full, text);
    }
    await body(server);
  });
}

const namesOf = async (server: TestServer): Promise<(string | undefined)[]> =>
  (await catalogueLines(server)).map((line) => line.split('\t')[0]);
const older = ['delete-wals', '--older-than', '1 WEEKS'];

beforeAll(ensureBuilt);

describe('delete-wals beside Barman’s backups', () => {
  test('refuses what a backup needs, names it, deletes nothing, and its advice deletes the rest', () =>
    withBackups({ [`base/${ID}/backup.info`]: info(wal(4)) }, async (server) => {
      const before = await namesOf(server);
      const refused = await server.cli([...older, 'main']);
      expect(refused.status).toBe(1);
      expect(refused.stdout).toBe('');
      expect(refused.stderr).toBe(
        `ERROR: nothing is deleted: 8 files of main were to be deleted, but backup ${ID} needs 5 files of them, from ${wal(4)} on\n` +
          `HINT: walwarden delete-wals --before ${wal(4)} main deletes what no backup needs; to delete them nevertheless: --force\n`,
      );
      expect((await server.cli([...older, '--dry-run', 'main'])).status).toBe(1);
      expect(await namesOf(server)).toEqual(before);
      expect(await server.cli(['delete-wals', '--before', wal(4), 'main'])).toMatchObject({
        status: 0,
        stdout: 'Deleted 3 files of server main (3.00 MiB)\n',
      });
      expect(await namesOf(server)).toEqual(before.slice(3));
    }));

  test('--before is refused in the same way, and JSON has the code', () =>
    withBackups({ [`meta/${ID}-backup.info`]: info(wal(4), 'WAITING_FOR_WALS') }, async (server) => {
      const { status, stderr } = await server.cli(['-f', 'json', 'delete-wals', '--before', wal(6), 'main']);
      expect(status).toBe(1);
      expect(JSON.parse(stderr.trim().split('\n').at(-1) ?? '')).toMatchObject({
        error: { code: 'needed', message: expect.stringContaining(`backup ${ID} needs 2 files of them`) },
      });
    }));

  test('--force deletes it, and tells which backup needed it', () =>
    withBackups({ [`base/${ID}/backup.info`]: info(wal(4)) }, async (server) => {
      const forced = await server.cli(['-f', 'json', ...older, '--force', 'main']);
      expect(forced.status).toBe(0);
      expect(json(forced)).toMatchObject({ neededBy: [{ backup: ID, first: wal(4), files: 5 }] });
      expect(forced.stderr).toContain(`backup ${ID} needs 5 files`);
      expect(await namesOf(server)).toEqual([]);
    }));

  test('a failed backup needs nothing, and one that is kept standalone its own WAL only', () =>
    withBackups(
      {
        'base/20261101T000000/backup.info': info(wal(1), 'FAILED'),
        [`meta/${ID}-backup.info`]: info(wal(2), 'DONE', wal(3)),
        [`meta/${ID}-keep`]: 'standalone',
        'meta/20261122T000000-backup.info': info(wal(5, 2)),
      },
      async (server) => {
        const refused = await server.cli(['delete-wals', '--before', wal(3), 'main']);
        expect(refused.stderr).toContain(`backup ${ID} needs 1 file of them, from ${wal(2)} on`);
        expect((await server.cli(['delete-wals', '--before', wal(2), 'main'])).status).toBe(0);
        const later = await server.cli([...older, 'main']);
        expect(later.stderr).toContain('backup 20261122T000000 needs 2 files of them');
      },
    ));

  test('a backup.info that can not be read, or has no beginning, refuses everything', () =>
    withBackups({ [`base/${ID}/backup.info`]: 'garbage' }, async (server) => {
      const before = await namesOf(server);
      const garbage = await server.cli(['delete-wals', '--before', wal(2), 'main']);
      expect(garbage.status).toBe(1);
      expect(garbage.stderr).toContain(`what backup ${ID} needs is not known: `);
      await writeFile(join(server.home, 'main', 'base', ID, 'backup.info'), 'status=STARTED\nbegin_wal=None\n');
      const started = await server.cli(['delete-wals', '--before', wal(2), 'main']);
      expect(started.stderr).toContain('its status is STARTED, and it has no begin_wal that can be read');
      expect(await namesOf(server)).toEqual(before);
      expect((await server.cli(['delete-wals', '--before', wal(2), '--force', 'main'])).status).toBe(0);
      expect(await namesOf(server)).toEqual(before.slice(1));
    }));

  test('backups are read where basebackups_directory says; in a bucket, Barman’s own record of them counts', () =>
    withBackups({ [`elsewhere/${ID}/backup.info`]: info(wal(1)) }, async (server) => {
      const configure = (directory: string): Promise<void> =>
        writeFile(
          server.config.replace(/[^/]*$/, 'other.conf'),
          `[barman]\nbarman_home = ${server.home}\n[main]\narchiver = on\nbasebackups_directory = ${directory}\n`,
        );
      const config = server.config.replace(/[^/]*$/, 'other.conf');
      await configure(join(server.home, 'main', 'elsewhere'));
      expect((await server.cli([...older, 'main'], { config })).stderr).toContain(`backup ${ID} needs 8 files`);
      await configure('azure://account/container');
      await mkdir(join(server.home, 'main', 'meta'));
      await writeFile(join(server.home, 'main', 'meta', `${ID}-backup.info`), info(wal(6)));
      expect((await server.cli([...older, 'main'], { config })).stderr).toContain(`backup ${ID} needs 2 files`);
    }));

  test('with the archive in a bucket the backups here count as well, before the bucket is asked for anything', () =>
    withServer(
      { wals_directory: 's3://bucket/prefix', aws_endpoint_url: 'http://127.0.0.1:9', xlogdb_directory: '/nowhere' },
      async (server) => {
        const catalogue = join(server.home, 'main', 'catalogue');
        const config = server.config.replace(/[^/]*$/, 's3.conf');
        const text = await readFile(server.config, 'utf8');
        await writeFile(config, text.replace('/nowhere', catalogue));
        await mkdir(catalogue, { recursive: true });
        await writeFile(
          join(catalogue, 'main-xlog.db'),
          [1, 2, 3].map((segment) => `${wal(segment)}\t1048576\t1.5\tNone\tNone\n`).join(''),
        );
        await mkdir(join(server.home, 'main', 'base', ID), { recursive: true });
        await writeFile(join(server.home, 'main', 'base', ID, 'backup.info'), info(wal(2)));
        const refused = await server.cli([...older, 'main'], { config });
        expect(refused).toMatchObject({
          status: 1,
          stderr: expect.stringContaining(`backup ${ID} needs 2 files of them`),
        });
      },
    ));
});
