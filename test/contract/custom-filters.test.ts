import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import { findCovering } from '../../src/archiver/covering-wal.ts';
import { newestHeader } from '../../src/archiver/identity.ts';
import { findWal } from '../../src/archiver/wal-finder.ts';
import type { CustomFilters } from '../../src/compression/codec.ts';
import { Unpacker } from '../../src/storage/unpacker.ts';
import type { ReadingKeys } from '../../src/storage/stored-content.ts';
import type { WalFileInfo } from '../../src/wal/wal-file-info.ts';
import { parseWalName, walName } from '../../src/wal/wal-name.ts';
import { makeWal, TEST_SYSTEM_IDENTIFIER } from '../support/make-wal.ts';
import { withGpgKey } from '../storage/with-gpg-key.ts';
import {
  arrive,
  linesOf,
  saveAll,
  waiting,
  withStorage,
  type StorageOptions,
  type TestStorage,
} from '../storage/with-storage.ts';

const OPENSSL = 'openssl enc -aes-256-ctr -nosalt -pbkdf2 -pass pass:secret';
const prefixed = (octal: string, length: number): CustomFilters => ({
  compress: `printf '${octal}'; pigz -z -c`,
  decompress: `tail -c +${length + 1} | pigz -dc`,
});

/** Filters whose output no magic number tells, or the wrong one. */
const FILTERS: readonly (readonly [what: string, custom: CustomFilters])[] = [
  ['zlib', { compress: 'pigz -z -c', decompress: 'pigz -dc' }],
  ['as long as the plain bytes, and like noise', { compress: OPENSSL, decompress: `${OPENSSL} -d` }],
  ['cat', { compress: 'cat', decompress: 'cat' }],
  ['text that is a history file, too', { compress: 'tr a-z n-za-m', decompress: 'tr a-z n-za-m' }],
  ['what begins like gzip', prefixed('\\037\\213\\010', 3)],
  ['what begins like zstd', prefixed('\\050\\265\\057\\375', 4)],
  ['what begins like a message of gpg', prefixed('\\205\\001\\003', 3)],
  ['what is gzip, of something else', { compress: `${OPENSSL} | gzip -c`, decompress: `gzip -dc | ${OPENSSL} -d` }],
  [
    'zstd under its own magic number',
    { compress: 'zstd -q -c', decompress: 'zstd -dcq', magic: Buffer.from('28b52ffd', 'hex') },
  ],
  [
    'what a wrong magic number is configured for',
    { compress: 'pigz -z -c', decompress: 'pigz -dc', magic: Buffer.from('cafe', 'hex') },
  ],
];

const segment = makeWal({ segment: 3 });
const HISTORY = Buffer.from('1\t0/3000000\tno recovery target specified\n');
const files = [
  { name: segment.name, bytes: segment.bytes },
  { name: walName(`${makeWal({ segment: 4 }).name}.partial`), bytes: makeWal({ segment: 4 }).bytes },
  { name: walName('00000002.history'), bytes: HISTORY },
];

async function archiveAll(storage: TestStorage): Promise<string[]> {
  const strategy = storage.open();
  const outcomes: string[] = [];
  for (const { name, bytes } of files) {
    const path = join(storage.incoming, name);
    await writeFile(path, bytes);
    for (const { outcome } of await saveAll(strategy, [await waiting(path)])) outcomes.push(outcome);
  }
  return outcomes;
}

async function infosOf(storage: TestStorage): Promise<WalFileInfo[]> {
  const infos: WalFileInfo[] = [];
  for await (const info of storage.open().list()) infos.push(info);
  return infos;
}

function finderOf(storage: TestStorage): Parameters<typeof findWal>[0] {
  const { incoming, streaming, keys } = storage;
  const unpacker = new Unpacker({ custom: keys.custom, segmentSize: async () => null, resident: false });
  return {
    strategy: storage.open(),
    incoming,
    streaming,
    errors: { path: storage.errors, unusable: async () => [] },
    incompleteTimeoutMs: 300_000,
    keys,
    deliveries: { of: async () => [] },
    unpacker,
    claims: storage.claims,
    foreign: async () => null,
    checkAbsent: async () => {},
  };
}

describe.each(FILTERS)('compression = custom, with a filter that writes %s', (_what, custom) => {
  const keys: ReadingKeys = { custom, compression: 'custom' };

  test('every reader gets the plain bytes, with the catalogue and after it was rebuilt', () =>
    withStorage({ compression: 'custom', keys }, async (storage) => {
      expect(await archiveAll(storage)).toEqual(['stored', 'stored', 'stored']);
      const strategy = storage.open();
      for (const rebuilt of [false, true]) {
        if (rebuilt) {
          const infos = await infosOf(storage);
          expect(infos.map(({ compression }) => compression)).toEqual(['custom', 'custom', 'custom']);
          await storage.catalogue.withLock((session) => session.replaceAll(infos));
        }
        for (const { name, bytes } of files) {
          const found = await findWal(finderOf(storage), name, false);
          expect(found?.plain.equals(bytes)).toBe(true);
          expect(await strategy.compare(name, bytes)).toEqual({ result: 'same' });
        }
        expect(await newestHeader(storage.catalogue, strategy, keys, pino({ level: 'silent' }))).toMatchObject({
          systemIdentifier: TEST_SYSTEM_IDENTIFIER,
        });
        const partial = parseWalName(segment.name);
        if (partial === undefined) throw new Error(`no WAL name: ${segment.name}`);
        const covering = { strategy, catalogue: storage.catalogue, keys };
        expect(await findCovering(covering, partial, segment.bytes.subarray(0, 500_000))).toBe(segment.name);
      }
      expect(await archiveAll(storage)).toEqual(['already-stored', 'already-stored', 'already-stored']);
      expect(await linesOf(storage.catalogue)).toHaveLength(3);
    }));

  test('another content under the same name stays another content', () =>
    withStorage({ compression: 'custom', keys }, async (storage) => {
      await archiveAll(storage);
      const other = makeWal({ segment: 3, seed: 9 });
      expect(await storage.open().compare(other.name, other.bytes)).toMatchObject({
        result: 'different',
        reason: expect.stringContaining('its content is another'),
      });
    }));
});

