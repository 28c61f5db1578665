import { Unpacker } from '../../src/storage/unpacker.ts';
import { execFileSync } from 'node:child_process';
import { mkdir, open, rename, symlink, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ErrorsDirectory } from '../../src/archiver/errors-directory.ts';
import { findWal, peekWals, type FoundWal, type WalFinderParts } from '../../src/archiver/wal-finder.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { withStorage, type TestStorage } from '../storage/with-storage.ts';
import { nameOf, partialOf, writePartial } from './streamed.ts';

interface Finder extends TestStorage {
  readonly find: (segment: number, partial?: boolean) => Promise<FoundWal | null>;
  readonly parts: WalFinderParts;
}

function withFinder<T>(body: (finder: Finder) => Promise<T>): Promise<T> {
  return withStorage({}, (storage) => {
    const { incoming, streaming, claims, keys, deliveries } = storage;
    const parts = {
      strategy: storage.open(),
      incoming,
      streaming,
      claims,
      errors: new ErrorsDirectory(storage.errors, join(storage.errors, '..', '.errors')),
      incompleteTimeoutMs: 300_000,
      keys,
      unpacker: new Unpacker({ custom: undefined, segmentSize: async () => null, resident: false }),
      foreign: async () => null,
      deliveries,
      checkAbsent: async () => undefined,
    };
    return body({
      ...storage,
      parts,
      find: (segment, partial = false) => findWal(parts, nameOf(segment), partial),
    });
  });
}

test('a segment that waits in streaming is found, also under its claimed name', () =>
  withFinder(async ({ streaming, find, parts }) => {
    const { path, bytes } = await writeWal(streaming, { segment: 1 });
    expect((await find(1))?.plain.equals(bytes)).toBe(true);
    await rename(path, join(streaming, `.walwarden-${nameOf(1)}`));
    const found = await find(1);
    expect(found?.path).toBe(join(streaming, `.walwarden-${nameOf(1)}`));
    expect(found?.plain.equals(bytes)).toBe(true);
    await writeWal(streaming, { segment: 2 });
    expect(await peekWals(parts, nameOf(1), 5, 1 << 20)).toEqual([nameOf(1), nameOf(2)]);
  }));

test('a partial file is only found when it is asked for', () =>
  withFinder(async ({ streaming, find }) => {
    await writePartial(streaming, { segment: 1 });
    expect(await find(1)).toBeNull();
    expect(await find(1, true)).toMatchObject({ path: join(streaming, partialOf(1)) });
  }));

test('a complete one is preferred to a partial one', () =>
  withFinder(async ({ streaming, find }) => {
    await writePartial(streaming, { segment: 1 });
    const { bytes } = await writeWal(streaming, { segment: 1 });
    expect((await find(1, true))?.plain.equals(bytes)).toBe(true);
  }));

test.each([0, 8192, 1 << 20])('a partial file of %d zeros holds no WAL: the segment is not there', (size) =>
  withFinder(async ({ streaming, incoming, find }) => {
    for (const directory of [streaming, incoming]) await writeFile(join(directory, partialOf(1)), Buffer.alloc(size));
    expect(await find(1, true)).toBeNull();
  }),
);

test('a partial file that is not padded can not be used, which is no "not there"', () =>
  withFinder(async ({ streaming, find }) => {
    await writeFile(join(streaming, partialOf(1)), makeWal().bytes.subarray(0, 500_000));
    await expect(find(1, true)).rejects.toMatchObject({ code: 'incomplete-wal' });
  }));

test('a partial file that is being written is read as it was at one moment: no hole in it, whatever the timing', () =>
  withFinder(async ({ streaming, find }) => {
    const { bytes } = makeWal({ content: 'random', size: 4 << 20 });
    const path = join(streaming, partialOf(1));
    for (let round = 0; round < 25; round += 1) {
      await writeFile(path, Buffer.alloc(bytes.length));
      await using handle = await open(path, 'r+');
      const whole = new AbortController();
      const writing = (async () => {
        for (let at = 0; at < bytes.length;) {
          const next = Math.min(bytes.length, at + 1 + Math.floor(Math.random() * 600_000));
          await handle.write(bytes, at, next - at, at);
          at = next;
        }
        whole.abort();
      })();
      for (let last = false; !last;) {
        last = whole.signal.aborted;
        const found = await find(1, true).catch(() => null); // not even a page header yet
        if (found === null) continue;
        const end = found.plain.findLastIndex((byte) => byte !== 0) + 1;
        expect(found.plain.subarray(0, end).equals(bytes.subarray(0, end))).toBe(true);
        if (last) expect(end).toBeGreaterThan(bytes.length - 16);
      }
      await writing;
    }
  }));

test('a partial file that becomes complete while it is looked for is found under the one name or the other', () =>
  withFinder(async ({ streaming, find }) => {
    for (let segment = 1; segment <= 40; segment += 1) {
      const path = await writePartial(streaming, { segment });
      let renamed = false;
      const looking = (async () => {
        for (let last = false; !last;) {
          last = renamed;
          expect(await find(segment, true)).not.toBeNull();
        }
      })();
      await find(segment, true);
      await rename(path, join(streaming, nameOf(segment)));
      renamed = true;
      await looking;
    }
  }));

describe('what others put under the name of a WAL file', () => {
  const places = ['incoming', 'streaming'] as const;
  const odd: readonly [string, (path: string, other: string) => Promise<unknown>][] = [
    ['a link to a segment elsewhere', (path, other) => symlink(other, path)],
    ['a link to an endless device', (path) => symlink('/dev/zero', path)],
    ['a fifo', async (path) => execFileSync('mkfifo', [path])],
    ['more bytes than WAL has', (path) => writeFile(path, '').then(() => truncate(path, 2 ** 31))],
  ];
  for (const [what, make] of odd) {
    test.each(places)(`${what} is not handed out from %s, and is no "not there"`, (place) =>
      withFinder(async (finder) => {
        const elsewhere = join(finder.home, 'elsewhere');
        await mkdir(elsewhere);
        const { path } = await writeWal(elsewhere, { segment: 1 });
        await make(join(finder[place], nameOf(1)), path);
        await expect(finder.find(1)).rejects.toMatchObject({
          code: 'storage',
          message: expect.stringMatching(/it (is|has)/),
        });
      }),
    );
  }

  test.each(places)('a segment of another cluster in %s is not handed out', (place) =>
    withFinder(async (finder) => {
      await writeWal(finder[place], { segment: 1, systemIdentifier: 42n });
      const foreign = async (id: bigint): Promise<string | null> => (id === 42n ? 'it is of another cluster' : null);
      await expect(findWal({ ...finder.parts, foreign }, nameOf(1), false)).rejects.toMatchObject({
        code: 'invalid-wal',
        message: `${join(finder[place], nameOf(1))} can't be used: it is of another cluster`,
      });
    }),
  );

  test('an archived segment of the cluster before pg_upgrade is handed out', () =>
    withFinder(async ({ parts, wals, find }) => {
      const { bytes } = makeWal({ segment: 1, systemIdentifier: 42n });
      const path = parts.strategy.getFullPath(nameOf(1));
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, bytes);
      expect(path.startsWith(wals)).toBe(true);
      const found = await findWal({ ...parts, foreign: async () => 'no' }, nameOf(1), false);
      expect(found?.plain.equals(bytes)).toBe(true);
      expect(await find(1)).not.toBeNull();
    }));
});
