import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  GetObjectTaggingCommand,
  HeadObjectCommand,
  PutObjectCommand,
  type PutObjectCommandInput,
} from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { ObjectStore } from '../../../src/storage/s3/object-store.ts';
import { withFaultProxy, type Fault } from '../../support/fault-proxy.ts';
import { testClient, type S3Endpoint } from '../../support/s3-endpoint.ts';
import { describeS3 } from '../../support/s3.ts';
import { withTempDir } from '../../support/temp-dir.ts';
import { all, listed, noise, withStore } from './with-store.ts';

/** As somebody else would store it. */
async function putForeign(s3: S3Endpoint, key: string, body: Buffer, more: Partial<PutObjectCommandInput> = {}) {
  const client = testClient(s3);
  try {
    await client.send(new PutObjectCommand({ Bucket: s3.bucket, Key: key, Body: body, ...more }));
  } finally {
    client.destroy();
  }
}

/** A credentials file that can be written again; the environment names it. */
async function withProfiles(body: (write: (text: string) => Promise<void>) => Promise<void>): Promise<void> {
  await withTempDir(async (directory) => {
    const path = join(directory, 'credentials');
    process.env['AWS_SHARED_CREDENTIALS_FILE'] = path;
    await body((text) => writeFile(path, text));
  });
}

