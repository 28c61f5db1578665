import { execFileSync } from 'node:child_process';
import {
  chmod,
  lstat,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  readlink,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ErrorsDirectory, summariseErrorFiles } from '../../src/archiver/errors-directory.ts';
import { acquireLock } from '../../src/durable/lock-file.ts';
import { until } from '../support/poll.ts';
import { withTempDir } from '../support/temp-dir.ts';

const NAME = '000000010000000000000001';

interface Places {
  readonly from: string;
  readonly errors: ErrorsDirectory;
}

/** A place to take from, and an errors directory on the same or on another file system. */
async function withErrors<T>(where: 'here' | 'elsewhere', body: (places: Places) => Promise<T>): Promise<T> {
  return withTempDir(async (directory) => {
    const elsewhere = where === 'elsewhere' ? await mkdtemp('/dev/shm/walwarden-test-') : null;
    try {
      if (elsewhere !== null) expect((await stat(elsewhere)).dev).not.toBe((await stat(directory)).dev);
      const from = join(directory, 'bücher');
      await mkdir(from);
      const path = join(elsewhere ?? directory, 'errors');
      return await body({ from, errors: new ErrorsDirectory(path, join(directory, '.errors')) });
    } finally {
      if (elsewhere !== null) await rm(elsewhere, { recursive: true });
    }
  });
}

const STAMPED = new RegExp(`^${NAME}\\.\\d{8}T\\d{6}Z\\.unknown$`);

for (const where of ['here', 'elsewhere'] as const) {
  describe(where === 'here' ? 'on the same file system' : 'on another file system', () => {
    test('a file moves there under Barman’s name, with its bytes and time, and its reason is known', () =>
      withErrors(where, async ({ from, errors }) => {
        const source = join(from, NAME);
        await writeFile(source, 'bytes');
        await utimes(source, 1_700_000_000, 1_700_000_000);
        const entry = await errors.take(source, NAME, 'unknown', 'because');
        expect(entry).toMatch(STAMPED);
        expect(await readFile(join(errors.path, entry), 'utf8')).toBe('bytes');
        expect((await stat(join(errors.path, entry))).mtimeMs).toBe(1_700_000_000_000);
        expect(await readdir(from)).toEqual([]);
        expect(await errors.list()).toEqual([{ entry, raw: entry, name: NAME, kind: 'unknown', reason: 'because' }]);
        // Barman counts every file in there as an error.
        expect(await readdir(errors.path)).toEqual([entry]);
      }));

    test('several of one name in one second take the seconds that follow, none is replaced', () =>
      withErrors(where, async ({ from, errors }) => {
        const entries: string[] = [];
        for (const text of ['a', 'b', 'c']) {
          await writeFile(join(from, NAME), text);
          entries.push(await errors.take(join(from, NAME), NAME, 'duplicate', text));
        }
        expect(new Set(entries).size).toBe(3);
        const texts = await Promise.all(entries.map((entry) => readFile(join(errors.path, entry), 'utf8')));
        expect(texts).toEqual(['a', 'b', 'c']);
        expect((await errors.list()).map(({ reason }) => reason)).toEqual(['a', 'b', 'c']);
      }));

    test('a name of 255 bytes is cut and hashed; two that begin alike stay two; the name is kept', () =>
      withErrors(where, async ({ from, errors }) => {
        const names = ['x', 'y'].map((last) => 'ü'.repeat(127) + last);
        for (const name of names) {
          await writeFile(join(from, name), name);
          const arrived = Buffer.from(name).toString('latin1');
          await errors.take(Buffer.from(join(from, name)), arrived, 'unknown', 'odd');
        }
        const entries = await readdir(errors.path, 'latin1');
        expect(entries.length).toBe(2);
        for (const entry of entries) {
          expect(entry.length).toBeLessThanOrEqual(255);
          expect(entry).toMatch(/~[0-9a-f]{16}\.\d{8}T\d{6}Z\.unknown$/);
        }
        expect((await errors.list()).map(({ name }) => name).sort()).toEqual(names);
      }));

    test('a name that is no UTF-8 keeps its bytes', () =>
      withErrors(where, async ({ from, errors }) => {
        const name = 'b\xe4r\nx';
        const source = Buffer.concat([Buffer.from(`${from}/`), Buffer.from(name, 'latin1')]);
        await writeFile(source, 'bytes');
        await errors.take(source, name, 'unknown', 'odd');
        const [entry = ''] = await readdir(errors.path, 'latin1');
        expect(entry).toMatch(/^b\xe4r\nx\.\d{8}T\d{6}Z\.unknown$/);
        expect(await readdir(from)).toEqual([]);
        expect(await errors.list()).toMatchObject([{ name: 'b\ufffdr\nx', kind: 'unknown', reason: 'odd' }]);
      }));

    test('a symbolic link moves as a link, wherever it points', () =>
      withErrors(where, async ({ from, errors }) => {
        await writeFile(join(from, 'secret'), 'not to be copied');
        for (const target of ['/nowhere', join(from, 'secret')]) {
          await symlink(target, join(from, NAME));
          const entry = await errors.take(join(from, NAME), NAME, 'unknown', 'a link');
          expect(await readlink(join(errors.path, entry))).toBe(target);
        }
        expect(await readdir(from)).toEqual(['secret']);
      }));

    test('a file without permissions moves too', () =>
      withErrors(where, async ({ from, errors }) => {
        await writeFile(join(from, NAME), 'bytes');
        await chmod(join(from, NAME), 0o400);
        const entry = await errors.take(join(from, NAME), NAME, 'unknown', 'odd');
        expect((await stat(join(errors.path, entry))).mode & 0o777).toBe(0o400);
      }));
  });
}

