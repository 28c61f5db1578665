import { existsSync } from 'node:fs';
import { readFile, rm, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseXlogdbLine, toXlogdbLine } from '../../src/wal/wal-file-info.ts';
import { buildModule } from '../durable/build-module.ts';
import { withBarmanFixture } from '../support/fixture.ts';
import { run } from '../support/run.ts';
import { collect, lines, named, wal, withCatalogue } from './with-catalogue.ts';

test('what Barman 3.17 wrote is parsed, and printed again byte for byte', async () => {
  const text = await catalogueOfBarman();
  const entries = text.split('\n').slice(0, -1);
  expect(entries.length).toBe(9);
  expect(entries.map((line) => toXlogdbLine(parseXlogdbLine(line))).join('')).toBe(text);
});

test("Barman's catalogue is continued in place, its bytes untouched", async () => {
  const text = await catalogueOfBarman();
  await withCatalogue(async ({ ensure, put, content }) => {
    await put(text);
    const late = named('000000010000000000000012');
    const next = named('000000020000000000000015');
    await ensure([next]);
    expect(await content()).toBe(text + lines(next));
    await ensure([late]);
    const all = (text + lines(next, late)).trimEnd().split('\n').sort();
    expect(await content()).toBe(`${all.join('\n')}\n`);
  });
});

function catalogueOfBarman(): Promise<string> {
  return withBarmanFixture(({ home }) => readFile(join(home, 'main', 'wals', 'main-xlog.db'), 'latin1'));
}

describe('the legacy catalogue of Barman before 3.13', () => {
  const legacy = `${wal(2).name}\t1000\t1700000000.25\tgzip\n${wal(1).name}\t1000\t1700000000\n`;
  const taken = `${wal(1).name}\t1000\t1700000000\n${wal(2).name}\t1000\t1700000000.25\tgzip\n`;

  test('is read where there is no other', async () => {
    await withCatalogue(async ({ xlogdb, put, legacyPath }) => {
      await put(legacy, legacyPath);
      expect(await collect(xlogdb.read())).toMatchObject([
        { name: wal(2).name, compression: 'gzip', encryption: null },
        { name: wal(1).name, compression: null, encryption: null },
      ]);
    });
  });

  test('is taken over with the first lock, and removed', async () => {
    await withCatalogue(async ({ xlogdb, put, content, legacyPath, logged }) => {
      await put(legacy, legacyPath);
      await xlogdb.withLock(async () => undefined);
      expect(await content()).toBe(taken);
      expect(existsSync(legacyPath)).toBe(false);
      expect(logged).toMatchObject([{ level: 'info', message: expect.stringContaining('taken over') }]);
    });
  });

  test('stays where an older Barman shares the home, and is not merged again without need', async () => {
    await withCatalogue(
      async ({ xlogdb, another, put, content, legacyPath }) => {
        await put(legacy, legacyPath);
        await xlogdb.withLock((session) => session.ensure([wal(3)]));
        expect(await content()).toBe(taken + lines(wal(3)));
        expect(await readFile(legacyPath, 'latin1')).toBe(legacy);
        await utimes(legacyPath, 1_700_000_000, 1_700_000_000);
        await another().withLock((session) => session.remove(new Set([wal(1).name])));
        await another().withLock((session) => session.ensure([wal(4)]));
        expect(await content()).toBe(`${taken.split('\n')[1]}\n${lines(wal(3), wal(4))}`);
      },
      { migrate: false },
    );
  });

  test('that changed after ours brings what is new in it, for files that are in the archive', async () => {
    await withCatalogue(
      async ({ xlogdb, put, content, legacyPath }) => {
        await put(lines(wal(1), wal(5)));
        await put(
          `${wal(1).name}\t5\t5.5\tNone\n${wal(3).name}\t7\t7.5\tgzip\n${wal(4).name}\t8\t8.5\tgzip\n`,
          legacyPath,
        );
        const later = Date.now() / 1000 + 60;
        await utimes(legacyPath, later, later);
        await xlogdb.withLock(async () => undefined);
        // Segment 4 was deleted since; the line of segment 1 is ours.
        expect(await content()).toBe(`${lines(wal(1))}${wal(3).name}\t7\t7.5\tgzip\n${lines(wal(5))}`);
      },
      { migrate: false, describeStored: async (name) => (name === wal(3).name ? wal(3) : null) },
    );
  });

  test('that lies beside a newer one is merged before it is removed', async () => {
    await withCatalogue(
      async ({ xlogdb, put, content, legacyPath }) => {
        await put(legacy, legacyPath);
        await utimes(legacyPath, 1_700_000_000, 1_700_000_000);
        await put(lines(wal(2), wal(3)));
        await xlogdb.withLock(async () => undefined);
        expect(await content()).toBe(`${wal(1).name}\t1000\t1700000000\n${lines(wal(2), wal(3))}`);
        expect(existsSync(legacyPath)).toBe(false);
      },
      { describeStored: async (name) => named(name) },
    );
  });

  test('that is torn or damaged loses nothing', async () => {
    await withCatalogue(
      async ({ xlogdb, put, content, legacyPath, damaged }) => {
        const torn = `${wal(2).name}\t10`;
        await put(`rubbish\n${lines(wal(1))}${torn}`, legacyPath);
        await xlogdb.withLock(async () => undefined);
        expect(await content()).toBe(lines(wal(1), wal(2)));
        expect(await damaged()).toEqual([`rubbish\n${torn}`]);
      },
      { describeStored: async (name) => named(name) },
    );
  });
});

