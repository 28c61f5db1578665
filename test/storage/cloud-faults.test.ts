import { once } from 'node:events';
import { readdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DeleteObjectCommand, ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { isErrorCode } from '../../src/errors.ts';
import type { WaitingWal } from '../../src/storage/wal-storage-strategy.ts';
import { s3Answer, type Fault } from '../support/fault-proxy.ts';
import { makeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { testClient } from '../support/s3-endpoint.ts';
import { describeS3 } from '../support/s3.ts';
import { ALWAYS } from './s3/with-store.ts';
import { isPutOf, keyOf, keysIn, withProxiedStorage } from './with-proxied-storage.ts';
import { arrive, namesOf, queueOf, saveAll, waiting } from './with-storage.ts';

const MIB = 1024 * 1024;

/** With one upload at a time, two of these are all that is held in memory. */
const LARGE = { size: 16 * MIB, content: 'zeros' } as const;

/** Long enough that a busy machine is not taken for a silent endpoint. */
const PATIENT = { readTimeoutMs: 5_000, maxAttempts: 1 } as const;

async function arriveMany(incoming: string, count: number, options: object = {}): Promise<WaitingWal[]> {
  const wals: WaitingWal[] = [];
  for (let segment = 1; segment <= count; segment += 1) {
    wals.push((await arrive(incoming, { content: 'zeros', segment, ...options })).wal);
  }
  return wals;
}

const namesIn = (wals: readonly WaitingWal[]): string[] => wals.map(({ name }) => name);

describeS3(
  'a pass whose endpoint fails',
  (server) => {
    test.each<[string, Fault, RegExp]>([
      ['resets', { kind: 'reset' }, /^can't store s3:\S+: \S+ cut the connection/],
      ['is silent', { kind: 'stall' }, /^can't store s3:\S+: no answer from/],
      ['is full', s3Answer(403, 'QuotaExceeded'), /^can't store s3:\S+: there is no space left/],
    ])(
      'stops at that file when it %s: what came before is stored, all else stays, and the next pass stores it',
      (_, fault, text) =>
        withProxiedStorage(server, { s3: PATIENT, storage: { parallel: 1 } }, async (storage) => {
          const { incoming, open, proxy, catalogue, endpoint, requests } = storage;
          const wals = await arriveMany(incoming, 8, LARGE);
          const names = namesIn(wals);
          proxy.fail(isPutOf(names[4]), fault, ALWAYS);
          const outcomes: string[] = [];
          const saving = (async () => {
            for await (const { outcome } of open().save(queueOf(wals), { expected: wals.length }))
              outcomes.push(outcome);
          })();
          await expect(saving).rejects.toMatchObject({
            code: 'storage',
            message: expect.stringMatching(text),
            hint: expect.stringContaining('nothing is lost'),
          });
          expect(outcomes).toEqual(['stored', 'stored', 'stored', 'stored']);
          expect(await namesOf(catalogue)).toEqual(names.slice(0, 4));
          expect(await readdir(incoming)).toEqual(names.slice(4));
          // Nobody waits for the same answer once more.
          expect(proxy.seen.filter((seen) => names.slice(5).some((name) => isPutOf(name)(seen)))).toEqual([]);
          proxy.heal();
          requests();
          const left = await Promise.all(names.slice(4).map((name) => waiting(join(incoming, name))));
          expect((await saveAll(open(), left)).map(({ outcome }) => outcome)).toEqual(left.map(() => 'stored'));
          expect(await keysIn(endpoint)).toHaveLength(8);
          expect(await namesOf(catalogue)).toEqual(names);
          expect(await readdir(incoming)).toEqual([]);
        }),
    );

    test('stores nothing twice when several were on their way: those that arrived are met again as duplicates', () =>
      withProxiedStorage(server, { s3: PATIENT }, async (storage) => {
        const { incoming, open, proxy, catalogue, endpoint } = storage;
        const wals = await arriveMany(incoming, 12);
        const names = namesIn(wals);
        // Its connection is cut only when two behind it have arrived, however quick or slow the machine is.
        const others = until('two others', async () => (await keysIn(endpoint)).length > 2);
        proxy.fail(isPutOf(names[1]), { kind: 'hold', until: others, afterwards: { kind: 'reset' } }, ALWAYS);
        await expect(saveAll(open(), wals)).rejects.toMatchObject({ code: 'storage' });
        const arrived = await keysIn(endpoint);
        expect(arrived.length).toBeGreaterThan(2);
        expect(await namesOf(catalogue)).toEqual(names.slice(0, 1));
        expect(await readdir(incoming)).toEqual(names.slice(1));
        proxy.heal();
        const puts = proxy.seen.filter(isPutOf()).length;
        const left = await Promise.all(names.slice(1).map((name) => waiting(join(incoming, name))));
        const outcomes = (await saveAll(open(), left)).map(({ outcome }) => outcome);
        expect(outcomes.filter((outcome) => outcome === 'already-stored')).toHaveLength(arrived.length - 1);
        expect(proxy.seen.filter(isPutOf())).toHaveLength(puts + 12 - arrived.length);
        expect(await namesOf(catalogue)).toEqual(names);
        expect(await readdir(incoming)).toEqual([]);
      }));

    test('before its first file ends with the reason, and knows nothing of the endpoint afterwards', () =>
      withProxiedStorage(server, {}, async ({ incoming, open, proxy, probed, catalogue }) => {
        const wals = await arriveMany(incoming, 3);
        const strategy = open();
        proxy.fail(() => true, s3Answer(404, 'NoSuchBucket'), ALWAYS);
        await expect(saveAll(strategy, wals)).rejects.toMatchObject({
          code: 'storage',
          message: expect.stringContaining('no bucket'),
        });
        expect(probed).toEqual([]);
        expect(await readdir(incoming)).toEqual(namesIn(wals));
        proxy.heal();
        // The same object, as the daemon has it.
        expect((await saveAll(strategy, wals)).map(({ outcome }) => outcome)).toEqual(['stored', 'stored', 'stored']);
        expect(probed).toHaveLength(1);
        expect(await namesOf(catalogue)).toEqual(namesIn(wals));
      }));
  },
  ['rgw'],
);

describeS3(
  'what is held in memory',
  (server) => {
    test('is given back when the consumer stops early, and the pass ends', () =>
      withProxiedStorage(server, { storage: { parallel: 1 } }, async ({ incoming, open, catalogue, proxy }) => {
        const wals = await arriveMany(incoming, 10, LARGE);
        const names = namesIn(wals);
        const strategy = open();
        // The endpoint holds the sixth until the consumer has stopped, so that at most five are stored before.
        const stopped = new AbortController();
        proxy.fail(isPutOf(names[5]), { kind: 'hold', until: once(stopped.signal, 'abort') });
        const results = strategy.save(queueOf(wals), { expected: wals.length });
        await results.next();
        const ended = results.return(undefined);
        stopped.abort();
        await ended;
        const left = await readdir(incoming);
        const stored = await namesOf(catalogue);
        expect([...stored, ...left]).toEqual(names);
        expect(stored.length).toBeGreaterThan(0);
        expect(left.length).toBeGreaterThanOrEqual(5);
        // Nothing of it is missing now.
        const again = await Promise.all(left.sort().map((name) => waiting(join(incoming, name))));
        for (const result of await saveAll(strategy, again)) expect(result).toHaveProperty('info');
        expect(await namesOf(catalogue)).toEqual(namesIn(wals));
      }));

    test('is not kept by files that do not belong here, while one before them is prepared again', () =>
      withProxiedStorage(server, { storage: { parallel: 1 } }, async ({ incoming, open, endpoint, catalogue }) => {
        const [first] = await arriveMany(incoming, 1, LARGE);
        await saveAll(open(), first === undefined ? [] : [first]);
        const ours = await arrive(incoming, { ...LARGE, segment: 1 });
        const wals = [ours.wal];
        for (let segment = 2; segment <= 8; segment += 1) {
          wals.push((await arrive(incoming, { ...LARGE, segment, systemIdentifier: 7n })).wal);
        }
        wals.push((await arrive(incoming, { ...LARGE, segment: 9 })).wal);
        const strategy = open({
          accept: async ({ systemIdentifier: id }) => (id === 7n ? 'it is WAL of another cluster' : null),
        });
        const commit = strategy.commit.bind(strategy);
        let left = 1;
        strategy.commit = async (group) => {
          if (left-- === 1) {
            const client = testClient(endpoint);
            await client.send(new DeleteObjectCommand({ Bucket: endpoint.bucket, Key: keyOf(ours.name, null) }));
            client.destroy();
          }
          return commit(group);
        };
        const outcomes = (await saveAll(strategy, wals)).map(({ outcome }) => outcome);
        expect(outcomes).toEqual(['stored', ...Array.from({ length: 7 }, () => 'invalid'), 'stored']);
        expect(await namesOf(catalogue)).toEqual([ours.name, wals[8]?.name]);
      }));

    test('is enough for one that is larger than all of it, and for those around it, whatever becomes of them', () =>
      withProxiedStorage(server, { storage: { parallel: 1 } }, async ({ incoming, open, catalogue }) => {
        const path = (segment: number): string => join(incoming, makeWal({ segment, size: 16 * MIB }).name);
        const wals = await arriveMany(incoming, 3, LARGE);
        // A giant that is none: only its size is.
        await writeFile(path(4), makeWal({ segment: 4 }).bytes);
        await truncate(path(4), 300 * MIB);
        const others = await arriveMany(join(incoming, 'more'), 8, LARGE);
        await writeFile(path(9), '');
        await writeFile(path(10), makeWal({ ...LARGE, segment: 77 }).bytes);
        const batch = [
          ...wals,
          await waiting(path(4)),
          ...others.slice(4),
          await waiting(path(9)),
          await waiting(path(10)),
        ];
        const outcomes = (await saveAll(open(), batch)).map(({ outcome }) => outcome);
        const stored = (count: number): string[] => Array.from({ length: count }, () => 'stored');
        expect([outcomes.slice(0, 3), outcomes.slice(4, 8)]).toEqual([stored(3), stored(4)]);
        expect(['invalid', 'incomplete']).toContain(outcomes[3]);
        expect(outcomes[8]).toBe('incomplete');
        expect(outcomes[9]).toBe('invalid');
        expect(await namesOf(catalogue)).toHaveLength(7);
      }));
  },
  ['rgw'],
);

describeS3('being killed', (server) => {
  const endless = { readTimeoutMs: 600_000, maxAttempts: 1_000 };

  test.each<[string, Fault]>([
    ['nothing answers', { kind: 'stall' }],
    ['the endpoint says slow down again and again', s3Answer(503, 'SlowDown')],
    ['the connection is cut again and again', { kind: 'reset' }],
  ])('ends uploads at once when %s, and is no fault of the storage', (_, fault) =>
    withProxiedStorage(server, { s3: endless }, async ({ incoming, open, proxy, catalogue, endpoint }) => {
      const wals = await arriveMany(incoming, 8);
      const kill = new AbortController();
      const strategy = open({ storage: { kill: kill.signal }, s3: { ...endless, endpoint: proxy.url } });
      proxy.fail(isPutOf(), fault, ALWAYS);
      const saving = saveAll(strategy, wals);
      saving.catch(() => undefined);
      await until('an upload', () => proxy.seen.some(isPutOf()));
      kill.abort();
      await expect(saving).rejects.toSatisfy((error) => isErrorCode(error, 'aborted'));
      expect(await readdir(incoming)).toEqual(namesIn(wals));
      expect(await namesOf(catalogue)).toEqual([]);
      proxy.heal();
      // Perhaps one was on the wire.
      for (const result of await saveAll(open(), wals)) expect(result).toHaveProperty('info');
      expect(await keysIn(endpoint)).toHaveLength(8);
    }),
  );

  test('ends an upload in parts, and takes the parts back', () =>
    withProxiedStorage(server, {}, async ({ incoming, open, proxy, endpoint }) => {
      const { wal, name } = await arrive(incoming, LARGE);
      const kill = new AbortController();
      const s3 = { ...endless, endpoint: proxy.url, multipartThreshold: 5 * MIB, partSize: 5 * MIB };
      const strategy = open({ storage: { kill: kill.signal }, s3 });
      const isPart = ({ method, url }: { method: string; url: string }): boolean =>
        method === 'PUT' && url.includes('partNumber');
      proxy.fail(isPart, { kind: 'stall' }, ALWAYS);
      const saving = saveAll(strategy, [wal]);
      saving.catch(() => undefined);
      await until('a part', () => proxy.seen.some(isPart));
      kill.abort();
      await expect(saving).rejects.toSatisfy((error) => isErrorCode(error, 'aborted'));
      expect(await readdir(incoming)).toEqual([name]);
      expect(await keysIn(endpoint)).toEqual([]);
      if (server.kind === 's3rver') return; // it can't list uploads
      const client = testClient(endpoint);
      const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket: endpoint.bucket }));
      client.destroy();
      expect(Uploads).toEqual([]);
    }));

  test('ends uploads that keep to a bandwidth limit', () =>
    withProxiedStorage(server, {}, async ({ incoming, open, proxy, catalogue }) => {
      const wals = await arriveMany(incoming, 3);
      const kill = new AbortController();
      // An hour for each.
      const s3 = { ...endless, endpoint: proxy.url, bandwidthLimit: 300 };
      const strategy = open({ storage: { kill: kill.signal }, s3 });
      const saving = saveAll(strategy, wals);
      saving.catch(() => undefined);
      await until('an upload', () => proxy.seen.some(isPutOf()));
      kill.abort();
      await expect(saving).rejects.toSatisfy((error) => isErrorCode(error, 'aborted'));
      expect(await readdir(incoming)).toEqual(namesIn(wals));
      expect(await namesOf(catalogue)).toEqual([]);
    }));

  test('ends a look at what is there, too', () =>
    withProxiedStorage(server, { s3: endless }, async ({ incoming, open, proxy }) => {
      const wals = await arriveMany(incoming, 3);
      await saveAll(open(), wals, { skipDelete: true });
      const kill = new AbortController();
      const strategy = open({ storage: { kill: kill.signal }, s3: { ...endless, endpoint: proxy.url } });
      proxy.fail(({ method }) => method === 'HEAD', { kind: 'stall' }, ALWAYS);
      const seen = proxy.seen.length;
      const saving = saveAll(strategy, wals);
      saving.catch(() => undefined);
      await until('a look', () => proxy.seen.slice(seen).some(({ method }) => method === 'HEAD'));
      kill.abort();
      await expect(saving).rejects.toSatisfy((error) => isErrorCode(error, 'aborted'));
      expect(await readdir(incoming)).toEqual(namesIn(wals));
    }));
});
