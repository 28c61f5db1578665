import { once } from 'node:events';
import { expect, test } from 'vitest';
import { catalogueLines } from '../commands/with-server.ts';
import { s3Answer, type Fault, type SeenRequest } from '../support/fault-proxy.ts';
import { describeS3 } from '../support/s3.ts';
import { IMPATIENT, withS3Bucket, withS3Home } from './s3-home.ts';
import { ALWAYS, isAny, isList, isPut, isStall } from './s3-requests.ts';

type Rule = (request: SeenRequest) => boolean;

const SEGMENT = 1024 * 1024;
const LOGIN_PAGE: Fault = {
  kind: 'answer',
  status: 200,
  headers: { 'content-type': 'text/html' },
  body: '<html>Log in!</html>',
};
const ONE_AT_A_TIME = { cloud_wal_archive_parallel: 1 };
const THROTTLED = s3Answer(503, 'SlowDown');

/** One request goes wrong, or a few do. */
const PASSING: readonly [name: string, matches: Rule, fault: Fault, times: number][] = [
  ['is reset before the body', isPut, { kind: 'reset' }, 3],
  ['is reset in the body', isPut, { kind: 'cut-upload', bytes: SEGMENT / 2 }, 3],
  ['is reset at the last byte', isPut, { kind: 'cut-upload', bytes: SEGMENT - 1 }, 3],
  ['is done, and its answer lost', isPut, { kind: 'lose-answer' }, 3],
  ['is never answered', isPut, { kind: 'stall' }, 3],
  ['is answered with 500', isPut, s3Answer(500, 'InternalError'), 3],
  ['is answered with 503', isPut, THROTTLED, 1],
  ['is answered by a proxy with 502', isPut, { kind: 'answer', status: 502, body: '<html>Bad Gateway</html>' }, 3],
  ['is met by another', isPut, s3Answer(409, 'ConditionalRequestConflict'), 3],
  ['is changed on its way', isPut, { kind: 'flip-upload', byte: 300_000 }, 3],
  ['of the listing is reset', isList, { kind: 'reset' }, 1],
  ['of the listing has half an answer', isList, { kind: 'cut-download', bytes: 100 }, 1],
  ['of the listing stops in its answer', isList, { kind: 'cut-download', bytes: 100, stall: true }, 1],
  ['of the very first is reset', isAny, { kind: 'reset' }, 1],
  ['of the very first has no answer', isAny, { kind: 'lose-answer' }, 1],
];

