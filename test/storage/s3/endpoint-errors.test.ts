import { createServer } from 'node:net';
import { inspect } from 'node:util';
import { CreateBucketCommand, DeleteBucketCommand } from '@aws-sdk/client-s3';
import { describe, expect, test } from 'vitest';
import { S3Error } from '../../../src/storage/s3/s3-failure.ts';
import { freePort } from '../../support/cluster-files.ts';
import { s3Answer, type Fault } from '../../support/fault-proxy.ts';
import { withRgw } from '../../support/rgw.ts';
import { awsEnvironment, testClient, withAwsEnvironment, type S3Endpoint } from '../../support/s3-endpoint.ts';
import { describeS3 } from '../../support/s3.ts';
import { ALWAYS, all, isAny, noise, throughProxy, withStore, type StoreOptions } from './with-store.ts';

describeS3(
  'what the endpoint does not want',
  (server) => {
    test.each<[string, Fault, RegExp, RegExp]>([
      [
        'the clock is wrong',
        s3Answer(403, 'RequestTimeTooSkewed', '', { date: new Date(Date.now() - 7_200_000).toUTCString() }),
        /the clocks differ too much: here it is 20\d\d-\S+ \S+ UTC, at the endpoint 20\d\d-\S+ \S+ UTC \(ours is (?:2 h|1 h 59 min) ahead\) \(403 RequestTimeTooSkewed\)/,
        /set the clock/,
      ],
      [
        'the credentials have expired',
        s3Answer(400, 'ExpiredToken', 'The provided token has expired.'),
        /the credentials have expired \(400 ExpiredToken: The provided token has expired\.\)/,
        /credential_process/,
      ],
      [
        'the bucket is elsewhere',
        s3Answer(301, 'PermanentRedirect', 'use eu-west-3'),
        /another region .*use eu-west-3/,
        /aws_region/,
      ],
      [
        'the storage class is unknown',
        s3Answer(400, 'InvalidStorageClass'),
        /refuses the request \(400 InvalidStorageClass\)/,
        /aws_storage_class = STANDARD, aws_encryption = aws:kms, aws_tags, aws_request_checksum = when_required/,
      ],
      [
        'tags or keys are denied',
        s3Answer(403, 'AccessDenied'),
        /access denied/,
        /s3:PutObjectTagging, kms:GenerateDataKey/,
      ],
    ])('is told when %s', (_, fault, message, hint) =>
      throughProxy(
        server,
        async (store, proxy) => {
          proxy.fail(isAny, fault, ALWAYS);
          const error: unknown = await store.putIfAbsent('k', noise(10)).catch((reason: unknown) => reason);
          expect(error).toBeInstanceOf(S3Error);
          expect(error).toMatchObject({ message: expect.stringMatching(message), hint: expect.stringMatching(hint) });
        },
        { storageClass: 'STANDARD', serverSideEncryption: 'aws:kms', tags: { a: 'b' } },
      ),
    );

    test('credentials that expired are asked for again', () =>
      throughProxy(server, async (store, proxy, s3) => {
        process.env['AWS_SESSION_TOKEN'] = 'old';
        proxy.fail(({ headers }) => headers['x-amz-security-token'] === 'old', s3Answer(400, 'ExpiredToken'), ALWAYS);
        await expect(store.get('k')).rejects.toMatchObject({ failure: 'expired-credentials' });
        process.env['AWS_SESSION_TOKEN'] = 'new';
        expect(await store.get('k')).toBeNull();
        expect(proxy.seen.at(-1)?.headers['x-amz-security-token']).toBe('new');
        expect(s3.kind).toBe('rgw');
      }));

    test('no secret gets into an error, whatever the endpoint repeats', () =>
      throughProxy(server, async (store, proxy, s3) => {
        process.env['AWS_SESSION_TOKEN'] = 'secret-session-token';
        process.env['AWS_SECRET_ACCESS_KEY'] = 'wrong-secret';
        const errors: unknown[] = [await store.get('k').catch((error: unknown) => error)];
        expect(errors[0]).toMatchObject({ failure: 'wrong-credentials', s3Code: 'SignatureDoesNotMatch' });
        const body = `<Error><Code>SignatureDoesNotMatch</Code><Message>It does not match.</Message><AWSAccessKeyId>${s3.accessKeyId}</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256 to-sign</StringToSign><SignatureProvided>provided-signature</SignatureProvided><CanonicalRequest>x-amz-security-token:secret-session-token</CanonicalRequest></Error>`;
        for (const fault of [{ kind: 'answer', status: 403, body }, { kind: 'reset' }] as const) {
          proxy.fail(isAny, fault, ALWAYS);
          errors.push(await store.putIfAbsent('k', noise(1)).catch((error: unknown) => error));
          proxy.heal();
        }
        const everything = errors.map((error) => inspect(error, { depth: null, showHidden: true })).join('\n');
        expect(everything).toContain('403 SignatureDoesNotMatch: It does not match.');
        for (const secret of [
          'wrong-secret',
          'secret-session-token',
          'provided-signature',
          'to-sign',
          'Signature=',
          s3.accessKeyId,
        ]) {
          expect(everything).not.toContain(secret);
        }
      }));

    test.each<[StoreOptions, string]>([
      [{ serverSideEncryption: 'AES256' }, 'aws_encryption = AES256'],
      [{ storageClass: 'STANDARD_IA' }, 'aws_storage_class = STANDARD_IA'],
    ])('an option that it does not know is named: %j', (options, hint) =>
      server.withBucket((s3) =>
        withStore(s3, options, async (store) => {
          const refused = {
            failure: 'refused',
            message: expect.stringContaining('(400 Invalid'),
            hint: expect.stringContaining(hint),
          };
          await expect(store.putIfAbsent('k', noise(10))).rejects.toMatchObject(refused);
          await expect(store.probe('p')).rejects.toMatchObject(refused);
        }),
      ),
    );

    test('another user is denied, and can not tell what is there', () =>
      server.withBucket((s3) =>
        withAwsEnvironment(awsEnvironment(server.rgw.stranger), () =>
          withStore(s3, {}, async (store) => {
            const denied = expect.objectContaining({
              failure: 'denied',
              message: expect.stringContaining('access denied (403 AccessDenied'),
              hint: expect.stringMatching(/^allow s3:/),
            });
            await expect(store.head('k')).rejects.toEqual(denied);
            await expect(store.get('k')).rejects.toEqual(denied);
            await expect(store.putIfAbsent('k', noise(1))).rejects.toEqual(denied);
            await expect(store.checkThere('')).rejects.toEqual(denied);
            await expect(store.probe('p')).rejects.toEqual(denied);
            await expect(all(store.deleteObjects(['k', 'l']))).rejects.toEqual(denied);
          }),
        ),
      ));

    test('a gateway that is stopped for a while is a timeout, and goes on afterwards', () =>
      server.withBucket((s3) =>
        withStore(s3, { readTimeoutMs: 300, maxAttempts: 2 }, async (store) => {
          await store.putIfAbsent('before', noise(10));
          server.rgw.pause();
          try {
            await expect(store.get('before')).rejects.toMatchObject({ failure: 'timeout' });
            await expect(store.putIfAbsent('k', noise(10))).rejects.toMatchObject({ failure: 'timeout' });
          } finally {
            server.rgw.resume();
          }
          expect((await store.get('before'))?.size).toBe(10);
          // The gateway may do now what it was asked before.
          expect(await store.putIfAbsent('k', noise(10))).toMatchObject({
            outcome: expect.stringMatching(/stored|exists/),
          });
        }),
      ));

    test('a bucket that disappears and comes back is used again', () =>
      server.withBucket((s3) =>
        withStore(s3, {}, async (store) => {
          const client = testClient(s3);
          await client.send(new DeleteBucketCommand({ Bucket: s3.bucket }));
          await expect(store.putIfAbsent('k', noise(10))).rejects.toMatchObject({ failure: 'no-bucket' });
          await client.send(new CreateBucketCommand({ Bucket: s3.bucket }));
          client.destroy();
          expect(await store.putIfAbsent('k', noise(10))).toEqual({ outcome: 'stored' });
        }),
      ));
  },
  ['rgw'],
);