/** Barman's way to add a line: flock, open, append, fsync; every fifth time it replaces the whole file in place. */
const BARMAN_WRITER = `
import fcntl, os, sys
path, lock, first, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for number in range(first, first + count):
    fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with open(path, 'a+') as xlogdb:
        xlogdb.write('%024X\\t1000\\t1700000000.25\\tzstd\\tNone\\n' % ((1 << 64) + number))
        xlogdb.flush()
        os.fsync(xlogdb.fileno())
        if number % 5 == 0:
            xlogdb.seek(0)
            text = ''.join(sorted(xlogdb))
            xlogdb.truncate(0)
            xlogdb.write(text)
    os.close(fd)
`;

test('several of our processes and a Barman write at the same time, and every file has its line once', async () => {
  await withCatalogue(async ({ path, lockPath, legacyPath, directory, xlogdb, ensure, content }) => {
    const module = await buildModule('src/catalogue/xlogdb.ts', directory);
    const writer = (first: number): string => `
      const { Xlogdb } = await import(${JSON.stringify(module)});
      const logger = { warn() {}, info() {} };
      const options = { path: ${JSON.stringify(path)}, legacyPath: ${JSON.stringify(legacyPath)},
        lockPath: ${JSON.stringify(lockPath)}, migrate: true, logger };
      const xlogdb = new Xlogdb(options);
      for (let number = ${first}; number < ${first} + 40; number += 2) {
        const infos = [number, number + 1].map((n) => ({
          name: (2n ** 64n + BigInt(n)).toString(16).toUpperCase().padStart(24, '0'),
          size: 1000, mtime: 1700000000.25, compression: 'zstd', encryption: null }));
        await xlogdb.withLock((session) => session.ensure(infos, { thorough: true }));
      }`;
    const results = await Promise.all([
      // These two archive the same files.
      run(process.execPath, ['--input-type=module', '-e', writer(0)], {}),
      run(process.execPath, ['--input-type=module', '-e', writer(0)], {}),
      run(process.execPath, ['--input-type=module', '-e', writer(100)], {}),
      run('python3', ['-c', BARMAN_WRITER, path, lockPath, '200', '40'], {}),
    ]);
    for (const { status, stderr } of results) expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const numbers = [0, 100, 200].flatMap((first) => Array.from({ length: 40 }, (_, index) => first + index));
    const all = await collect(xlogdb.read());
    expect(all.map(({ name }) => name).sort()).toEqual(numbers.map((number) => wal(number).name));
    await rm(`${path}.tmp`, { force: true });
    await ensure([wal(1_000)], { thorough: true });
    expect(await content()).toBe(lines(...[...numbers, 1_000].map((number) => wal(number))));
  });
});

test('two objects of one process exclude each other as well', async () => {
  await withCatalogue(async ({ another, content }) => {
    let inside = 0;
    await Promise.all(
      Array.from({ length: 10 }, (_, number) =>
        another().withLock(async (session) => {
          inside += 1;
          expect(inside).toBe(1);
          await session.ensure([wal(9 - number)]);
          inside -= 1;
        }),
      ),
    );
    expect(await content()).toBe(lines(...Array.from({ length: 10 }, (_, number) => wal(number))));
  });
});

test('the lock is let go when the work fails, and its error is passed on', async () => {
  await withCatalogue(async ({ xlogdb, ensure, content }) => {
    await expect(xlogdb.withLock(() => Promise.reject(new Error('its own')))).rejects.toThrow(/^its own$/);
    await ensure([wal(1)]);
    expect(await content()).toBe(lines(wal(1)));
  });
});
