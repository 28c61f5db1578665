import { expect, test } from 'vitest';
import { s3Answer, type Fault } from '../../support/fault-proxy.ts';
import { describeS3 } from '../../support/s3.ts';
import { ALWAYS, isAny, isGet, isHead, listed, noise, throughProxy } from './with-store.ts';

describeS3('a download', (server) => {
  test.each<[string, Fault]>([
    ['the connection is reset', { kind: 'reset' }],
    ['it is cut', { kind: 'cut-download', bytes: 60_000 }],
    ['it stalls halfway', { kind: 'cut-download', bytes: 60_000, stall: true }],
    ['nothing comes', { kind: 'stall' }],
    ['the endpoint answers 503', s3Answer(503, 'ServiceUnavailable')],
    ['a bit is flipped', { kind: 'flip-download', byte: 99_999 }],
  ])('is complete and right when %s', (_, fault) =>
    throughProxy(server, async (store, proxy) => {
      const body = noise(100_000);
      await store.putIfAbsent('k', body);
      proxy.fail(isGet, fault);
      expect((await store.get('k'))?.bytes.equals(body)).toBe(true);
      expect(proxy.seen.filter(isGet).length).toBeGreaterThanOrEqual(2);
    }),
  );

  test('that never comes right is an error', () =>
    throughProxy(server, async (store, proxy) => {
      await store.putIfAbsent('k', noise(100_000));
      for (const [fault, failure, message] of [
        [{ kind: 'cut-download', bytes: 10 }, 'unreachable', 'cut the connection'],
        [{ kind: 'cut-download', bytes: 10, stall: true }, 'timeout', 'no answer from'],
        [{ kind: 'stall' }, 'timeout', 'tried 3 times'],
      ] as const) {
        proxy.fail(isGet, fault, ALWAYS);
        await expect(store.get('k')).rejects.toMatchObject({
          code: 'storage',
          failure,
          message: expect.stringContaining(message),
        });
        proxy.heal();
      }
      for (let byte = 0; byte < 10; byte++) proxy.fail(isGet, { kind: 'flip-download', byte });
      await expect(store.get('k')).rejects.toMatchObject({ code: 'damaged', failure: 'damaged-in-flight' });
      proxy.heal();
      expect((await store.get('k'))?.size).toBe(100_000);
    }));
});

describeS3('"not there"', (server) => {
  const html = '<!doctype html><html><body>404 page not found</body></html>';

  test.each<[string, Fault, string]>([
    ['a missing bucket', s3Answer(404, 'NoSuchBucket'), 'no-bucket'],
    [
      'a web server that has no such page',
      { kind: 'answer', status: 404, body: html, headers: { 'content-type': 'text/html' } },
      'not-s3',
    ],
    ['an empty 404', { kind: 'answer', status: 404 }, 'not-s3'],
    ['a login page', { kind: 'answer', status: 200, body: html }, 'not-s3'],
    ['an empty page', { kind: 'answer', status: 200 }, 'not-s3'],
    ['a denied request', s3Answer(403, 'AccessDenied', 'Access Denied'), 'denied'],
    ['a server that fails', s3Answer(500, 'InternalError'), 'server'],
    ['a missing upload', s3Answer(404, 'NoSuchUpload'), 'refused'],
    ['an object in cold storage', s3Answer(403, 'InvalidObjectState'), 'cold'],
  ])('is not what %s says', (_, fault, failure) =>
    throughProxy(server, async (store, proxy) => {
      await store.putIfAbsent('k', noise(10));
      proxy.fail(isAny, fault, ALWAYS);
      const cannotTell = expect.objectContaining({ code: 'storage', failure });
      await expect(store.head('k')).rejects.toEqual(cannotTell);
      await expect(store.get('k')).rejects.toEqual(cannotTell);
      await expect(store.head('none')).rejects.toEqual(cannotTell);
      await expect(store.get('none')).rejects.toEqual(cannotTell);
      await expect(store.checkThere('')).rejects.toEqual(cannotTell);
      await expect(listed(store, '')).rejects.toEqual(cannotTell);
    }),
  );

  test('is what S3 says of a key, though HEAD alone does not tell', () =>
    throughProxy(server, async (store, proxy) => {
      proxy.fail(isHead, { kind: 'answer', status: 403 });
      expect(await store.head('none')).toBeNull();
      await store.putIfAbsent('k', noise(1234), { metadata: { a: 'b' } });
      proxy.fail(isHead, { kind: 'answer', status: 400 });
      expect(await store.head('k')).toMatchObject({ key: 'k', size: 1234, metadata: { a: 'b' } });
    }));
});