describe('an address where no S3 is', () => {
  const nowhere: S3Endpoint = {
    kind: 'rgw',
    url: 'http://127.0.0.1:1',
    bucket: 'b12',
    region: 'us-east-1',
    accessKeyId: 'a',
    secretAccessKey: 'b',
  };
  const quick = { maxAttempts: 2, connectTimeoutMs: 500, readTimeoutMs: 500 };
  const failureAt = (url: string): Promise<unknown> =>
    withAwsEnvironment(awsEnvironment(nowhere), () =>
      withStore({ ...nowhere, url }, quick, (store) =>
        store.putIfAbsent('k', noise(1)).catch((error: unknown) => error),
      ),
    );

  test('refuses connections', async () => {
    const url = `http://127.0.0.1:${await freePort()}`;
    expect(await failureAt(url)).toMatchObject({
      failure: 'unreachable',
      message: `can't store s3://b12/k: ${url} refuses connections: nothing listens there (ECONNREFUSED), tried 2 times`,
      hint: expect.stringContaining('aws_endpoint_url'),
    });
  });

  test('has no address', async () => {
    expect(await failureAt('http://s3.walwarden.invalid')).toMatchObject({
      failure: 'unreachable',
      message: expect.stringMatching(
        /http:\/\/s3\.walwarden\.invalid can't be found: .* \((?:ENOTFOUND|EAI_AGAIN)\), tried 2 times/,
      ),
    });
  });

  test('speaks another protocol', async () => {
    const server = createServer((socket) => socket.end('220 mail.example.com ESMTP\r\n').on('error', () => undefined));
    const port = await freePort();
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    try {
      expect(await failureAt(`http://127.0.0.1:${port}`)).toMatchObject({ failure: 'not-s3' });
      expect(await failureAt(`https://127.0.0.1:${port}`)).toMatchObject({
        failure: 'tls',
        hint: expect.stringContaining('does the endpoint speak TLS at this port?'),
      });
    } finally {
      server.close();
    }
  });
});

test('a gateway that is full hangs, and is told as a timeout', () =>
  withRgw(
    async (rgw) => {
      const s3: S3Endpoint = { kind: 'rgw', url: rgw.url, region: rgw.region, bucket: 'full', ...rgw.owner };
      const client = testClient(s3);
      await client.send(new CreateBucketCommand({ Bucket: s3.bucket }));
      client.destroy();
      await withAwsEnvironment(awsEnvironment(rgw.owner), () =>
        withStore(s3, { readTimeoutMs: 1_000, maxAttempts: 1 }, async (store) => {
          const fill = async (): Promise<void> => {
            for (let index = 0; index < 200; index++) await store.putIfAbsent(`${index}`, noise(4_000_000));
          };
          await expect(fill()).rejects.toMatchObject({
            failure: 'timeout',
            message: expect.stringMatching(/^can't store s3:\/\/full\/\d+: no answer from http:\S+ for 1 s$/),
            hint: expect.stringContaining('is the endpoint overloaded or full'),
          });
        }),
      );
    },
    { capacity: 64 * 1024 * 1024 },
  ));
