import { expect, test } from 'vitest';
import { s3Options } from '../../commands/with-s3-server.ts';
import { s3Answer, withFaultProxy, type FaultProxy } from '../../support/fault-proxy.ts';
import { makeWal, writeWal } from '../../support/make-wal.ts';
import { until } from '../../support/poll.ts';
import { describeS3, type S3Server } from '../../support/s3.ts';
import { jsonOf, withHttp, type TestHttp } from './with-http.ts';

const nameOf = (segment: number): string => makeWal({ segment }).name;

/** An archive of these segments in a bucket, asked through the proxy. */
async function withBucketArchive(
  s3: S3Server,
  segments: readonly number[],
  body: (server: TestHttp, proxy: FaultProxy) => Promise<void>,
): Promise<void> {
  await s3.withBucket((endpoint) =>
    withFaultProxy(endpoint.url, (proxy) =>
      withHttp(
        {
          server: { ...s3Options({ ...endpoint, url: proxy.url }), compression: 'zstd', cloud_wal_restore_parallel: 3 },
        },
        async (server) => {
          for (const segment of segments) await writeWal(server.incoming, { segment });
          expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
          await body(server, proxy);
        },
      ),
    ),
  );
}

/** Objects that were fetched whole, by their names. */
const fetched = (proxy: FaultProxy): string[] =>
  proxy.seen.flatMap(({ method, url }) => {
    const [, name] = /\/([0-9A-F]{24})\.zst/.exec(url) ?? [];
    return method === 'GET' && name !== undefined ? [name] : [];
  });

describeS3(
  'WAL in S3 over HTTP',
  (s3) => {
    test('is read ahead, several at a time, and each once', () =>
      withBucketArchive(s3, [1, 2, 3, 4, 5, 6, 7], async (server, proxy) => {
        const before = fetched(proxy).length;
        let release = (): void => {};
        const hold = new Promise<void>((resolve) => (release = resolve));
        const isAhead = ({ url }: { url: string }): boolean =>
          [2, 3, 4, 5].some((segment) => url.includes(`${nameOf(segment)}.zst`));
        proxy.fail(isAhead, { kind: 'hold', until: hold }, 4);
        expect((await server.get(nameOf(1))).status).toBe(200);
        await until('three at a time', () => fetched(proxy).length - before === 4);
        release();
        for (let segment = 2; segment <= 7; segment += 1) {
          expect((await server.get(nameOf(segment))).body.equals(makeWal({ segment }).bytes)).toBe(true);
        }
        expect((await server.get(nameOf(8))).status).toBe(404);
        const names = fetched(proxy).slice(before);
        expect(names.filter((name) => name !== nameOf(8)).sort()).toEqual([1, 2, 3, 4, 5, 6, 7].map(nameOf));
      }));

    test('is 503 while the bucket does not answer, and there again afterwards; a failure ahead is forgotten', () =>
      withBucketArchive(s3, [1, 2], async (server, proxy) => {
        proxy.fail(({ url }) => url.includes(nameOf(2)), s3Answer(403, 'AccessDenied'), 1_000);
        expect((await server.get(nameOf(1))).status).toBe(200);
        const refused = await server.get(nameOf(2));
        expect(refused.status).toBe(503);
        expect(jsonOf(refused)).toMatchObject({ error: { code: 'storage' } });
        proxy.heal();
        expect((await server.get(nameOf(2))).body.equals(makeWal({ segment: 2 }).bytes)).toBe(true);
        proxy.fail(() => true, s3Answer(403, 'AccessDenied'), 1_000);
        expect((await server.get(nameOf(3))).status).toBe(503);
        proxy.heal();
        expect((await server.get(nameOf(3))).status).toBe(404);
      }));

    test('is taken while the bucket does not answer', () =>
      withBucketArchive(s3, [1], async (server, proxy) => {
        proxy.fail(() => true, s3Answer(403, 'AccessDenied'), 1_000);
        expect((await server.put(nameOf(2), makeWal({ segment: 2 }).bytes)).status).toBe(201);
        // The catalogue has it: whether it is the same, nobody can tell now.
        expect((await server.put(nameOf(1), makeWal({ segment: 1 }).bytes)).status).toBe(503);
        proxy.heal();
        expect((await server.put(nameOf(1), makeWal({ segment: 1 }).bytes)).status).toBe(200);
        expect((await server.put(nameOf(1), makeWal({ segment: 1, seed: 9 }).bytes)).status).toBe(409);
      }));
  },
  ['rgw'],
);
