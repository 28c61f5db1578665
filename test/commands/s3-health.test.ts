import { readFile, rm, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { s3Answer, withFaultProxy } from '../support/fault-proxy.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { describeS3 } from '../support/s3.ts';
import { awsEnvironment, withAwsEnvironment } from '../support/s3-endpoint.ts';
import { withSilentPort } from '../support/silent-port.ts';
import { json, placeStored, type TestServer } from './with-server.ts';
import { withS3Server } from './with-s3-server.ts';

/** Nothing listens there. */
const NOBODY = 'http://127.0.0.1:1';

async function checkLine(server: TestServer, name: string): Promise<string> {
  const { stdout, stderr } = await server.cli(['check', 'main']);
  expect(stderr).toBe('');
  const line = stdout.split('\n').find((text) => text.startsWith(`\t${name}: `));
  return line?.slice(1) ?? `no ${name}`;
}

async function statusLine(server: TestServer, label: string): Promise<string> {
  const { stdout } = await server.cli(['status', 'main']);
  const line = stdout.split('\n').find((text) => text.startsWith(`\t${label}: `));
  return line?.slice(label.length + 3) ?? `no ${label}`;
}

describeS3(
  'check and status of an archive in S3',
  (s3) => {
    test('an archive that works passes, and no local directory of WAL is asked for', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, {}, async (server) => {
          await writeWal(server.incoming, { segment: 1 });
          expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
          const { status, stdout } = await server.cli(['check', 'main']);
          expect(stdout).toMatch(/\tdirectories: OK\n/);
          expect(stdout).not.toMatch(/FAILED|WAL archive/);
          expect(status).toBe(0);
          const nagios = await server.cli(['check', '--nagios', 'main']);
          expect(nagios).toMatchObject({ status: 0, stdout: expect.stringMatching(/^BARMAN OK - /) });
        }),
      ));

    test('a bucket that does not exist fails WAL archive with the cause and the option, for Nagios too', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { wals_directory: 's3://no-such-bucket/archive/wal' }, async (server) => {
          expect(await checkLine(server, 'WAL archive')).toMatch(
            /^WAL archive: FAILED \(can't list s3:\/\/no-such-bucket\/archive\/wal\/main\/wals\/: .* has no bucket "no-such-bucket" .*; create it, or correct the bucket in wals_directory/,
          );
          const nagios = await server.cli(['check', '--nagios', 'main']);
          expect(nagios).toMatchObject({
            status: 2,
            stdout: expect.stringMatching(/^BARMAN CRITICAL - .*WAL archive/),
          });
        }),
      ));

    test('credentials that may not list the bucket fail it', () =>
      s3.withBucket((endpoint) =>
        withAwsEnvironment(awsEnvironment(s3.rgw.stranger), () =>
          withS3Server(endpoint, {}, async (server) => {
            expect(await checkLine(server, 'WAL archive')).toMatch(
              /FAILED \(can't list .*: access denied .*s3:ListBucket/,
            );
          }),
        ),
      ));

    test('an endpoint that refuses connections fails it', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { aws_endpoint_url: NOBODY }, async (server) => {
          expect(await checkLine(server, 'WAL archive')).toMatch(/FAILED \(can't list .* refuses connections/);
        }),
      ));

    test('an endpoint that gives no answer fails it with that cause, within check_timeout', () =>
      s3.withBucket((endpoint) =>
        withSilentPort((port) =>
          withS3Server(endpoint, { aws_endpoint_url: `http://127.0.0.1:${port}`, check_timeout: 2 }, async (server) => {
            expect(await checkLine(server, 'WAL archive')).toMatch(/FAILED \(can't list .*: no answer from http/);
            expect(await checkLine(server, 'check timeout')).toBe('no check timeout');
          }),
        ),
      ));

    test('a machine that is new has no catalogue, and is told how to make it from the bucket', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
          const { name } = await writeWal(server.incoming, { segment: 1 });
          await server.cli(['archive-wal', 'main']);
          await unlink(join(server.wals, 'main-xlog.db'));
          expect(await checkLine(server, 'WAL archive')).toMatch(
            /FAILED \(.*main-xlog\.db, the catalogue of s3:.*, does not exist, though .*identity.json exists; to make it from the bucket: walwarden rebuild-xlogdb main\)$/,
          );
          await unlink(join(server.home, 'main', 'identity.json'));
          await unlink(join(server.home, '.main-catalogue.json'));
          expect(await checkLine(server, 'WAL archive')).toMatch(
            new RegExp(
              `FAILED \\(the catalogue is empty, but there is s3:.*${name}\\.gz: walwarden rebuild-xlogdb main`,
            ),
          );
          expect((await server.cli(['rebuild-xlogdb', 'main'])).status).toBe(0);
          expect(await checkLine(server, 'WAL archive')).toBe('no WAL archive');
        }),
      ));

    test('why the last pass failed is in check and status until one succeeds, and once in the log', () =>
      s3.withBucket((endpoint) =>
        withFaultProxy(endpoint.url, (proxy) =>
          withS3Server(
            endpoint,
            { aws_endpoint_url: proxy.url },
            async (server) => {
              const log = join(server.home, 'log');
              const errorsLogged = async (): Promise<string[]> =>
                (await readFile(log, 'utf8').catch(() => '')).split('\n').filter((line) => line.includes('"level":50'));
              await writeWal(server.incoming, { segment: 1 });
              expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
              await writeWal(server.incoming, { segment: 2 });
              // Listing works; only storing doesn't.
              proxy.fail(({ method }) => method === 'PUT', s3Answer(403, 'AccessDenied'), Infinity);
              for (let pass = 0; pass < 3; pass += 1) {
                const { status, stderr } = await server.cli(['archive-wal', 'main']);
                expect(status).toBe(1);
                expect(stderr).toMatch(/^ERROR: can't store .*access denied/);
                expect(stderr).toMatch(/\nHINT: allow s3:PutObject/);
              }
              expect(await errorsLogged()).toHaveLength(1);
              const line = await checkLine(server, 'WAL archive');
              expect(line).toMatch(
                /^WAL archive: FAILED \(1 file in .*\/incoming waits, since .*; archive-wal fails since .* UTC .* \(3 passes, the last at .* UTC\): can't store .*: access denied .*allow s3:PutObject/,
              );
              expect(await statusLine(server, 'Archiving fails')).toMatch(/^archive-wal fails since .* \(3 passes/);
              expect(json(await server.cli(['-f', 'json', 'status', 'main']))).toMatchObject([
                { status: { archive_failure: { passes: 3, message: expect.stringContaining('access denied') } } },
              ]);

              // Another reason is news.
              proxy.heal();
              proxy.fail(({ method }) => method === 'PUT', s3Answer(507, 'InsufficientStorage'), Infinity);
              expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
              expect(await errorsLogged()).toHaveLength(2);

              proxy.heal();
              expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
              expect(await readFile(log, 'utf8')).toMatch(/archiving of main works again, after 4 failed passes in /);
              expect(await checkLine(server, 'WAL archive')).toBe('no WAL archive');
              expect(await statusLine(server, 'Archiving fails')).toBe('no Archiving fails');
            },
            { log_file: '%(barman_home)s/log', log_level: 'INFO' },
          ),
        ),
      ));

    test('status has the place of the archive, and tells of the catalogue also when the bucket does not answer', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
          await writeWal(server.incoming, { segment: 1 });
          await server.cli(['archive-wal', 'main']);
          const place = `s3://${endpoint.bucket}/archive/wal, at ${endpoint.url}`;
          expect(await statusLine(server, 'Archive in S3')).toBe(place);
          expect(await statusLine(server, 'Free space of the archive')).toBe('no Free space of the archive');
          s3.rgw.pause();
          try {
            expect(await statusLine(server, 'Archived WAL files')).toBe('1');
            expect(await statusLine(server, 'Archive in S3')).toMatch(/: FAILED \(can't list .*: no answer from/);
          } finally {
            s3.rgw.resume();
          }
        }),
      ));

    test('list-wals needs no endpoint: the segment size is remembered, or else taken as usual with a warning', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
          await writeWal(server.incoming, { segment: 1 });
          await server.cli(['archive-wal', 'main']);
          s3.rgw.pause();
          try {
            const known = await server.cli(['list-wals', 'main']);
            expect(known).toMatchObject({ status: 0, stderr: '' });
            expect(known.stdout).toMatch(/segments of 1\.00 MiB/);
            await rm(join(server.home, 'main', '.segment-size.json'));
            const unknown = await server.cli(['list-wals', 'main']);
            expect(unknown.status).toBe(0);
            expect(unknown.stdout).toMatch(/segments of 16\.0 MiB/);
            expect(unknown.stderr).toMatch(
              /the segment size of main is not known: can't look at s3:.*: no answer from/,
            );
          } finally {
            s3.rgw.resume();
          }
        }),
      ));

    test('a local archive that was there before is told of, and its WAL is still found', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, {}, async (server) => {
          const old = makeWal({ segment: 1 });
          await placeStored(server, old.name, old.bytes);
          await writeWal(server.incoming, { segment: 2 });
          await server.cli(['archive-wal', 'main']);
          expect(await checkLine(server, 'WAL archive')).toMatch(
            /^WAL archive: OK \(.*\/wals still holds WAL of an archive that was there before: .* then walwarden rebuild-xlogdb main\)$/,
          );
          expect((await server.cli(['get-wal', '-o', server.home, 'main', old.name])).status).toBe(0);
          expect(await readFile(join(server.home, old.name))).toEqual(old.bytes);
          expect(await server.keys()).toEqual([`0000000100000000/${makeWal({ segment: 2 }).name}`]);
        }),
      ));
  },
  ['rgw'],
);
