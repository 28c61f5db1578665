import { describe, expect, test } from 'vitest';
import { WalwardenError } from '../../src/errors.ts';
import { sha256 } from '../../src/storage/sha256.ts';
import type { Replacement, StoredCopy } from '../../src/storage/replacement.ts';
import { collect } from '../catalogue/with-catalogue.ts';
import { makeWal } from '../support/make-wal.ts';
import { arrive, linesOf, plainOf, saveAll } from '../storage/with-storage.ts';
import type { StorageFacts, StorageUnderTest, WithStorageUnderTest } from './wal-storage-strategy.ts';

/** What every storage does when a copy is put in the place of a damaged one. `refuses`: its endpoint can't do that safely. */
export function describeReplacing(facts: StorageFacts, withStorage: WithStorageUnderTest): void {
  const old = makeWal({ segment: 2 });
  const better = makeWal({ segment: 2, seed: 5 });
  const by: Replacement = {
    name: old.name,
    source: '/errors/file',
    delivered: better.bytes,
    compression: null,
    plain: better.bytes,
    segmentSize: better.bytes.length,
    mtime: 1_700_000_000.25,
  };

  /** Three segments; the one in the middle as it is stored. */
  async function stored(storage: StorageUnderTest): Promise<StoredCopy> {
    const wals = [];
    for (const segment of [1, 2, 3]) wals.push((await arrive(storage.incoming, { segment })).wal);
    await saveAll(storage.open(), wals);
    const [copy, ...others] = await storage.open().copies(old.name);
    if (copy === undefined || others.length > 0) throw new Error('expected one copy');
    return copy;
  }

  describe(`WalStorageStrategy, ${facts.label}: replace`, () => {
    test('every stored copy is told of, byte for byte; none where nothing is stored', () =>
      withStorage(async (storage) => {
        const copy = await stored(storage);
        const read = await storage.open().read(old.name);
        expect(Buffer.isBuffer(copy.content) && read?.bytes.equals(copy.content)).toBe(true);
        expect(copy.path).toBe(read?.path);
        expect(await storage.open().copies(makeWal({ segment: 77 }).name)).toEqual([]);
      }));

    if (facts.replaces === false) {
      test('is refused, and says what to do by hand; nothing is changed', () =>
        withStorage(async (storage) => {
          const copy = await stored(storage);
          const lines = await linesOf(storage.catalogue);
          const result = await storage.open().replace(copy, by, { unkept: false });
          expect(result).toMatchObject({
            outcome: 'refused',
            reason: 'the endpoint does not enforce If-Match, so another writer could be overwritten',
            byHand: expect.stringMatching(/^while nothing else writes there, copy (\S+) to (\S+) and delete \1$/),
          });
          expect((await plainOf(storage, storage.open(), old.name))?.equals(old.bytes)).toBe(true);
          expect(await linesOf(storage.catalogue)).toEqual(lines);
        }));
      return;
    }

    test('puts the new copy there, keeps the old one aside, and corrects the line and nothing else', () =>
      withStorage(async (storage) => {
        const copy = await stored(storage);
        const before = await linesOf(storage.catalogue);
        const calls: string[] = [];
        const go = { outcome: 'continue', reason: '' } as const;
        const strategy = storage.open({
          hooks: {
            before: async (operation, wal, path) => {
              calls.push(`before ${operation} ${wal.name} ${path}`);
              return go;
            },
            after: async (operation, wal, path, error) => {
              calls.push(`after ${operation} ${wal.name} ${path} ${error ?? 'well'}`);
              return go;
            },
          },
        });
        const result = await strategy.replace(copy, by, { unkept: false });
        expect(result).toMatchObject({
          outcome: 'replaced',
          info: {
            name: old.name,
            mtime: by.mtime,
            compression: facts.compression,
            encryption: facts.encrypted ? 'gpg' : null,
          },
          kept: expect.stringContaining(old.name),
        });
        expect(calls).toEqual([
          `before archive ${old.name} /errors/file`,
          `after archive ${old.name} ${strategy.getFullPath(old.name)} well`,
        ]);
        expect((await plainOf(storage, storage.open(), old.name))?.equals(better.bytes)).toBe(true);
        const there = await storage.open().read(old.name);
        expect(there?.path).toBe(copy.path);
        expect(await storage.catalogue.find(old.name)).toEqual('info' in result ? result.info : null);
        expect('info' in result && result.info.size).toBe(there?.bytes.length);
        const after = await linesOf(storage.catalogue);
        expect([after[0], after[2]]).toEqual([before[0], before[2]]);
        expect(after).toHaveLength(3);
        expect((await collect(storage.open().list())).map(({ name }) => name)).toEqual(
          after.map((line) => line.split('\t')[0]),
        );
        // It is the archived one now, by every way of comparing.
        const again = await arrive(storage.incoming, { segment: 2, seed: 5 });
        expect(await saveAll(storage.open(), [again.wal])).toMatchObject([{ outcome: 'already-stored' }]);
        const former = await arrive(storage.incoming, { segment: 2 });
        expect(await saveAll(storage.open(), [former.wal])).toMatchObject([{ outcome: 'conflict' }]);
      }));

    test('not when it is another one than that which was judged', () =>
      withStorage(async (storage) => {
        const copy = await stored(storage);
        expect(await storage.open().replace(copy, by, { unkept: false })).toMatchObject({ outcome: 'replaced' });
        const now = sha256((await storage.open().read(old.name))?.bytes ?? Buffer.alloc(0));
        const third = makeWal({ segment: 2, seed: 9 }).bytes;
        const result = await storage.open().replace(copy, { ...by, delivered: third, plain: third }, { unkept: true });
        expect(result).toMatchObject({ outcome: 'refused', reason: expect.stringContaining('that was judged') });
        expect(sha256((await storage.open().read(old.name))?.bytes ?? Buffer.alloc(0))).toBe(now);
      }));

    test('not when it is gone', () =>
      withStorage(async (storage) => {
        const copy = await stored(storage);
        const info = await storage.open().describe(old.name);
        if (info === null) throw new Error('it is not stored');
        await storage.open().delete(new Map([['', [info]]]));
        expect(await storage.open().replace(copy, by, { unkept: true })).toMatchObject({ outcome: 'refused' });
        expect(await storage.open().copies(old.name)).toEqual([]);
      }));

    test('once, when two try it at the same time', () =>
      withStorage(async (storage) => {
        const copy = await stored(storage);
        const results = await Promise.all(
          [5, 6, 7].map((seed) => {
            const { bytes } = makeWal({ segment: 2, seed });
            return storage.open().replace(copy, { ...by, delivered: bytes, plain: bytes }, { unkept: false });
          }),
        );
        expect(results.map(({ outcome }) => outcome).sort()).toEqual(['refused', 'refused', 'replaced']);
        expect(await linesOf(storage.catalogue)).toHaveLength(3);
      }));

    test('not when a pre hook says stop', () =>
      withStorage(async (storage) => {
        const copy = await stored(storage);
        const error = new WalwardenError('hook', 'stop');
        const strategy = storage.open({
          hooks: { before: async () => ({ outcome: 'stop', reason: '', error }) },
        });
        await expect(strategy.replace(copy, by, { unkept: false })).rejects.toBe(error);
        expect((await plainOf(storage, storage.open(), old.name))?.equals(old.bytes)).toBe(true);
      }));
  });
}
