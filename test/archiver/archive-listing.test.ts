import { mkdir, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { listArchive, RememberedListing, type ArchiveListing } from '../../src/archiver/archive-listing.ts';
import { compareCatalogue } from '../../src/archiver/compare-catalogue.ts';
import type { StoredSize } from '../../src/storage/wal-storage-strategy.ts';
import { toXlogdbLine, type WalFileInfo } from '../../src/wal/wal-file-info.ts';
import { segmentName, walName, type WalName } from '../../src/wal/wal-name.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { collect } from '../catalogue/with-catalogue.ts';
import { arrive, saveAll, withStorage, type TestStorage } from '../storage/with-storage.ts';

const wal = (segment: number, timeline = 1): WalName => segmentName(timeline, BigInt(segment), 1 << 20);
const line = (name: WalName, size = 7): WalFileInfo => ({
  name,
  size,
  mtime: 1.5,
  compression: null,
  encryption: null,
});

async function* batchesOf<T>(...batches: readonly T[][]): AsyncGenerator<readonly T[]> {
  yield* batches;
}

test.each<[string, WalFileInfo[][], StoredSize[][], object]>([
  ['nothing at all', [], [], { files: 0, missing: { count: 0 }, unlisted: { count: 0 }, oddSizes: { count: 0 } }],
  [
    'no catalogue',
    [],
    [[{ name: wal(1), sizes: [7] }]],
    { files: 1, bytes: 7, unlisted: { count: 1, first: [wal(1)] } },
  ],
  [
    'nothing stored',
    [[line(wal(1))], [], [line(wal(2))]],
    [[]],
    { files: 0, missing: { count: 2, first: [wal(1), wal(2)] } },
  ],
  [
    'a bit of everything, across batches',
    [
      [line(wal(1)), line(wal(2))],
      [line(wal(3)), line(wal(4)), line(wal(6))],
    ],
    [
      [{ name: wal(2), sizes: [7] }],
      [],
      [
        { name: wal(3), sizes: [9, 7] },
        { name: wal(4), sizes: [8] },
      ],
      [{ name: wal(5), sizes: [1] }],
    ],
    {
      files: 4,
      bytes: 32,
      missing: { count: 2, first: [wal(1), wal(6)] },
      unlisted: { count: 1, first: [wal(5)] },
      oddSizes: { count: 1, first: [{ name: wal(4), stored: 8, listed: 7 }] },
    },
  ],
  [
    'an empty file, whatever its line says',
    [[line(wal(1), 0)]],
    [[{ name: wal(1), sizes: [0] }]],
    { oddSizes: { count: 1 } },
  ],
])('compares a catalogue with what is stored: %s', async (_what, listed, stored, expected) => {
  expect(await compareCatalogue(batchesOf(...listed), batchesOf(...stored), 10)).toMatchObject(expected);
});

test('keeps some finds by name, and counts all', async () => {
  const lines = Array.from({ length: 1000 }, (_, segment) => line(wal(segment)));
  const { missing } = await compareCatalogue(batchesOf(lines), batchesOf<StoredSize>(), 3);
  expect(missing).toMatchObject({ count: 1000, first: [wal(0), wal(1), wal(2)] });
});

/** Five segments of two timelines and a history file, archived. */
async function withArchive(body: (storage: TestStorage, names: readonly WalName[]) => Promise<void>): Promise<void> {
  await withStorage({}, async (storage) => {
    const strategy = storage.open();
    const files = [];
    for (const segment of [1, 2, 5000]) files.push(await arrive(storage.incoming, { segment }));
    for (const segment of [2, 5001]) files.push(await arrive(storage.incoming, { segment, timeline: 2 }));
    await saveAll(
      strategy,
      files.map((file) => file.wal),
    );
    await body(
      storage,
      files.map(({ name }) => name),
    );
  });
}

const free = async (): Promise<AsyncDisposable> => ({ [Symbol.asyncDispose]: async () => {} });

function list(
  storage: TestStorage,
  parts: Partial<Parameters<typeof listArchive>[0]> = {},
): ReturnType<typeof listArchive> {
  const { catalogue, wals: location } = storage;
  return listArchive({ location, catalogue, strategy: storage.open(), lockDeletion: free, ...parts });
}

test('a listing finds every stored file with its size, and nothing amiss in a sound archive', () =>
  withArchive(async (storage, names) => {
    const sizes = (await collect(storage.open().listSizes())).flat();
    expect(sizes).toEqual([...names].sort().map((name) => ({ name, sizes: [1 << 20] })));
    expect(await list(storage)).toMatchObject({
      location: storage.wals,
      files: 5,
      bytes: 5 << 20,
      missing: { count: 0 },
      unlisted: { count: 0 },
      oddSizes: { count: 0 },
    });
  }));

test('a removed file, a removed directory and what is no regular file are missing', () =>
  withArchive(async (storage, names) => {
    const strategy = storage.open();
    const [first = wal(0), second = wal(0), third = wal(0)] = names;
    await unlink(strategy.getFullPath(first));
    await symlink(strategy.getFullPath(third), `${strategy.getFullPath(second)}.link`);
    await unlink(strategy.getFullPath(second));
    await symlink(strategy.getFullPath(third), strategy.getFullPath(second));
    await rm(dirname(strategy.getFullPath(wal(2, 2))), { recursive: true });
    expect((await list(storage))?.missing).toEqual({ count: 3, first: [first, second, wal(2, 2)] });
    expect(await strategy.sizeOf(second)).toBeNull();
    expect(await strategy.sizeOf(third)).toBe(1 << 20);
  }));

test('a stored file without a line, and one of another size than its line says, are found', () =>
  withArchive(async (storage, names) => {
    const strategy = storage.open();
    const extra = strategy.getFullPath(wal(3));
    await mkdir(dirname(extra), { recursive: true });
    await writeFile(extra, 'x');
    const [first = wal(0)] = names;
    await writeFile(strategy.getFullPath(first), '');
    expect(await list(storage)).toMatchObject({
      files: 6,
      missing: { count: 0 },
      unlisted: { count: 1, first: [wal(3)] },
      oddSizes: { count: 1, first: [{ name: first, stored: 0, listed: 1 << 20 }] },
    });
  }));

test('an unsorted catalogue with two lines for a file is no reason for a find', () =>
  withArchive(async (storage) => {
    const lines = await collect(storage.catalogue.read());
    const [first, ...others] = lines;
    if (first === undefined) throw new Error('no line');
    const texts = [{ ...first, size: 3 }, ...others.toReversed(), first].map(toXlogdbLine);
    await writeFile(storage.cataloguePath, texts.join(''));
    expect((await collect(storage.catalogue.readSorted())).flat()).toEqual(lines);
    expect(await list(storage)).toMatchObject({
      missing: { count: 0 },
      unlisted: { count: 0 },
      oddSizes: { count: 0 },
    });
  }));

test('what is archived, deleted or rebuilt while the listing runs is no find', () =>
  withArchive(async (storage, names) => {
    const strategy = storage.open();
    const [first = wal(0)] = names;
    async function* meanwhile(): AsyncGenerator<readonly StoredSize[]> {
      // The catalogue was read up to its first lines; now it all happens before the archive is seen.
      const { wal: arrived } = await arrive(storage.incoming, { segment: 9 });
      await saveAll(storage.open(), [arrived]);
      await unlink(strategy.getFullPath(first));
      await storage.catalogue.withLock((session) => session.remove(new Set([first])));
      yield* strategy.listSizes();
    }
    const found = await list(storage, { strategy: { listSizes: meanwhile, sizeOf: (name) => strategy.sizeOf(name) } });
    expect(found).toMatchObject({ files: 5, missing: { count: 0 }, unlisted: { count: 0 } });
  }));

test('while files are deleted nothing is called missing: the listing says that it can not be made', () =>
  withArchive(async (storage, names) => {
    const [first = wal(0)] = names;
    await unlink(storage.open().getFullPath(first));
    const lockDeletion = (): Promise<never> => Promise.reject(new Error('a deletion is under way'));
    await expect(list(storage, { lockDeletion })).rejects.toThrow('a deletion is under way');
  }));

test('a listing ends in the middle when it is asked to', () =>
  withArchive(async (storage) => {
    await expect(list(storage, { signal: AbortSignal.abort() })).rejects.toThrow(/aborted/i);
  }));

const LISTING: ArchiveListing = {
  location: '/a',
  startedAt: 1,
  finishedAt: 2,
  files: 30,
  bytes: 99,
  missing: { count: 30, first: Array.from({ length: 30 }, (_, segment) => wal(segment)) },
  unlisted: { count: 1, first: [walName('00000002.history')] },
  oddSizes: { count: 1, first: [{ name: wal(4), stored: 0, listed: 7 }] },
};

test('a listing is remembered for its own archive, with the first names of what was found', () =>
  withTempDir(async (directory) => {
    const path = join(directory, '.archive-listing.json');
    const remembered = new RememberedListing(path, '/a');
    expect(await remembered.read()).toBeNull();
    await remembered.write(LISTING);
    expect(await remembered.read()).toEqual({
      ...LISTING,
      missing: { count: 30, first: LISTING.missing.first.slice(0, 20) },
    });
    expect(await new RememberedListing(path, 's3://b').read()).toBeNull();
    for (const damaged of ['', '{}', 'null', '[1]', '{"location": "/a", "missing": {"count": 1, "first": ["x"]}}']) {
      await writeFile(path, damaged);
      expect(await remembered.read()).toBeNull();
    }
  }));
