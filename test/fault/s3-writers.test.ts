import { ListObjectVersionsCommand, PutBucketVersioningCommand } from '@aws-sdk/client-s3';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { catalogueLines } from '../commands/with-server.ts';
import { makeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { describeS3 } from '../support/s3.ts';
import type { FaultOptions } from './fault-home.ts';
import { withS3Bucket, withS3Home, type S3Bucket, type S3Home } from './s3-home.ts';
import { isPart } from './s3-requests.ts';

const FILES = 120;

describeS3(
  'archivers that share a bucket, each with a home of its own',
  (server) => {
    test.each<[number, FaultOptions]>([
      [2, {}],
      [3, { compression: 'zstd' }],
    ])('store each file once, %i at the same time, and all end well', (count, options) =>
      withS3Bucket(server, (bucket) =>
        withHomes(bucket, count, options, async (homes) => {
          const names = await Promise.all(homes.map((home) => home.deliverSegments(1, FILES)));
          const passes = await Promise.all(homes.map((home) => home.archive()));
          for (const { status, stderr } of passes) expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
          expect(storedBy(passes)).toEqual(names[0]);
          for (const home of homes) expect(await home.violations('healed')).toEqual([]);
        }),
      ),
    );

    test('of which one has another content under some names: whoever comes second has it in errors', () =>
      withS3Bucket(server, (bucket) =>
        withHomes(bucket, 2, {}, async ([one, other]) => {
          if (one === undefined || other === undefined) throw new Error('there are two');
          await one.deliverSegments(1, FILES);
          await other.deliverSegments(1, FILES);
          const contents = [10, 50, 90].map((segment) => ({
            name: makeWal({ segment, content: 'zeros' }).name,
            ours: makeWal({ segment, content: 'zeros' }).bytes,
            theirs: makeWal({ segment, content: 'random' }).bytes,
          }));
          for (const { name, theirs } of contents) await other.deliver(name, () => theirs);
          const passes = await Promise.all([one.archive(), other.archive()]);
          for (const { signal, stderr } of passes) expect({ signal, stderr }).toEqual({ signal: null, stderr: '' });

          const refused = await Promise.all([one, other].map(({ home }) => duplicatesIn(home.errors)));
          for (const { name, ours, theirs } of contents) {
            // Exactly one of the two came second, and has in errors what it came with.
            const [inOne, inOther] = refused.map((found) => found.get(name));
            expect(inOne === undefined).toBe(inOther !== undefined);
            if (inOne !== undefined) expect(inOne.equals(ours)).toBe(true);
            if (inOther !== undefined) expect(inOther.equals(theirs)).toBe(true);
            const winner = inOne === undefined ? ours : theirs;
            for (const home of [one, other]) home.produced.set(name, () => winner);
          }
          for (const [index, home] of [one, other].entries()) {
            const conflicts = [...(refused[index]?.keys() ?? [])];
            expect(passes[index]?.status).toBe(conflicts.length > 0 ? 1 : 0);
            // What it came too late with has no line in its catalogue: it archived nothing of that name.
            const unlisted = conflicts.map((name) => `the source of ${name} is gone, and it has no line`);
            expect((await home.violations('crashed')).sort()).toEqual(unlisted.sort());
            const lines = await catalogueLines(home.home);
            expect(lines).toHaveLength(FILES - conflicts.length);
            expect(await home.archive()).toMatchObject({ status: 0, stderr: '' });
          }
        }),
      ));

    test('of which the second comes later with another content: it goes to errors, and nothing is overwritten', () =>
      withVersionedBucket((bucket) =>
        withHomes(bucket, 2, {}, async ([one, other]) => {
          if (one === undefined || other === undefined) throw new Error('there are two');
          await one.deliverSegments(1, 5);
          expect(await one.archive()).toMatchObject({ status: 0 });
          const before = await bucket.objects();
          await other.deliverSegments(1, 5);
          const wrong = makeWal({ segment: 3, content: 'random' });
          await other.deliver(wrong.name, () => wrong.bytes);
          const { status, stdout } = await other.archive();
          expect(status).toBe(1);
          expect(stdout).toContain(`"${wrong.name}" NOT archived: `);
          expect(await bucket.objects()).toEqual(before);
          expect((await duplicatesIn(other.home.errors)).get(wrong.name)?.equals(wrong.bytes)).toBe(true);
          expect(await one.violations('healed')).toEqual([]);
          expect(await other.archive()).toMatchObject({ status: 0, stderr: '' });
          await expectOneVersionEach(bucket);
        }),
      ));

    test.each([
      ['the same content', false],
      ['another content', true],
    ])('of a segment in parts, the slower one does not overwrite it, with %s', (_, isOther) =>
      withS3Bucket(server, (bucket) =>
        withHomes(bucket, 2, {}, async ([slow, quick]) => {
          if (slow === undefined || quick === undefined) throw new Error('there are two');
          const large = { size: 128 * 1024 * 1024 };
          const [name] = await slow.deliverSegments(1, 1, large);
          if (name === undefined) throw new Error('there is one');
          if (isOther) await quick.deliver(name, () => makeWal({ ...large, content: 'zeros', major: 16 }).bytes);
          else await quick.deliverSegments(1, 1, large);

          const gate = new AbortController();
          bucket.proxy.fail(isPart, { kind: 'hold', until: once(gate.signal, 'abort') });
          const slowly = slow.archive();
          await until('a part', () => bucket.proxy.seen.some(isPart));
          expect(await quick.archive()).toMatchObject({ status: 0, stderr: '' });
          const before = await bucket.objects();
          gate.abort();
          expect(await slowly).toMatchObject({ status: isOther ? 1 : 0, stderr: '' });

          expect(await bucket.objects()).toEqual(before);
          expect(await bucket.unfinished()).toBe(0);
          expect(await quick.violations('healed')).toEqual([]);
          if (isOther) {
            const kept = (await duplicatesIn(slow.home.errors)).get(name);
            expect(kept?.equals(makeWal({ ...large, content: 'zeros' }).bytes)).toBe(true);
          } else {
            expect(await slow.violations('healed')).toEqual([]);
          }
        }),
      ),
    );

    /** Whatever is overwritten or deleted there leaves a trace. */
    function withVersionedBucket(body: (bucket: S3Bucket) => Promise<void>): Promise<void> {
      return withS3Bucket(server, async (bucket) => {
        await bucket.client.send(
          new PutBucketVersioningCommand({
            Bucket: bucket.endpoint.bucket,
            VersioningConfiguration: { Status: 'Enabled' },
          }),
        );
        await body(bucket);
      });
    }
  },
  ['rgw'],
);

function withHomes(
  bucket: S3Bucket,
  count: number,
  options: FaultOptions,
  body: (homes: readonly S3Home[]) => Promise<void>,
): Promise<void> {
  const open = (homes: readonly S3Home[]): Promise<void> =>
    homes.length === count ? body(homes) : withS3Home(bucket, options, (home) => open([...homes, home]));
  return open([]);
}

/** The files that any of these passes stored, each as often as it was. */
function storedBy(passes: readonly { readonly stdout: string }[]): string[] {
  return passes.flatMap(({ stdout }) => (stdout.match(/^\t\S+$/gm) ?? []).map((line) => line.trim())).sort();
}

async function expectOneVersionEach({ client, endpoint }: S3Bucket): Promise<void> {
  const answer = await client.send(
    new ListObjectVersionsCommand({ Bucket: endpoint.bucket, Prefix: 'archive/main/wals/' }),
  );
  expect(answer.IsTruncated).toBe(false);
  expect(answer.DeleteMarkers ?? []).toEqual([]);
  const keys = (answer.Versions ?? []).map(({ Key }) => Key);
  expect(keys.length).toBeGreaterThan(0);
  expect(new Set(keys).size).toBe(keys.length);
}

/** What lies in errors as another content of an archived file, by the file's name. */
async function duplicatesIn(errors: string): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  for (const entry of await readdir(errors)) {
    const [name = '', , kind] = entry.split('.');
    if (kind === 'duplicate') found.set(name, await readFile(join(errors, entry)));
  }
  return found;
}
