import { readFile, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { lockOwner } from '../../src/durable/lock-file.ts';
import { s3Answer, withFaultProxy } from '../support/fault-proxy.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { withPostgres } from '../support/postgres.ts';
import { describeS3 } from '../support/s3.ts';
import { commandsWith } from './cron-home.ts';
import { deliveryOf } from './tar-stream.ts';
import { catalogueLines, json, namesIn } from './with-server.ts';
import { s3Options, withS3Server, type S3TestServer } from './with-s3-server.ts';

const HOUR = 3600;
const now = Math.floor(Date.now() / 1000);
const wal = makeWal({ segment: 1 });
const other = makeWal({ segment: 1, seed: 99 });
const nameOf = (segment: number): string => makeWal({ segment }).name;
const keyOf = (segment: number, extension = ''): string => `0000000100000000/${nameOf(segment)}${extension}`;

/** Archives segments of 1 MiB; segment 1 is the oldest, each an hour younger than the one before. */
async function archiveSegments(server: S3TestServer, ...segments: readonly number[]): Promise<void> {
  for (const segment of segments) {
    await writeWal(server.incoming, { segment, mtime: now - (10 - segment) * HOUR + 600 });
  }
  expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0, stderr: '' });
}

const linesOf = async (server: S3TestServer): Promise<string[]> =>
  (await catalogueLines(server)).map((line) => line.split('\t')[0] ?? '');