test('a directory, a fifo and a socket move on the same file system', () =>
  withErrors('here', async ({ from, errors }) => {
    await mkdir(join(from, NAME));
    await writeFile(join(from, NAME, 'inside'), 'x');
    const directory = await errors.take(join(from, NAME), NAME, 'unknown', 'a directory');
    expect(await readFile(join(errors.path, directory, 'inside'), 'utf8')).toBe('x');
    execFileSync('mkfifo', [join(from, 'fifo')]);
    const fifo = await errors.take(join(from, 'fifo'), 'fifo', 'unknown', 'a fifo');
    expect((await lstat(join(errors.path, fifo))).isFIFO()).toBe(true);
    const server = createServer().listen(join(from, 'socket'));
    await new Promise((resolve) => server.once('listening', resolve));
    const socket = await errors.take(join(from, 'socket'), 'socket', 'unknown', 'a socket');
    expect((await lstat(join(errors.path, socket))).isSocket()).toBe(true);
    await new Promise((resolve) => server.close(resolve));
    expect(await readdir(from)).toEqual([]);
  }));

test('a directory and a fifo can not move to another file system: they stay, and nobody waits for their bytes', () =>
  withErrors('elsewhere', async ({ from, errors }) => {
    await mkdir(join(from, 'directory'));
    execFileSync('mkfifo', [join(from, 'fifo')]);
    for (const name of ['directory', 'fifo']) {
      await expect(errors.take(join(from, name), name, 'unknown', 'odd')).rejects.toThrow('EXDEV');
    }
    expect((await readdir(from)).sort()).toEqual(['directory', 'fifo']);
    expect(await readdir(errors.path)).toEqual([]);
  }));

test('takeCopy leaves the original', () =>
  withErrors('here', async ({ from, errors }) => {
    await writeFile(join(from, NAME), 'bytes');
    const entry = await errors.takeCopy(join(from, NAME), NAME, 'duplicate', 'refused');
    expect(await readdir(from)).toEqual([NAME]);
    expect((await stat(join(errors.path, entry))).nlink).toBe(1);
  }));

test('what others put there is listed without a reason; an absent directory is an empty one', () =>
  withErrors('here', async ({ errors }) => {
    expect(await errors.list()).toEqual([]);
    await mkdir(errors.path);
    const duplicate = `${NAME}.20260101T000000Z.duplicate`;
    await writeFile(join(errors.path, duplicate), '');
    await writeFile(join(errors.path, 'readme'), '');
    expect(await errors.list()).toEqual([
      { entry: duplicate, raw: duplicate, name: NAME, kind: 'duplicate', reason: null },
      { entry: 'readme', raw: 'readme', name: 'readme', kind: null, reason: null },
    ]);
  }));

test('a file whose name is no UTF-8 leaves errors like any other', () =>
  withErrors('here', async ({ from, errors }) => {
    const odd = Buffer.concat([Buffer.from(`${from}/`), Buffer.from('bad\xff', 'latin1')]);
    await writeFile(odd, 'x');
    await errors.take(odd, 'bad\xff', 'unknown', 'because');
    const [file] = await errors.list();
    if (file === undefined) throw new Error('a file was put there');
    await errors.keepAside(file);
    expect(await errors.list()).toEqual([]);
    expect(await readdir(`${errors.path}.kept`, 'latin1')).toEqual([file.raw]);
  }));

