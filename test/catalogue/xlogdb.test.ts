import { chmod, readdir, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { isErrorCode } from '../../src/errors.ts';
import type { WalFileInfo } from '../../src/wal/wal-file-info.ts';
import type { WalName } from '../../src/wal/wal-name.ts';
import { fileHandlePrototype, systemError } from '../durable/file-handle.ts';
import { walFileInfos } from '../wal/arbitraries.ts';
import { collect, lines, named, wal, withCatalogue } from './with-catalogue.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

describe('a catalogue that does not exist', () => {
  test('reads as empty, and locking it makes none', async () => {
    await withCatalogue(async ({ xlogdb, content }) => {
      expect(await collect(xlogdb.read())).toEqual([]);
      expect(await xlogdb.find(wal(1).name)).toBeUndefined();
      expect(await xlogdb.withLock(async (session) => session.remove(new Set([wal(1).name])))).toBe(0);
      await xlogdb.withLock((session) => session.ensure([]));
      expect(await content()).toBeNull();
    });
  });

  test('is created with the first line: mode 0600, the directories too', async () => {
    await withCatalogue(async ({ another, directory }) => {
      const path = join(directory, 'a', 'b', 'x.db');
      const before = process.umask(0);
      try {
        await another({ path }).withLock((session) => session.ensure([wal(2), wal(1)]));
      } finally {
        process.umask(before);
      }
      expect((await stat(path)).mode & 0o777).toBe(0o600);
      expect((await stat(join(directory, 'a'))).mode & 0o777).toBe(0o700);
      expect(await collect(another({ path }).read())).toEqual([wal(1), wal(2)]);
    });
  });
});

describe('lines after the last one', () => {
  test('are appended in order', async () => {
    await withCatalogue(async ({ ensure, content }) => {
      await ensure([wal(1)]);
      await ensure([wal(3), wal(2)]);
      expect(await content()).toBe(lines(wal(1), wal(2), wal(3)));
    });
  });

  test('cost one write, one fsync and a read of the end, however large the catalogue is', async () => {
    const prototype = await fileHandlePrototype();
    await withCatalogue(async ({ ensure, put, path }) => {
      await put(Array.from({ length: 20_000 }, (_, number) => lines(wal(number))).join(''));
      // The first lock of a process also makes sure of the directory.
      await ensure([wal(20_000)]);
      const inode = (await stat(path)).ino;
      let bytesRead = 0;
      // oxlint-disable-next-line typescript/unbound-method
      const read: unknown = prototype.read;
      if (typeof read !== 'function') throw new Error('no read');
      vi.spyOn(prototype, 'read').mockImplementation(async function (this: unknown, ...args: unknown[]) {
        const result = await Reflect.apply(read, this, args);
        bytesRead += result.bytesRead;
        return result;
      });
      const write = vi.spyOn(prototype, 'write');
      const sync = vi.spyOn(prototype, 'sync');
      await ensure([wal(20_001), wal(20_002), wal(20_003)]);
      // The other write is the pid in the lock.
      expect(write).toHaveBeenCalledTimes(2);
      expect(sync).toHaveBeenCalledTimes(1);
      expect(bytesRead).toBeLessThan(70_000);
      expect((await stat(path)).ino).toBe(inode);
    });
  });

  test('go into a file that another process has put in its place meanwhile', async () => {
    await withCatalogue(async ({ ensure, content, put, path }) => {
      await ensure([wal(1), wal(2)]);
      await put(lines(wal(2)), `${path}.new`);
      await rename(`${path}.new`, path);
      await ensure([wal(3)]);
      expect(await content()).toBe(lines(wal(2), wal(3)));
    });
  });

  test('are taken back when the disk is full, so that nobody believes them', async () => {
    const prototype = await fileHandlePrototype();
    await withCatalogue(async ({ xlogdb, ensure, content, path }) => {
      await ensure([wal(1)]);
      // oxlint-disable-next-line typescript/unbound-method
      const write: unknown = prototype.write;
      if (typeof write !== 'function') throw new Error('no write');
      let calls = 0;
      const spy = vi.spyOn(prototype, 'write').mockImplementation(async function (this: unknown, ...args: unknown[]) {
        calls += 1;
        if (calls === 3) throw systemError('ENOSPC');
        // The pid of the lock first, then half of the line, then nothing.
        return Reflect.apply(write, this, calls === 2 ? [args[0], 0, 10] : args);
      });
      const error: unknown = await ensure([wal(2)]).catch((reason: unknown) => reason);
      spy.mockRestore();
      expect(isErrorCode(error, 'catalogue')).toBe(true);
      expect(String(error)).toContain(`can't write the catalogue ${path}: ENOSPC`);
      expect(error).toMatchObject({ hint: expect.stringContaining('free some space'), cause: { code: 'ENOSPC' } });
      expect(await content()).toBe(lines(wal(1)));
      await xlogdb.withLock((session) => session.ensure([wal(2)]));
      expect(await content()).toBe(lines(wal(1), wal(2)));
    });
  });
});

describe('a failed fsync', () => {
  test('makes the catalogue be written anew, on another inode', async () => {
    const prototype = await fileHandlePrototype();
    await withCatalogue(async ({ ensure, content, path, logged }) => {
      await ensure([wal(1)]);
      const inode = (await stat(path)).ino;
      vi.spyOn(prototype, 'sync').mockRejectedValueOnce(systemError('EIO'));
      await ensure([wal(2)]);
      expect((await stat(path)).ino).not.toBe(inode);
      expect(await content()).toBe(lines(wal(1), wal(2)));
      expect(logged.map(({ message }) => message)).toEqual([expect.stringContaining('writing it anew')]);
    });
  });

  test('leaves no line behind that would be believed, and the inode stays distrusted', async () => {
    const prototype = await fileHandlePrototype();
    await withCatalogue(async ({ ensure, content, path }) => {
      await ensure([wal(1)]);
      const inode = (await stat(path)).ino;
      const sync = vi.spyOn(prototype, 'sync').mockRejectedValue(systemError('EIO'));
      await expect(ensure([wal(2)])).rejects.toMatchObject({ code: 'catalogue' });
      sync.mockRestore();
      expect(await content()).toBe(lines(wal(1)));
      await ensure([wal(2)]);
      expect(await content()).toBe(lines(wal(1), wal(2)));
      expect((await stat(path)).ino).not.toBe(inode);
    });
  });

  test('lines that were there are fsynced all the same: who wrote them may have died before he did', async () => {
    const prototype = await fileHandlePrototype();
    await withCatalogue(async ({ ensure, content, put }) => {
      await put(lines(wal(1), wal(2)));
      const sync = vi.spyOn(prototype, 'sync');
      await ensure([wal(1)]);
      // The file and, once for this inode, its directory.
      expect(sync).toHaveBeenCalledTimes(2);
      await ensure([wal(2)]);
      expect(sync).toHaveBeenCalledTimes(3);
      expect(await content()).toBe(lines(wal(1), wal(2)));
    });
  });
});

describe('lines at or below the last one', () => {
  test('are inserted where they belong', async () => {
    await withCatalogue(async ({ ensure, content, path }) => {
      await ensure([wal(1), wal(5)]);
      await chmod(path, 0o640);
      const history = named('00000001.history');
      await ensure([wal(3), wal(7), history]);
      expect(await content()).toBe(lines(history, wal(1), wal(3), wal(5), wal(7)));
      expect((await stat(path)).mode & 0o777).toBe(0o640);
    });
  });

  test('stay as they are when they say the same, whatever digits their time has', async () => {
    await withCatalogue(async ({ ensure, content, put, path }) => {
      const old = `${wal(1).name}\t1000\t1699999999\tzstd\n${lines(wal(2))}`;
      await put(old);
      const inode = (await stat(path)).ino;
      await ensure([wal(1), wal(2)]);
      expect(await content()).toBe(old);
      expect((await stat(path)).ino).toBe(inode);
    });
  });

  test.each([{ size: 999 }, { compression: 'gzip' }, { compression: null }, { encryption: 'gpg' }])(
    'are replaced when the stored file is another: %j',
    async (facts) => {
      await withCatalogue(async ({ ensure, content, logged }) => {
        await ensure([wal(1), wal(2), wal(3)]);
        await ensure([wal(2, facts)]);
        expect(await content()).toBe(lines(wal(1), wal(2, facts), wal(3)));
        expect(logged).toMatchObject([{ level: 'warn', message: expect.stringContaining('differs') }]);
      });
    },
  );

  test('are found far above the end of a large catalogue, and a new one is appended with them', async () => {
    await withCatalogue(async ({ ensure, content, put, path }) => {
      const many = Array.from({ length: 5_000 }, (_, number) => wal(number * 2));
      await put(lines(...many));
      const inode = (await stat(path)).ino;
      await ensure([wal(20), wal(20_000)]);
      expect((await stat(path)).ino).toBe(inode);
      expect(await content()).toBe(lines(...many, wal(20_000)));
      await ensure([wal(21)]);
      expect(await content()).toBe(lines(...many.slice(0, 11), wal(21), ...many.slice(11), wal(20_000)));
    });
  });
});

describe('an unsorted catalogue, as two archivers of Barman leave it', () => {
  test('is read as it stands', async () => {
    await withCatalogue(async ({ xlogdb, put }) => {
      await put(lines(wal(3), wal(1), wal(3, { size: 5 })));
      expect(await collect(xlogdb.read())).toEqual([wal(3), wal(1), wal(3, { size: 5 })]);
      expect(await xlogdb.find(wal(3).name)).toEqual(wal(3, { size: 5 }));
    });
  });

  test('is sorted when it is written, and the later of two lines wins', async () => {
    await withCatalogue(async ({ ensure, content, put }) => {
      await put(lines(wal(3), wal(1), wal(4), wal(3, { size: 5 }), wal(1)));
      await ensure([wal(2)]);
      expect(await content()).toBe(lines(wal(1), wal(2), wal(3, { size: 5 }), wal(4)));
    });
  });

  test('gets no second line for a file that it knows further up, if asked to be thorough', async () => {
    await withCatalogue(async ({ ensure, content, put }) => {
      const many = Array.from({ length: 3_000 }, (_, number) => wal(number));
      await put(lines(wal(9_000), ...many));
      await ensure([wal(9_000)], { thorough: true });
      expect(await content()).toBe(lines(...many, wal(9_000)));
    });
  });
});

test('whatever is ensured, removed and left by others: sorted, one line a file, the later state', async () => {
  const small = fc
    .integer({ min: 0, max: 12 })
    .chain((number) => fc.constantFrom(100, 200).map((size) => wal(number, { size })));
  const steps = fc.array(
    fc.record({
      kind: fc.constantFrom('ensure', 'remove', 'barman', 'replace'),
      infos: fc.array(small, { maxLength: 6 }),
    }),
    { maxLength: 8 },
  );
  await fc.assert(
    fc.asyncProperty(steps, async (list) => {
      await withCatalogue(async ({ another, content, put }) => {
        const model = new Map<WalName, WalFileInfo>();
        for (const { kind, infos } of list) {
          // A Barman appends without looking.
          if (kind === 'barman') await put(((await content()) ?? '') + lines(...infos));
          await another().withLock(async (session) => {
            if (kind === 'ensure') await session.ensure(infos, { thorough: true });
            if (kind === 'replace') await session.replaceAll(infos);
            if (kind === 'remove') {
              const names = new Set(infos.map(({ name }) => name));
              expect(await session.remove(names)).toBe([...names].filter((name) => model.has(name)).length);
            }
          });
          if (kind === 'replace') model.clear();
          for (const info of infos)
            if (kind === 'remove') model.delete(info.name);
            else model.set(info.name, info);
        }
        const extra = wal(99);
        await another().withLock((session) => session.ensure([extra], { thorough: true }));
        model.set(extra.name, extra);
        const sorted = [...model.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
        expect(await content()).toBe(lines(...sorted));
      });
    }),
    { numRuns: 40 },
  );
});

test('files of every kind and any segment size keep their line, in the order of their bytes', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(walFileInfos, { selector: ({ name }) => name, maxLength: 30 }), async (infos) => {
      await withCatalogue(async ({ ensure, xlogdb, content }) => {
        const half = infos.length >> 1;
        await ensure(infos.slice(0, half));
        await ensure(infos.slice(half));
        const sorted = infos.toSorted((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)));
        expect(await collect(xlogdb.read())).toEqual(sorted);
        expect((await content()) ?? '').toBe(lines(...sorted));
      });
    }),
    { numRuns: 30 },
  );
});

