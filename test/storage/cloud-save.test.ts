import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { CompressionName } from '../../src/compression/codec.ts';
import { createCompressor } from '../../src/compression/codecs.ts';
import { buildWalObjectKey, walsPrefix } from '../../src/storage/s3/wal-object-key.ts';
import { parseWalObjectMetadata } from '../../src/storage/s3/wal-object-metadata.ts';
import { plainBytes } from '../../src/storage/stored-content.ts';
import { sha256 } from '../../src/storage/sha256.ts';
import { collect } from '../catalogue/with-catalogue.ts';
import { makeWal } from '../support/make-wal.ts';
import { describeS3 } from '../support/s3.ts';
import { listed, withStore } from './s3/with-store.ts';
import { ROOT, withCloudStorage } from './with-cloud-storage.ts';
import { withGpgKey } from './with-gpg-key.ts';
import { arrive, plainOf, saveAll, waiting } from './with-storage.ts';

const MIB = 1024 * 1024;

const CODECS: readonly (CompressionName | null)[] = [
  null,
  'gzip',
  'pygzip',
  'bzip2',
  'pybzip2',
  'xz',
  'zstd',
  'lz4',
  'snappy',
];
/** They take a second for a megabyte that says something. */
const SLOW = new Set<CompressionName | null>(['bzip2', 'pybzip2', 'xz']);

const EXTENSIONS: Partial<Record<CompressionName | 'none', string>> = {
  none: '',
  gzip: '.gz',
  pygzip: '.gz',
  bzip2: '.bz2',
  pybzip2: '.bz2',
  xz: '.xz',
  zstd: '.zst',
  lz4: '.lz4',
  snappy: '.snappy',
};

describeS3('a segment in S3', (server) => {
  const sizes = server.kind === 'rgw' ? [1, 16, 64] : [1];
  for (const mib of sizes) {
    test.each(CODECS)(`of ${mib} MiB comes back byte for byte from compression %s`, (compression) =>
      server.withBucket((endpoint) =>
        withCloudStorage(endpoint, { compression }, async (storage) => {
          const content = SLOW.has(compression) && mib > 1 ? 'zeros' : mib === 16 ? 'random' : 'compressible';
          const { wal, name, bytes } = await arrive(storage.incoming, { size: mib * MIB, content, segment: 3 });
          const strategy = storage.open();
          const [result] = await saveAll(strategy, [wal]);
          expect(result).toMatchObject({ outcome: 'stored', info: { name, compression, encryption: null } });
          const info = result !== undefined && 'info' in result ? result.info : undefined;
          await withStore(endpoint, {}, async (store) => {
            const key = `${walsPrefix(ROOT)}${name.slice(0, 16)}/${name}${EXTENSIONS[compression ?? 'none']}`;
            expect(await listed(store, '')).toEqual({ [key]: info?.size });
            const { metadata = {} } = (await store.head(key)) ?? {};
            expect(parseWalObjectMetadata(metadata)).toEqual({
              size: mib * MIB,
              sha256: sha256(bytes),
              mtime: info?.mtime,
              compression,
              encryption: null,
              version: '0.0.0-test',
            });
          });
          // By another object, which knows nothing.
          const reader = storage.open({ compression: null });
          expect((await plainOf(storage, reader, name))?.equals(bytes)).toBe(true);
          expect(await reader.describe(name)).toEqual(info);
          expect(await collect(reader.list())).toEqual([info]);
          expect(await storage.catalogue.find(name)).toEqual(info);
          expect(await readdir(storage.incoming)).toEqual([]);
        }),
      ),
    );
  }

  test.each([
    [null, 1],
    ['gzip', 1],
    ['gzip', 16],
  ] as const)('encrypted after compression %s comes back byte for byte, at %i MiB', (compression, mib) =>
    withGpgKey(({ keyId, homedir, publicHome }) =>
      server.withBucket((endpoint) => {
        const encryption = { keyId, homedir: publicHome };
        return withCloudStorage(endpoint, { compression, encryption }, async (storage) => {
          const { wal, name, bytes } = await arrive(storage.incoming, { size: mib * MIB });
          const strategy = storage.open();
          expect(await saveAll(strategy, [wal])).toMatchObject([
            { outcome: 'stored', info: { compression, encryption: 'gpg' } },
          ]);
          const stored = await strategy.read(name);
          expect(stored?.bytes.includes(bytes.subarray(8192, 8256))).toBe(false);
          const plain = await plainBytes({ bytes: stored?.bytes ?? Buffer.alloc(0) }, name, { gnupgHome: homedir });
          expect(plain.equals(bytes)).toBe(true);
          expect(await collect(strategy.list())).toMatchObject([{ name, compression, encryption: 'gpg' }]);
          // Nobody here could decrypt it: what it says of itself decides.
          const again = await arrive(storage.incoming, { size: mib * MIB });
          expect(await saveAll(storage.open(), [again.wal])).toMatchObject([{ outcome: 'already-stored' }]);
          const other = await arrive(storage.incoming, { size: mib * MIB, seed: 2 });
          expect(await saveAll(storage.open(), [other.wal])).toMatchObject([{ outcome: 'conflict' }]);
        });
      }),
    ),
  );

  test('that arrives compressed is stored as it is, under its own extension, whatever the setting', () =>
    server.withBucket((endpoint) =>
      withCloudStorage(endpoint, { compression: 'gzip' }, async (storage) => {
        const strategy = storage.open();
        for (const [index, compression] of (['zstd', 'lz4', 'xz', 'gzip'] as const).entries()) {
          const { name, bytes } = makeWal({ segment: index + 1 });
          const packed = await createCompressor({ compression }).compress(bytes);
          const path = join(storage.incoming, name);
          await writeFile(path, packed);
          expect(await saveAll(strategy, [await waiting(path)])).toMatchObject([
            { outcome: 'stored', info: { compression, size: packed.length } },
          ]);
          await withStore(endpoint, {}, async (store) => {
            const object = await store.get(buildWalObjectKey(ROOT, name, compression));
            expect(object?.bytes.equals(packed)).toBe(true);
            expect(parseWalObjectMetadata(object?.metadata ?? {})).toMatchObject({ size: MIB, sha256: sha256(bytes) });
          });
        }
      }),
    ));
});
