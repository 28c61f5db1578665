import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { ObjectStore } from '../../src/storage/s3/object-store.ts';
import { RememberedEndpoint } from '../../src/storage/s3/remembered-endpoint.ts';
import { s3SettingsOf } from './with-cloud-storage.ts';
import { testClient } from '../support/s3-endpoint.ts';
import { describeS3 } from '../support/s3.ts';
import { CAPABILITIES } from './s3/with-store.ts';
import { isProbe, isPutOf, keysIn, withProxiedStorage, type ProxiedStorage } from './with-proxied-storage.ts';
import { arrive, saveAll } from './with-storage.ts';

const remembered = ({ home, server }: ProxiedStorage): string => join(home, server, '.s3-endpoint.json');

describeS3('an endpoint', (server) => {
  const found = CAPABILITIES[server.kind];

  async function pass(storage: ProxiedStorage, segment: number, strategy = storage.open()): Promise<number> {
    const before = storage.probed.length;
    const { wal } = await arrive(storage.incoming, { segment, content: 'zeros' });
    expect(await saveAll(strategy, [wal])).toMatchObject([{ outcome: 'stored' }]);
    return storage.probed.length - before;
  }

  test('is probed by the first pass, told once, and not by the next pass nor the next process', () =>
    withProxiedStorage(server, {}, async (storage) => {
      const strategy = storage.open();
      expect(await pass(storage, 1, strategy)).toBe(1);
      expect(storage.probed).toEqual([[found, null]]);
      expect(await pass(storage, 2, strategy)).toBe(0);
      const seen = storage.proxy.seen.length;
      expect(await pass(storage, 3)).toBe(0);
      expect(storage.proxy.seen.slice(seen).filter(isProbe)).toEqual([]);
      const content: unknown = JSON.parse(await readFile(remembered(storage), 'utf8'));
      expect(content).toMatchObject({ ...found, endpoint: expect.stringContaining(storage.endpoint.bucket) });
      // The probe leaves nothing.
      expect(await keysIn(storage.endpoint)).toHaveLength(3);
    }));

  test('is probed again after a day, and when what was remembered is torn', () =>
    withProxiedStorage(server, {}, async (storage) => {
      await pass(storage, 1);
      const path = remembered(storage);
      const text = await readFile(path, 'utf8');
      const dayAgo = new Date(Date.now() - 24 * 3600 * 1000).toISOString();
      await writeFile(path, text.replace(/"probed": "[^"]*"/, `"probed": "${dayAgo}"`));
      expect(await pass(storage, 2)).toBe(1);
      await writeFile(path, text.slice(0, 40));
      expect(await pass(storage, 3)).toBe(1);
      expect(await pass(storage, 4)).toBe(0);
    }));

  test('with another bucket, or at another address, is probed anew', () =>
    withProxiedStorage(server, {}, async (storage) => {
      await pass(storage, 1);
      const { endpoint, open, home } = storage;
      const client = testClient(endpoint);
      const bucket = `${endpoint.bucket}-2`;
      await client.send(new CreateBucketCommand({ Bucket: bucket }));
      client.destroy();
      for (const s3 of [{ bucket }, { endpoint: endpoint.url.replace('127.0.0.1', 'localhost') }]) {
        const store = new ObjectStore({ ...s3SettingsOf(endpoint), ...s3 });
        const memory = new RememberedEndpoint(join(home, storage.server, '.s3-endpoint.json'), store.settings);
        const strategy = open({ s3, storage: { endpoint: memory } });
        await store.close();
        expect(await pass(storage, 'bucket' in s3 ? 2 : 3, strategy)).toBe(1);
      }
    }));

  test('is written to as it is able: under a condition, or after a look', () =>
    withProxiedStorage(server, {}, async (storage) => {
      await pass(storage, 1);
      storage.requests();
      const seen = storage.proxy.seen.length;
      const wals = [];
      for (const segment of [2, 3, 4]) wals.push((await arrive(storage.incoming, { segment, content: 'zeros' })).wal);
      await saveAll(storage.open(), wals);
      // A HEAD that finds nothing is followed by a GET, which says what it is that is not there.
      const looks = found.conditionalWrites ? {} : { HEAD: 3, GET: 3 };
      expect(storage.requests()).toEqual({ LIST: 1, PUT: 3, ...looks });
      const conditions = storage.proxy.seen
        .slice(seen)
        .filter(isPutOf())
        .map(({ headers }) => headers['if-none-match']);
      expect(conditions).toEqual(wals.map(() => (found.conditionalWrites ? '*' : undefined)));
    }));
});
