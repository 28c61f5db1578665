import { PutBucketPolicyCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import type { CompressionName } from '../../src/compression/codec.ts';
import type { WalHooks } from '../../src/hooks/wal-hooks.ts';
import type { WalStorageStrategy } from '../../src/storage/wal-storage-strategy.ts';
import type { WalFileInfo } from '../../src/wal/wal-file-info.ts';
import { segmentName, walDirectory } from '../../src/wal/wal-name.ts';
import { collect } from '../catalogue/with-catalogue.ts';
import { s3Answer, type SeenRequest } from '../support/fault-proxy.ts';
import { testClient, type S3Endpoint } from '../support/s3-endpoint.ts';
import { describeS3 } from '../support/s3.ts';
import { ALWAYS } from './s3/with-store.ts';
import { GO_ON } from './with-storage.ts';
import { isList, keyOf, keysIn, withProxiedStorage } from './with-proxied-storage.ts';

const MIB = 1024 * 1024;
const isDelete = ({ method, url }: SeenRequest): boolean =>
  method === 'DELETE' || (method === 'POST' && url.includes('delete'));

const nameOf = (segment: number) => segmentName(1, BigInt(segment), 16 * MIB);

/** Nobody has scripts for deletions: then many go with one request. */
const NO_HOOKS: Partial<WalHooks> = { watches: () => false };

/** Objects as small as they get. */
async function putSegments(
  endpoint: S3Endpoint,
  segments: readonly number[],
  extensions: readonly CompressionName[] = ['gzip'],
): Promise<void> {
  const client = testClient(endpoint);
  for (const segment of segments) {
    for (const extension of extensions) {
      const Key = keyOf(nameOf(segment), extension);
      await client.send(new PutObjectCommand({ Bucket: endpoint.bucket, Key, Body: 'x' }));
    }
  }
  client.destroy();
}

async function infosOf(strategy: WalStorageStrategy): Promise<Map<string, WalFileInfo[]>> {
  const directories = new Map<string, WalFileInfo[]>();
  for (const info of await collect(strategy.list())) {
    directories.set(walDirectory(info.name), [...(directories.get(walDirectory(info.name)) ?? []), info]);
  }
  return directories;
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, index) => from + index);

