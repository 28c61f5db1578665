import { open, readdir } from 'node:fs/promises';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { fileHandlePrototype, systemError } from '../durable/file-handle.ts';
import { archiveOf, collect, lines, wal, withCatalogue } from './with-catalogue.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

describe('a torn line', () => {
  test('of four fields is not believed: what is missing may be the encryption', async () => {
    await withCatalogue(async ({ xlogdb, put, content }) => {
      await put(`${wal(1).name}\t1000\t1700000000.25\tzstd`);
      await xlogdb.withLock(async (session) => expect(session.tornName).toBe(wal(1).name));
      expect(await content()).toBe('');
    });
  });

  test.each([1, 5000, 300_000])(
    'of %i zero bytes, as a power failure leaves them, goes without a trace',
    async (count) => {
      await withCatalogue(async ({ ensure, put, content, damaged }) => {
        await put(lines(wal(1)) + '\0'.repeat(count));
        await ensure([wal(2)]);
        expect(await content()).toBe(lines(wal(1), wal(2)));
        expect(await damaged()).toEqual([]);
      });
    },
  );

  test('that goes over into zero bytes is a torn line', async () => {
    await withCatalogue(
      async ({ xlogdb, put, content, damaged }) => {
        const torn = lines(wal(2)).slice(0, 30) + '\0'.repeat(4000);
        await put(lines(wal(1)) + torn);
        await xlogdb.withLock(async () => undefined);
        expect(await content()).toBe(lines(wal(1), wal(2)));
        expect(await damaged()).toEqual([torn]);
      },
      { describeStored: archiveOf(wal(2)) },
    );
  });

  test('stays when the archive can’t be asked, so that nothing is lost', async () => {
    await withCatalogue(
      async ({ xlogdb, put, content, damaged }) => {
        const torn = lines(wal(1), wal(2)).slice(0, -10);
        await put(torn);
        await expect(xlogdb.withLock(async () => undefined)).rejects.toThrow("can't repair the catalogue");
        expect(await content()).toBe(torn);
        expect(await damaged()).toEqual([]);
      },
      { describeStored: () => Promise.reject(systemError('EIO')) },
    );
  });

  test('stays when the disk is full, with no half-made file beside it', async () => {
    const prototype = await fileHandlePrototype();
    await withCatalogue(async ({ xlogdb, put, content, directory }) => {
      const torn = lines(wal(1), wal(2)).slice(0, -10);
      await put(torn);
      const sync = vi.spyOn(prototype, 'sync').mockRejectedValueOnce(systemError('ENOSPC'));
      await expect(xlogdb.withLock(async () => undefined)).rejects.toThrow('ENOSPC');
      sync.mockRestore();
      expect(await content()).toBe(torn);
      expect((await readdir(directory)).sort()).toEqual(['.main-xlogdb.lock', 'main-xlog.db']);
    });
  });

  test('of somebody who died after the archive had the file already known is no second line', async () => {
    await withCatalogue(
      async ({ xlogdb, put, content }) => {
        await put(lines(wal(1), wal(2)) + lines(wal(1)).slice(0, 28));
        await xlogdb.withLock(async () => undefined);
        expect(await content()).toBe(lines(wal(1), wal(2)));
      },
      { describeStored: archiveOf(wal(1, { size: 77 })) },
    );
  });
});

describe('damaged lines', () => {
  // Bytes that are no text, an empty line, a line of a Barman that appended after a torn one.
  const rubbish = ['\xff\xfe\x00\x80 rubbish', '', `${wal(4).name}\t10${lines(wal(5)).trimEnd()}`];
  const text = `${rubbish[0]}\n${lines(wal(1))}${rubbish[1]}\n${lines(wal(2))}${rubbish[2]}\n${lines(wal(6))}`;

  test('are told with their numbers, and don’t keep the others from being read', async () => {
    await withCatalogue(async ({ xlogdb, put }) => {
      await put(text);
      expect(await collect(xlogdb.read())).toEqual([wal(1), wal(2), wal(6)]);
      const problems = (await collect(xlogdb.readEntries())).filter(({ kind }) => kind === 'problem');
      expect(problems).toEqual([
        { kind: 'problem', lineNumber: 1, text: rubbish[0] },
        { kind: 'problem', lineNumber: 3, text: '' },
        { kind: 'problem', lineNumber: 5, text: rubbish[2] },
      ]);
    });
  });

  test('are left alone by an append', async () => {
    await withCatalogue(async ({ ensure, put, content, damaged }) => {
      await put(text);
      await ensure([wal(7)]);
      expect(await content()).toBe(text + lines(wal(7)));
      expect(await damaged()).toEqual([]);
    });
  });

  test('are put aside, byte for byte, by a rewrite, and the files that they mean get their lines', async () => {
    await withCatalogue(
      async ({ ensure, put, content, damaged, logged }) => {
        await put(text);
        await ensure([wal(3)]);
        expect(await content()).toBe(lines(wal(1), wal(2), wal(3), wal(4), wal(5), wal(6)));
        // An empty line says nothing.
        expect(await damaged()).toEqual([`${rubbish[0]}\n${rubbish[2]}\n`]);
        expect(logged).toMatchObject([
          {
            level: 'warn',
            message: 'damaged lines of the catalogue were put aside',
            facts: { lines: 2, lineNumber: 1 },
          },
        ]);
      },
      { describeStored: archiveOf(wal(4), wal(5)) },
    );
  });

  test('are put aside by a rebuild, too, and twice in a second into two files', async () => {
    await withCatalogue(async ({ xlogdb, put, content, damaged }) => {
      for (const rubbishLine of ['one\n', 'two\n']) {
        await put(rubbishLine);
        await xlogdb.withLock((session) => session.replaceAll([wal(1)]));
        expect(await content()).toBe(lines(wal(1)));
      }
      expect(await damaged()).toEqual(['one\n', 'two\n']);
    });
  });

  test('of any length are read in bounded pieces, and their end is not taken for a line', async () => {
    await withCatalogue(async ({ xlogdb, ensure, put, content, path, damaged }) => {
      const long = `${'x'.repeat(700_000)}\t`;
      await put(`${long}${lines(wal(1))}${lines(wal(2))}`);
      expect(await collect(xlogdb.read())).toEqual([wal(2)]);
      await ensure([wal(1)]);
      expect(await content()).toBe(lines(wal(1), wal(2)));
      expect(await damaged()).toEqual([long + lines(wal(1))]);
      // A hole as a power failure may leave it.
      await using handle = await open(path, 'r+');
      await handle.truncate(2 ** 25);
      await ensure([wal(3)]);
      expect(await content()).toBe(lines(wal(1), wal(2), wal(3)));
    });
  });
});
