import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { PutBucketPolicyCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { withServer, type TestServer } from '../commands/with-server.ts';
import { writeWal } from '../support/make-wal.ts';
import { describeS3, type S3Server } from '../support/s3.ts';
import { awsEnvironment, testClient, withAwsEnvironment, type S3Endpoint } from '../support/s3-endpoint.ts';
import { keysIn } from './s3-archive.ts';

interface Statement {
  readonly Effect: string;
  readonly Action: readonly string[];
  readonly Resource: string;
}

/** The statements that docs/s3.md has, for our bucket. */
async function documented({ bucket }: S3Endpoint): Promise<Statement[]> {
  const path = fileURLToPath(new URL('../../docs/s3.md', import.meta.url));
  const [, section = ''] = (await readFile(path, 'utf8')).split('\n## Permissions\n');
  const text = /^ {4}\{\n(?: {4}.*\n)+/m.exec(section)?.[0] ?? '';
  const policy: { Statement: Statement[] } = JSON.parse(text.replaceAll('my-wal-bucket', bucket));
  return policy.Statement;
}

/** Gives somebody these permissions, and no others, and runs `body` with that one's credentials. */
async function withPermissions<T>(
  s3: S3Server,
  endpoint: S3Endpoint,
  statements: readonly Statement[],
  body: () => Promise<T>,
): Promise<T> {
  const owner = testClient(endpoint);
  try {
    const Principal = { AWS: ['arn:aws:iam:::user/stranger'] };
    const policy = { Version: '2012-10-17', Statement: statements.map((statement) => ({ ...statement, Principal })) };
    await owner.send(new PutBucketPolicyCommand({ Bucket: endpoint.bucket, Policy: JSON.stringify(policy) }));
  } finally {
    owner.destroy();
  }
  return withAwsEnvironment(awsEnvironment(s3.rgw.stranger), body);
}

function withBucketServer<T>(endpoint: S3Endpoint, body: (server: TestServer) => Promise<T>): Promise<T> {
  const options = {
    wals_directory: `s3://${endpoint.bucket}/postgres`,
    aws_endpoint_url: endpoint.url,
    aws_force_path_style: 'on',
    compression: 'gzip',
  };
  return withServer(options, body);
}

const without = (statements: readonly Statement[], ...actions: readonly string[]): Statement[] =>
  statements
    .map((statement) => ({ ...statement, Action: statement.Action.filter((action) => !actions.includes(action)) }))
    .filter(({ Action }) => Action.length > 0);

const MISSING = '00000009.history';

describeS3(
  'the permissions of docs/s3.md',
  (s3) => {
    test('are all that archiving, recovery, deletion and a new catalogue need', () =>
      s3.withBucket(async (endpoint) =>
        withPermissions(s3, endpoint, await documented(endpoint), () =>
          withBucketServer(endpoint, async (server) => {
            const wals = [];
            for (const segment of [1, 2, 3]) wals.push(await writeWal(server.incoming, { segment }));
            const [first, second] = wals;
            expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
            const found = await server.cli(['get-wal', 'main', second?.name ?? '']);
            expect(found.bytes.equals(second?.bytes ?? Buffer.alloc(0))).toBe(true);
            expect((await server.cli(['get-wal', 'main', MISSING])).status).toBe(1);
            expect(await server.cli(['delete-wals', '--before', second?.name ?? '', 'main'])).toMatchObject({
              status: 0,
            });
            expect((await server.cli(['get-wal', 'main', first?.name ?? ''])).status).toBe(1);
            expect(await server.cli(['rebuild-xlogdb', 'main'])).toMatchObject({ status: 0 });
            // Nothing of the look at the endpoint is left.
            expect(await keysIn(endpoint)).toHaveLength(2);
          }),
        ),
      ));

    test('to restore, s3:ListBucket and s3:GetObject are enough', () =>
      s3.withBucket(async (endpoint) =>
        withBucketServer(endpoint, async (server) => {
          const { name, bytes } = await writeWal(server.incoming, { segment: 1 });
          expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
          const all = await documented(endpoint);
          const reading = without(all, 's3:PutObject', 's3:AbortMultipartUpload', 's3:DeleteObject');
          await withPermissions(s3, endpoint, reading, async () => {
            expect((await server.cli(['get-wal', 'main', name])).bytes.equals(bytes)).toBe(true);
            expect((await server.cli(['get-wal', 'main', MISSING])).status).toBe(1);
          });
          await withPermissions(s3, endpoint, without(reading, 's3:ListBucket'), async () => {
            expect((await server.cli(['get-wal', 'main', name])).bytes.equals(bytes)).toBe(true);
            const missing = await server.cli(['get-wal', 'main', MISSING]);
            expect(missing).toMatchObject({ status: 200, stdout: '' });
            expect(missing.stderr).toContain('s3:ListBucket');
          });
        }),
      ));

    test('without s3:DeleteObject files are archived, and the object of the look at the endpoint stays', () =>
      s3.withBucket(async (endpoint) =>
        withPermissions(s3, endpoint, without(await documented(endpoint), 's3:DeleteObject'), () =>
          withBucketServer(endpoint, async (server) => {
            const { name } = await writeWal(server.incoming, { segment: 1 });
            expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
            expect(await keysIn(endpoint)).toEqual([
              `postgres/main/wals/${name.slice(0, 16)}/${name}.gz`,
              'postgres/main/walwarden-probe',
            ]);
            const refused = await server.cli(['delete-wals', '--before', `${name.slice(0, 23)}F`, 'main']);
            expect(refused.status).toBe(1);
            expect(refused.stderr).toContain('s3:DeleteObject');
            expect(await server.cli(['list-wals', 'main'])).toMatchObject({ stdout: expect.stringContaining(name) });
          }),
        ),
      ));
  },
  ['rgw'],
);
