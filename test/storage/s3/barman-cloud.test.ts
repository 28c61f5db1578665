import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { CompressionName } from '../../../src/compression/codec.ts';
import { createCompressor, decompress } from '../../../src/compression/codecs.ts';
import {
  buildWalObjectKey,
  parseS3Location,
  parseWalObjectKey,
  walsPrefix,
} from '../../../src/storage/s3/wal-object-key.ts';
import { formatWalObjectMetadata, parseWalObjectMetadata } from '../../../src/storage/s3/wal-object-metadata.ts';
import { sha256Of } from '../../../src/storage/s3/s3-session.ts';
import { walName } from '../../../src/wal/wal-name.ts';
import { makeWal } from '../../support/make-wal.ts';
import { run, type RunResult } from '../../support/run.ts';
import type { S3Endpoint } from '../../support/s3-endpoint.ts';
import { describeS3 } from '../../support/s3.ts';
import { withTempDir } from '../../support/temp-dir.ts';
import { ROOT, withCloudStorage } from '../with-cloud-storage.ts';
import { arrive, namesOf, plainOf, saveAll, waiting } from '../with-storage.ts';
import { all, withStore } from './with-store.ts';

// Debian package barman-cli-cloud, 3.4: it knows gzip, bzip2 and snappy. Debian 12's python3-snappy fails with its own
// Python ("PY_SSIZE_T_CLEAN macro must be defined"), so snappy can't be tried.
const SERVER = 'main';
const history = {
  name: walName('00000002.history'),
  bytes: Buffer.from('1\t0/5000000\tno recovery target specified\n'),
};

