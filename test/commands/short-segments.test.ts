import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { sha256 } from '../../src/storage/sha256.ts';
import { partialName, walName } from '../../src/wal/wal-name.ts';
import { useGpgKey } from '../storage/with-gpg-key.ts';
import type { RunResult } from '../support/run.ts';
import { describeS3 } from '../support/s3.ts';
import { partialWal, spliced } from '../wal/partial-wal.ts';
import { deliveryOf } from './tar-stream.ts';
import { withS3Server } from './with-s3-server.ts';
import { catalogueLines, namesIn, withServer, type ServerOptions, type TestServer } from './with-server.ts';

const key = useGpgKey();
const wal = await partialWal();
const name = walName(wal.name);
const partial = partialName(name);
const zeros = Buffer.alloc(wal.whole.length);
const received = spliced(wal.whole, 500_000, zeros);
const other = spliced(wal.padded, 8192 * 4, Buffer.alloc(wal.whole.length, 3));

async function put(server: TestServer, bytes: Buffer, as: string = name): Promise<RunResult> {
  return server.cli(['put-wal', 'main'], { input: await deliveryOf([{ name: as, bytes }]) });
}

/** A pass that has nothing to complain about. */
async function pass(server: TestServer): Promise<void> {
  expect(await server.cli(['-q', 'archive-wal', 'main'])).toMatchObject({ status: 0 });
}

async function named(server: TestServer): Promise<string[]> {
  return (await catalogueLines(server)).map((line) => line.split('\t')[0] ?? '');
}

/** SHA-256 of what get-wal hands out for the full name; the exit status where that is nothing. */
async function get(server: TestServer, ...options: readonly string[]): Promise<string | number | null> {
  const { status, bytes } = await server.cli(['get-wal', ...options, 'main', name]);
  return status === 0 ? sha256(bytes) : status;
}

/** Delivered again and again, by put-wal and by cp, while streaming has more of it. */
async function deliversShort(server: TestServer, isReadable = true): Promise<void> {
  await writeFile(join(server.streaming, partial), received);
  for (let round = 0; round < 2; round += 1) {
    expect(await put(server, wal.padded)).toMatchObject({ status: 0, stderr: '' });
    await pass(server);
    await writeFile(join(server.incoming, name), wal.padded);
    await pass(server);
    expect(await named(server)).toEqual([partial]);
  }
  expect(await get(server)).toBe(sha256(received));
  await rm(join(server.streaming, partial));
  // Never "absent", not even where nothing can be decrypted here.
  expect(await get(server)).toBe(isReadable ? sha256(wal.padded) : 200);
  // The whole one comes later, and is delivered before the short one comes once more.
  await writeFile(join(server.incoming, name), wal.whole);
  await pass(server);
  expect(await put(server, wal.padded)).toMatchObject({ status: 0, stderr: '' });
  await pass(server);
  expect(await get(server)).toBe(isReadable ? sha256(wal.whole) : 200);
  expect(await named(server)).toEqual([name, partial]);
  expect(await namesIn(server.errors)).toEqual([]);
  expect(await namesIn(server.incoming)).toEqual([]);
}

test.each<[string, ServerOptions]>([
  ['as it is', {}],
  ['with zstd', { compression: 'zstd' }],
])(
  'a delivery that is only the beginning of what is received is kept, once, and never in the way: stored %s',
  (_, options) => withServer(options, (server) => deliversShort(server)),
);

test('the same in an encrypted archive whose key is elsewhere, by the journal of digests', () =>
  withServer(
    { compression: 'gzip', encryption: 'gpg', encryption_key_id: key().keyId, gnupg_home: key().publicHome },
    (server) => deliversShort(server, false),
  ));

test('put-wal takes what is only the beginning of the archived segment, and get-wal still hands out that', () =>
  withServer({}, async (server) => {
    expect(await put(server, wal.whole)).toMatchObject({ status: 0 });
    await pass(server);
    for (const bytes of [wal.padded, wal.recycled, wal.padded]) {
      expect(await put(server, bytes)).toMatchObject({ status: 0, stderr: '' });
      await pass(server);
      expect(await get(server)).toBe(sha256(wal.whole));
      expect(await named(server)).toEqual([name, partial]);
    }
    expect(sha256(await readFile(join(server.wals, name.slice(0, 16), partial)))).toBe(sha256(wal.padded));
    expect(await namesIn(server.errors)).toEqual([]);
  }));

describe('put-wal refuses, and keeps once in errors,', () => {
  test('what is the beginning of other WAL', () =>
    withServer({}, async (server) => {
      await put(server, other);
      await pass(server);
      for (let round = 0; round < 2; round += 1) {
        expect(await put(server, wal.padded)).toMatchObject({ status: 1 });
      }
      expect(await namesIn(server.errors)).toHaveLength(1);
      expect(await get(server)).toBe(sha256(other));
    }));

  test('what would be a partial segment of another content', () =>
    withServer({}, async (server) => {
      await put(server, wal.whole);
      await put(server, other, partial);
      await pass(server);
      expect(await put(server, wal.padded)).toMatchObject({ status: 1 });
      expect(await namesIn(server.errors)).toHaveLength(1);
      expect(sha256(await readFile(join(server.wals, name.slice(0, 16), partial)))).toBe(sha256(other));
    }));
});

test('a partial segment that PostgreSQL itself delivered as one is handed out with --partial only', () =>
  withServer({}, async (server) => {
    await put(server, wal.padded, partial);
    await pass(server);
    expect(await get(server)).toBe(1);
    expect(await get(server, '--partial')).toBe(sha256(wal.padded));
  }));

describeS3('a delivery that is only the beginning of what is received, in S3,', (s3) => {
  test('is kept, once, and never in the way', () =>
    s3.withBucket((endpoint) =>
      withS3Server(endpoint, { compression: 'zstd', xlogdb_directory: '%(backup_directory)s/wals' }, (server) =>
        deliversShort(server),
      ),
    ));
});
