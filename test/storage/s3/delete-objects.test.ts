import { PutBucketPolicyCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { s3Answer, type SeenRequest } from '../../support/fault-proxy.ts';
import { testClient } from '../../support/s3-endpoint.ts';
import { describeS3 } from '../../support/s3.ts';
import { ALWAYS, all, listed, throughProxy, withStore } from './with-store.ts';

describeS3(
  'a deletion',
  (server) => {
    const failing = (code: string): string =>
      `<DeleteResult><Deleted><Key>a</Key></Deleted><Error><Key>b</Key><Code>${code}</Code><Message>no</Message></Error></DeleteResult>`;
    const isDelete = ({ method, url }: SeenRequest): boolean => method === 'POST' && url.includes('delete');

    test('of keys of which one is locked reports just that one', () =>
      server.withBucket((s3) =>
        withStore(s3, {}, async (store) => {
          const client = testClient(s3);
          for (const Key of ['a', 'b', 'c']) {
            await client.send(new PutObjectCommand({ Bucket: s3.bucket, Key, Body: Key }));
          }
          await client.send(new PutBucketPolicyCommand({ Bucket: s3.bucket, Policy: denyDelete(s3.bucket, 'b') }));
          client.destroy();
          expect(await all(store.deleteObjects(['a', 'b', 'c']))).toEqual([
            { key: 'a', outcome: 'deleted' },
            {
              key: 'b',
              outcome: 'failed',
              error: expect.objectContaining({ failure: 'denied', s3Code: 'AccessDenied' }),
            },
            { key: 'c', outcome: 'deleted' },
          ]);
          expect(await listed(store, '')).toEqual({ b: 1 });
        }),
      ));

    test('is tried again for a key that the endpoint failed on', () =>
      throughProxy(server, async (store, proxy) => {
        for (const key of ['a', 'b']) await store.putIfAbsent(key, Buffer.from(key));
        proxy.fail(isDelete, { kind: 'answer', status: 200, body: failing('InternalError') });
        expect(await all(store.deleteObjects(['a', 'b']))).toEqual([
          { key: 'a', outcome: 'deleted' },
          { key: 'b', outcome: 'deleted' },
        ]);
        // The first answer was the proxy's: nobody deleted that one.
        expect(await listed(store, '')).toEqual({ a: 1 });
        proxy.fail(isDelete, { kind: 'answer', status: 200, body: failing('SlowDown') }, ALWAYS);
        expect(await all(store.deleteObjects(['a', 'b']))).toMatchObject([
          { key: 'a', outcome: 'deleted' },
          { key: 'b', outcome: 'failed', error: { failure: 'busy' } },
        ]);
      }));

    test('of which the endpoint says nothing has failed', () =>
      throughProxy(server, async (store, proxy) => {
        proxy.fail(isDelete, { kind: 'answer', status: 200, body: '<DeleteResult></DeleteResult>' }, ALWAYS);
        expect(await all(store.deleteObjects(['a', 'b']))).toMatchObject([
          { key: 'a', outcome: 'failed' },
          { key: 'b', outcome: 'failed' },
        ]);
      }));

    test('is done one by one where the endpoint can not do many at once', () =>
      throughProxy(server, async (store, proxy) => {
        for (const key of ['a', 'b', 'c']) await store.putIfAbsent(key, Buffer.from(key));
        proxy.fail(isDelete, s3Answer(501, 'NotImplemented'), ALWAYS);
        const results = await all(store.deleteObjects(['a', 'b', 'c']));
        expect(results.map(({ outcome }) => outcome)).toEqual(['deleted', 'deleted', 'deleted']);
        expect(await listed(store, '')).toEqual({});
      }));

    test('is done when its answer was lost', () =>
      throughProxy(server, async (store, proxy) => {
        for (const key of ['a', 'b']) await store.putIfAbsent(key, Buffer.from(key));
        proxy.fail(isDelete, { kind: 'lose-answer' });
        const results = await all(store.deleteObjects(['a', 'b']));
        expect(results.map(({ outcome }) => outcome)).toEqual(['deleted', 'deleted']);
      }));
  },
  ['rgw'],
);

function denyDelete(bucket: string, key: string): string {
  return JSON.stringify({
    Version: '2012-10-17',
    Statement: [
      { Effect: 'Deny', Principal: '*', Action: ['s3:DeleteObject'], Resource: [`arn:aws:s3:::${bucket}/${key}`] },
    ],
  });
}
