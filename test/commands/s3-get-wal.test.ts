import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { s3Answer, withFaultProxy } from '../support/fault-proxy.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { describeS3 } from '../support/s3.ts';
import { awsEnvironment, withAwsEnvironment } from '../support/s3-endpoint.ts';
import { withSilentPort } from '../support/silent-port.ts';
import { withS3Server, type S3TestServer } from './with-s3-server.ts';

const wal = makeWal({ segment: 1 });
const KEY = `0000000100000000/${wal.name}`;

async function archiveSegments(server: S3TestServer, ...segments: readonly number[]): Promise<void> {
  for (const segment of segments) await writeWal(server.incoming, { segment });
  expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
}

const nameOf = (segment: number): string => makeWal({ segment }).name;

describeS3(
  'get-wal from S3',
  (s3) => {
    test.each(['none', 'gzip', 'zstd'])(
      'hands out what is stored with compression %s, to stdout and into a directory',
      (compression) =>
        s3.withBucket((endpoint) =>
          withS3Server(endpoint, { compression }, async (server) => {
            await archiveSegments(server, 1);
            const { status, bytes, stderr } = await server.cli(['get-wal', 'main', wal.name]);
            expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
            expect(bytes).toEqual(wal.bytes);
            const directory = join(server.home, 'restored');
            await mkdir(directory);
            expect((await server.cli(['get-wal', '-o', directory, 'main', wal.name])).status).toBe(0);
            expect(await readFile(join(directory, wal.name))).toEqual(wal.bytes);
            expect(await readdir(directory)).toEqual([wal.name]);
          }),
        ),
    );

    test('what the catalogue has and the bucket has not is no answer: 200, and another bucket may be meant', () =>
      s3.withBucket((endpoint) =>
        s3.withBucket((other) =>
          withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
            await archiveSegments(server, 1);
            const config = join(server.home, 'walwarden.conf');
            const text = await readFile(config, 'utf8');
            await writeFile(config, text.replace(endpoint.bucket, other.bucket));
            const lost = await server.cli(['get-wal', 'main', wal.name]);
            expect(lost).toMatchObject({ status: 200, stdout: '' });
            expect(lost.stderr).toMatch(/is not in s3:\S+, though the catalogue has it[^]*right bucket/);
            // What no one has is absent there, too.
            expect(await server.cli(['get-wal', 'main', nameOf(2)])).toMatchObject({ status: 1, stdout: '' });
          }),
        ),
      ));

    test('--keep-compression leaves it as it is stored', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
          await archiveSegments(server, 1);
          const { bytes } = await server.cli(['get-wal', '--keep-compression', 'main', wal.name]);
          expect(bytes).toEqual(await server.get(`${KEY}.gz`));
          expect(gunzipSync(bytes)).toEqual(wal.bytes);
        }),
      ));

    test('reads objects that Barman’s cloud scripts stored, whatever compression is configured', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'zstd' }, async (server) => {
          await server.put(`${KEY}.gz`, gzipSync(wal.bytes));
          const two = makeWal({ segment: 2 });
          await server.put(`0000000100000000/${two.name}`, two.bytes);
          const history = '00000002.history';
          await server.put(`${history}.gz`, gzipSync('1\t0/2000000\tno recovery target specified\n'));
          expect((await server.cli(['get-wal', 'main', wal.name])).bytes).toEqual(wal.bytes);
          expect((await server.cli(['get-wal', 'main', two.name])).bytes).toEqual(two.bytes);
          expect((await server.cli(['get-wal', 'main', history])).stdout).toMatch(/^1\t0\/2000000\t/);
        }),
      ));

    test('finds what waits in incoming or streaming, and a partial file with -P', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, {}, async (server) => {
          await writeWal(server.incoming, { segment: 1 });
          const two = await writeWal(server.streaming, { segment: 2 });
          const three = makeWal({ segment: 3 });
          await writeFile(join(server.streaming, `${three.name}.partial`), three.bytes);
          expect((await server.cli(['get-wal', 'main', wal.name])).bytes).toEqual(wal.bytes);
          expect((await server.cli(['get-wal', 'main', two.name])).bytes).toEqual(two.bytes);
          expect((await server.cli(['get-wal', 'main', three.name])).status).toBe(1);
          expect((await server.cli(['get-wal', '-P', 'main', three.name])).bytes).toEqual(three.bytes);
        }),
      ));

    test('what is certainly not in the bucket is 1, with nothing on stdout', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, {}, async (server) => {
          await archiveSegments(server, 1);
          const { status, stdout, stderr } = await server.cli(['get-wal', 'main', nameOf(2)]);
          expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
          expect(stderr).toMatch(/is not in the archive/);
        }),
      ));

    test('an endpoint that is down, or a bucket that is gone, is 200, and 1 on a standby', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { aws_endpoint_url: 'http://127.0.0.1:1' }, async (server) => {
          const { status, stdout, stderr } = await server.cli(['get-wal', 'main', wal.name]);
          expect({ status, stdout }).toEqual({ status: 200, stdout: '' });
          expect(stderr).toMatch(/^ERROR: can't read s3:.* refuses connections/);
          const data = join(server.home, 'data');
          await mkdir(data);
          await writeFile(join(data, 'standby.signal'), '');
          expect((await server.cli(['get-wal', 'main', wal.name], { cwd: data })).status).toBe(1);
          expect((await server.cli(['get-wal', '--on-error', '77', 'main', wal.name])).status).toBe(77);
        }),
      ));

    test('a bucket that does not exist, or may not be read, is 200', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { wals_directory: 's3://no-such-bucket/archive/wal' }, async (server) => {
          const missing = await server.cli(['get-wal', 'main', wal.name]);
          expect(missing).toMatchObject({ status: 200, stderr: expect.stringContaining('has no bucket') });
          await withS3Server(endpoint, {}, (other) =>
            withAwsEnvironment(awsEnvironment(s3.rgw.stranger), async () => {
              const denied = await other.cli(['get-wal', 'main', wal.name]);
              expect(denied).toMatchObject({ status: 200, stderr: expect.stringContaining('access denied') });
            }),
          );
        }),
      ));

    test('a silent endpoint is given half a minute in all, and what waits here is found at once after that', () =>
      s3.withBucket((endpoint) =>
        withSilentPort((port) =>
          withS3Server(
            endpoint,
            { aws_endpoint_url: `http://127.0.0.1:${port}`, aws_read_timeout: '500 ms' },
            async (server) => {
              const { status, stderr } = await server.cli(['get-wal', '-P', 'main', wal.name], { timeoutMs: 30_000 });
              expect(status).toBe(200);
              expect(stderr).toMatch(/no answer from http.* for 500 ms, tried 3 times/);
              await writeWal(server.incoming, { segment: 1 });
              expect((await server.cli(['get-wal', 'main', wal.name])).bytes).toEqual(wal.bytes);
            },
          ),
        ),
      ));

    test('a damaged object is 200, and one of another segment too', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
          await server.put(`${KEY}.gz`, gzipSync(wal.bytes).subarray(0, 10_000));
          const { status, stdout, stderr } = await server.cli(['get-wal', 'main', wal.name]);
          expect({ status, stdout }).toEqual({ status: 200, stdout: '' });
          expect(stderr).toMatch(/s3:\/\/.* can't be used: /);
          await server.put(`0000000100000000/${nameOf(2)}.gz`, gzipSync(wal.bytes));
          expect((await server.cli(['get-wal', 'main', nameOf(2)])).status).toBe(200);
        }),
      ));

    test('a bit that flips on the way is no damage: the object is fetched again', () =>
      s3.withBucket((endpoint) =>
        withFaultProxy(endpoint.url, (proxy) =>
          withS3Server(endpoint, { aws_endpoint_url: proxy.url }, async (server) => {
            await archiveSegments(server, 1);
            proxy.fail(({ method, url }) => method === 'GET' && url.includes(wal.name), {
              kind: 'flip-download',
              byte: 99,
            });
            const { status, bytes } = await server.cli(['get-wal', 'main', wal.name]);
            expect(status).toBe(0);
            expect(bytes).toEqual(wal.bytes);
          }),
        ),
      ));

    test('a 404 that is not about the key is no "not found"', () =>
      s3.withBucket((endpoint) =>
        withFaultProxy(endpoint.url, (proxy) =>
          withS3Server(endpoint, { aws_endpoint_url: proxy.url }, async (server) => {
            await archiveSegments(server, 1);
            proxy.fail(() => true, s3Answer(404, 'NoSuchBucket'), Infinity);
            expect((await server.cli(['get-wal', 'main', nameOf(2)])).status).toBe(200);
            proxy.heal();
            proxy.fail(() => true, { kind: 'answer', status: 404, body: '<html>404</html>' }, Infinity);
            expect((await server.cli(['get-wal', 'main', nameOf(2)])).status).toBe(200);
          }),
        ),
      ));

    test('--peek tells names that follow each other, wherever they are, with few requests', () =>
      s3.withBucket((endpoint) =>
        withFaultProxy(endpoint.url, (proxy) =>
          withS3Server(endpoint, { aws_endpoint_url: proxy.url, compression: 'gzip' }, async (server) => {
            // Across the end of a log: 1 MiB segments, 4096 of them.
            await archiveSegments(server, 4090, 4091, 4092, 4093, 4094, 4095, 4096, 4097);
            await writeWal(server.incoming, { segment: 4098 });
            const before = proxy.seen.length;
            const { status, stdout } = await server.cli(['get-wal', '--peek', '20', 'main', nameOf(4090)]);
            expect(status).toBe(0);
            const segments = [4090, 4091, 4092, 4093, 4094, 4095, 4096, 4097, 4098];
            expect(stdout.split('\n').slice(0, -1)).toEqual(segments.map(nameOf));
            const asked = proxy.seen.slice(before);
            expect(asked.every(({ method, url }) => method === 'GET' && url.includes('list-type=2'))).toBe(true);
            expect(asked.length).toBeLessThanOrEqual(4);
            expect((await server.cli(['get-wal', '--peek', '2', 'main', nameOf(4091)])).stdout).toBe(
              `${nameOf(4091)}\n${nameOf(4092)}\n`,
            );
          }),
        ),
      ));

    test('--peek that can not ask the bucket is 200', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { aws_endpoint_url: 'http://127.0.0.1:1' }, async (server) => {
          expect(await server.cli(['get-wal', '--peek', '2', 'main', wal.name])).toMatchObject({
            status: 200,
            stdout: '',
          });
        }),
      ));

    test('--test asks no endpoint', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { aws_endpoint_url: 'http://127.0.0.1:1' }, async (server) => {
          expect(await server.cli(['get-wal', '--test', 'main'])).toMatchObject({
            status: 0,
            stdout: 'Ready to retrieve WAL files from the server main\n',
          });
        }),
      ));
  },
  ['rgw'],
);