test('keepAside and moveBack replace nothing', () =>
  withErrors('here', async ({ from, errors }) => {
    for (const text of ['a', 'b']) {
      await writeFile(join(from, NAME), text);
      await errors.take(join(from, NAME), NAME, 'unknown', text);
    }
    const [first, second] = await errors.list();
    if (first === undefined || second === undefined) throw new Error('not taken');
    await mkdir(`${errors.path}.kept`);
    await writeFile(join(`${errors.path}.kept`, first.entry), 'older');
    expect(await errors.keepAside(first)).toBe(join(`${errors.path}.kept`, `${first.entry}.1`));
    await writeFile(join(from, NAME), 'new');
    expect(await errors.moveBack(second, join(from, NAME))).toBe(false);
    expect(await readFile(join(from, NAME), 'utf8')).toBe('new');
    await rm(join(from, NAME));
    expect(await errors.moveBack(second, join(from, NAME))).toBe(true);
    expect(await readFile(join(from, NAME), 'utf8')).toBe('b');
    expect(await errors.list()).toEqual([]);
  }));

test('what a reset set aside is a kind of its own', () =>
  withErrors('here', async ({ from, errors }) => {
    await writeFile(join(from, `${NAME}.partial`), 'bytes');
    const entry = await errors.take(join(from, `${NAME}.partial`), `${NAME}.partial`, 'reset', 'begun anew');
    expect(entry).toMatch(new RegExp(`^${NAME}\\.partial\\.\\d{8}T\\d{6}Z\\.reset$`));
    expect(await errors.list()).toMatchObject([{ name: `${NAME}.partial`, kind: 'reset', reason: 'begun anew' }]);
  }));

describe('summariseErrorFiles', () => {
  test('knows five kinds, in the order in which they are met', () => {
    const names = ['a.x.duplicate', 'b.x.unknown', 'c.x.duplicate', 'd.x.error', 'readme', 'e.x.reset'];
    const summary = 'duplicates: 2, unknown: 1, not relevant: 1, unknown failure: 1, reset: 1';
    expect(summariseErrorFiles(names)).toBe(summary);
    expect(summariseErrorFiles(['readme', 'b.x.unknown'])).toBe('unknown failure: 1, unknown: 1');
  });

  test('of nothing is nothing', () => {
    expect(summariseErrorFiles([])).toBeNull();
  });
});

describe('what is larger than WAL can be', () => {
  test.each(['here', 'elsewhere'] as const)('stays where it is, and nothing of it is copied: %s', (where) =>
    withErrors(where, async ({ from, errors }) => {
      const source = join(from, NAME);
      await writeFile(source, 'the beginning');
      await truncate(source, 15 * 2 ** 40);
      const refusal = {
        code: 'invalid-wal',
        message: expect.stringContaining('stays where it is: it has 16492674416640'),
      };
      await expect(errors.take(source, NAME, 'unknown', 'odd')).rejects.toMatchObject(refusal);
      await expect(errors.takeCopy(source, NAME, 'unknown', 'odd')).rejects.toMatchObject({ code: 'invalid-wal' });
      expect(await readdir(from)).toEqual([NAME]);
      expect(await readdir(errors.path)).toEqual([]);
    }),
  );
});

describe('while others write into the errors directory', () => {
  test('a file that is moved waits for them, and replaces nothing of theirs', () =>
    withErrors('here', async ({ from, errors }) => {
      for (const at of [1, 2, 3, 4, 5, 6]) await writeFile(join(from, `${at}`), `content ${at}`);
      const entries = await Promise.all(
        [1, 2, 3, 4, 5, 6].map((at) =>
          at % 2 === 0
            ? errors.take(join(from, `${at}`), NAME, 'duplicate', `${at}`)
            : errors.takeCopy(join(from, `${at}`), NAME, 'duplicate', `${at}`),
        ),
      );
      expect(new Set(entries).size).toBe(6);
      const found = await errors.list();
      for (const [index, entry] of entries.entries()) {
        expect(await readFile(join(errors.path, entry), 'utf8')).toBe(`content ${index + 1}`);
        expect(found.find((file) => file.entry === entry)?.reason).toBe(`${index + 1}`);
      }
    }));

  test('the lock of one writer keeps another waiting', () =>
    withErrors('here', async ({ from, errors }) => {
      await writeFile(join(from, NAME), 'bytes');
      await mkdir(join(from, '..', '.errors'), { recursive: true });
      const held = await acquireLock(join(from, '..', '.errors', '.lock'));
      const moved = errors.take(join(from, NAME), NAME, 'unknown', 'odd').then((entry) => ({ entry }));
      await until('it to wait', async () => (await lockWaiters(join(from, '..', '.errors', '.lock'))) > 0);
      expect(await readdir(errors.path)).toEqual([]);
      await held[Symbol.asyncDispose]();
      const { entry } = await moved;
      expect(await readdir(errors.path)).toEqual([entry]);
    }));

  /** Locks of this file that are waited for, as the kernel lists them. */
  async function lockWaiters(path: string): Promise<number> {
    const { ino } = await stat(path);
    const locks = await readFile('/proc/locks', 'utf8');
    return locks.split('\n').filter((line) => line.includes('->') && line.includes(`:${ino} `)).length;
  }
});
