import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DeleteObjectCommand, HeadObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import type { CompressionName } from '../../src/compression/codec.ts';
import { createCompressor } from '../../src/compression/codecs.ts';
import { historyName, walName } from '../../src/wal/wal-name.ts';
import { collect } from '../catalogue/with-catalogue.ts';
import { s3Answer, type SeenRequest } from '../support/fault-proxy.ts';
import { makeWal } from '../support/make-wal.ts';
import { partialWal } from '../wal/partial-wal.ts';
import { testClient, type S3Endpoint } from '../support/s3-endpoint.ts';
import { describeS3 } from '../support/s3.ts';
import { withCloudStorage } from './with-cloud-storage.ts';
import { isPutOf, keyOf, keysIn, withProxiedStorage } from './with-proxied-storage.ts';
import { arrive, namesOf, plainOf, saveAll, waiting } from './with-storage.ts';

/** Stores an object as others do: without anything said of it. */
async function putForeign(endpoint: S3Endpoint, key: string, body: Uint8Array): Promise<void> {
  const client = testClient(endpoint);
  await client.send(new PutObjectCommand({ Bucket: endpoint.bucket, Key: key, Body: body }));
  client.destroy();
}

async function removeObject(endpoint: S3Endpoint, key: string): Promise<void> {
  const client = testClient(endpoint);
  await client.send(new DeleteObjectCommand({ Bucket: endpoint.bucket, Key: key }));
  client.destroy();
}

const packed = (bytes: Buffer, compression: CompressionName): Promise<Buffer> =>
  createCompressor({ compression }).compress(bytes);

describeS3(
  'requests to S3',
  (server) => {
    test('a batch of files in several directories costs one LIST and a PUT each', () =>
      withProxiedStorage(server, { compression: 'gzip' }, async ({ incoming, open, requests, catalogue }) => {
        await writeFile(join(incoming, '00000002.history'), '1\t0/500000\tno recovery target specified\n');
        const files = [];
        for (const timeline of [1, 2, 3]) {
          for (const segment of [1, 2, 300, 5000, 9000]) {
            files.push(await arrive(incoming, { segment, timeline, content: 'zeros' }));
          }
        }
        const wals = [...files.map(({ wal }) => wal), await waiting(join(incoming, '00000002.history'))].sort((a, b) =>
          a.name < b.name ? -1 : 1,
        );
        const results = await saveAll(open(), wals);
        expect(results.map(({ outcome }) => outcome)).toEqual(wals.map(() => 'stored'));
        expect(requests()).toEqual({ LIST: 1, PUT: wals.length });
        expect(await namesOf(catalogue)).toEqual(wals.map(({ name }) => name));
      }));

    test('a duplicate costs one HEAD; a group of them one LIST more, under the lock', () =>
      withProxiedStorage(server, { compression: 'zstd' }, async ({ incoming, open, requests }) => {
        const batch = async () => {
          const files = [];
          for (let segment = 1; segment <= 10; segment += 1) {
            files.push((await arrive(incoming, { segment, content: 'zeros' })).wal);
          }
          return files;
        };
        await saveAll(open(), await batch());
        requests();
        const results = await saveAll(open(), await batch());
        expect(results.map(({ outcome }) => outcome)).toEqual(Array.from({ length: 10 }, () => 'already-stored'));
        expect(requests()).toEqual({ LIST: 2, HEAD: 10 });
        expect(await readdir(incoming)).toEqual([]);
      }));

    test('a conflict costs one HEAD and no download', () =>
      withProxiedStorage(server, {}, async ({ incoming, open, requests }) => {
        await saveAll(open(), [(await arrive(incoming)).wal]);
        requests();
        expect(await saveAll(open(), [(await arrive(incoming, { seed: 2 })).wal])).toMatchObject([
          { outcome: 'conflict' },
        ]);
        expect(requests()).toEqual({ LIST: 1, HEAD: 1 });
      }));
  },
  ['rgw'],
);