describeS3('deletion from S3', (server) => {
  test('goes by batches of the size that is set, over directories, with one look for many', () =>
    withProxiedStorage(server, { hooks: NO_HOOKS, storage: { deleteBatchSize: 10 } }, async (storage) => {
      const { endpoint, open, requests } = storage;
      const segments = [...range(1, 20), ...range(300, 305)];
      await putSegments(endpoint, segments);
      const strategy = open();
      const doomed = await infosOf(strategy);
      await putSegments(endpoint, [400]);
      requests();
      const told: string[] = [];
      const deleted = await strategy.delete(doomed, (name) => told.push(name));
      expect(deleted).toEqual(segments.map(nameOf));
      expect(told).toEqual(deleted);
      expect(requests()).toEqual({ LIST: 1, POST: 3 });
      expect(await keysIn(endpoint)).toEqual([keyOf(nameOf(400), 'gzip')]);
    }));

  test('with scripts it goes one by one, each script right before and right after its file', () =>
    withProxiedStorage(server, {}, async ({ endpoint, open, requests }) => {
      await putSegments(endpoint, range(1, 3));
      const calls: string[] = [];
      const look = async (phase: string, name: string): Promise<void> => {
        calls.push(`${phase} ${name.slice(-1)}: ${(await keysIn(endpoint)).length} left`);
      };
      const hooks: Partial<WalHooks> = {
        before: async (_operation, { name }) => {
          await look('before', name);
          return GO_ON();
        },
        after: async (_operation, { name }) => {
          await look('after', name);
          return GO_ON();
        },
      };
      const doomed = await infosOf(open());
      requests();
      await open({ hooks }).delete(doomed);
      expect(calls).toEqual([
        'before 1: 3 left',
        'after 1: 2 left',
        'before 2: 2 left',
        'after 2: 1 left',
        'before 3: 1 left',
        'after 3: 0 left',
      ]);
      expect(requests()).toEqual({ LIST: 1, DELETE: 3 });
    }));

  test('what can not be looked for is not deleted, and the scripts are told', () =>
    withProxiedStorage(server, { s3: { maxAttempts: 1 } }, async ({ endpoint, open, proxy }) => {
      await putSegments(endpoint, range(1, 2));
      const errors: (string | undefined)[] = [];
      const after: WalHooks['after'] = async (_operation, _info, _path, error) => {
        errors.push(error);
        return GO_ON();
      };
      const doomed = await infosOf(open());
      proxy.fail(isList, s3Answer(500, 'InternalError'), ALWAYS);
      const told: string[] = [];
      await expect(open({ hooks: { after } }).delete(doomed, (name) => told.push(name))).rejects.toMatchObject({
        failure: 'server',
      });
      expect(told).toEqual([]);
      expect(errors).toEqual([expect.stringContaining("can't list s3://")]);
      expect(await keysIn(endpoint)).toHaveLength(2);
    }));

  test('a request that fails halfway: those before it are told, those of it are not, and none behind it is touched', () =>
    withProxiedStorage(
      server,
      { hooks: NO_HOOKS, s3: { maxAttempts: 1 }, storage: { deleteBatchSize: 2 } },
      async ({ endpoint, open, proxy }) => {
        await putSegments(endpoint, range(1, 6));
        const doomed = await infosOf(open());
        let requests = 0;
        // The second is done, and nobody hears of it.
        proxy.fail((seen) => isDelete(seen) && ++requests === 2, { kind: 'lose-answer' });
        const told: string[] = [];
        await expect(open().delete(doomed, (name) => told.push(name))).rejects.toMatchObject({
          code: 'storage',
          message: expect.stringMatching(/^can't delete s3:.*; nor could 000000010000000000000004 be deleted$/),
        });
        expect(told).toEqual([1, 2].map(nameOf));
        expect(await keysIn(endpoint)).toEqual([5, 6].map((segment) => keyOf(nameOf(segment), 'gzip')));
        // Once more, and what is gone counts as deleted.
        const patient = open({ s3: { endpoint: proxy.url } });
        expect(await patient.delete(doomed)).toEqual(range(1, 6).map(nameOf));
        expect(await keysIn(endpoint)).toEqual([]);
      },
    ));
});

describeS3(
  'deletion of what may not be deleted',
  (server) => {
    const deny = async (endpoint: S3Endpoint, keys: readonly string[]): Promise<void> => {
      const client = testClient(endpoint);
      const Policy = JSON.stringify({
        Version: '2012-10-17',
        Statement: keys.map((key) => ({
          Effect: 'Deny',
          Principal: '*',
          Action: 's3:DeleteObject',
          Resource: `arn:aws:s3:::${endpoint.bucket}/${key}`,
        })),
      });
      await client.send(new PutBucketPolicyCommand({ Bucket: endpoint.bucket, Policy }));
      client.destroy();
    };

    test('each file has its own outcome: the others of its batch are gone and told, these are named', () =>
      withProxiedStorage(server, { hooks: NO_HOOKS, storage: { deleteBatchSize: 20 } }, async ({ endpoint, open }) => {
        await putSegments(endpoint, range(1, 30));
        const doomed = await infosOf(open());
        const locked = range(3, 15);
        await deny(
          endpoint,
          locked.map((segment) => keyOf(nameOf(segment), 'gzip')),
        );
        const errors = new Map<string, string | undefined>();
        const after: WalHooks['after'] = async (_operation, { name }, _path, error) => {
          errors.set(name, error);
          return GO_ON();
        };
        const told: string[] = [];
        const deleting = open({ hooks: { ...NO_HOOKS, after } }).delete(doomed, (name) => told.push(name));
        await expect(deleting).rejects.toMatchObject({
          code: 'storage',
          message: expect.stringMatching(/0003\.gz: .*; nor could \S+4, .*\S+D and 2 more be deleted$/),
          hint: expect.stringContaining('s3:DeleteObject'),
        });
        const gone = range(1, 20).filter((segment) => !locked.includes(segment));
        expect(told).toEqual(gone.map(nameOf));
        for (const segment of range(1, 20)) {
          const expected = locked.includes(segment) ? expect.stringContaining(`${nameOf(segment)}.gz`) : undefined;
          expect(errors.get(nameOf(segment))).toEqual(expected);
        }
        expect(await keysIn(endpoint)).toEqual(
          [...locked, ...range(21, 30)].map((segment) => keyOf(nameOf(segment), 'gzip')),
        );
      }));

    test('a file of which one of two objects stays is not gone', () =>
      withProxiedStorage(server, { hooks: NO_HOOKS }, async ({ endpoint, open }) => {
        await putSegments(endpoint, range(1, 2), ['gzip', 'zstd']);
        const doomed = await infosOf(open());
        await deny(endpoint, [keyOf(nameOf(1), 'gzip')]);
        const told: string[] = [];
        await expect(open().delete(doomed, (name) => told.push(name))).rejects.toMatchObject({ failure: 'denied' });
        expect(told).toEqual([nameOf(2)]);
        expect(await keysIn(endpoint)).toEqual([keyOf(nameOf(1), 'gzip')]);
      }));
  },
  ['rgw'],
);

describeS3('deletion that is killed', (server) => {
  test('ends at once, and tells only of what is gone', () =>
    withProxiedStorage(
      server,
      { hooks: NO_HOOKS, s3: { readTimeoutMs: 600_000 }, storage: { deleteBatchSize: 2 } },
      async ({ endpoint, open, proxy }) => {
        await putSegments(endpoint, range(1, 4));
        const doomed = await infosOf(open());
        const kill = new AbortController();
        const strategy = open({ storage: { deleteBatchSize: 2, kill: kill.signal } });
        let requests = 0;
        proxy.fail(
          (seen) => {
            if (!isDelete(seen) || ++requests < 2) return false;
            kill.abort();
            return true;
          },
          { kind: 'stall' },
          ALWAYS,
        );
        const told: string[] = [];
        await expect(strategy.delete(doomed, (name) => told.push(name))).rejects.toMatchObject({ code: 'aborted' });
        expect(told).toEqual([1, 2].map(nameOf));
        expect(await keysIn(endpoint)).toHaveLength(2);
      },
    ));
});
