import { PutBucketPolicyCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { s3Answer, type SeenRequest } from '../../support/fault-proxy.ts';
import { awsEnvironment, testClient, withAwsEnvironment } from '../../support/s3-endpoint.ts';
import { describeS3 } from '../../support/s3.ts';
import { ALWAYS, CAPABILITIES, isPut, listed, noise, throughProxy, withStore } from './with-store.ts';

const KEY = 'prefix/main/walwarden-probe';
const isConditional = ({ method, headers }: SeenRequest): boolean =>
  method === 'PUT' && ('if-none-match' in headers || 'if-match' in headers);

describeS3('a look at the endpoint', (server) => {
  test('finds out what it can do, and leaves nothing behind', () =>
    server.withBucket((s3) =>
      withStore(s3, { capabilities: null }, async (store) => {
        expect(await store.probe(KEY)).toEqual({ ...CAPABILITIES[server.kind], leftover: null });
        expect(store.capabilities).toEqual(CAPABILITIES[server.kind]);
        expect(await listed(store, '')).toEqual({});
      }),
    ));

  test('comes to the same result when ten look at the same time', () =>
    server.withBucket((s3) =>
      withStore(s3, { capabilities: null }, async (store) => {
        const results = await Promise.all(Array.from({ length: 10 }, () => store.probe(KEY)));
        expect(new Set(results.map(({ conditionalWrites }) => conditionalWrites))).toEqual(
          new Set([CAPABILITIES[server.kind].conditionalWrites]),
        );
        expect(await listed(store, '')).toEqual({});
      }),
    ));

  test('that fails leaves nothing behind either, and changes nothing', () =>
    throughProxy(
      server,
      async (store, proxy) => {
        let puts = 0;
        proxy.fail((request) => isPut(request) && ++puts > 1, s3Answer(500, 'InternalError'), ALWAYS);
        await expect(store.probe(KEY)).rejects.toMatchObject({ failure: 'server' });
        proxy.heal();
        expect(store.capabilities).toBeNull();
        expect(await listed(store, '')).toEqual({});
      },
      { capabilities: null },
    ));

  test('believes an endpoint that says it knows no conditions', () =>
    throughProxy(server, async (store, proxy) => {
      proxy.fail(isConditional, s3Answer(501, 'NotImplemented'), ALWAYS);
      expect(await store.probe(KEY)).toMatchObject({ conditionalWrites: false });
      expect(await store.putIfAbsent('k', noise(10))).toEqual({ outcome: 'stored' });
      expect(await store.putIfAbsent('k', noise(10))).toMatchObject({ outcome: 'exists' });
    }));

  test.each([
    ['says it knows no If-Match', s3Answer(501, 'NotImplemented')],
    ['takes every If-Match for fulfilled', { kind: 'answer', status: 200, headers: { etag: '"x"' } } as const],
  ])('believes an endpoint that %s', (_what, fault) =>
    throughProxy(
      server,
      async (store, proxy) => {
        proxy.fail(({ method, headers }) => method === 'PUT' && 'if-match' in headers, fault, ALWAYS);
        expect(await store.probe(KEY)).toMatchObject({ ifMatch: 'none' });
        await store.putIfAbsent('k', noise(10));
        const etag = (await store.head('k'))?.etag ?? '';
        await expect(store.replaceObject('k', etag, noise(20))).rejects.toThrow(
          'nothing is replaced without a condition',
        );
      },
      { capabilities: null },
    ),
  );
});

describeS3(
  'a look at the gateway',
  (server) => {
    test('does without Content-MD5 only where the signed digest is checked', () =>
      throughProxy(server, async (store, proxy) => {
        const spoiled = (request: SeenRequest): boolean =>
          isPut(request) && !isConditional(request) && !('content-md5' in request.headers);
        proxy.fail(spoiled, { kind: 'answer', status: 200, headers: { etag: '"x"' } });
        expect(await store.probe(KEY)).toMatchObject({ integrity: 'content-md5' });
        await store.putIfAbsent('k', Buffer.from('abc'));
        expect(proxy.seen.at(-1)).toMatchObject({
          url: expect.stringContaining('/k'),
          headers: { 'content-md5': 'kAFQmDzST7DWlj99KOF/cg==' },
        });
        expect(await store.probe(KEY)).toMatchObject({ integrity: 'payload-hash' });
        await store.putIfAbsent('l', Buffer.from('abc'));
        expect(proxy.seen.at(-1)?.headers).not.toHaveProperty('content-md5');
      }));

    test('that may not delete leaves one small object, and finds it the next time', () =>
      server.withBucket(async (s3) => {
        const client = testClient(s3);
        const Statement = [
          {
            Effect: 'Allow',
            Principal: '*',
            Action: ['s3:PutObject', 's3:GetObject', 's3:ListBucket'],
            Resource: ['arn:aws:s3:::*'],
          },
        ];
        const Policy = JSON.stringify({ Version: '2012-10-17', Statement });
        await client.send(new PutBucketPolicyCommand({ Bucket: s3.bucket, Policy }));
        client.destroy();
        await withAwsEnvironment(awsEnvironment(server.rgw.stranger), () =>
          withStore(s3, { capabilities: null }, async (store) => {
            for (let round = 0; round < 3; round++) {
              expect(await store.probe(KEY)).toEqual({ ...CAPABILITIES.rgw, leftover: round === 0 ? KEY : null });
              expect(Object.keys(await listed(store, ''))).toEqual([KEY]);
            }
          }),
        );
      }));
  },
  ['rgw'],
);