describeS3('a file that is in the bucket already', (server) => {
  test.each<[CompressionName | null, CompressionName | null]>([
    ['gzip', 'zstd'],
    ['zstd', null],
    [null, 'gzip'],
  ])('stored with %s counts as existing when the setting is %s: never a second object', (before, after) =>
    withProxiedStorage(server, { compression: before }, async ({ incoming, endpoint, open, catalogue }) => {
      const { wal, name, bytes } = await arrive(incoming);
      await saveAll(open(), [wal]);
      const again = await arrive(incoming);
      expect(await saveAll(open({ compression: after }), [again.wal])).toMatchObject([
        { outcome: 'already-stored', info: { compression: before } },
      ]);
      const other = await arrive(incoming, { seed: 2 });
      expect(await saveAll(open({ compression: after }), [other.wal])).toMatchObject([{ outcome: 'conflict' }]);
      expect(await keysIn(endpoint)).toEqual([keyOf(name, before)]);
      const reader = open({ compression: after });
      expect((await plainOf({ keys: {} }, reader, name))?.equals(bytes)).toBe(true);
      expect(await reader.describe(name)).toMatchObject({ compression: before });
      expect(await reader.compare(name, bytes)).toEqual({ result: 'same' });
      expect((await reader.stored([name])).has(name)).toBe(true);
      expect(await namesOf(catalogue)).toEqual([name]);
    }),
  );

  test.each<[string, CompressionName | null]>([
    ['uncompressed', null],
    ['with gzip', 'gzip'],
    ['with bzip2', 'bzip2'],
  ])('by somebody else, %s: its bytes decide, and its line is ensured', (_, theirs) =>
    withProxiedStorage(server, { compression: 'zstd' }, async ({ incoming, endpoint, open, catalogue }) => {
      const { name, bytes } = makeWal();
      const body = theirs === null ? bytes : await packed(bytes, theirs);
      await putForeign(endpoint, keyOf(name, theirs), body);
      const other = await arrive(incoming, { seed: 2 });
      expect(await saveAll(open(), [other.wal])).toMatchObject([
        { outcome: 'conflict', reason: expect.stringContaining('its content is another') },
      ]);
      expect(await namesOf(catalogue)).toEqual([]);
      expect(await readdir(incoming)).toEqual([name]);
      const same = await arrive(incoming);
      const [result] = await saveAll(open(), [same.wal]);
      expect(result).toMatchObject({
        outcome: 'already-stored',
        info: { name, size: body.length, compression: theirs, encryption: null },
      });
      expect(await namesOf(catalogue)).toEqual([name]);
      expect(await readdir(incoming)).toEqual([]);
      expect(await keysIn(endpoint)).toEqual([keyOf(name, theirs)]);
      expect(await collect(open().list())).toMatchObject([{ name, size: body.length, compression: theirs }]);
    }),
  );

  test('by somebody else, and damaged: a conflict that says so, and the files behind it are stored', () =>
    withProxiedStorage(server, { compression: 'gzip' }, async ({ incoming, endpoint, open, catalogue }) => {
      const broken = makeWal({ segment: 1 });
      const body = await packed(broken.bytes, 'gzip');
      await putForeign(endpoint, keyOf(broken.name, 'gzip'), body.subarray(0, -1000));
      // Says a digest of its bytes that is not theirs.
      const lying = makeWal({ segment: 2 });
      const client = testClient(endpoint);
      await client.send(
        new PutObjectCommand({
          Bucket: endpoint.bucket,
          Key: keyOf(lying.name, 'gzip'),
          Body: body,
          Metadata: { 'walwarden-stored-sha256': '0'.repeat(64) },
        }),
      );
      client.destroy();
      const wals = [];
      for (const segment of [1, 2, 3]) wals.push((await arrive(incoming, { segment })).wal);
      const results = await saveAll(open(), wals);
      expect(results).toMatchObject([
        { outcome: 'conflict', reason: expect.stringMatching(/the archived copy is damaged/) },
        { outcome: 'conflict', reason: expect.stringMatching(/the archived copy s3:.* is damaged/) },
        { outcome: 'stored' },
      ]);
      expect(await namesOf(catalogue)).toEqual([wals[2]?.name]);
      expect(await readdir(incoming)).toEqual([wals[0]?.name, wals[1]?.name]);
    }));

  test('by us, but with other bytes by now: metadata alone is not believed', () =>
    withProxiedStorage(server, { compression: null }, async ({ incoming, endpoint, open, catalogue }) => {
      const { wal, name, bytes } = await arrive(incoming);
      await saveAll(open(), [wal]);
      const client = testClient(endpoint);
      const at = { Bucket: endpoint.bucket, Key: keyOf(name, null) };
      const { Metadata = {} } = await client.send(new HeadObjectCommand(at));
      await client.send(new PutObjectCommand({ ...at, Body: bytes.subarray(0, 100), Metadata }));
      client.destroy();
      const again = await arrive(incoming);
      expect(await saveAll(open(), [again.wal])).toMatchObject([
        { outcome: 'conflict', reason: expect.stringContaining('is damaged') },
      ]);
      expect(await readdir(incoming)).toEqual([name]);
      expect(await namesOf(catalogue)).toEqual([name]);
    }));

  test('and can not be read before somebody restores it: a conflict, and the files behind it are stored', () =>
    withProxiedStorage(server, { compression: 'gzip' }, async ({ incoming, endpoint, open, proxy }) => {
      const cold = makeWal({ segment: 1 });
      await putForeign(endpoint, keyOf(cold.name, 'gzip'), await packed(cold.bytes, 'gzip'));
      proxy.fail(
        ({ method, url }) => method === 'GET' && url.includes(cold.name),
        s3Answer(403, 'InvalidObjectState'),
        100,
      );
      const wals = [];
      for (const segment of [1, 2]) wals.push((await arrive(incoming, { segment })).wal);
      expect(await saveAll(open(), wals)).toMatchObject([
        { outcome: 'conflict', reason: expect.stringContaining("can't be read") },
        { outcome: 'stored' },
      ]);
      expect(await readdir(incoming)).toEqual([cold.name]);
    }));

  test('several times, with several extensions: the same only when all are; all are read, listed once and deleted', () =>
    withProxiedStorage(server, { compression: 'zstd' }, async ({ incoming, endpoint, open, catalogue }) => {
      const { name, bytes } = makeWal();
      const other = makeWal({ seed: 2 }).bytes;
      await putForeign(endpoint, keyOf(name, null), other);
      await putForeign(endpoint, keyOf(name, 'bzip2'), await packed(other, 'bzip2'));
      await putForeign(endpoint, keyOf(name, 'gzip'), await packed(bytes, 'gzip'));
      // A reader may get any of them.
      for (const seed of [1, 2, 3]) {
        const { wal } = await arrive(incoming, { seed });
        expect(await saveAll(open(), [wal])).toMatchObject([{ outcome: 'conflict' }]);
      }
      const { name: twice, bytes: both } = makeWal({ segment: 2 });
      await putForeign(endpoint, keyOf(twice, null), both);
      await putForeign(endpoint, keyOf(twice, 'gzip'), await packed(both, 'gzip'));
      expect(await saveAll(open(), [(await arrive(incoming, { segment: 2 })).wal])).toMatchObject([
        { outcome: 'already-stored', info: { compression: null } },
      ]);
      const second = await collect(catalogue.read());
      expect(await open().delete(new Map([[twice.slice(0, 16), second]]))).toEqual([twice]);
      expect((await plainOf({ keys: {} }, open({ compression: 'gzip' }), name))?.equals(bytes)).toBe(true);
      expect((await plainOf({ keys: {} }, open(), name))?.equals(other)).toBe(true);
      expect(await open().describe(name)).toMatchObject({ name, compression: null });
      const infos = await collect(open().list());
      expect(infos).toMatchObject([{ name }]);
      expect(await open().delete(new Map([[name.slice(0, 16), infos]]))).toEqual([name]);
      expect(await keysIn(endpoint)).toEqual([]);
    }));

  test('and is deleted after it was compared: stored again, by the same pass', () =>
    withProxiedStorage(server, { compression: 'gzip' }, async ({ incoming, endpoint, open, catalogue }) => {
      for (const segment of [1, 2, 3]) await saveAll(open(), [(await arrive(incoming, { segment })).wal]);
      const wals = [];
      for (const segment of [1, 2, 3]) wals.push((await arrive(incoming, { segment })).wal);
      const second = wals[1]?.name ?? walName('00000001.history');
      const strategy = open();
      const commit = strategy.commit.bind(strategy);
      let left = 1;
      // After the comparison, which came before the lock.
      strategy.commit = async (group) => {
        if (left-- === 1) await removeObject(endpoint, keyOf(second, 'gzip'));
        return commit(group);
      };
      const results = await saveAll(strategy, wals);
      expect(results.map(({ outcome }) => outcome)).toEqual(['already-stored', 'stored', 'already-stored']);
      expect(await keysIn(endpoint)).toEqual(wals.map(({ name }) => keyOf(name, 'gzip')));
      expect(await namesOf(catalogue)).toEqual(wals.map(({ name }) => name));
      expect(await readdir(incoming)).toEqual([]);
    }));

  test('and is deleted between the listing and the look at it: stored again', () =>
    withProxiedStorage(server, {}, async ({ incoming, endpoint, open, proxy }) => {
      const { name } = makeWal();
      await saveAll(open(), [(await arrive(incoming)).wal]);
      const removed = removedOnce(endpoint, keyOf(name, null));
      proxy.fail((seen) => seen.method === 'HEAD' && removed.start(), { kind: 'hold', until: removed.done });
      expect(await saveAll(open(), [(await arrive(incoming)).wal])).toMatchObject([{ outcome: 'stored' }]);
      expect(await keysIn(endpoint)).toEqual([keyOf(name, null)]);
    }));

  test('twice in one batch, as a claim and under its name: the other content is a conflict, the same is not', () =>
    withProxiedStorage(server, { compression: 'zstd' }, async ({ incoming, endpoint, open, catalogue }) => {
      for (const [segment, seed] of [
        [1, 2],
        [2, 1],
      ] as const) {
        const first = await arrive(join(incoming, 'claims'), { segment });
        // That one arrived compressed: its key is another.
        const path = join(incoming, first.name);
        await writeFile(path, await packed(makeWal({ segment, seed }).bytes, 'gzip'));
        const results = await saveAll(open(), [first.wal, await waiting(path)]);
        expect(results.map(({ outcome }) => outcome)).toEqual(['stored', seed === 1 ? 'already-stored' : 'conflict']);
        expect((await plainOf({ keys: {} }, open(), first.name))?.equals(first.bytes)).toBe(true);
      }
      expect(await keysIn(endpoint)).toHaveLength(2);
      expect(await namesOf(catalogue)).toHaveLength(2);
    }));
});