describe('removing and replacing', () => {
  test('drops the lines of deleted files, durably', async () => {
    await withCatalogue(async ({ xlogdb, ensure, content }) => {
      await ensure([wal(1), wal(2), wal(3)]);
      const removed = await xlogdb.withLock((session) =>
        session.remove(new Set([wal(1).name, wal(3).name, wal(9).name])),
      );
      expect(removed).toBe(2);
      expect(await content()).toBe(lines(wal(2)));
    });
  });

  test('a rebuilt catalogue is sorted, whatever the order in which the files were found', async () => {
    await withCatalogue(async ({ xlogdb, ensure, content, directory }) => {
      await ensure([wal(1), wal(2), wal(3)]);
      async function* found(): AsyncGenerator<WalFileInfo> {
        yield wal(5);
        yield wal(4);
        yield wal(5, { size: 7 });
      }
      await xlogdb.withLock((session) => session.replaceAll(found()));
      expect(await content()).toBe(lines(wal(4), wal(5, { size: 7 })));
      await xlogdb.withLock((session) => session.replaceAll([]));
      expect(await content()).toBe('');
      expect((await readdir(directory)).sort()).toEqual(['.main-xlogdb.lock', 'main-xlog.db']);
    });
  });

  test('a rebuild that fails half-way changes nothing and passes its error on', async () => {
    await withCatalogue(async ({ xlogdb, ensure, content, directory }) => {
      await ensure([wal(1)]);
      async function* found(): AsyncGenerator<WalFileInfo> {
        yield wal(5);
        throw systemError('EIO');
      }
      await expect(xlogdb.withLock((session) => session.replaceAll(found()))).rejects.toThrow('EIO: made up by a test');
      expect(await content()).toBe(lines(wal(1)));
      expect((await readdir(directory)).sort()).toEqual(['.main-xlogdb.lock', 'main-xlog.db']);
    });
  });

  test('a leftover of a rewrite that was killed is in nobody’s way', async () => {
    await withCatalogue(async ({ ensure, content, put, path, directory }) => {
      await ensure([wal(1), wal(3)]);
      await put('half a li', `${path}.tmp`);
      await put('half a li', `${path}.spool`);
      await ensure([wal(2)]);
      expect(await content()).toBe(lines(wal(1), wal(2), wal(3)));
      expect(await readdir(directory)).not.toContain('main-xlog.db.tmp');
    });
  });
});