describeS3(
  "Barman's cloud scripts",
  (server) => {
    test.each<[CompressionName | null, string]>([
      [null, 'backups/pg'],
      ['bzip2', ''],
      ['gzip', 'odd prefix/+ä&='],
      ['gzip', 'slashes/'],
    ])('restore what we store with compression %s below "%s"', (compression, prefix) =>
      server.withBucket((s3) =>
        withTempDir((directory) =>
          withStore(s3, {}, async (store) => {
            const location = `s3://${s3.bucket}/${prefix}`;
            const root = { prefix: parseS3Location(location).prefix, server: SERVER };
            const files = [makeWal({ segment: 5 }), history];
            for (const { name, bytes } of files) {
              const body = compression === null ? bytes : await createCompressor({ compression }).compress(bytes);
              const metadata = formatWalObjectMetadata({
                size: bytes.length,
                sha256: await sha256Of(bytes),
                mtime: 1_790_000_000.5,
                compression,
                encryption: null,
                version: '0.0.0',
              });
              await store.putIfAbsent(buildWalObjectKey(root, name, compression), body, { metadata });
            }
            for (const { name, bytes } of files) {
              const target = join(directory, name);
              const options = ['--cloud-provider', 'aws-s3', '--endpoint-url', s3.url];
              const { status, stderr } = await run(
                'barman-cloud-wal-restore',
                [...options, location, SERVER, name, target],
                {
                  env: { ...process.env, AWS_DEFAULT_REGION: s3.region },
                },
              );
              expect(status, stderr).toBe(0);
              expect((await readFile(target)).equals(bytes)).toBe(true);
            }
          }),
        ),
      ),
    );

    test.each<[CompressionName | null, string[]]>([
      [null, []],
      ['gzip', ['--gzip']],
      ['bzip2', ['--bzip2']],
    ])('store with compression %s what we read', (compression, flags) =>
      server.withBucket((s3) =>
        withTempDir((directory) =>
          withStore(s3, {}, async (store) => {
            const root = { prefix: 'backups/pg', server: SERVER };
            const wal = makeWal({ segment: 7 });
            for (const { name, bytes } of [wal, history]) {
              const source = join(directory, name);
              await writeFile(source, bytes);
              const options = ['--cloud-provider', 'aws-s3', '--endpoint-url', s3.url, ...flags];
              const location = `s3://${s3.bucket}/backups/pg`;
              const { status, stderr } = await run('barman-cloud-wal-archive', [...options, location, SERVER, source], {
                env: { ...process.env, AWS_DEFAULT_REGION: s3.region },
              });
              expect(status, stderr).toBe(0);
              const key = buildWalObjectKey(root, name, compression);
              const object = await store.get(key);
              const stored = object?.bytes ?? Buffer.alloc(0);
              const plain = compression === null ? stored : await decompress(stored, compression, { maxSize: 2 ** 20 });
              expect(plain.equals(bytes)).toBe(true);
              expect(parseWalObjectMetadata(object?.metadata ?? {})).toMatchObject({ sha256: null, size: null });
            }
            const keys = (await all(store.list(walsPrefix(root)))).map(({ key }) => parseWalObjectKey(root, key));
            expect(keys).toEqual([
              { name: wal.name, compression },
              { name: history.name, compression },
            ]);
          }),
        ),
      ),
    );

    test.each<CompressionName | null>([null, 'gzip'])(
      'restore what the strategy archived with compression %s',
      (compression) =>
        server.withBucket((s3) =>
          withCloudStorage(s3, { compression }, async ({ home, incoming, open }) => {
            const { name, bytes } = makeWal({ segment: 5 });
            const label = `START WAL LOCATION: 0/500028 (file ${name})\nSTOP TIME: 2026-11-21 08:55:15 UTC\nSTOP TIMELINE: 1\n`;
            const files: readonly [string, Buffer][] = [
              [name, bytes],
              [`${name}.00000028.backup`, Buffer.from(label)],
              [makeWal({ segment: 6 }).name.concat('.partial'), makeWal({ segment: 6 }).bytes],
              [history.name, history.bytes],
            ];
            const wals = [];
            for (const [file, content] of files) {
              await writeFile(join(incoming, file), content);
              wals.push(await waiting(join(incoming, file)));
            }
            expect((await saveAll(open(), wals)).map(({ outcome }) => outcome)).toEqual(wals.map(() => 'stored'));
            for (const [file, content] of files) {
              // It passes over compressed backup labels, its own as well: recovery needs none.
              if (compression !== null && file.endsWith('.backup')) continue;
              const target = join(home, 'restored');
              const { status, stderr } = await barman('barman-cloud-wal-restore', s3, [], file, target);
              expect(status, stderr).toBe(0);
              expect((await readFile(target)).equals(content)).toBe(true);
              await rm(target);
            }
          }),
        ),
    );

    test.each<[CompressionName | null, string[]]>([
      [null, []],
      ['gzip', ['--gzip']],
      ['bzip2', ['--bzip2']],
    ])(
      'leave, with compression %s, what the strategy takes over: compared by its bytes, and given its line',
      (theirs, flags) =>
        server.withBucket((s3) =>
          withCloudStorage(s3, { compression: 'zstd' }, async ({ home, incoming, catalogue, open }) => {
            const wals = [makeWal({ segment: 7 }), history];
            for (const { name, bytes } of wals) {
              await writeFile(join(home, name), bytes);
              const { status, stderr } = await barman('barman-cloud-wal-archive', s3, flags, join(home, name));
              expect(status, stderr).toBe(0);
              await writeFile(join(incoming, name), bytes);
            }
            const arrived = await Promise.all(wals.map(({ name }) => waiting(join(incoming, name))));
            const strategy = open();
            expect(await saveAll(strategy, arrived)).toMatchObject(
              wals.map(({ name }) => ({ outcome: 'already-stored', info: { name, compression: theirs } })),
            );
            expect(await readdir(incoming)).toEqual([]);
            expect(await namesOf(catalogue)).toEqual(wals.map(({ name }) => name));
            expect(await all(strategy.list())).toMatchObject(wals.map(({ name }) => ({ name, compression: theirs })));
            for (const { name, bytes } of wals) {
              expect(await strategy.compare(name, bytes)).toEqual({ result: 'same' });
              expect((await plainOf({ keys: {} }, strategy, name))?.equals(bytes)).toBe(true);
            }
            const other = await arrive(incoming, { segment: 7, seed: 2 });
            expect(await saveAll(strategy, [other.wal])).toMatchObject([{ outcome: 'conflict' }]);
            expect(await readdir(incoming)).toEqual([other.name]);
          }),
        ),
    );
  },
  ['rgw'],
);

/** Runs one of the scripts on the archive of the strategies' tests. */
function barman(program: string, s3: S3Endpoint, flags: readonly string[], ...files: string[]): Promise<RunResult> {
  const options = ['--cloud-provider', 'aws-s3', '--endpoint-url', s3.url, ...flags];
  return run(program, [...options, `s3://${s3.bucket}/${ROOT.prefix}`, ROOT.server, ...files], {
    env: { ...process.env, AWS_DEFAULT_REGION: s3.region },
  });
}