/** Deletes an object once somebody asks for it; `done` when it is gone. */
function removedOnce(endpoint: S3Endpoint, key: string): { start: () => boolean; done: Promise<void> } {
  let finish: (value: void | PromiseLike<void>) => void = () => undefined;
  const done = new Promise<void>((resolve) => (finish = resolve));
  return {
    done,
    start: () => {
      finish(removeObject(endpoint, key));
      return true;
    },
  };
}

describeS3(
  'another writer that was quicker',
  (server) => {
    test.each([
      ['the same content is already-stored', 1, 'already-stored', []],
      ['another content is a conflict', 2, 'conflict', [makeWal().name]],
    ] as const)('with %s', (_, seed, outcome, left) =>
      withProxiedStorage(
        server,
        { compression: 'gzip' },
        async ({ incoming, endpoint, open, proxy, catalogue, requests }) => {
          const { name, bytes } = makeWal({ seed });
          const body = await packed(bytes, 'gzip');
          const { wal } = await arrive(incoming);
          let finish: (value: void | PromiseLike<void>) => void = () => undefined;
          const theirs = new Promise<void>((resolve) => (finish = resolve));
          const isFirstPut = (seen: SeenRequest): boolean => {
            if (!isPutOf(name)(seen)) return false;
            // After our LIST, before our PUT arrives.
            finish(putForeign(endpoint, keyOf(name, 'gzip'), body));
            return true;
          };
          proxy.fail(isFirstPut, { kind: 'hold', until: theirs });
          expect(await saveAll(open(), [wal])).toMatchObject([{ outcome }]);
          expect(requests()).toMatchObject({ PUT: 1 });
          expect(await readdir(incoming)).toEqual(left);
          expect(await keysIn(endpoint)).toEqual([keyOf(name, 'gzip')]);
          expect(await namesOf(catalogue)).toEqual(outcome === 'conflict' ? [] : [name]);
          expect((await plainOf({ keys: {} }, open(), name))?.equals(bytes)).toBe(true);
        },
      ),
    );

    test('and whose object is gone again when we look: stored by us', () =>
      withProxiedStorage(server, {}, async ({ incoming, endpoint, open, proxy }) => {
        const { wal, name } = await arrive(incoming);
        proxy.fail(isPutOf(name), {
          kind: 'answer',
          status: 412,
          body: '<Error><Code>PreconditionFailed</Code></Error>',
        });
        expect(await saveAll(open(), [wal])).toMatchObject([{ outcome: 'stored' }]);
        expect(await keysIn(endpoint)).toEqual([keyOf(name, null)]);
      }));

    test('a hundred times: each file is one object, both end well, and both catalogues have its line', () =>
      server.withBucket((endpoint) =>
        withCloudStorage(endpoint, { compression: 'gzip' }, (one) =>
          withCloudStorage(endpoint, { compression: 'gzip' }, async (other) => {
            const sides = [one, other];
            const names: string[] = [];
            const batches = await Promise.all(
              sides.map(async ({ incoming }) => {
                const wals = [];
                for (let segment = 1; segment <= 100; segment += 1) {
                  wals.push((await arrive(incoming, { segment, content: 'zeros' })).wal);
                }
                return wals;
              }),
            );
            names.push(...(batches[0] ?? []).map(({ name }) => name));
            const strategies = sides.map(({ open }) => open());
            const results = await Promise.all(
              strategies.map((strategy, index) => saveAll(strategy, batches[index] ?? [])),
            );
            const outcomes = names.map((_, index) => results.map((side) => side[index]?.outcome ?? '').sort());
            // Never two that stored it.
            expect(outcomes).toEqual(names.map(() => ['already-stored', 'stored']));
            expect((await keysIn(endpoint)).length).toBe(100);
            for (const side of sides) {
              expect(await readdir(side.incoming)).toEqual([]);
              expect(await namesOf(side.catalogue)).toEqual(names);
            }
          }),
        ),
      ));
  },
  ['rgw'],
);

