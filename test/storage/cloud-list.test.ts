import { PutObjectCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { segmentName, walName } from '../../src/wal/wal-name.ts';
import { collect } from '../catalogue/with-catalogue.ts';
import { s3Answer } from '../support/fault-proxy.ts';
import { testClient, type S3Endpoint } from '../support/s3-endpoint.ts';
import { describeS3 } from '../support/s3.ts';
import { ALWAYS } from './s3/with-store.ts';
import { arrive, saveAll } from './with-storage.ts';
import { isList, withProxiedStorage } from './with-proxied-storage.ts';

async function putAll(endpoint: S3Endpoint, keys: readonly string[], body = 'x'): Promise<void> {
  const client = testClient(endpoint);
  for (let at = 0; at < keys.length; at += 20) {
    const puts = keys
      .slice(at, at + 20)
      .map((Key) => client.send(new PutObjectCommand({ Bucket: endpoint.bucket, Key, Body: body })));
    await Promise.all(puts);
  }
  client.destroy();
}

const WALS = 'archive/wal/main/wals';
const A = '000000010000000000000009';
const B = '00000001000000000000000A';

describeS3('the list of what is in S3', (server) => {
  test('has each file once, by name, though an extension sorts otherwise, and no object that is none', () =>
    withProxiedStorage(server, { compression: 'zstd' }, async ({ endpoint, open }) => {
      await putAll(endpoint, [
        `${WALS}/00000001.history`,
        `${WALS}/0000000100000000/${A}.gz`,
        `${WALS}/0000000100000000/${A}.zst`,
        `${WALS}/0000000100000000/${A}.partial`,
        `${WALS}/0000000100000000/${A}.00000028.backup`,
        `${WALS}/0000000100000000/${A}.00000028.backup.bz2`,
        `${WALS}/0000000100000000/${B}.snappy`,
        `${WALS}/0000000100000001/00000001000000010000000A`,
        `${WALS}/00000002.history.gz`,
        `${WALS}/0000000200000001/00000002000000010000000A.lz4`,
        // What is no WAL file, or not in its place.
        `${WALS}/`,
        `${WALS}/${B}`,
        `${WALS}/xlog.db`,
        `${WALS}/0000000100000000/${A}.gz.tmp`,
        `${WALS}/0000000100000000/${A}.txt`,
        `${WALS}/0000000100000000/sub/${B}`,
        `${WALS}/0000000100000001/${B}.gz`,
        `${WALS}/0000000100000000/00000002.history`,
        `archive/wal/main/base/20261121T000000/data.tar`,
        `archive/wal/mainly/wals/0000000100000000/${B}.gz`,
      ]);
      const infos = await collect(open().list());
      expect(infos.map(({ name, compression }) => [name, compression])).toEqual([
        ['00000001.history', null],
        [A, 'zstd'],
        [`${A}.00000028.backup`, null],
        [`${A}.partial`, null],
        [B, 'snappy'],
        ['00000001000000010000000A', null],
        ['00000002.history', 'gzip'],
        ['00000002000000010000000A', 'lz4'],
      ]);
      expect(infos.map(({ name }) => name)).toEqual(infos.map(({ name }) => name).sort());
      for (const info of infos) {
        expect(info).toMatchObject({ size: 1, encryption: null });
        // When it was stored, for want of anything better.
        expect(info.mtime).toBeGreaterThan(1_600_000_000);
        expect(await open().describe(info.name)).toEqual(info);
      }
      expect(await open().describe(walName('00000003.history'))).toBeNull();
    }));

  test('of an empty archive is empty, and of one that can not be seen an error', () =>
    withProxiedStorage(server, { s3: { maxAttempts: 1 } }, async ({ open, proxy, incoming }) => {
      expect(await collect(open().list())).toEqual([]);
      await saveAll(open(), [(await arrive(incoming)).wal]);
      proxy.fail(isList, s3Answer(403, 'AccessDenied'), ALWAYS);
      await expect(collect(open().list())).rejects.toMatchObject({ code: 'storage', failure: 'denied' });
      proxy.heal();
      proxy.fail(({ method }) => method === 'HEAD', { kind: 'reset' }, ALWAYS);
      await expect(collect(open().list())).rejects.toMatchObject({ code: 'storage', failure: 'unreachable' });
    }));

  test('can be left early', () =>
    withProxiedStorage(server, {}, async ({ endpoint, open }) => {
      const names = Array.from({ length: 60 }, (_, index) => segmentName(1, BigInt(index + 1), 16 * 1024 * 1024));
      await putAll(
        endpoint,
        names.map((name) => `${WALS}/${name.slice(0, 16)}/${name}`),
      );
      const strategy = open();
      for await (const { name } of strategy.list()) {
        expect(name).toBe(names[0]);
        break;
      }
      await strategy.close();
      expect((await collect(open().list())).map(({ name }) => name)).toEqual(names);
    }));

  test('the segment size is that of the objects, as far as they say it', () =>
    withProxiedStorage(server, { compression: 'gzip' }, async ({ endpoint, incoming, open }) => {
      const { wal, name } = await arrive(incoming, { size: 2 * 1024 * 1024 });
      await saveAll(open(), [wal]);
      await putAll(endpoint, [`${WALS}/0000000100000000/${A}.gz`]);
      const strategy = open();
      expect(await strategy.knownSegmentSize(name)).toBe(2 * 1024 * 1024);
      expect(await strategy.knownSegmentSize(walName(A))).toBeNull();
      expect(await strategy.knownSegmentSize(walName(B))).toBeNull();
      expect(await strategy.knownSegmentSize(walName('00000002.history'))).toBeNull();
      expect(await strategy.knownSegmentSize(null)).toBeNull();
    }));
});