describeS3(
  'an archive in S3',
  (s3) => {
    test('archive-wal stores objects with Barman’s keys, and the catalogue is here', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
          for (const segment of [1, 2]) await writeWal(server.incoming, { segment });
          const { status, stdout, stderr } = await server.cli(['archive-wal', 'main']);
          expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
          expect(stdout).toMatch(/^main, file archival: 2 files archived \(.* stored\)\n/);
          expect(await server.keys()).toEqual([keyOf(1, '.gz'), keyOf(2, '.gz')]);
          expect(gunzipSync(await server.get(keyOf(1, '.gz')))).toEqual(wal.bytes);
          expect(await namesIn(server.incoming)).toEqual([]);
          expect(await linesOf(server)).toEqual([nameOf(1), nameOf(2)]);
          const { stdout: list } = await server.cli(['list-wals', 'main']);
          expect(list).toMatch(/segments of 1\.00 MiB:\n\tTimeline 1: 2 segments, .* \(gzip 2 files/);
        }),
      ));

    test('a new machine takes no WAL of another cluster into a bucket that has some', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (first) => {
          await archiveSegments(first, 1, 2);
          await withS3Server(endpoint, { compression: 'gzip' }, async (second) => {
            await writeWal(second.incoming, { segment: 3, systemIdentifier: 666n });
            await writeWal(second.incoming, { segment: 4 });
            const { status, stderr } = await second.cli(['archive-wal', 'main']);
            expect(status).toBe(1);
            expect(stderr).toContain('another cluster');
            expect(await second.keys()).toEqual([keyOf(1, '.gz'), keyOf(2, '.gz'), keyOf(4, '.gz')]);
            expect(await linesOf(second)).toEqual([nameOf(4)]);
          });
        }),
      ));

    test('archive-wal takes a file that arrives again as archived, and moves another content to errors', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
          await archiveSegments(server, 1);
          await writeWal(server.incoming, { segment: 1 });
          expect((await server.cli(['archive-wal', 'main'])).stdout).toMatch(/0 files archived .*, 1 archived before/);
          await writeFile(join(server.incoming, wal.name), other.bytes);
          expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
          const [inErrors = ''] = await namesIn(server.errors);
          expect(inErrors).toMatch(/\.duplicate$/);

          const explained = await server.cli(['errors', 'explain', 'main']);
          expect(explained.stdout).toMatch(/now: .*the first difference is at byte \d+ \(.* archived in s3:\/\//);
          expect((await server.cli(['errors', 'resolve', 'main'])).status).toBe(1);
          await writeFile(join(server.errors, inErrors), wal.bytes);
          expect((await server.cli(['errors', 'list', 'main'])).stdout).toMatch(/duplicates: 1/);
          expect((await server.cli(['errors', 'resolve', 'main'])).stdout).toMatch(/dropped: .* the same content/);
          expect(await namesIn(server.errors)).toEqual([]);
          expect(gunzipSync(await server.get(keyOf(1, '.gz')))).toEqual(wal.bytes);
        }),
      ));

    test('errors resolve drops nothing while the bucket can not be asked', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, {}, async (server) => {
          await archiveSegments(server, 1);
          const entry = `${wal.name}.20261121T090022Z.duplicate`;
          await writeFile(join(server.errors, entry), wal.bytes);
          s3.rgw.pause();
          try {
            await writeFile(
              server.config,
              (await readFile(server.config, 'utf8')).replace('[main]', '[main]\naws_read_timeout = 200 ms'),
            );
            const { status, stderr } = await server.cli(['errors', 'resolve', 'main']);
            expect(status).toBe(1);
            expect(stderr).toMatch(/no answer from/);
          } finally {
            s3.rgw.resume();
          }
          expect(await namesIn(server.errors)).toEqual([entry]);
          const missing = makeWal({ segment: 2 });
          const retry = `${missing.name}.20261121T090022Z.unknown`;
          await writeFile(join(server.errors, retry), missing.bytes);
          expect((await server.cli(['errors', 'resolve', 'main'])).stdout).toMatch(/moved back to /);
          expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
          expect(await server.keys()).toEqual([keyOf(1), keyOf(2)]);
        }),
      ));

    test('put-wal compares with the object; without an answer it refuses what is archived, and takes what is new', () =>
      s3.withBucket((endpoint) =>
        withFaultProxy(endpoint.url, (proxy) =>
          withS3Server(endpoint, { aws_endpoint_url: proxy.url, compression: 'zstd' }, async (server) => {
            const put = async (...files: { name: string; bytes: Buffer }[]) =>
              server.cli(['put-wal', 'main'], { input: await deliveryOf(files) });
            expect(await put(wal)).toMatchObject({ status: 0, stderr: '' });
            expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
            // Archived, and delivered again.
            expect((await put(wal)).status).toBe(0);
            expect(await namesIn(server.incoming)).toEqual([]);
            const refused = await put(other);
            expect(refused).toMatchObject({ status: 1, stderr: expect.stringContaining('is there already') });
            expect(await namesIn(server.errors)).toHaveLength(1);
            expect(await namesIn(server.incoming)).toEqual([]);

            const next = makeWal({ segment: 2 });
            proxy.fail(() => true, s3Answer(503, 'SlowDown'), Infinity);
            const doubt = await put(wal);
            expect(doubt).toMatchObject({ status: 1, stderr: expect.stringContaining('ERROR: can') });
            expect(await namesIn(server.incoming)).toEqual([]);
            expect((await put(next)).status).toBe(0);
            expect(await namesIn(server.incoming)).toEqual([next.name]);
            proxy.heal();
            expect((await put(wal)).status).toBe(0);
            expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
            expect((await catalogueLines(server)).map((line) => line.split('\t')[0])).toEqual([wal.name, next.name]);
          }),
        ),
      ));

    test('rebuild-xlogdb makes the catalogue from the bucket, with the objects of others', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
          await archiveSegments(server, 1, 2, 3);
          const before = await catalogueLines(server);
          await unlink(join(server.wals, 'main-xlog.db'));
          expect((await server.cli(['rebuild-xlogdb', 'main'])).stdout).toBe(
            'Rebuilt the catalogue of server main: 3 files\n',
          );
          expect(await catalogueLines(server)).toEqual(before);
          const four = makeWal({ segment: 4 });
          const stored = gzipSync(four.bytes);
          await server.put(keyOf(4, '.gz'), stored);
          await server.put('00000002.history.gz', gzipSync('1\t0/500000\tno reason\n'));
          await server.put('0000000100000000/readme.txt', Buffer.from('no WAL'));
          await server.put('walwarden-probe', Buffer.from('no WAL'));
          expect((await server.cli(['rebuild-xlogdb', 'main'])).stdout).toMatch(/: 5 files\n$/);
          const lines = await catalogueLines(server);
          expect(lines.slice(0, 3)).toEqual(before);
          expect(lines[3]).toMatch(new RegExp(`^${four.name}\t${stored.length}\t\\d+(\\.\\d+)?\tgzip\tNone$`));
          expect(lines[4]).toMatch(/^00000002\.history\t\d+\t.*\tgzip\tNone$/);
        }),
      ));

    test('rebuild-xlogdb leaves the catalogue alone when the bucket can not be listed to its end', () =>
      s3.withBucket((endpoint) =>
        withFaultProxy(endpoint.url, (proxy) =>
          withS3Server(endpoint, { aws_endpoint_url: proxy.url }, async (server) => {
            await archiveSegments(server, 1, 2);
            const before = await catalogueLines(server);
            proxy.fail(({ method, url }) => method === 'HEAD' && url.includes(nameOf(2)), s3Answer(403, ''), Infinity);
            proxy.fail(
              ({ method, url }) => method === 'GET' && url.includes(nameOf(2)),
              s3Answer(403, 'AccessDenied'),
              Infinity,
            );
            const { status, stderr } = await server.cli(['rebuild-xlogdb', 'main']);
            expect({ status, stderr: stderr.slice(0, 12) }).toEqual({ status: 1, stderr: "ERROR: can't" });
            expect(await catalogueLines(server)).toEqual(before);
          }),
        ),
      ));

    test('archiving waits for rebuild-xlogdb, and loses no line', () =>
      s3.withBucket((endpoint) =>
        withFaultProxy(endpoint.url, (proxy) =>
          withS3Server(endpoint, { aws_endpoint_url: proxy.url }, async (server) => {
            await archiveSegments(server, 1);
            let letGo = (): void => undefined;
            const held = new Promise<void>((resolve) => (letGo = resolve));
            proxy.fail(({ method, url }) => method === 'HEAD' && url.includes(nameOf(1)), {
              kind: 'hold',
              until: held,
            });
            const rebuilding = server.cli(['rebuild-xlogdb', 'main']);
            await until('the rebuild to look at segment 1', () =>
              proxy.seen.some(({ method, url }) => method === 'HEAD' && url.includes(nameOf(1))),
            );
            await writeWal(server.incoming, { segment: 2 });
            const archiving = server.cli(['archive-wal', 'main']);
            const lock = join(server.home, '.main-archive-wal.lock');
            await until('archive-wal to begin', async () => (await lockOwner(lock)) !== null);
            expect(await server.keys()).toEqual([keyOf(1)]);
            letGo();
            expect((await rebuilding).status).toBe(0);
            expect((await archiving).status).toBe(0);
            expect(await linesOf(server)).toEqual([nameOf(1), nameOf(2)]);
          }),
        ),
      ));

    test('delete-wals --before, --before-backup and --older-than delete objects and their lines; --dry-run neither', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip', cloud_delete_batch_size: 2 }, async (server) => {
          await archiveSegments(server, 1, 2, 3, 4, 5, 6, 7);
          const keys = await server.keys();
          const dry = await server.cli(['delete-wals', '-n', '--before', nameOf(4), 'main']);
          expect(dry.stdout).toMatch(/^Would delete 3 files of server main \(/);
          expect(await server.keys()).toEqual(keys);
          expect((await server.cli(['delete-wals', '--before', nameOf(4), 'main'])).stdout).toMatch(/^Deleted 3 files/);
          expect(await server.keys()).toEqual([4, 5, 6, 7].map((segment) => keyOf(segment, '.gz')));
          expect(await linesOf(server)).toEqual([4, 5, 6, 7].map(nameOf));
          // Segment 4 is 6 hours old, less ten minutes.
          expect((await server.cli(['delete-wals', '--older-than', '5 HOURS', 'main'])).status).toBe(0);
          expect(await linesOf(server)).toEqual([5, 6, 7].map(nameOf));
          const label = `${nameOf(6)}.00000028.backup`;
          expect((await server.cli(['delete-wals', '--before-backup', label, 'main'])).status).toBe(0);
          expect(await server.keys()).toEqual([6, 7].map((segment) => keyOf(segment, '.gz')));
          expect(await linesOf(server)).toEqual([6, 7].map(nameOf));
          expect(json(await server.cli(['-f', 'json', 'delete-wals', '--before', nameOf(7), 'main']))).toEqual({
            server: 'main',
            dryRun: false,
            deleted: [nameOf(6)],
          });
        }),
      ));

    test('delete-wals runs the hooks around each object, and stops where one says so', () =>
      s3.withBucket((endpoint) =>
        withS3Server(
          endpoint,
          {
            pre_wal_delete_retry_script: `test "$BARMAN_SEGMENT" != ${nameOf(3)} || exit 63`,
            post_wal_delete_script: 'echo "$BARMAN_PHASE $BARMAN_FILE" >> seen',
          },
          async (server) => {
            await archiveSegments(server, 1, 2, 3, 4);
            const { status, stderr } = await server.cli(['delete-wals', '--before', nameOf(4), 'main']);
            expect(status).toBe(1);
            expect(stderr).toContain('pre_wal_delete_retry_script of main failed with exit status 63');
            expect(await server.keys()).toEqual([keyOf(3), keyOf(4)]);
            expect(await linesOf(server)).toEqual([nameOf(3), nameOf(4)]);
            const place = `s3://${endpoint.bucket}/archive/wal/main/wals`;
            expect((await readFile(join(server.home, 'seen'), 'utf8')).split('\n').slice(0, 2)).toEqual([
              `post ${place}/${keyOf(1)}`,
              `post ${place}/${keyOf(2)}`,
            ]);
          },
        ),
      ));

    test('delete-wals of which a part is refused tells it, and keeps the lines of what is left', () =>
      s3.withBucket((endpoint) =>
        withFaultProxy(endpoint.url, (proxy) =>
          withS3Server(endpoint, { aws_endpoint_url: proxy.url, cloud_delete_batch_size: 1 }, async (server) => {
            await archiveSegments(server, 1, 2, 3);
            let seen = 0;
            proxy.fail(
              ({ method }) => (method === 'POST' || method === 'DELETE') && (seen += 1) > 1,
              s3Answer(403, 'AccessDenied'),
              Infinity,
            );
            const { status, stderr } = await server.cli(['delete-wals', '--before', nameOf(3), 'main']);
            expect(status).toBe(1);
            expect(stderr).toMatch(/^ERROR: can't delete s3:.*access denied.*\nHINT: allow s3:DeleteObject/);
            expect(await server.keys()).toEqual([keyOf(2), keyOf(3)]);
            expect(await linesOf(server)).toEqual([nameOf(2), nameOf(3)]);
          }),
        ),
      ));

    test('cron archives in the background', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, {}, async (server) => {
          await writeWal(server.incoming, { segment: 1 });
          try {
            expect((await server.cli(['cron'])).stdout).toBe('Starting WAL archiving for server main\n');
            await until('the object', async () => (await server.keys()).length === 1);
          } finally {
            await until('archive-wal to end', async () => (await commandsWith(server.config)).size === 0);
          }
        }),
      ));

    test('switch-wal --archive waits until the segment is in the bucket', () =>
      s3.withBucket((endpoint) =>
        withPostgres({ settings: { archive_mode: 'on', archive_command: 'false' } }, (pg) =>
          withS3Server(endpoint, { conninfo: pg.conninfo, compression: 'gzip' }, async (server) => {
            // PostgreSQL runs as another user, and the directories of a server are its owner's.
            const { status, stdout, stderr } = await server.cli([
              'switch-wal',
              '--archive',
              '--archive-timeout',
              '1',
              '--force',
              'main',
            ]);
            const [, closed = ''] = /The WAL file (\S+) has been closed/.exec(stdout) ?? [];
            expect(closed).toMatch(/^[0-9A-F]{24}$/);
            expect({ status, stderr: stderr.split('\n')[0] }).toEqual({
              status: 1,
              stderr: `ERROR: server main: The WAL file ${closed} has not been received in 1 seconds`,
            });
            await writeFile(join(server.incoming, closed), await readFile(join(pg.dataDir, 'pg_wal', closed)));
            const again = await server.cli(['switch-wal', '--archive', 'main']);
            expect(again.stderr).toBe('');
            expect(again.stdout).toContain(`The WAL file ${closed} of server 'main' has been archived`);
            expect((await server.keys()).map((key) => key.slice(17))).toEqual([`${closed}.gz`]);
          }),
        ),
      ));

    test('show-servers tells the options, and none of the environment’s secrets', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { aws_tags: 'team=dba' }, async (server) => {
          const { stdout } = await server.cli(['show-servers', 'main']);
          const { wals_directory } = s3Options(endpoint);
          expect(stdout).toContain(`= ${wals_directory}  (`);
          expect(stdout).toMatch(/xlogdb_directory += .*\/main\/wals /);
          expect(stdout).toMatch(/aws_tags += team=dba/);
          expect(stdout).not.toContain(endpoint.secretAccessKey);
        }),
      ));

    test('a bad place in S3 disables the server at once, with file, line and what is allowed', () =>
      s3.withBucket((endpoint) =>
        withS3Server(
          endpoint,
          { wals_directory: 's3://bucket/a?b', aws_endpoint_url: 'localhost:9000' },
          async (server) => {
            const { stdout } = await server.cli(['list-servers']);
            expect(stdout).toMatch(
              /disabled: .*walwarden\.conf:\d+: wals_directory = "s3:\/\/bucket\/a\?b": expected an absolute path or s3:\/\/BUCKET\/PREFIX/,
            );
            expect(stdout).toMatch(/aws_endpoint_url = "localhost:9000": expected an http:\/\/ or https:\/\/ address/);
            expect((await server.cli(['check', 'main'])).stdout).toMatch(
              /\tconfiguration: FAILED \(.*wals_directory = /,
            );
          },
        ),
      ));
  },
  ['rgw'],
);