describeS3('an object store', (server) => {
  test('gives back what was stored, byte by byte, with its metadata', () =>
    server.withBucket((s3) =>
      withStore(s3, {}, async (store) => {
        for (const [key, body] of [
          ['p/empty', Buffer.alloc(0)],
          ['p/small', Buffer.from('x')],
          ['p/segment', noise(16 * 1024 * 1024)],
        ] as const) {
          expect(await store.putIfAbsent(key, body, { metadata: { 'walwarden-size': '7' } })).toEqual({
            outcome: 'stored',
          });
          const facts = { key, size: body.length, metadata: expect.objectContaining({ 'walwarden-size': '7' }) };
          expect(await store.head(key)).toMatchObject(facts);
          const object = await store.get(key);
          expect(object).toMatchObject(facts);
          expect(object?.bytes.equals(body)).toBe(true);
          expect(object?.metadata['walwarden-stored-sha256']).toBe(createHash('sha256').update(body).digest('hex'));
          expect(Math.abs((object?.modifiedMs ?? 0) - Date.now())).toBeLessThan(600_000);
        }
      }),
    ));

  test('never overwrites, and tells what is there instead', () =>
    server.withBucket((s3) =>
      withStore(s3, {}, async (store) => {
        const first = noise(1000);
        await store.putIfAbsent('k', first, { metadata: { 'walwarden-version': '1' } });
        expect(await store.putIfAbsent('k', noise(1000))).toMatchObject({
          outcome: 'exists',
          object: { key: 'k', size: 1000, metadata: { 'walwarden-version': '1' } },
        });
        expect((await store.get('k'))?.bytes.equals(first)).toBe(true);
      }),
    ));

  test('never overwrites while nobody has looked what the endpoint can do', () =>
    server.withBucket((s3) =>
      withStore(s3, { capabilities: null }, async (store) => {
        const first = noise(1000);
        expect(await store.putIfAbsent('k', first)).toEqual({ outcome: 'stored' });
        expect(await store.putIfAbsent('k', noise(1000))).toMatchObject({ outcome: 'exists' });
        expect((await store.get('k'))?.bytes.equals(first)).toBe(true);
      }),
    ));

  test('knows what is certainly absent', () =>
    server.withBucket((s3) =>
      withStore(s3, {}, async (store) => {
        expect(await store.head('nothing/here')).toBeNull();
        expect(await store.get('nothing/here')).toBeNull();
        expect(await listed(store, 'nothing/')).toEqual({});
        await store.checkThere('nothing/');
      }),
    ));

  test('a bucket that is not there is no absent object', () =>
    server.withBucket((s3) =>
      withStore({ ...s3, bucket: 'no-such-bucket' }, {}, async (store) => {
        const noBucket = expect.objectContaining({
          code: 'storage',
          failure: 'no-bucket',
          message: expect.stringContaining(`${s3.url} has no bucket "no-such-bucket" (404 NoSuchBucket`),
          hint: expect.stringContaining('wals_directory'),
        });
        await expect(store.head('k')).rejects.toEqual(noBucket);
        await expect(store.get('k')).rejects.toEqual(noBucket);
        await expect(store.putIfAbsent('k', noise(10))).rejects.toEqual(noBucket);
        await expect(store.checkThere('')).rejects.toEqual(noBucket);
        await expect(store.probe('probe')).rejects.toEqual(noBucket);
        await expect(store.deleteObjects(['k', 'l']).next()).rejects.toEqual(noBucket);
      }),
    ));

  test('credentials that nobody knows are told as such', () =>
    server.withBucket((s3) =>
      withStore(s3, {}, async (store) => {
        process.env['AWS_ACCESS_KEY_ID'] = 'NOBODY';
        const wrong = expect.objectContaining({
          code: 'storage',
          failure: 'wrong-credentials',
          message: expect.stringContaining('403 InvalidAccessKeyId'),
          hint: expect.stringContaining('the access key the SDK found is not known there'),
        });
        await expect(store.get('k')).rejects.toEqual(wrong);
        await expect(store.head('k')).rejects.toEqual(wrong);
        await expect(store.putIfAbsent('k', noise(1))).rejects.toEqual(wrong);
        // What the environment says later is taken without a restart.
        process.env['AWS_ACCESS_KEY_ID'] = s3.accessKeyId;
        expect(await store.get('k')).toBeNull();
      }),
    ));

  test('lists all pages in the order of the keys, and begins where it is told', () =>
    server.withBucket((s3) =>
      withStore(s3, {}, async (store) => {
        const keys = Array.from({ length: 7 }, (_, index) => `l/${index}.gz`);
        for (const key of [...keys, 'k', 'm', 'l']) await store.putIfAbsent(key, Buffer.from(key));
        const list = async (options: object): Promise<string[]> => {
          const found: string[] = [];
          for await (const { key, size } of store.list('l/', options)) {
            expect(size).toBe(6);
            found.push(key);
          }
          return found;
        };
        expect(await list({})).toEqual(keys);
        expect(await list({ pageSize: 2 })).toEqual(keys);
        expect(await list({ pageSize: 3, startAfter: 'l/2.gz' })).toEqual(keys.slice(3));
        expect(await list({ startAfter: 'l/2.g' })).toEqual(keys.slice(2));
        expect(await list({ startAfter: 'l/9' })).toEqual([]);
      }),
    ));

  test('asks for no page that nobody wants', () =>
    server.withBucket((s3) =>
      withFaultProxy(s3.url, (proxy) =>
        withStore(s3, { endpoint: proxy.url }, async (store) => {
          for (const key of ['1', '2', '3']) await store.putIfAbsent(key, Buffer.from(key));
          const lists = (): number => proxy.seen.filter(({ url }) => url.includes('list-type')).length;
          const before = lists();
          for await (const { key } of store.list('', { pageSize: 1 })) if (key === '2') break;
          expect(lists() - before).toBe(2);
        }),
      ),
    ));

  test('lists to the end where a service gives no token, and no further where it repeats itself', () =>
    server.withBucket((s3) =>
      withFaultProxy(s3.url, (proxy) =>
        withStore(s3, { endpoint: proxy.url }, async (store) => {
          for (const key of ['a', 'b', 'c']) await store.putIfAbsent(key, Buffer.from(key));
          const page = (...keys: string[]): Fault => ({
            kind: 'answer',
            status: 200,
            body: `<ListBucketResult><Name>b</Name><IsTruncated>true</IsTruncated>${keys.map((key) => `<Contents><Key>${key}</Key><Size>1</Size></Contents>`).join('')}</ListBucketResult>`,
          });
          proxy.fail(() => true, page('a', 'b'));
          expect(Object.keys(await listed(store, ''))).toEqual(['a', 'b', 'c']);
          const stuck = expect.objectContaining({
            failure: 'other',
            message: expect.stringContaining('says that there is more'),
          });
          proxy.fail(() => true, page('a', 'b'), 9);
          await expect(listed(store, '')).rejects.toEqual(stuck);
          proxy.heal();
          proxy.fail(() => true, page(), 9);
          await expect(listed(store, '')).rejects.toEqual(stuck);
        }),
      ),
    ));

  test('deletes in batches, and takes what is gone already for deleted', () =>
    server.withBucket((s3) =>
      withStore(s3, { deleteBatchSize: 3 }, async (store) => {
        const keys = Array.from({ length: 8 }, (_, index) => `d/${index}`);
        for (const key of ['d/keep', ...keys]) await store.putIfAbsent(key, Buffer.from(key));
        const wanted = [...keys, 'd/never'];
        const results = await all(store.deleteObjects(wanted));
        expect(results).toEqual(wanted.map((key) => ({ key, outcome: 'deleted' })));
        expect(await listed(store, 'd/')).toEqual({ 'd/keep': 6 });
        expect(await all(store.deleteObjects([]))).toEqual([]);
      }),
    ));

  test('sends the Content-MD5 that older services insist on when they delete', () =>
    server.withBucket((s3) =>
      withFaultProxy(s3.url, (proxy) =>
        withStore(s3, { endpoint: proxy.url }, async (store) => {
          await all(store.deleteObjects(['a', 'b']));
          expect(proxy.seen.at(-1)).toMatchObject({
            method: 'POST',
            headers: { 'content-md5': expect.stringMatching(/^[\w+/]{22}==$/) },
          });
        }),
      ),
    ));

  test('stores with a storage class and tags', () =>
    server.withBucket((s3) =>
      withStore(s3, { storageClass: 'STANDARD', tags: { cost: 'a b&c', 'x y': '' } }, async (store) => {
        expect(await store.putIfAbsent('k', noise(10))).toEqual({ outcome: 'stored' });
        const client = testClient(s3);
        const target = { Bucket: s3.bucket, Key: 'k' };
        const { StorageClass } = await client.send(new HeadObjectCommand(target));
        expect(StorageClass ?? 'STANDARD').toBe('STANDARD');
        const { TagSet } = await client.send(new GetObjectTaggingCommand(target));
        client.destroy();
        const tags = Object.fromEntries((TagSet ?? []).map(({ Key, Value }) => [Key, Value]));
        // s3rver takes no tags with the object.
        expect(tags).toEqual(server.kind === 's3rver' ? {} : { cost: 'a b&c', 'x y': '' });
      }),
    ));

  test('reads what others stored, checked by its ETag', () =>
    server.withBucket((s3) =>
      withFaultProxy(s3.url, (proxy) =>
        withStore(s3, { endpoint: proxy.url }, async (store) => {
          const body = noise(100_000);
          await putForeign(s3, 'theirs', body, { Metadata: { Author: 'barman' } });
          proxy.fail(({ method }) => method === 'GET', { kind: 'flip-download', byte: 50_000 });
          const object = await store.get('theirs');
          expect(object?.bytes.equals(body)).toBe(true);
          expect(object?.metadata).toEqual({ author: 'barman' });
          expect(proxy.seen.filter(({ method }) => method === 'GET')).toHaveLength(2);
        }),
      ),
    ));

  test('an object that is damaged where it lies is told as damaged', () =>
    server.withBucket((s3) =>
      withStore(s3, {}, async (store) => {
        await putForeign(s3, 'k', noise(1000), { Metadata: { 'walwarden-stored-sha256': '0'.repeat(64) } });
        await expect(store.get('k')).rejects.toMatchObject({
          code: 'damaged',
          message: expect.stringMatching(
            /^s3:\/\/test-\S+\/k is damaged: its bytes have SHA-256 [0-9a-f]{64}, expected 0{64}$/,
          ),
        });
      }),
    ));

  test('fetches nothing that is larger than any WAL file', () =>
    server.withBucket((s3) =>
      withStore(s3, {}, async (store) => {
        await store.putIfAbsent('k', noise(1000));
        await expect(store.get('k', { maxSize: 999 })).rejects.toMatchObject({ code: 'damaged' });
        expect((await store.get('k', { maxSize: 1000 }))?.size).toBe(1000);
      }),
    ));

  test('keeps its connections open, one for each request at a time', () =>
    server.withBucket((s3) =>
      withFaultProxy(s3.url, (proxy) =>
        withStore(s3, { endpoint: proxy.url }, async (store) => {
          const many = async (round: number): Promise<void> => {
            const puts = Array.from({ length: 6 }, (_, index) =>
              store.putIfAbsent(`${round}/${index}`, noise(3_000_000)),
            );
            expect((await Promise.all(puts)).map(({ outcome }) => outcome)).toEqual(Array(6).fill('stored'));
          };
          for (const round of [1, 2, 3]) await many(round);
          expect(proxy.connections).toBeLessThanOrEqual(6);
          await store.close();
          expect((await store.get('1/0'))?.size).toBe(3_000_000);
        }),
      ),
    ));

  test('keeps uploads to the bandwidth limit without harming them', () =>
    server.withBucket((s3) =>
      withStore(s3, { bandwidthLimit: 40_000_000 }, async (store) => {
        const bodies = [noise(1_500_000), noise(1_500_000), noise(5), Buffer.alloc(0)];
        const outcomes = await Promise.all(bodies.map((body, index) => store.putIfAbsent(`${index}`, body)));
        expect(outcomes.map(({ outcome }) => outcome)).toEqual(Array(4).fill('stored'));
        for (const [index, body] of bodies.entries()) {
          expect((await store.get(`${index}`))?.bytes.equals(body)).toBe(true);
        }
      }),
    ));

  test('is stopped by its signal, before and while it waits', () =>
    server.withBucket((s3) =>
      withFaultProxy(s3.url, (proxy) =>
        withStore(s3, { endpoint: proxy.url }, async (store) => {
          const aborted = expect.objectContaining({ code: 'aborted' });
          const gone = { signal: AbortSignal.abort() };
          await expect(store.get('k', gone)).rejects.toEqual(aborted);
          await expect(store.putIfAbsent('k', noise(1), gone)).rejects.toEqual(aborted);
          expect(proxy.seen).toEqual([]);
          const calls: ((signal: AbortSignal) => Promise<unknown>)[] = [
            (signal) => store.get('k', { signal }),
            (signal) => store.head('k', { signal }),
            (signal) => store.putIfAbsent('k', noise(1), { signal }),
            (signal) => store.list('', { signal }).next(),
            (signal) => store.deleteObjects(['a', 'b'], { signal }).next(),
            (signal) => store.probe('p', { signal }),
          ];
          for (const call of calls) {
            const stop = new AbortController();
            proxy.fail(() => true, { kind: 'stall' });
            const before = proxy.seen.length;
            const result = expect(call(stop.signal)).rejects.toEqual(aborted);
            await expect.poll(() => proxy.seen.length).toBeGreaterThan(before);
            stop.abort();
            await result;
          }
        }),
      ),
    ));

  test('is told to stop by one signal, however much it does at a time', () =>
    server.withBucket((s3) =>
      withStore(s3, {}, async (store) => {
        const warnings: Error[] = [];
        const onWarning = (warning: Error): void => void warnings.push(warning);
        process.on('warning', onWarning);
        const { signal } = new AbortController();
        await Promise.all(
          Array.from({ length: 30 }, (_, index) => store.putIfAbsent(`${index}`, noise(10), { signal })),
        );
        await Promise.all(Array.from({ length: 30 }, (_, index) => store.get(`${index}`, { signal })));
        process.off('warning', onWarning);
        expect(warnings).toEqual([]);
      }),
    ));

  test('takes credentials from a profile, and its new keys once the old ones are refused', () =>
    server.withBucket((s3) =>
      withProfiles(async (write) => {
        const keys = (id: string): string =>
          `aws_access_key_id = ${id}\naws_secret_access_key = ${s3.secretAccessKey}\n`;
        await write(`[default]\n${keys('NOBODY')}[wal]\n${keys('RETIRED')}`);
        delete process.env['AWS_ACCESS_KEY_ID'];
        delete process.env['AWS_SECRET_ACCESS_KEY'];
        await withStore(s3, { profile: 'wal' }, async (store) => {
          await expect(store.get('k')).rejects.toMatchObject({
            failure: 'wrong-credentials',
            hint: expect.stringContaining('aws_profile = wal'),
          });
          await write(`[default]\n${keys('NOBODY')}[wal]\n${keys(s3.accessKeyId)}`);
          expect(await store.get('k')).toBeNull();
        });
      }),
    ));

  test('without any credentials says where they are looked for', () =>
    server.withBucket((s3) =>
      withStore(s3, {}, async (store) => {
        delete process.env['AWS_ACCESS_KEY_ID'];
        await expect(store.putIfAbsent('k', noise(1))).rejects.toMatchObject({
          code: 'storage',
          failure: 'no-credentials',
          message: expect.stringContaining('no credentials found'),
          hint: expect.stringContaining(
            'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile (aws_profile, AWS_PROFILE)',
          ),
        });
      }),
    ));

  test('finds the region by itself', () =>
    server.withBucket(async ({ bucket, url }) => {
      // Any will do for these servers; without one the SDK would refuse to begin.
      await using store = new ObjectStore({ bucket, endpoint: url, forcePathStyle: true });
      expect(await store.get('k')).toBeNull();
      await using aws = new ObjectStore({ bucket });
      await expect(aws.get('k')).rejects.toMatchObject({
        failure: 'region',
        hint: 'set aws_region to the region of the bucket',
      });
      process.env['AWS_DEFAULT_REGION'] = 'eu-central-1';
      await using barmans = new ObjectStore({ bucket, endpoint: url, forcePathStyle: true });
      expect(await barmans.get('k')).toBeNull();
    }));
});
