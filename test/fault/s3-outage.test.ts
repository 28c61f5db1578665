import { CreateBucketCommand, DeleteObjectCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { walName } from '../../src/wal/wal-name.ts';
import { catalogueLines } from '../commands/with-server.ts';
import { makeWal } from '../support/make-wal.ts';
import { describeS3 } from '../support/s3.ts';
import { IMPATIENT, withS3Bucket, withS3Home, type S3Home } from './s3-home.ts';

const archivedNames = async ({ home }: S3Home): Promise<(string | undefined)[]> =>
  (await catalogueLines(home)).map((line) => line.split('\t')[0]);

describeS3(
  'an archive in a bucket',
  (server) => {
    test('waits for a gateway that stops answering in the middle of a batch, and goes on when it is back', () =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, IMPATIENT, async (home) => {
          await home.deliverSegments(1, 60);
          const pass = home.archive();
          await bucket.sawPuts(20);
          server.rgw.pause();
          try {
            const { status, stderr } = await pass;
            expect(status).toBe(1);
            expect(stderr).toMatch(
              /^ERROR: can't \S+ s3:\S+: no answer from http:\S+ for 1 s, tried 4 times\nHINT: .+\n$/,
            );
          } finally {
            server.rgw.resume();
          }
          expect(await home.troubles()).toHaveLength(1);
          expect(await home.violations('crashed')).toEqual([]);
          const before = await bucket.objects();

          expect(await home.archive()).toMatchObject({ status: 0, stderr: '' });
          expect([...(await bucket.objects())]).toEqual(expect.arrayContaining([...before]));
          expect(await home.violations('healed')).toEqual([]);
        }),
      ));

    test('does not notice a gateway that is away for less than its patience', () =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, {}, async (home) => {
          await home.deliverSegments(1, 20);
          const pass = home.archive();
          await bucket.sawPuts(4);
          server.rgw.pause();
          const seen = bucket.proxy.seen.length;
          server.rgw.resume();
          expect(seen).toBeGreaterThan(0);
          expect(await pass).toMatchObject({ status: 0, stderr: '' });
          expect(await home.violations('healed')).toEqual([]);
        }),
      ));

    test('that disappears and comes back empty is told, and nothing is called archived that is not there', () =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, {}, async (home) => {
          const { bucket: Bucket } = bucket.endpoint;
          const old = await home.deliverSegments(1, 5);
          expect(await home.archive()).toMatchObject({ status: 0 });
          const recent = await home.deliverSegments(6, 10);
          await bucket.remove();

          const { status, stderr } = await home.archive();
          expect(status).toBe(1);
          expect(stderr).toMatch(/^ERROR: .*has no bucket "test-\S+" \(404 NoSuchBucket\)\nHINT: create it, .+\n$/);
          // What was archived is lost with its bucket; what was not is all there.
          for (const name of old) home.produced.delete(name);
          expect(await home.violations('crashed')).toEqual([]);
          const [gone = walName('')] = old;
          expect(await home.cli(['get-wal', 'main', gone])).toMatchObject({ status: 200, stdout: '' });

          await bucket.client.send(new CreateBucketCommand({ Bucket }));
          expect(await home.archive()).toMatchObject({ status: 0, stderr: '' });
          expect((await bucket.objects()).size).toBe(recent.length);
          const [there = walName('')] = recent;
          const whole = makeWal({ segment: 6, content: 'zeros' }).bytes;
          expect((await home.cli(['get-wal', 'main', there])).bytes.equals(whole)).toBe(true);
          const lost = await home.cli(['get-wal', 'main', gone]);
          expect(lost.status).not.toBe(0);
          expect(lost.stdout).toBe('');

          // Delivered again, it is stored again, not called a duplicate of what is gone.
          await home.deliverSegments(1, 1);
          expect(await home.archive()).toMatchObject({ status: 0, stderr: '' });
          expect(await archivedNames(home)).toEqual([...old, ...recent]);
          expect(await home.cli(['rebuild-xlogdb', 'main'])).toMatchObject({ status: 0 });
          expect(await home.violations('healed')).toEqual([]);
          expect(await archivedNames(home)).toEqual([gone, ...recent]);
        }),
      ));

    test('takes a file again that was deleted in the bucket while its duplicate waited', () =>
      withS3Bucket(server, (bucket) =>
        withS3Home(bucket, { compression: 'zstd' }, async (home) => {
          await home.deliverSegments(1, 3);
          expect(await home.archive()).toMatchObject({ status: 0 });
          const [Key = ''] = (await bucket.objects()).keys();
          await bucket.client.send(new DeleteObjectCommand({ Bucket: bucket.endpoint.bucket, Key }));
          await home.deliverSegments(1, 4);
          const { status, stdout, stderr } = await home.archive();
          expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
          expect(stdout).toMatch(/: 2 files archived \(.*, 2 archived before/);
          expect(await home.violations('healed')).toEqual([]);
        }),
      ));
  },
  ['rgw'],
);
