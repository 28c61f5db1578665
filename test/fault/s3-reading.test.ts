import { expect, test } from 'vitest';
import type { WalName } from '../../src/wal/wal-name.ts';
import { s3Answer, type Fault, type SeenRequest } from '../support/fault-proxy.ts';
import { makeWal } from '../support/make-wal.ts';
import { describeS3, type S3Server } from '../support/s3.ts';
import type { FaultOptions } from './fault-home.ts';
import { IMPATIENT, withS3Bucket, withS3Home, type S3Home } from './s3-home.ts';
import { ALWAYS, isAny, isGet, isStall } from './s3-requests.ts';

type Rule = (request: SeenRequest) => boolean;

const LOGIN_PAGE: Fault = {
  kind: 'answer',
  status: 200,
  headers: { 'content-type': 'text/html' },
  body: '<html>Log in!</html>',
};

/** The bytes of segment 1 are these, compressed and not. */
const WAL = makeWal({ content: 'compressible' });

describeS3(
  'get-wal from a bucket',
  (server) => {
    test.each<[string, Rule, Fault, number]>([
      ['the connection is reset', isGet, { kind: 'reset' }, 2],
      ['the answer is lost', isGet, { kind: 'lose-answer' }, 2],
      ['nothing answers', isGet, { kind: 'stall' }, 1],
      ['the bytes end early', isGet, { kind: 'cut-download', bytes: 50_000 }, 2],
      ['the bytes stop coming', isGet, { kind: 'cut-download', bytes: 50_000, stall: true }, 1],
      ['a bit is another one', isGet, { kind: 'flip-download', byte: 60_000 }, 1],
      ['the endpoint answers 500', isAny, s3Answer(500, 'InternalError'), 2],
      ['the endpoint answers 503', isAny, s3Answer(503, 'SlowDown'), 1],
    ])('hands out the right bytes though %s', (_, matches, fault, times) =>
      withArchived(server, isStall(fault) ? IMPATIENT : {}, async (home, name) => {
        home.bucket.proxy.fail(matches, fault, times);
        const { status, stderr, bytes } = await home.cli(['get-wal', 'main', name]);
        expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
        expect(bytes.equals(WAL.bytes)).toBe(true);
      }),
    );

    test.each<[string, Rule, Fault, RegExp]>([
      ['the connection is reset', isAny, { kind: 'reset' }, /cut the connection/],
      ['the bytes end early', isGet, { kind: 'cut-download', bytes: 50_000 }, /cut the connection/],
      ['a bit is another one', isGet, { kind: 'flip-download', byte: 60_000 }, /is damaged: its bytes have SHA-256/],
      ['access is denied', isAny, s3Answer(403, 'AccessDenied'), /access denied \(403 AccessDenied\)/],
      ['there is no bucket', isAny, s3Answer(404, 'NoSuchBucket'), /has no bucket/],
      ['the credentials have expired', isAny, s3Answer(400, 'ExpiredToken'), /the credentials have expired/],
      ['a login page answers', isAny, LOGIN_PAGE, /is not S3/],
      ['a web server answers', isAny, { kind: 'answer', status: 404, body: '<html>Nothing here</html>' }, /is not S3/],
    ])('says once that it can’t tell (200), and hands out nothing, as long as %s', (_, matches, fault, error) =>
      withArchived(server, {}, async (home, name) => {
        home.bucket.proxy.fail(matches, fault, ALWAYS);
        const { status, stdout, stderr } = await home.cli(['get-wal', 'main', name]);
        expect({ status, stdout }).toEqual({ status: 200, stdout: '' });
        expect(stderr).toMatch(error);
        expect(stderr.match(/^ERROR: /gm)).toHaveLength(1);
        home.bucket.proxy.heal();
        const healed = await home.cli(['get-wal', 'main', name]);
        expect(healed.status).toBe(0);
        expect(healed.bytes.equals(WAL.bytes)).toBe(true);
      }),
    );

    test('says that there is no such file (1) only when the bucket says so', () =>
      withArchived(server, {}, async (home) => {
        const { name } = makeWal({ segment: 2, content: 'zeros' });
        expect(await home.cli(['get-wal', 'main', name])).toMatchObject({ status: 1, stdout: '' });
        home.bucket.proxy.fail(isAny, s3Answer(404, 'NoSuchBucket'), ALWAYS);
        expect(await home.cli(['get-wal', 'main', name])).toMatchObject({ status: 200, stdout: '' });
      }));
  },
  ['rgw'],
);

function withArchived(
  server: S3Server,
  options: FaultOptions,
  body: (home: S3Home, name: WalName) => Promise<void>,
): Promise<void> {
  return withS3Bucket(server, (bucket) =>
    withS3Home(bucket, { compression: 'zstd', ...options }, async (home) => {
      await home.deliver(WAL.name, () => WAL.bytes);
      expect(await home.archive()).toMatchObject({ status: 0 });
      await body(home, WAL.name);
    }),
  );
}