/** Every request of a kind goes wrong. */
const LASTING: readonly [name: string, matches: Rule, fault: Fault, error: RegExp, hint: RegExp][] = [
  ['every upload is reset', isPut, { kind: 'reset' }, /store s3:\S+: http:\S+ cut the connection/, /aws_endpoint_url/],
  [
    'every upload is cut',
    isPut,
    { kind: 'cut-upload', bytes: SEGMENT / 2 },
    /store s3:\S+: http:\S+ cut the connection/,
    /aws_endpoint_url/,
  ],
  [
    'no upload is answered',
    isPut,
    { kind: 'stall' },
    /store s3:\S+: no answer from http:\S+ for 1 s, tried 4 times/,
    /aws_read_timeout/,
  ],
  [
    'every upload gets 500',
    isPut,
    s3Answer(500, 'InternalError'),
    /store s3:\S+: the endpoint failed \(500 InternalError, request id tx0\), tried 4 times/,
    /ask whoever runs the endpoint/,
  ],
  [
    'every upload gets 503',
    isPut,
    THROTTLED,
    /store s3:\S+: the endpoint asks to slow down \(503 SlowDown/,
    /cloud_wal_archive_parallel/,
  ],
  [
    'uploads are denied, and listing is not',
    isPut,
    s3Answer(403, 'AccessDenied'),
    /store s3:\S+: access denied \(403 AccessDenied\)/,
    /allow s3:PutObject/,
  ],
  [
    'listing is denied, and uploads are not',
    isList,
    s3Answer(403, 'AccessDenied'),
    /list s3:\S+: access denied \(403 AccessDenied\)/,
    /allow s3:ListBucket/,
  ],
  [
    'everything is denied',
    isAny,
    s3Answer(403, 'AccessDenied'),
    /list s3:\S+: access denied \(403 AccessDenied\)/,
    /allow s3:ListBucket/,
  ],
  [
    'there is no bucket',
    isAny,
    s3Answer(404, 'NoSuchBucket'),
    /http:\S+ has no bucket "test-\S+" \(404 NoSuchBucket\)/,
    /create it, or correct the bucket in wals_directory/,
  ],
  [
    'there is no space',
    isPut,
    s3Answer(403, 'QuotaExceeded'),
    /store s3:\S+: there is no space left \(403 QuotaExceeded\)/,
    /make room/,
  ],
  [
    'every upload is changed on its way',
    isPut,
    { kind: 'flip-upload', byte: 300_000 },
    /store s3:\S+: it was damaged on its way/,
    /a proxy, a network card, memory/,
  ],
  [
    'a login page takes the uploads',
    isPut,
    LOGIN_PAGE,
    /store s3:\S+: it is not there after it was stored/,
    /aws_endpoint_url/,
  ],
  [
    'a login page answers everything',
    isAny,
    LOGIN_PAGE,
    /list s3:\S+: what answers at http:\S+ is not S3/,
    /correct aws_endpoint_url/,
  ],
  [
    'every listing is a login page',
    isList,
    LOGIN_PAGE,
    /list s3:\S+: what answers at http:\S+ is not S3/,
    /correct aws_endpoint_url/,
  ],
  ['nothing gets through', isAny, { kind: 'reset' }, /list s3:\S+: http:\S+ cut the connection/, /aws_endpoint_url/],
];

describeS3(
  'archive-wal',
  (server) => {
    test.each(PASSING)('stores every file once though a request %s', (_, matches, fault, times) =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, isStall(fault) ? IMPATIENT : {}, async (home) => {
          await home.deliverSegments(1, 6);
          bucket.proxy.fail(matches, fault, times);
          expect(await home.archive()).toMatchObject({ status: 0, stderr: '' });
          expect(await home.troubles()).toEqual([]);
          expect(await home.violations('healed')).toEqual([]);
        }),
      ),
    );

    test('stores every file once though every answer to an upload is lost', () =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, { compression: 'zstd' }, async (home) => {
          await home.deliverSegments(1, 6);
          bucket.proxy.fail(isPut, { kind: 'lose-answer' }, ALWAYS);
          expect(await home.archive()).toMatchObject({ status: 0, stderr: '' });
          expect(await home.violations('healed')).toEqual([]);
        }),
      ));

    test('stores every file once though every answer comes late', () =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, {}, async (home) => {
          await home.deliverSegments(1, 6);
          const gate = new AbortController();
          bucket.proxy.fail(isPut, { kind: 'hold', until: once(gate.signal, 'abort') }, ALWAYS);
          const pass = home.archive();
          // All that go at a time are on their way.
          await bucket.sawPuts(4);
          gate.abort();
          expect(await pass).toMatchObject({ status: 0, stderr: '' });
          expect(await home.violations('healed')).toEqual([]);
        }),
      ));

    test.each(LASTING)('loses nothing and says once what is wrong when %s', (_, matches, fault, error, hint) =>
      withS3Bucket(server, (bucket) =>
        // One after the other, or being throttled would take its time.
        withS3Home(bucket, isStall(fault) ? IMPATIENT : fault === THROTTLED ? ONE_AT_A_TIME : {}, async (home) => {
          await home.deliverSegments(1, 6);
          bucket.proxy.fail(matches, fault, ALWAYS);
          const { status, stdout, stderr } = await home.archive();
          expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
          const [errorLine = '', hintLine = '', ...more] = stderr.split('\n');
          expect(more).toEqual(['']);
          expect(errorLine).toMatch(/^ERROR: can't (?!.*can't)/);
          expect(errorLine).toMatch(error);
          expect(hintLine).toMatch(/^HINT: .*; nothing is lost: what is not archived stays where it is/);
          expect(hintLine).toMatch(hint);
          expect(await home.troubles()).toHaveLength(1);
          expect(await home.violations('crashed')).toEqual([]);

          bucket.proxy.heal();
          expect(await home.archive()).toMatchObject({ status: 0, stderr: '' });
          // Not even a warning: nothing wrong was remembered of the endpoint.
          expect(await home.troubles()).toHaveLength(1);
          expect(await home.violations('healed')).toEqual([]);
        }),
      ),
    );

    test('keeps what it had stored when an upload in the middle of a batch goes wrong', () =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, {}, async (home) => {
          const names = await home.deliverSegments(1, 60);
          const [wrong = ''] = names.slice(29);
          bucket.proxy.fail(
            (request) => isPut(request) && request.url.includes(wrong),
            s3Answer(403, 'AccessDenied'),
            1,
          );
          const { status, stderr } = await home.archive();
          expect(status).toBe(1);
          expect(stderr).toContain(`${wrong}: access denied`);
          expect(await home.violations('crashed')).toEqual([]);
          // Those before it are done with, the others wait.
          const lines = await catalogueLines(home.home);
          expect(lines.map((line) => line.split('\t')[0])).toEqual(names.slice(0, 29));

          const before = await bucket.objects();
          expect(await home.archive()).toMatchObject({ status: 0, stderr: '' });
          expect([...(await bucket.objects())]).toEqual(expect.arrayContaining([...before]));
          expect(await home.violations('healed')).toEqual([]);
        }),
      ));
  },
  ['rgw'],
);
