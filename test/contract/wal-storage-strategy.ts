import { existsSync } from 'node:fs';
import { readdir, symlink, utimes, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Xlogdb } from '../../src/catalogue/xlogdb.ts';
import { createCompressor } from '../../src/compression/codecs.ts';
import type { CompressionName } from '../../src/compression/codec.ts';
import { WalwardenError } from '../../src/errors.ts';
import type { WalHooks } from '../../src/hooks/wal-hooks.ts';
import type { ReadingKeys } from '../../src/storage/stored-content.ts';
import { sha256 } from '../../src/storage/sha256.ts';
import type {
  AcceptSystem,
  StoredWal,
  WaitingWal,
  WalStorageStrategy,
} from '../../src/storage/wal-storage-strategy.ts';
import type { WalFileInfo } from '../../src/wal/wal-file-info.ts';
import { historyName, walDirectory } from '../../src/wal/wal-name.ts';
import { collect } from '../catalogue/with-catalogue.ts';
import { BROKEN_PAGE, brokenWal } from '../support/broken-wal.ts';
import { makeWal } from '../support/make-wal.ts';
import { arrive, linesOf, namesOf, plainOf, queueOf, saveAll, waiting, waitingIn } from '../storage/with-storage.ts';
import { describeReplacing } from './replacing.ts';
import { describeSourceHandling } from './source-handling.ts';

export interface OpenOptions {
  readonly hooks?: Partial<WalHooks>;
  readonly accept?: AcceptSystem;
  /** Another setting than that of the storage under test. */
  readonly compression?: CompressionName | null;
}

/** One empty archive with its catalogue, and a directory where sources wait. */
export interface StorageUnderTest {
  readonly incoming: string;
  readonly catalogue: Xlogdb;
  readonly keys: ReadingKeys;
  /** Another object for the same archive, as another process has it. */
  readonly open: (options?: OpenOptions) => WalStorageStrategy;
}

/** What a storage says of files that it stored. */
export interface StorageFacts {
  readonly label: string;
  readonly compression: CompressionName | null;
  readonly encrypted: boolean;
  /** False where nothing can be replaced safely. */
  readonly replaces?: boolean;
}

export type WithStorageUnderTest = <T>(body: (storage: StorageUnderTest) => Promise<T>) => Promise<T>;

const HISTORY = '1\t0/500000\tno recovery target specified\n';
const SYSTEM = 'it is WAL of another cluster';

