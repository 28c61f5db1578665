import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { s3Answer } from '../support/fault-proxy.ts';
import type { RunResult } from '../support/run.ts';
import type { S3Keys } from '../support/s3-endpoint.ts';
import { describeS3 } from '../support/s3.ts';
import { withS3Bucket, withS3Home, type S3Home } from './s3-home.ts';
import { ALWAYS, isAny } from './s3-requests.ts';

const WRONG_SECRET = 'not-the-secret-of-this-key';

describeS3(
  'archive-wal',
  (server) => {
    test.each<[string, NodeJS.ProcessEnv, RegExp, RegExp]>([
      [
        'a wrong secret',
        { AWS_SECRET_ACCESS_KEY: WRONG_SECRET },
        /the endpoint does not accept the credentials \(403 SignatureDoesNotMatch\)/,
        /the SDK found/,
      ],
      [
        'a key that nobody knows',
        { AWS_ACCESS_KEY_ID: 'nobody' },
        /the endpoint does not accept the credentials \(403 InvalidAccessKeyId\)/,
        /the SDK found/,
      ],
      [
        'the keys of a user who may do nothing',
        { AWS_ACCESS_KEY_ID: 'stranger', AWS_SECRET_ACCESS_KEY: 'stranger-secret' },
        /access denied \(403 AccessDenied\)/,
        /allow s3:ListBucket/,
      ],
      [
        'no credentials',
        { AWS_ACCESS_KEY_ID: undefined, AWS_SECRET_ACCESS_KEY: undefined },
        /no credentials found/,
        /AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile/,
      ],
      [
        'a profile that is not there',
        { AWS_ACCESS_KEY_ID: undefined, AWS_SECRET_ACCESS_KEY: undefined, AWS_PROFILE: 'wal' },
        /no credentials found/,
        /AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile/,
      ],
    ])('with %s says so once, keeps everything, and goes on with the right ones', (_, env, error, hint) =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, {}, async (home) => {
          await home.deliverSegments(1, 6);
          await expectOneError(home, await home.archive(env), error, hint);
          expect(await bucket.objects()).toEqual(new Map());
          await expectHealing(home);
        }),
      ),
    );

    test.each([
      [
        'have expired',
        s3Answer(400, 'ExpiredToken', 'The provided token has expired.'),
        /expired \(400 ExpiredToken: /,
      ],
      ['are no token', s3Answer(400, 'InvalidToken'), /expired \(400 InvalidToken\)/],
    ])('whose credentials %s says so once, and goes on with new ones', (_, fault, error) =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, {}, async (home) => {
          await home.deliverSegments(1, 3);
          expect(await home.archive()).toMatchObject({ status: 0 });
          await home.deliverSegments(4, 9);
          bucket.proxy.fail(isAny, fault, ALWAYS);
          await expectOneError(home, await home.archive(), error, /renew the credentials/);
          bucket.proxy.heal();
          await expectHealing(home);
        }),
      ),
    );

    test('takes what is renewed in the file of a profile', () =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, { aws_profile: 'wal' }, async (home) => {
          const file = join(home.home.home, 'credentials');
          const write = ({ accessKeyId, secretAccessKey }: S3Keys): Promise<void> =>
            writeFile(file, `[wal]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`, {
              mode: 0o600,
            });
          const env = {
            AWS_ACCESS_KEY_ID: undefined,
            AWS_SECRET_ACCESS_KEY: undefined,
            AWS_SHARED_CREDENTIALS_FILE: file,
          };
          await home.deliverSegments(1, 6);
          await write({ accessKeyId: bucket.endpoint.accessKeyId, secretAccessKey: WRONG_SECRET });
          await expectOneError(
            home,
            await home.archive(env),
            /the endpoint does not accept the credentials \(403 SignatureDoesNotMatch\)/,
            /aws_profile = wal/,
          );
          await write(bucket.endpoint);
          await expectHealing(home, env);
        }),
      ));

    test.each([
      ['ahead', 3600],
      ['behind', -3600],
    ])('whose clock is an hour %s learns the time from the endpoint', (_, seconds) =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, {}, async (home) => {
          await home.deliverSegments(1, 6);
          await expectHealing(home, { NODE_OPTIONS: clockOffBy(seconds) });
        }),
      ),
    );

    test('whose clock is refused whatever it says names both clocks', () =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, {}, async (home) => {
          await home.deliverSegments(1, 6);
          const date = new Date(Date.now() - 2 * 3600 * 1000).toUTCString();
          bucket.proxy.fail(isAny, s3Answer(403, 'RequestTimeTooSkewed', '', { date }), ALWAYS);
          await expectOneError(
            home,
            await home.archive(),
            /the clocks differ too much: here it is \S+ \S+ UTC, at the endpoint \S+ \S+ UTC \(ours is 2 h \S* ?\S*ahead\)/,
            /set the clock of this machine/,
          );
          bucket.proxy.heal();
          await expectHealing(home);
        }),
      ));
  },
  ['rgw'],
);

async function expectOneError(home: S3Home, result: RunResult, error: RegExp, hint: RegExp): Promise<void> {
  const { status, stdout, stderr } = result;
  expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
  const [errorLine = '', hintLine = '', ...more] = stderr.split('\n');
  expect(more).toEqual(['']);
  expect(errorLine).toMatch(/^ERROR: can't /);
  expect(errorLine).toMatch(error);
  expect(hintLine).toMatch(/^HINT: /);
  expect(hintLine).toMatch(hint);
  expect(await home.troubles()).toHaveLength(1);
  const log = await readFile(join(home.home.home, 'walwarden.log'), 'utf8');
  for (const secret of [WRONG_SECRET, home.bucket.endpoint.secretAccessKey, 'stranger-secret']) {
    expect(`${stderr}${log}`).not.toContain(secret);
  }
  expect(await home.violations('crashed')).toEqual([]);
}

async function expectHealing(home: S3Home, env: NodeJS.ProcessEnv = {}): Promise<void> {
  expect(await home.archive(env)).toMatchObject({ status: 0, stderr: '' });
  expect(await home.violations('healed')).toEqual([]);
}

/** For NODE_OPTIONS: a process whose clock is wrong by so many seconds. */
function clockOffBy(seconds: number): string {
  const shim = `
    const Real = Date;
    globalThis.Date = class Date extends Real {
      constructor(...args) { if (args.length === 0) super(Real.now() + ${seconds * 1000}); else super(...args); }
      static now() { return Real.now() + ${seconds * 1000}; }
    };`;
  return `--import=data:text/javascript;base64,${Buffer.from(shim).toString('base64')}`;
}
