import { PutObjectCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { s3Answer } from '../../support/fault-proxy.ts';
import { testClient } from '../../support/s3-endpoint.ts';
import { describeS3 } from '../../support/s3.ts';
import { ALWAYS, CAPABILITIES, isPut, listed, noise, throughProxy } from './with-store.ts';

const KEY = 'prefix/main/wals/0000000100000000/000000010000000000000001.gz';
const ASIDE = 'prefix/main/walwarden/damaged/000000010000000000000001.gz';

describeS3('an object is replaced', (server) => {
  if (CAPABILITIES[server.kind].ifMatch === 'none') {
    test('not at all where the endpoint does not enforce the condition', () =>
      throughProxy(server, async (store) => {
        await store.putIfAbsent(KEY, noise(10));
        const etag = (await store.head(KEY))?.etag ?? '';
        await expect(store.replaceObject(KEY, etag, noise(20))).rejects.toThrow('without a condition');
        expect((await store.head(KEY))?.etag).toBe(etag);
      }));
    return;
  }

  test('where it is the one that was looked at, with one request, however large it is', () =>
    throughProxy(
      server,
      async (store, proxy) => {
        const [old, other] = [noise(6_000_000), noise(7_000_000)];
        await store.putIfAbsent(KEY, old, { metadata: { 'walwarden-size': '1' } });
        const etag = (await store.head(KEY))?.etag ?? '';
        expect(await store.copyObject(KEY, etag, ASIDE)).toBe(true);
        const seen = proxy.seen.length;
        expect(await store.replaceObject(KEY, etag, other, { metadata: { 'walwarden-size': '2' } })).toBe('replaced');
        const requests = proxy.seen.slice(seen).map(({ method, headers }) => [method, headers['if-match']]);
        expect(requests).toEqual([['PUT', etag]]);
        const there = await store.get(KEY);
        expect(there?.bytes.equals(other)).toBe(true);
        expect(there?.metadata['walwarden-size']).toBe('2');
        const kept = await store.get(ASIDE);
        expect(kept?.bytes.equals(old)).toBe(true);
        expect(kept?.metadata['walwarden-size']).toBe('1');
      },
      { multipartThreshold: 5 * 1024 * 1024 },
    ));

  test('not when another one is there, or none', () =>
    throughProxy(server, async (store) => {
      await store.putIfAbsent(KEY, noise(10));
      const etag = (await store.head(KEY))?.etag ?? '';
      expect(await store.replaceObject(KEY, etag, noise(20))).toBe('replaced');
      const before = await store.head(KEY);
      expect(await store.replaceObject(KEY, etag, noise(30))).toBe('changed');
      expect(await store.head(KEY)).toEqual(before);
      expect(await store.replaceObject(`${KEY}x`, etag, noise(30))).toBe('changed');
      expect(await store.copyObject(`${KEY}x`, etag, ASIDE)).toBe(false);
      expect(Object.keys(await listed(store, ''))).toEqual([KEY]);
    }));

  test('of two writers by one', () =>
    throughProxy(server, async (store) => {
      await store.putIfAbsent(KEY, noise(10));
      const etag = (await store.head(KEY))?.etag ?? '';
      const outcomes = await Promise.all([20, 30, 40].map((size) => store.replaceObject(KEY, etag, noise(size))));
      expect(outcomes.sort()).toEqual(['changed', 'changed', 'replaced']);
    }));

  test('once, though the answer was lost', () =>
    throughProxy(server, async (store, proxy) => {
      await store.putIfAbsent(KEY, noise(10));
      const etag = (await store.head(KEY))?.etag ?? '';
      proxy.fail(isPut, { kind: 'lose-answer' });
      const other = noise(20);
      expect(await store.replaceObject(KEY, etag, other)).toBe('replaced');
      expect((await store.get(KEY))?.bytes.equals(other)).toBe(true);
    }));

  test('not by an endpoint that fails: the old one is there', () =>
    throughProxy(server, async (store, proxy) => {
      await store.putIfAbsent(KEY, noise(10));
      const before = await store.head(KEY);
      proxy.fail(isPut, s3Answer(503, 'ServiceUnavailable'), ALWAYS);
      await expect(store.replaceObject(KEY, before?.etag ?? '', noise(20))).rejects.toMatchObject({ code: 'storage' });
      proxy.heal();
      expect(await store.head(KEY)).toEqual(before);
    }));
});

describeS3('an object whose bytes are not those that were written', (server) => {
  test('is read where it is to be judged, and nowhere else', () =>
    throughProxy(server, async (store, _proxy, s3) => {
      await store.putIfAbsent(KEY, noise(10));
      const { metadata: Metadata = {} } = (await store.head(KEY)) ?? {};
      const damaged = noise(10);
      const client = testClient(s3);
      await client.send(new PutObjectCommand({ Bucket: s3.bucket, Key: KEY, Body: damaged, Metadata }));
      client.destroy();
      await expect(store.get(KEY)).rejects.toMatchObject({ code: 'damaged' });
      expect((await store.get(KEY, { evenDamaged: true }))?.bytes.equals(damaged)).toBe(true);
    }));
});
