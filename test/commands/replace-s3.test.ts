import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { GetObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { walName } from '../../src/wal/wal-name.ts';
import { realSegments } from '../support/fixture.ts';
import { testClient } from '../support/s3-endpoint.ts';
import { describeS3 } from '../support/s3.ts';
import { catalogueLines, json, namesIn } from './with-server.ts';
import { withS3Server, type S3TestServer } from './with-s3-server.ts';

const segments = await realSegments();
const names = [...segments.keys()].map((each) => walName(each)).slice(0, 3);
const [, name = walName('000000010000000000000001')] = names;
const good = segments.get(name) ?? Buffer.alloc(0);
const KEY = `0000000100000000/${name}.gz`;

/** Archives real segments, damages the middle one, and has the good one delivered again. Resolves to the damaged object, and to the good one's name in errors. */
async function damaged(server: S3TestServer): Promise<{ readonly object: Buffer; readonly entry: string }> {
  for (const each of names) await writeFile(join(server.incoming, each), segments.get(each) ?? '');
  expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
  const whole = await server.get(KEY);
  const object = whole.subarray(0, Math.floor(whole.length * 0.6));
  await server.put(KEY, object, await server.metadata(KEY));
  await writeFile(join(server.incoming, name), good);
  expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 1 });
  const [entry = '', ...others] = await namesIn(server.errors);
  expect(others).toEqual([]);
  expect((await server.cli(['errors', 'explain', 'main', entry])).stdout).toContain('the archived copy is damaged: ');
  // check knows of the sizes in a bucket by the last listing.
  expect(await server.cli(['list-wals', '--stored', 'main'])).toMatchObject({ status: 0 });
  expect((await server.cli(['check', 'main'])).stdout).toContain(
    'archived files: FAILED (1 stored file of another size',
  );
  return { object, entry };
}

async function objectAt(client: S3Client, Bucket: string, Key: string): Promise<Buffer> {
  const { Body } = await client.send(new GetObjectCommand({ Bucket, Key }));
  return Buffer.from((await Body?.transformToByteArray()) ?? []);
}

/** The good segment is what is archived, in its line too, and all is well. */
async function expectGood(server: S3TestServer): Promise<void> {
  expect((await server.cli(['get-wal', 'main', name])).bytes.equals(good)).toBe(true);
  const object = await server.get(KEY);
  expect(gunzipSync(object).equals(good)).toBe(true);
  const [line = ''] = (await catalogueLines(server)).filter((each) => each.startsWith(`${name}\t`));
  expect(line.split('\t').slice(0, 2)).toEqual([name, String(object.length)]);
  expect(await namesIn(server.errors)).toEqual([]);
  expect(json(await server.cli(['-f', 'json', 'list-wals', '--gaps', 'main']))).toMatchObject({ gaps: [] });
}

describeS3(
  'errors resolve --replace in S3',
  (s3) => {
    test('puts the good segment in the place of a damaged object, which is kept beside the archive', () =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
          const { object, entry } = await damaged(server);
          const replaced = await server.cli(['errors', 'resolve', '--replace', 'main', entry]);
          expect(replaced).toMatchObject({ status: 0 });
          const kept = /is kept in s3:\/\/[^/]+\/(\S+):/.exec(replaced.stdout)?.[1] ?? '';
          expect(kept).toContain('/walwarden/damaged/');
          const client = testClient(endpoint);
          try {
            expect((await objectAt(client, endpoint.bucket, kept)).equals(object)).toBe(true);
          } finally {
            client.destroy();
          }
          await expectGood(server);
          expect((await server.cli(['check', 'main'])).stdout).toContain('archived files: OK');
        }),
      ));
  },
  ['rgw'],
);
