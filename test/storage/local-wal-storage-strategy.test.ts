import { existsSync } from 'node:fs';
import {
  chmod,
  chown,
  link,
  lstat,
  mkdir,
  mkdtemp,
  open as openFile,
  readFile,
  readdir,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  unlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';

import type { WalHooks } from '../../src/hooks/wal-hooks.ts';
import { collect } from '../catalogue/with-catalogue.ts';
import { makeWal } from '../support/make-wal.ts';
import { arrive, namesOf, saveAll, waiting, withStorage } from './with-storage.ts';

const { name, bytes } = makeWal();
/** Where a pass claims a file; and where older versions did, inside incoming itself. */
const claimOf = (incoming: string): string => join(dirname(incoming), '.claimed', 'incoming', name);
const olderClaimOf = (incoming: string): string => join(incoming, `.walwarden-${name}`);

async function isSame(path: string, expected: Buffer): Promise<boolean> {
  return (await readFile(path)).equals(expected);
}

describe('a file that nothing transforms', () => {
  test('becomes the archived one itself, with its time, our mode, and no other name left', () =>
    withStorage({}, async ({ incoming, open }) => {
      const { path } = await arrive(incoming);
      await chmod(path, 0o644);
      await utimes(path, 1_700_000_000, 1_700_000_000);
      const before = await stat(path);
      const strategy = open();
      await saveAll(strategy, [await waiting(path)]);
      const { ino, nlink, mode, mtimeMs } = await stat(strategy.getFullPath(name));
      expect({ ino, nlink, mode: mode & 0o777, mtimeMs }).toEqual({
        ino: before.ino,
        nlink: 1,
        mode: 0o600,
        mtimeMs: 1_700_000_000_000,
      });
      expect(await readdir(incoming)).toEqual([]);
    }));

  test('is claimed before anybody may be slow, so that a retried archive_command writes another file', () =>
    withStorage({}, async ({ incoming, catalogue, open }) => {
      const { wal, path } = await arrive(incoming);
      const other = makeWal({ seed: 2 }).bytes;
      const before: WalHooks['before'] = async (_operation, _info, source) => {
        expect(source).toBe(claimOf(incoming));
        await writeFile(path, other);
        return { outcome: 'continue', reason: '' };
      };
      const strategy = open({ hooks: { before } });
      expect(await saveAll(strategy, [wal])).toMatchObject([{ outcome: 'stored' }]);
      expect(await isSame(strategy.getFullPath(name), bytes)).toBe(true);
      expect(await readdir(incoming)).toEqual([name]);
      expect(await isSame(path, other)).toBe(true);
      expect(await namesOf(catalogue)).toEqual([name]);
    }));

  test('is what was staged, whatever takes the place of any file in incoming before it is linked', () =>
    withStorage({}, async ({ incoming, open, catalogue }) => {
      const { wal } = await arrive(incoming);
      const strategy = open();
      const commit = strategy.commit.bind(strategy);
      strategy.commit = async (group) => {
        if (group.length > 0) await writeFile(join(incoming, name), 'what came next');
        for (const entry of await readdir(incoming)) {
          await writeFile(join(incoming, '.other'), 'something else');
          await rename(join(incoming, '.other'), join(incoming, entry));
        }
        return commit(group);
      };
      expect(await saveAll(strategy, [wal])).toMatchObject([{ outcome: 'stored' }]);
      expect(await isSame(strategy.getFullPath(name), bytes)).toBe(true);
      expect(await isSame(join(incoming, name), Buffer.from('something else'))).toBe(true);
      expect(await namesOf(catalogue)).toEqual([name]);
    }));

  test('is copied when PostgreSQL has its inode in pg_wal too, whose mode and bytes stay its own', () =>
    withStorage({}, async ({ home, incoming, open }) => {
      const pgWal = join(home, 'pg_wal-segment');
      await writeFile(pgWal, bytes);
      await chmod(pgWal, 0o640);
      await link(pgWal, join(incoming, name));
      const strategy = open();
      expect(await saveAll(strategy, [await waiting(join(incoming, name))])).toMatchObject([{ outcome: 'stored' }]);
      const [archived, original] = [await stat(strategy.getFullPath(name)), await stat(pgWal)];
      expect(archived.ino).not.toBe(original.ino);
      expect({ mode: original.mode & 0o777, nlink: original.nlink }).toEqual({ mode: 0o640, nlink: 1 });
      expect(await readdir(incoming)).toEqual([]);
    }));

  test('is copied when another user owns it; the archived one is ours', () =>
    withStorage({}, async ({ incoming, open }) => {
      const { path } = await arrive(incoming);
      const us = process.geteuid?.();
      if (us !== 0) {
        // Only root can make such a file.
        await expect(chown(path, 12_345, 12_345)).rejects.toThrow('EPERM');
        return;
      }
      await chown(path, 12_345, 12_345);
      const before = await stat(path);
      const strategy = open();
      expect(await saveAll(strategy, [await waiting(path)])).toMatchObject([{ outcome: 'stored' }]);
      const archived = await stat(strategy.getFullPath(name));
      expect(archived.uid).toBe(us);
      expect(archived.ino).not.toBe(before.ino);
      expect(await readdir(incoming)).toEqual([]);
    }));

  test('is copied from another file system', () =>
    withStorage({}, async ({ open, wals }) => {
      const elsewhere = await mkdtemp('/dev/shm/walwarden-test-');
      try {
        expect((await stat(elsewhere)).dev, '/dev/shm must be another file system').not.toBe((await stat(wals)).dev);
        const first = await arrive(elsewhere, { segment: 1 });
        const second = await arrive(elsewhere, { segment: 2 });
        await utimes(second.path, 1_700_000_000.123_456, 1_700_000_000.123_456);
        const strategy = open();
        expect(await saveAll(strategy, [first.wal, await waiting(second.path)])).toMatchObject([
          { outcome: 'stored' },
          { outcome: 'stored' },
        ]);
        expect(await isSame(strategy.getFullPath(second.name), second.bytes)).toBe(true);
        expect((await stat(strategy.getFullPath(second.name))).mtimeMs).toBeCloseTo(1_700_000_000_123.456, 2);
        expect(await readdir(elsewhere)).toEqual([]);
        expect(await readdir(dirname(strategy.getFullPath(name)))).toEqual([first.name, second.name]);
      } finally {
        await rm(elsewhere, { recursive: true });
      }
    }));

  test('is given back under its name when it can not be stored', () =>
    withStorage({}, async ({ incoming, open }) => {
      const { wal, path } = await arrive(incoming);
      const strategy = open({ accept: async () => 'of another cluster' });
      expect(await saveAll(strategy, [wal])).toMatchObject([{ outcome: 'invalid', wal: { path, claimed: false } }]);
      expect(await readdir(incoming)).toEqual([name]);
    }));

  test('is never given back under its name once the archive has it: that name may be written to', () =>
    withStorage({}, async ({ incoming, catalogue, open }) => {
      const { wal, path } = await arrive(incoming);
      const strategy = open();
      const commit = strategy.commit.bind(strategy);
      strategy.commit = async (group) => {
        const results = await commit(group);
        throw new Error(`${results.length} is linked, and its line can't be written`);
      };
      await expect(saveAll(strategy, [wal])).rejects.toThrow("1 is linked, and its line can't be written");
      const archived = strategy.getFullPath(name);
      expect(await isSame(archived, bytes)).toBe(true);
      // What a retried `cp %p incoming/%f` does first.
      await writeFile(path, 'O_TRUNC');
      expect(await isSame(archived, bytes)).toBe(true);
      await unlink(path);
      expect(await readdir(incoming)).toEqual([]);
      expect(await saveAll(open(), [await waiting(claimOf(incoming), name)])).toMatchObject([
        { outcome: 'already-stored' },
      ]);
      expect(await namesOf(catalogue)).toEqual([name]);
      expect(existsSync(claimOf(incoming))).toBe(false);
    }));
});

describe.each([
  ['this version', claimOf],
  ['an older version', olderClaimOf],
] as const)('claims of an interrupted pass of %s', (_version, placeOf) => {
  async function claim(path: string): Promise<string> {
    const place = placeOf(dirname(path));
    await mkdir(dirname(place), { recursive: true, mode: 0o700 });
    await rename(path, place);
    return place;
  }

  test('are finished', () =>
    withStorage({}, async ({ incoming, catalogue, open }) => {
      const { path } = await arrive(incoming);
      const left = await claim(path);
      const { ino } = await stat(left);
      const strategy = open();
      expect(await saveAll(strategy, [await waiting(left, name)])).toMatchObject([{ outcome: 'stored' }]);
      expect((await stat(strategy.getFullPath(name))).ino).toBe(ino);
      expect(await readdir(incoming)).toEqual([]);
      expect(await namesOf(catalogue)).toEqual([name]);
    }));

  test('that were linked already lose only the claim', () =>
    withStorage({}, async ({ incoming, catalogue, open }) => {
      const { path } = await arrive(incoming);
      const left = await claim(path);
      const strategy = open();
      const archived = strategy.getFullPath(name);
      await mkdir(dirname(archived));
      await link(left, archived);
      const { ino } = await stat(archived);
      expect(await saveAll(strategy, [await waiting(left, name)])).toMatchObject([{ outcome: 'already-stored' }]);
      expect(await stat(archived)).toMatchObject({ ino, nlink: 1 });
      expect(await readdir(incoming)).toEqual([]);
      expect(await readdir(dirname(archived))).toEqual([name]);
      expect(await namesOf(catalogue)).toEqual([name]);
    }));

  test('are finished where the configuration now compresses', () =>
    withStorage({ compression: 'zstd' }, async ({ incoming, open }) => {
      const { path } = await arrive(incoming);
      const left = await claim(path);
      expect(await saveAll(open(), [await waiting(left, name)])).toMatchObject([
        { outcome: 'stored', info: { compression: 'zstd' } },
      ]);
      expect(await readdir(incoming)).toEqual([]);
    }));

  test('are not overwritten by the claim of a new arrival', () =>
    withStorage({}, async ({ incoming, open }) => {
      const { path, bytes: older } = await arrive(incoming, { seed: 2 });
      const left = await claim(path);
      const { wal } = await arrive(incoming);
      const strategy = open();
      expect(await saveAll(strategy, [wal])).toMatchObject([{ outcome: 'stored' }]);
      expect(existsSync(path)).toBe(false);
      expect(await isSame(left, older)).toBe(true);
      expect(await saveAll(strategy, [await waiting(left, name)])).toMatchObject([
        { outcome: 'conflict', wal: { path: claimOf(incoming) } },
      ]);
      expect(existsSync(path)).toBe(false);
      expect(await isSame(claimOf(incoming), older)).toBe(true);
      expect(await isSame(strategy.getFullPath(name), bytes)).toBe(true);
    }));

  test('stay claims when their name is taken again', () =>
    withStorage({}, async ({ incoming, open }) => {
      const { path } = await arrive(incoming);
      const left = await claim(path);
      await arrive(incoming, { seed: 2 });
      const strategy = open({ accept: async () => 'of another cluster' });
      expect(await saveAll(strategy, [await waiting(left, name)])).toMatchObject([
        { outcome: 'invalid', wal: { path: claimOf(incoming), claimed: true } },
      ]);
      expect(await readdir(incoming)).toEqual([name]);
      expect(await isSame(claimOf(incoming), bytes)).toBe(true);
    }));
});

describe('where others may write into the directory of claims, or rename it away', () => {
  const open0o775 = (directory: string) => chmod(directory, 0o775);
  test.each<[string, (incoming: string) => Promise<unknown>]>([
    ["the server's own directory", (incoming) => open0o775(dirname(incoming))],
    ['the directory of all claims', (incoming) => open0o775(join(dirname(incoming), '.claimed'))],
    ['the directory of claims of incoming', (incoming) => open0o775(dirname(claimOf(incoming)))],
    [
      'a link in its place',
      async (incoming) => {
        const claims = dirname(claimOf(incoming));
        await rename(claims, `${dirname(incoming)}/elsewhere`);
        await symlink(`${dirname(incoming)}/elsewhere`, claims);
      },
    ],
  ])('a file is copied, and reported once: %s', (_what, loosen) =>
    withStorage({}, async ({ incoming, open }) => {
      await mkdir(dirname(claimOf(incoming)), { recursive: true, mode: 0o700 });
      await loosen(incoming);
      const reported: string[] = [];
      const strategy = open({ onNoClaims: (directory) => reported.push(directory) });
      for (const segment of [1, 2]) {
        const arrived = await arrive(incoming, { segment });
        const { ino } = await stat(arrived.path);
        expect(await saveAll(strategy, [arrived.wal])).toMatchObject([{ outcome: 'stored' }]);
        expect((await stat(strategy.getFullPath(arrived.name))).ino).not.toBe(ino);
        expect(await isSame(strategy.getFullPath(arrived.name), arrived.bytes)).toBe(true);
      }
      expect(reported).toEqual([dirname(incoming)]);
      expect(await readdir(incoming)).toEqual([]);
    }),
  );

  test('a file that others may write is copied: one of them may have it open', () =>
    withStorage({}, async ({ incoming, open }) => {
      const { path } = await arrive(incoming);
      await chmod(path, 0o620);
      const { ino } = await stat(path);
      await using writer = await openFile(path, 'r+');
      const strategy = open();
      expect(await saveAll(strategy, [await waiting(path)])).toMatchObject([{ outcome: 'stored' }]);
      await writer.write('changed');
      expect((await stat(strategy.getFullPath(name))).ino).not.toBe(ino);
      expect(await isSame(strategy.getFullPath(name), bytes)).toBe(true);
    }));

  test('a file that is written after it was staged is not archived as it is then', () =>
    withStorage({}, async ({ incoming, open, catalogue }) => {
      const { path, wal } = await arrive(incoming);
      await using writer = await openFile(path, 'r+');
      const strategy = open();
      const commit = strategy.commit.bind(strategy);
      strategy.commit = async (group) => {
        if (group.length > 0) await writer.write('changed');
        return commit(group);
      };
      expect(await saveAll(strategy, [wal])).toMatchObject([{ outcome: 'changed', wal: { path } }]);
      expect(await strategy.exists(strategy.getFullPath(name))).toBe(false);
      expect(await namesOf(catalogue)).toEqual([]);
      expect(await readdir(incoming)).toEqual([name]);
    }));

  test('another file that takes the place of the one that was looked at is not archived for it', () =>
    withStorage({}, async ({ incoming, open }) => {
      const { path, wal } = await arrive(incoming);
      const other = makeWal({ seed: 2 }).bytes;
      await writeFile(`${path}.other`, other, { mode: 0o600 });
      await rename(`${path}.other`, path);
      const strategy = open();
      expect(await saveAll(strategy, [wal])).toMatchObject([{ outcome: 'changed', wal: { path } }]);
      expect(await strategy.exists(strategy.getFullPath(name))).toBe(false);
      expect(await isSame(path, other)).toBe(true);
    }));
});

describe('a source that changes meanwhile', () => {
  test('is left alone when it is another one since it was staged: a new arrival', () =>
    withStorage({ compression: 'gzip' }, async ({ incoming, open }) => {
      const { wal, path } = await arrive(incoming);
      const other = makeWal({ seed: 2 }).bytes;
      const accept = async (): Promise<null> => {
        await writeFile(path, other);
        return null;
      };
      expect(await saveAll(open({ accept }), [wal])).toMatchObject([{ outcome: 'stored' }]);
      expect(await isSame(path, other)).toBe(true);
    }));

  test('is not stored when it grew since it was looked at', () =>
    withStorage({}, async ({ incoming, open }) => {
      const { wal, path } = await arrive(incoming);
      await truncate(path, 5);
      const strategy = open();
      expect(await saveAll(strategy, [wal])).toMatchObject([{ outcome: 'changed', wal: { path } }]);
      expect(await strategy.exists(strategy.getFullPath(name))).toBe(false);
      expect((await stat(path)).size).toBe(5);
    }));
});

describe('what a crash left in the archive', () => {
  const leftovers = ['tmp', 'compressed', 'gpg', 'uncompressed'].map((suffix) => `${name}.${suffix}`);
  // Barman's get-wal keeps live files of such names, and people keep all sorts of things.
  const others = [`.${name}.uncompressed`, `.${name}.x7ab`, 'notes.tmp', `${name}.bak`, `.walwarden-${name}`];

  for (const compression of [null, 'gzip'] as const) {
    test(`is removed from the directories that are used, ${compression ?? 'no compression'}; nothing else is`, () =>
      withStorage({ compression }, async ({ incoming, wals, open }) => {
        const directory = join(wals, name.slice(0, 16));
        await mkdir(directory);
        for (const entry of [...leftovers, ...others]) await writeFile(join(directory, entry), 'x');
        const second = await arrive(incoming, { segment: 2 });
        await saveAll(open(), [second.wal]);
        expect((await readdir(directory)).sort()).toEqual([...others, second.name].sort());
      }));
  }

  test('is removed beside history files too', () =>
    withStorage({}, async ({ incoming, wals, open }) => {
      await writeFile(join(wals, '00000003.history.tmp'), 'x');
      await writeFile(join(incoming, '00000002.history'), '1\t0/500000\tno recovery target specified\n');
      await saveAll(open(), [await waiting(join(incoming, '00000002.history'))]);
      expect((await readdir(wals)).sort()).toEqual(['00000002.history', 'main-xlog.db']);
    }));
});

describe('a directory of the archive that disappears, because Barman deleted all that was in it', () => {
  const cases = [
    { label: 'after staging, no compression', compression: null, when: 'accept' },
    { label: 'after staging, gzip', compression: 'gzip', when: 'accept' },
    { label: 'before staging, no compression', compression: null, when: 'hook' },
    { label: 'before staging, gzip', compression: 'gzip', when: 'hook' },
  ] as const;
  for (const { label, compression, when } of cases) {
    test(`is made again, and the file prepared again: ${label}`, () =>
      withStorage({ compression }, async ({ incoming, wals, catalogue, open }) => {
        const arrived = [];
        for (const segment of [1, 2, 3]) arrived.push(await arrive(incoming, { segment }));
        // The last file is accepted when all are staged; the first hook runs when none is.
        let left = when === 'accept' ? arrived.length : 1;
        const remove = async (at: string): Promise<void> => {
          if (at !== when || left === 0) return;
          left -= 1;
          if (left > 0) return;
          await rm(join(wals, name.slice(0, 16)), { recursive: true });
        };
        const strategy = open({
          accept: async () => {
            await remove('accept');
            return null;
          },
          hooks: {
            before: async () => {
              await remove('hook');
              return { outcome: 'continue', reason: '' };
            },
          },
        });
        const results = await saveAll(
          strategy,
          arrived.map(({ wal }) => wal),
        );
        expect(results.map(({ outcome }) => outcome)).toEqual(['stored', 'stored', 'stored']);
        for (const file of arrived)
          expect(await isSame(strategy.getFullPath(file.name), file.bytes)).toBe(compression === null);
        expect(await readdir(join(wals, name.slice(0, 16)))).toEqual(arrived.map((file) => file.name));
        expect(await namesOf(catalogue)).toEqual(arrived.map((file) => file.name));
        expect(await readdir(incoming)).toEqual([]);
      }));
  }

  test('a single temporary that disappears is prepared again', () =>
    withStorage({ compression: 'gzip' }, async ({ incoming, wals, open }) => {
      const arrived = [];
      for (const segment of [1, 2, 3]) arrived.push(await arrive(incoming, { segment }));
      let left = 1;
      const accept = async (): Promise<null> => {
        if (left-- === 1) await unlink(join(wals, name.slice(0, 16), `${name}.tmp`));
        return null;
      };
      const results = await saveAll(
        open({ accept }),
        arrived.map(({ wal }) => wal),
      );
      expect(results.map(({ outcome }) => outcome)).toEqual(['stored', 'stored', 'stored']);
      expect(await readdir(join(wals, name.slice(0, 16)))).toEqual(arrived.map((file) => file.name));
    }));

  test('is found gone by a later pass of the same object', () =>
    withStorage({ compression: 'gzip' }, async ({ incoming, wals, open }) => {
      const strategy = open();
      await saveAll(strategy, [(await arrive(incoming, { segment: 1 })).wal]);
      await rm(join(wals, name.slice(0, 16)), { recursive: true });
      const second = await arrive(incoming, { segment: 2 });
      expect(await saveAll(strategy, [second.wal])).toMatchObject([{ outcome: 'stored' }]);
    }));
});

describe('delete', () => {
  test('removes a directory that is empty then, and never one that is not', () =>
    withStorage({}, async ({ incoming, wals, catalogue, open }) => {
      const strategy = open();
      for (const segment of [1, 5000]) await saveAll(strategy, [(await arrive(incoming, { segment })).wal]);
      const infos = await collect(catalogue.read());
      const directories = infos.map((info) => dirname(strategy.getFullPath(info.name)));
      await mkdir(join(directories[1] ?? '', 'of somebody'));
      await strategy.delete(new Map(infos.map((info) => [info.name.slice(0, 16), [info]])));
      expect((await readdir(wals)).sort()).toEqual([directories[1]?.slice(-16), 'main-xlog.db']);
      expect(await readdir(directories[1] ?? '')).toEqual(['of somebody']);
    }));

  test('takes the directory of a later arrival for what it is: gone', () =>
    withStorage({}, async ({ incoming, catalogue, open }) => {
      const strategy = open();
      await saveAll(strategy, [(await arrive(incoming)).wal]);
      const infos = await collect(catalogue.read());
      await rm(dirname(strategy.getFullPath(name)), { recursive: true });
      expect(await strategy.delete(new Map([[name.slice(0, 16), infos]]))).toEqual([name]);
    }));

  test('never touches the directory of history files', () =>
    withStorage({}, async ({ incoming, wals, catalogue, open }) => {
      await writeFile(join(incoming, '00000002.history'), '1\t0/500000\tno recovery target specified\n');
      const strategy = open();
      await saveAll(strategy, [await waiting(join(incoming, '00000002.history'))]);
      const infos = await collect(catalogue.read());
      await rm(join(wals, 'main-xlog.db'));
      await strategy.delete(new Map([['', infos]]));
      expect(await readdir(wals)).toEqual([]);
      expect((await lstat(wals)).isDirectory()).toBe(true);
    }));
});

test('list sorts as the catalogue does, and lists WAL files only', () =>
  withStorage({}, async ({ wals, open }) => {
    const put = async (path: string): Promise<void> => {
      await mkdir(dirname(join(wals, path)), { recursive: true });
      await writeFile(join(wals, path), 'x');
    };
    const listed = ['00000001.history', '0000000100000000/000000010000000000000001', '00000002.history'];
    for (const path of [...listed, 'main-xlog.db', '000000010000000000000002', '0000000100000000/notes'])
      await put(path);
    // In a directory that is not its own.
    await put('0000000100000000/000000010000000100000001');
    const names = (await collect(open().list())).map((info) => info.name);
    expect(names).toEqual(['00000001.history', '000000010000000000000001', '00000002.history']);
  }));