describeS3('partial segments and text files in S3', (server) => {
  test('history files, backup labels and partial segments have the keys of Barman', () =>
    withProxiedStorage(server, { compression: 'gzip' }, async ({ incoming, endpoint, open }) => {
      const { name, bytes } = makeWal({ segment: 5 });
      const texts = {
        [historyName(2)]: '1\t0/500000\tno recovery target specified\n',
        [`${name}.00000028.backup`]: `START WAL LOCATION: 0/500028 (file ${name})\nSTOP TIME: 2026-11-21 08:55:15 UTC\nSTOP TIMELINE: 1\n`,
        [`${name}.partial`]: bytes,
      };
      const wals = [];
      for (const [file, content] of Object.entries(texts)) {
        await writeFile(join(incoming, file), content);
        wals.push(await waiting(join(incoming, file)));
      }
      wals.sort((a, b) => (a.name < b.name ? -1 : 1));
      expect((await saveAll(open(), wals)).map(({ outcome }) => outcome)).toEqual(['stored', 'stored', 'stored']);
      const directory = `archive/wal/main/wals/0000000100000000`;
      expect(await keysIn(endpoint)).toEqual([
        `${directory}/${name}.00000028.backup.gz`,
        `${directory}/${name}.partial.gz`,
        'archive/wal/main/wals/00000002.history.gz',
      ]);
      expect((await collect(open().list())).map((info) => info.name)).toEqual(wals.map((wal) => wal.name));
      for (const [file, content] of Object.entries(texts)) {
        const plain = await plainOf({ keys: {} }, open(), walName(file));
        expect(plain?.equals(Buffer.from(content))).toBe(true);
      }
    }));

  test('two copies of a partial segment that differ behind the end of its WAL are the same', () =>
    withProxiedStorage(server, { compression: 'gzip' }, async ({ incoming, endpoint, open }) => {
      const whole = await partialWal();
      const name = walName(`${whole.name}.partial`);
      const path = join(incoming, name);
      await writeFile(path, whole.padded);
      expect(await saveAll(open(), [await waiting(path)])).toMatchObject([{ outcome: 'stored' }]);
      await writeFile(path, whole.recycled);
      expect(await saveAll(open(), [await waiting(path)])).toMatchObject([{ outcome: 'already-stored' }]);
      await writeFile(path, whole.shorter);
      expect(await saveAll(open(), [await waiting(path)])).toMatchObject([{ outcome: 'conflict' }]);
      expect(await open().compare(name, whole.recycled)).toEqual({ result: 'same' });
      expect(await keysIn(endpoint)).toEqual([keyOf(name, 'gzip')]);
    }));
});