test('a catalogue that Barman 3.20.1 rebuilt misleads no reader: gzip for pigz, None under gpg, custom for whatever it does not know', () =>
  withGpgKey(async ({ keyId, homedir }) => {
    const custom = { compress: 'pigz -z -c', decompress: 'pigz -dc' };
    const keys: ReadingKeys = { custom, compression: 'custom', gnupgHome: homedir };
    await withStorage({ keys }, async (storage) => {
      const gpg = { keyId, homedir };
      const stored: [StorageOptions, (info: WalFileInfo) => WalFileInfo][] = [
        [{ compression: 'pigz' }, (info) => ({ ...info, compression: 'gzip' })],
        [{ compression: 'zstd', encryption: gpg }, (info) => ({ ...info, compression: null })],
        [{ compression: 'custom' }, (info) => ({ ...info, compression: 'custom' })],
        [{ compression: 'custom', encryption: gpg }, (info) => ({ ...info, compression: null })],
        [{ compression: null }, (info) => ({ ...info, compression: 'custom' })],
      ];
      const lines: WalFileInfo[] = [];
      for (const [index, [options, asBarman]] of stored.entries()) {
        const { wal } = await arrive(storage.incoming, { segment: index + 1 });
        const [result] = await saveAll(storage.open(options), [wal]);
        if (result === undefined || !('info' in result)) throw new Error(`not stored: ${JSON.stringify(result)}`);
        lines.push(asBarman(result.info));
      }
      await storage.catalogue.withLock((session) => session.replaceAll(lines));
      await rm(storage.journalPath, { force: true });
      for (const configured of ['custom', 'zstd', null] as const) {
        const finder = { ...finderOf(storage), keys: { ...keys, compression: configured } };
        for (const [index, { name }] of lines.entries()) {
          const { bytes } = makeWal({ segment: index + 1 });
          expect((await findWal(finder, name, false))?.plain.equals(bytes)).toBe(true);
          expect(await finder.strategy.compare(name, bytes)).toEqual({ result: 'same' });
        }
      }
      const rebuilt = await infosOf(storage);
      expect(rebuilt.map(({ compression, encryption }) => [compression, encryption])).toEqual([
        ['gzip', null],
        ['zstd', 'gpg'],
        ['custom', null],
        ['custom', 'gpg'],
        [null, null],
      ]);
    });
  }));

describe('a filter that does not undo what is stored', () => {
  const custom = { compress: 'pigz -z -c', decompress: 'pigz -dc' };

  test.each([
    ['fails', 'false', 'exit status 1'],
    ['is missing', 'no-such-filter', 'exit status 127'],
    ['prints something else, with exit status 0', 'echo something else', 'does not make this WAL file of it'],
    ['prints nothing, with exit status 0', 'true', 'does not make this WAL file of it'],
  ])('and %s is to blame, and not the file', (_what, decompress, reason) =>
    withStorage({ compression: 'custom', keys: { custom, compression: 'custom' } }, async (storage) => {
      await archiveAll(storage);
      const keys: ReadingKeys = { custom: { ...custom, decompress }, compression: 'custom' };
      const strategy = storage.open({ keys });
      const finder = { ...finderOf(storage), strategy, keys };
      // Never "absent", which ends a recovery, and never "another content".
      await expect(findWal(finder, segment.name, false)).rejects.toMatchObject({
        code: 'program',
        message: expect.stringContaining(reason),
      });
      expect(await strategy.compare(segment.name, segment.bytes)).toMatchObject({
        result: 'different',
        reason: expect.stringContaining("can't be read"),
      });
      // What needs no filter is read all the same.
      const plain = await arrive(storage.incoming, { segment: 9 });
      await saveAll(storage.open({ compression: 'zstd', keys }), [plain.wal]);
      expect((await findWal(finder, plain.name, false))?.plain.equals(plain.bytes)).toBe(true);
    }),
  );

  test('proves no damage, but a zstd file that is cut short is damaged whatever filter is configured', () =>
    withStorage({ compression: 'zstd', keys: { custom, compression: 'zstd' } }, async (storage) => {
      const { wal, name } = await arrive(storage.incoming, {});
      const strategy = storage.open();
      await saveAll(strategy, [wal]);
      const path = strategy.getFullPath(name);
      await writeFile(path, (await readFile(path)).subarray(0, 1000));
      await expect(findWal(finderOf(storage), name, false)).rejects.toMatchObject({ code: 'damaged' });
    }));
});