/** What every storage strategy does, whatever it stores in. */
export function describeWalStorageStrategy(facts: StorageFacts, withStorage: WithStorageUnderTest): void {
  describe(`WalStorageStrategy, ${facts.label}: save`, () => {
    test('stores a file, and its line is there and its source gone when the result comes', () =>
      withStorage(async (storage) => {
        const strategy = storage.open();
        const { name, bytes, path } = await arrive(storage.incoming);
        await utimes(path, 1_700_000_000.25, 1_700_000_000.25);
        let seen = 0;
        for await (const result of strategy.save(queueOf([await waiting(path)]))) {
          seen += 1;
          expect(result).toMatchObject({
            outcome: 'stored',
            info: {
              name,
              mtime: 1_700_000_000.25,
              compression: facts.compression,
              encryption: facts.encrypted ? 'gpg' : null,
            },
          });
          const stored = await strategy.read(name);
          expect('info' in result && result.info.size).toBe(stored?.bytes.length);
          expect(await storage.catalogue.find(name)).toEqual('info' in result ? result.info : undefined);
          expect(existsSync(path)).toBe(false);
        }
        expect(seen).toBe(1);
        expect((await plainOf(storage, strategy, name))?.equals(bytes)).toBe(true);
      }));

    test('stores history files and backup labels as well', () =>
      withStorage(async (storage) => {
        const strategy = storage.open();
        const history = historyName(2);
        const segment = makeWal({ segment: 1 }).name;
        const label = `${segment}.00000028.backup`;
        const labelText = `START WAL LOCATION: 0/100028 (file ${segment})\nSTOP TIME: 2026-11-21 08:55:15 UTC\nSTOP TIMELINE: 1\n`;
        await writeFile(join(storage.incoming, history), HISTORY);
        await writeFile(join(storage.incoming, label), labelText);
        const results = await saveAll(strategy, [
          await waiting(join(storage.incoming, label)),
          await waiting(join(storage.incoming, history)),
        ]);
        expect(results.map(({ outcome }) => outcome)).toEqual(['stored', 'stored']);
        expect((await plainOf(storage, strategy, history))?.toString()).toBe(HISTORY);
        expect(await namesOf(storage.catalogue)).toEqual([label, history]);
        expect(await readdir(storage.incoming)).toEqual([]);
      }));

    test('stores more files than fit in a group, and results come in the order of the files', () =>
      withStorage(async (storage) => {
        const strategy = storage.open();
        const arrived = [];
        for (let segment = 1; segment <= 40; segment += 1) {
          arrived.push(await arrive(storage.incoming, { segment, content: 'zeros' }));
        }
        const results = await saveAll(
          strategy,
          arrived.map(({ wal }) => wal),
        );
        expect(results.map(({ outcome }) => outcome)).toEqual(arrived.map(() => 'stored'));
        expect(results.map(({ wal }) => wal.name)).toEqual(arrived.map(({ name }) => name));
        expect(await namesOf(storage.catalogue)).toEqual(arrived.map(({ name }) => name));
        expect(await readdir(storage.incoming)).toEqual([]);
      }));

    test('skipDelete keeps the source; the file and its line are there as well', () =>
      withStorage(async (storage) => {
        const strategy = storage.open();
        const { wal, name, bytes, path } = await arrive(storage.incoming);
        for (const outcome of ['stored', 'already-stored']) {
          expect(await saveAll(strategy, [wal], { skipDelete: true })).toMatchObject([{ outcome }]);
          expect(await readdir(storage.incoming)).toEqual([name]);
          expect((await waiting(path)).identity).toEqual(wal.identity);
          expect((await plainOf(storage, strategy, name))?.equals(bytes)).toBe(true);
          expect(await namesOf(storage.catalogue)).toEqual([name]);
        }
      }));

    test('the same content again is already-stored: its source goes, it has one line, the stored file stays', () =>
      withStorage(async (storage) => {
        const first = await arrive(storage.incoming);
        await saveAll(storage.open(), [first.wal]);
        const before = digestOf(await storage.open().read(first.name));
        const lines = await linesOf(storage.catalogue);
        const again = await arrive(storage.incoming);
        await utimes(again.path, 1_600_000_000, 1_600_000_000);
        const results = await saveAll(storage.open(), [await waiting(again.path)]);
        expect(results).toMatchObject([{ outcome: 'already-stored', info: { name: first.name } }]);
        expect(await readdir(storage.incoming)).toEqual([]);
        expect(await linesOf(storage.catalogue)).toEqual(lines);
        expect(digestOf(await storage.open().read(first.name))).toEqual(before);
      }));

    test('a file that is there without its line gets it when it is met again', () =>
      withStorage(async (storage) => {
        const wals: WaitingWal[] = [];
        for (const segment of [1, 2, 3]) wals.push((await arrive(storage.incoming, { segment })).wal);
        await saveAll(storage.open(), wals);
        const lines = await linesOf(storage.catalogue);
        const { name } = makeWal({ segment: 2 });
        await storage.catalogue.withLock((session) => session.remove(new Set([name])));
        const again = await arrive(storage.incoming, { segment: 2 });
        expect(await saveAll(storage.open(), [again.wal])).toMatchObject([{ outcome: 'already-stored' }]);
        expect((await linesOf(storage.catalogue)).map(withoutMtime)).toEqual(lines.map(withoutMtime));
      }));

    test('another content is a conflict: what is stored stays, and so does the source', () =>
      withStorage(async (storage) => {
        const first = await arrive(storage.incoming);
        await saveAll(storage.open(), [first.wal]);
        const before = digestOf(await storage.open().read(first.name));
        const other = await arrive(storage.incoming, { seed: 2 });
        const [result] = await saveAll(storage.open(), [other.wal]);
        expect(result).toMatchObject({ outcome: 'conflict', reason: expect.stringContaining('SHA-256') });
        expect(result?.wal.path).toBe(other.path);
        expect(digestOf(await storage.open().read(first.name))).toEqual(before);
        expect(await readdir(storage.incoming)).toEqual([other.name]);
        expect((await namesOf(storage.catalogue)).length).toBe(1);
      }));

    test('a duplicate is told from a conflict though the compression setting changed in between', () =>
      withStorage(async (storage) => {
        const other: CompressionName | null = facts.compression === null ? 'gzip' : null;
        const first = await arrive(storage.incoming);
        await saveAll(storage.open(), [first.wal]);
        const lines = await linesOf(storage.catalogue);
        const again = await arrive(storage.incoming);
        expect(await saveAll(storage.open({ compression: other }), [again.wal])).toMatchObject([
          { outcome: 'already-stored' },
        ]);
        expect((await linesOf(storage.catalogue)).map(withoutMtime)).toEqual(lines.map(withoutMtime));
        const conflicting = await arrive(storage.incoming, { seed: 2 });
        expect(await saveAll(storage.open({ compression: other }), [conflicting.wal])).toMatchObject([
          { outcome: 'conflict' },
        ]);
        expect((await plainOf(storage, storage.open(), first.name))?.equals(first.bytes)).toBe(true);
      }));

    test('a file that arrives compressed is stored as it is, and is a duplicate of its plain form', () =>
      withStorage(async (storage) => {
        const { name, bytes } = makeWal();
        const packed = await createCompressor({ compression: 'bzip2' }).compress(bytes);
        const path = join(storage.incoming, name);
        await writeFile(path, packed);
        const strategy = storage.open();
        expect(await saveAll(strategy, [await waiting(path)])).toMatchObject([
          { outcome: 'stored', info: { compression: 'bzip2' } },
        ]);
        if (!facts.encrypted) expect((await strategy.read(name))?.bytes.equals(packed)).toBe(true);
        expect((await plainOf(storage, strategy, name))?.equals(bytes)).toBe(true);
        const plain = await arrive(storage.incoming);
        expect(await saveAll(strategy, [plain.wal])).toMatchObject([
          { outcome: 'already-stored', info: { compression: 'bzip2' } },
        ]);
      }));

    test.each<CompressionName | null>([null, 'gzip', 'xz'])(
      'a segment with a hole in its middle is invalid, however it arrives (compression %s), and a partial one is not',
      (compression) =>
        withStorage(async (storage) => {
          const { name, bytes } = brokenWal();
          const delivered = compression === null ? bytes : await createCompressor({ compression }).compress(bytes);
          const path = join(storage.incoming, name);
          await writeFile(path, delivered);
          await writeFile(`${path}.partial`, delivered);
          const strategy = storage.open();
          const files = [await waiting(path), await waiting(`${path}.partial`)];
          expect(await saveAll(strategy, files)).toMatchObject([
            { outcome: 'invalid', reason: expect.stringContaining(BROKEN_PAGE) },
            { outcome: 'stored' },
          ]);
          expect(await strategy.read(name)).toBeNull();
          expect(await readdir(storage.incoming)).toEqual([name]);
        }),
    );

    test('a segment of another cluster is invalid, with the reason', () =>
      withStorage(async (storage) => {
        const strategy = storage.open({
          accept: async ({ systemIdentifier: id, majorVersion }) => (id === 7n ? `${SYSTEM} (${majorVersion})` : null),
        });
        const foreign = await arrive(storage.incoming, { segment: 1, systemIdentifier: 7n, major: 16 });
        const ours = await arrive(storage.incoming, { segment: 2 });
        expect(await saveAll(strategy, [foreign.wal, ours.wal])).toMatchObject([
          { outcome: 'invalid', reason: `${SYSTEM} (16)` },
          { outcome: 'stored' },
        ]);
        expect(await readdir(storage.incoming)).toEqual([foreign.name]);
        expect(await strategy.read(foreign.name)).toBeNull();
        expect(await namesOf(storage.catalogue)).toEqual([ours.name]);
      }));

    test('a file that can not be stored does not block the others, and stays where it is', () =>
      withStorage(async (storage) => {
        const strategy = storage.open();
        const at = (segment: number): string => join(storage.incoming, makeWal({ segment }).name);
        const good = [await arrive(storage.incoming, { segment: 1 })];
        await writeFile(at(2), makeWal({ segment: 9 }).bytes);
        const packed = await createCompressor({ compression: 'gzip' }).compress(makeWal({ segment: 3 }).bytes);
        await writeFile(at(3), packed.subarray(0, -20));
        await writeFile(at(4), makeWal({ segment: 4 }).bytes.subarray(0, 600_000));
        await symlink('/nowhere', at(5));
        const moved = await arrive(storage.incoming, { segment: 6 });
        await writeFile(moved.path, makeWal({ segment: 6, seed: 3 }).bytes);
        await utimes(moved.path, 1, 1);
        good.push(await arrive(storage.incoming, { segment: 7 }));
        const results = await saveAll(strategy, [
          ...(await Promise.all([1, 2, 3, 4, 5].map((segment) => waiting(at(segment))))),
          moved.wal,
          await waiting(at(7)),
        ]);
        expect(results.map(({ outcome }) => outcome)).toEqual([
          'stored',
          'invalid',
          'incomplete',
          'incomplete',
          'failed',
          'changed',
          'stored',
        ]);
        for (const result of results) if (!('info' in result)) expect(result.reason).not.toBe('');
        expect((await readdir(storage.incoming)).sort()).toEqual(
          [2, 3, 4, 5, 6].map((segment) => makeWal({ segment }).name),
        );
        expect(await namesOf(storage.catalogue)).toEqual(good.map(({ name }) => name));
      }));

    test('a source that vanished is a changed one', () =>
      withStorage(async (storage) => {
        const gone = { ...(await arrive(storage.incoming)).wal, path: join(storage.incoming, 'not there') };
        expect(await saveAll(storage.open(), [gone])).toMatchObject([{ outcome: 'changed' }]);
        expect(await linesOf(storage.catalogue)).toEqual([]);
      }));

    test('after a consumer that stopped early everything is still there or stored', () =>
      withStorage(async (storage) => {
        const arrived = [];
        for (let segment = 1; segment <= 20; segment += 1) {
          arrived.push(await arrive(storage.incoming, { segment, content: 'zeros' }));
        }
        const results = storage.open().save(queueOf(arrived.map(({ wal }) => wal)), { expected: arrived.length });
        await results.next();
        await results.return(undefined);
        const left = (await readdir(storage.incoming)).sort();
        expect([...(await namesOf(storage.catalogue)), ...left].sort()).toEqual(arrived.map(({ name }) => name));
      }));
  });

  describeSourceHandling(facts, withStorage);
  describeReplacing(facts, withStorage);

  describe(`WalStorageStrategy, ${facts.label}: hooks and signals`, () => {
    test('hooks run one file at a time in order, after them the source is still there', () =>
      withStorage(async (storage) => {
        const calls: string[] = [];
        const hooks: Partial<WalHooks> = {
          before: async (operation, wal, path) => {
            calls.push(`${operation} before ${wal.name} ${existsSync(path)} ${wal.size}`);
            return { outcome: 'continue', reason: '' };
          },
          after: async (operation, wal, path, error) => {
            const waits = (await waitingIn(storage.incoming)).some((source) => basename(source) === wal.name);
            const stored = path === storage.open().getFullPath(wal.name);
            calls.push(`${operation} after ${wal.name} ${stored} ${waits} ${error ?? 'well'}`);
            return { outcome: 'continue', reason: '' };
          },
        };
        const wals: WaitingWal[] = [];
        for (const segment of [1, 2, 3]) wals.push((await arrive(storage.incoming, { segment })).wal);
        await saveAll(storage.open({ hooks, accept: async () => null }), wals);
        const names = [1, 2, 3].map((segment) => makeWal({ segment }).name);
        expect(calls).toEqual([
          ...names.map((name) => `archive before ${name} true 1048576`),
          ...names.map((name) => `archive after ${name} true true well`),
        ]);
        calls.length = 0;
        const again = await arrive(storage.incoming, { segment: 1 });
        const other = await arrive(storage.incoming, { segment: 2, seed: 2 });
        await saveAll(storage.open({ hooks }), [again.wal, other.wal]);
        expect(calls[2]).toBe(`archive after ${again.name} true true well`);
        expect(calls[3]).toMatch(new RegExp(`^archive after ${other.name} true true its content is another`));
      }));

    test('a pre hook that says stop ends the pass: what came before is stored, the rest waits', () =>
      withStorage(async (storage) => {
        const wals: WaitingWal[] = [];
        for (const segment of [1, 2, 3, 4]) wals.push((await arrive(storage.incoming, { segment })).wal);
        const names = wals.map(({ name }) => name);
        const error = new WalwardenError('hook', 'stop it');
        const strategy = storage.open({
          hooks: {
            before: async (_operation, { name }) =>
              name === names[2] ? { outcome: 'stop', reason: '', error } : { outcome: 'continue', reason: '' },
          },
        });
        const outcomes: string[] = [];
        const saving = (async () => {
          for await (const { outcome } of strategy.save(queueOf(wals), { expected: 4 })) outcomes.push(outcome);
        })();
        await expect(saving).rejects.toBe(error);
        expect(outcomes).toEqual(['stored', 'stored']);
        expect((await readdir(storage.incoming)).sort()).toEqual(names.slice(2));
        expect(await namesOf(storage.catalogue)).toEqual(names.slice(0, 2));
      }));

    test('a post hook that says stop keeps the source, and it is called again in the next pass', () =>
      withStorage(async (storage) => {
        const { wal, name } = await arrive(storage.incoming);
        const error = new WalwardenError('hook', 'unusable');
        const strategy = storage.open({ hooks: { after: async () => ({ outcome: 'stop', reason: '', error }) } });
        const results: unknown[] = [];
        const saving = (async () => {
          for await (const result of strategy.save(queueOf([wal]))) results.push(result);
        })();
        await expect(saving).rejects.toBe(error);
        expect(results).toMatchObject([{ outcome: 'stored', hooksDue: true }]);
        const [source = ''] = await waitingIn(storage.incoming);
        expect(basename(source)).toBe(name);
        const called: string[] = [];
        const after: WalHooks['after'] = async (_operation, info) => {
          called.push(info.name);
          return { outcome: 'continue', reason: '' };
        };
        const left = await waiting(source, name);
        expect(await saveAll(storage.open({ hooks: { after } }), [left])).toMatchObject([
          { outcome: 'already-stored' },
        ]);
        expect(called).toEqual([name]);
        expect(await waitingIn(storage.incoming)).toEqual([]);
        expect(await namesOf(storage.catalogue)).toEqual([name]);
      }));

    test('drain: no more files are taken, those in hand are finished, nothing is thrown', () =>
      withStorage(async (storage) => {
        const wals: WaitingWal[] = [];
        for (let segment = 1; segment <= 6; segment += 1) {
          wals.push((await arrive(storage.incoming, { segment, content: 'zeros' })).wal);
        }
        const drain = new AbortController();
        async function* queue(): AsyncGenerator<(typeof wals)[number]> {
          for (const [index, wal] of wals.entries()) {
            if (index === 3) drain.abort();
            yield wal;
          }
        }
        const outcomes = new Map<string, string>();
        for await (const { outcome, wal } of storage.open().save(queue(), { expected: 6, drain: drain.signal })) {
          outcomes.set(wal.name, outcome);
        }
        const stored = [...outcomes].filter(([, outcome]) => outcome === 'stored').map(([name]) => name);
        expect(await namesOf(storage.catalogue)).toEqual(stored);
        expect([...stored, ...(await readdir(storage.incoming))].sort()).toEqual(wals.map(({ name }) => name));
        expect(outcomes.has(wals[5]?.name ?? '')).toBe(false);
      }));
  });

  describe(`WalStorageStrategy, ${facts.label}: reading`, () => {
    test('exists and getFullPath: a path below the first 16 digits, none for history files', () =>
      withStorage(async (storage) => {
        const strategy = storage.open();
        const { wal, name } = await arrive(storage.incoming);
        const path = strategy.getFullPath(name);
        expect(path.includes(`/${name.slice(0, 16)}/${name}`)).toBe(true);
        expect(strategy.getFullPath(historyName(2)).includes('/00000002.history')).toBe(true);
        expect(await strategy.exists(path)).toBe(false);
        await saveAll(strategy, [wal]);
        expect(await strategy.exists(path)).toBe(true);
        expect(await strategy.exists(`${path}/below`)).toBe(false);
      }));

    test('read, describe, compare and list tell what is stored', () =>
      withStorage(async (storage) => {
        const strategy = storage.open();
        const absent = makeWal({ segment: 77 });
        expect(await strategy.read(absent.name)).toBeNull();
        expect(await strategy.describe(absent.name)).toBeNull();
        expect(await strategy.compare(absent.name, absent.bytes)).toEqual({ result: 'absent' });
        expect(await collect(strategy.list())).toEqual([]);
        expect(await strategy.firstFrom(1)).toBeNull();

        await writeFile(join(storage.incoming, '00000002.history'), HISTORY);
        const files = [
          await arrive(storage.incoming, { segment: 2 }),
          await arrive(storage.incoming, { segment: 5000 }),
          await arrive(storage.incoming, { segment: 5000, timeline: 2 }),
        ];
        const wals = [...files.map(({ wal }) => wal), await waiting(join(storage.incoming, '00000002.history'))];
        // The directory's own order is another.
        await saveAll(strategy, wals.toReversed());
        const [first] = files;
        if (first === undefined) throw new Error('no file');
        const info = await storage.catalogue.find(first.name);
        const described = await strategy.describe(first.name);
        expect(described).toMatchObject({ ...info, mtime: expect.closeTo(info?.mtime ?? 0, 5) });
        expect(await strategy.compare(first.name, first.bytes)).toEqual({ result: 'same' });
        expect(await strategy.compare(first.name, makeWal({ segment: 2, seed: 5 }).bytes)).toMatchObject({
          result: 'different',
          reason: expect.stringContaining('content is another'),
        });
        const listed = await collect(strategy.list());
        expect(listed.map(({ name }) => name)).toEqual(wals.map(({ name }) => name).sort());
        expect(listed.map(({ size }) => size)).toEqual(
          (await collect(storage.catalogue.read())).map(({ size }) => size),
        );
        expect((await strategy.read(first.name))?.mtime).toBeCloseTo(info?.mtime ?? 0, 5);
        // A timeline's history is none of its WAL.
        const from = await Promise.all([1, 2, 3].map((timeline) => strategy.firstFrom(timeline)));
        expect(from).toEqual([first.name, files[2]?.name, null]);
      }));
  });

  describe(`WalStorageStrategy, ${facts.label}: delete`, () => {
    test('deletes the named files and no other, with hooks, one at a time; what is gone already is no trouble', () =>
      withStorage(async (storage) => {
        const strategy = storage.open();
        const wals: WaitingWal[] = [];
        for (const segment of [1, 2, 3]) wals.push((await arrive(storage.incoming, { segment })).wal);
        await saveAll(strategy, wals);
        const [first, second, third] = await collect(storage.catalogue.read());
        if (first === undefined || second === undefined || third === undefined) throw new Error('not stored');
        const calls: string[] = [];
        const told: string[] = [];
        const hooks: Partial<WalHooks> = {
          before: async (operation, { name }, path) => {
            calls.push(`${operation} before ${name} ${await storage.open().exists(path)}`);
            return { outcome: 'continue', reason: '' };
          },
          after: async (operation, { name }, path, error) => {
            calls.push(`${operation} after ${name} ${await storage.open().exists(path)} ${error ?? 'well'}`);
            return { outcome: 'continue', reason: '' };
          },
        };
        await storage.open().delete(byDirectory([first]));
        const deleted = await storage.open({ hooks }).delete(byDirectory([first, second]), (name) => told.push(name));
        expect(deleted).toEqual([first.name, second.name]);
        expect(told).toEqual([first.name, second.name]);
        expect(calls).toEqual([
          `wal_delete before ${first.name} false`,
          `wal_delete after ${first.name} false well`,
          `wal_delete before ${second.name} true`,
          `wal_delete after ${second.name} false well`,
        ]);
        expect((await collect(strategy.list())).map(({ name }) => name)).toEqual([third.name]);
        // The lines are the caller's.
        expect((await namesOf(storage.catalogue)).length).toBe(3);
      }));

    test('a hook that says stop ends it; what is gone by then was told', () =>
      withStorage(async (storage) => {
        const wals: WaitingWal[] = [];
        for (const segment of [1, 2, 3]) wals.push((await arrive(storage.incoming, { segment })).wal);
        await saveAll(storage.open(), wals);
        const infos = await collect(storage.catalogue.read());
        const error = new WalwardenError('hook', 'stop it');
        const strategy = storage.open({
          hooks: {
            before: async (_operation, { name }) =>
              name === wals[1]?.name ? { outcome: 'stop', reason: '', error } : { outcome: 'continue', reason: '' },
          },
        });
        const told: string[] = [];
        await expect(strategy.delete(byDirectory(infos), (name) => told.push(name))).rejects.toBe(error);
        expect(told).toEqual([wals[0]?.name]);
        expect((await collect(strategy.list())).map(({ name }) => name)).toEqual([wals[1]?.name, wals[2]?.name]);
      }));

    test('a deleted file can be archived again, by the same object and with another content', () =>
      withStorage(async (storage) => {
        const strategy = storage.open();
        const first = await arrive(storage.incoming);
        await saveAll(strategy, [first.wal]);
        const infos = await collect(storage.catalogue.read());
        await strategy.delete(byDirectory(infos));
        await storage.catalogue.withLock((session) => session.remove(new Set([first.name])));
        expect(await strategy.read(first.name)).toBeNull();
        const other = await arrive(storage.incoming, { seed: 2 });
        expect(await saveAll(strategy, [other.wal])).toMatchObject([{ outcome: 'stored' }]);
        expect((await plainOf(storage, strategy, first.name))?.equals(other.bytes)).toBe(true);
        const again = await arrive(storage.incoming, { seed: 2 });
        expect(await saveAll(strategy, [again.wal])).toMatchObject([{ outcome: 'already-stored' }]);
      }));
  });
}

/** Comparing megabytes byte by byte takes the test framework seconds. */
function digestOf(stored: StoredWal | null): object {
  if (stored === null) throw new Error('it is not stored');
  const { path, bytes, mtime } = stored;
  return { path, mtime, bytes: sha256(bytes) };
}

function byDirectory(infos: readonly WalFileInfo[]): Map<string, WalFileInfo[]> {
  const directories = new Map<string, WalFileInfo[]>();
  for (const info of infos) {
    directories.set(walDirectory(info.name), [...(directories.get(walDirectory(info.name)) ?? []), info]);
  }
  return directories;
}

/** A stored file keeps microseconds of its mtime, so a line made from it may differ in the last digits. */
function withoutMtime(line: string): string {
  const [name, size, , ...rest] = line.split('\t');
  return [name, size, ...rest].join('\t');
}
