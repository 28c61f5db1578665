import { execFileSync } from 'node:child_process';
import { appendFileSync } from 'node:fs';
import {
  appendFile,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rm,
  symlink,
  unlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { createCompressor } from '../../src/compression/codecs.ts';
import { segmentName } from '../../src/wal/wal-name.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { namesOf } from '../storage/with-storage.ts';
import { withArchiver } from './with-archiver.ts';

const { name, bytes } = makeWal();
/** Does something while a file is written again and again, more often than a file has to be left alone to be taken. */
async function whileWritten<T>(path: string, piece: string | Buffer, work: () => Promise<T>): Promise<T> {
  // In this very process and synchronously: a pause of the machine stops the writer and the work alike.
  const write = setInterval(() => appendFileSync(path, piece), 50);
  try {
    appendFileSync(path, piece);
    return await work();
  } finally {
    clearInterval(write);
  }
}

const nameOf = (segment: number): string => makeWal({ segment, content: 'zeros' }).name;
const HISTORY = '1\t0/500000\tno recovery target specified\n';

describe('a pass', () => {
  test('archives in WAL order and tells each file once', () =>
    withArchiver({}, async ({ incoming, archive, logged, catalogue }) => {
      for (const segment of [3, 1, 2]) await writeWal(incoming, { segment });
      const summary = await archive();
      expect(summary).toMatchObject({ archiver: 'file archival', waiting: 0, incomplete: 0, duplicates: [] });
      expect(summary.archived.map((info) => info.name)).toEqual([1, 2, 3].map(nameOf));
      expect(await namesOf(catalogue)).toEqual([1, 2, 3].map(nameOf));
      const told = logged.filter(({ level }) => level >= 30).map(({ msg }) => msg);
      expect(told).toEqual([1, 2, 3].map((segment) => `archived ${nameOf(segment)}`));
    }));

  test('over nothing tells so only when asked to', () =>
    withArchiver({}, async ({ incoming, archiver, logged }) => {
      await archiver().archive(false);
      expect(logged).toEqual([]);
      await archiver().archive(true);
      expect(logged).toMatchObject([{ level: 20, msg: `nothing waits in ${incoming}` }]);
    }));

  test('over a directory that is not there is one over nothing; over a file it fails', () =>
    withArchiver({}, async ({ home, archive }) => {
      expect(await archive({ incoming: join(home, 'nowhere') })).toMatchObject({ archived: [], waiting: 0 });
      await writeFile(join(home, 'file'), '');
      await expect(archive({ incoming: join(home, 'file') })).rejects.toMatchObject({ code: 'source' });
    }));

  test('a duplicate is removed, a conflict goes to errors as a duplicate, and the others are archived', () =>
    withArchiver({}, async ({ incoming, errors, archive, logged }) => {
      for (const segment of [1, 2]) await writeWal(incoming, { segment });
      await archive();
      await writeWal(incoming, { segment: 1 });
      await writeWal(incoming, { segment: 2, seed: 2 });
      await writeWal(incoming, { segment: 3 });
      const summary = await archive();
      expect(summary.duplicates.map((info) => info.name)).toEqual([nameOf(1)]);
      expect(summary.archived.map((info) => info.name)).toEqual([nameOf(3)]);
      const [movedTo = ''] = await readdir(errors);
      expect(movedTo).toMatch(new RegExp(`^${nameOf(2)}\\.\\d{8}T\\d{6}Z\\.duplicate$`));
      expect(summary).toMatchObject({ conflicts: [{ name: nameOf(2), movedTo }], waiting: 0 });
      expect((await readFile(join(errors, movedTo))).equals(makeWal({ segment: 2, seed: 2 }).bytes)).toBe(true);
      expect(await readdir(incoming)).toEqual([]);
      expect(logged.find(({ level }) => level === 40)?.msg).toContain('was not replaced');
    }));
});

describe('the scan is lazy', () => {
  test('nothing is opened but the file at hand', () =>
    withArchiver({}, async ({ incoming, archiver }) => {
      await writeWal(incoming, { segment: 1 });
      // Empty ones: each would be told as incomplete if it were looked at.
      const empty = Array.from({ length: 2_000 }, (_, index) =>
        join(incoming, segmentName(1, BigInt(index + 2), 1 << 20)),
      );
      execFileSync('xargs', ['touch'], { input: empty.join('\n') });
      const queue = await archiver().getNextBatch();
      expect(queue.totalSize).toBe(2_001);
      const files = queue[Symbol.asyncIterator]();
      expect((await files.next()).value).toMatchObject({ name });
      expect([...queue.incomplete, ...queue.errors, ...queue.failed]).toEqual([]);
      await files.return(undefined);
    }));

  test('a batch takes so many files, and what can not be archived is not counted', () =>
    withArchiver({ batchSize: 2 }, async ({ incoming, archiver, archive }) => {
      for (let segment = 1; segment <= 6; segment += 1) await writeWal(incoming, { segment });
      await writeFile(join(incoming, nameOf(1)), 'half');
      await mkdir(join(incoming, nameOf(0)));
      const queue = await archiver().getNextBatch();
      expect(queue).toMatchObject({ totalSize: 7, runSize: 2, batchSize: 2 });
      const summary = await archive();
      expect(summary.archived.map((info) => info.name)).toEqual([2, 3].map(nameOf));
      expect(summary).toMatchObject({ incomplete: 1, unknown: [{ name: nameOf(0) }], waiting: 4 });
      expect((await readdir(incoming)).sort()).toEqual([1, 4, 5, 6].map(nameOf));
      expect((await archive()).archived.map((info) => info.name)).toEqual([4, 5].map(nameOf));
      expect((await archive({ batchSize: 0 })).archived.map((info) => info.name)).toEqual([6].map(nameOf));
    }));
});

// Some wait for a second, so they do it together.
describe.concurrent('what is not whole yet', () => {
  test('is left alone, and told once it is overdue', () =>
    withArchiver({}, async ({ incoming, archive, logged }) => {
      await writeFile(join(incoming, name), bytes.subarray(0, 700_000));
      expect(await archive()).toMatchObject({ incomplete: 1, overdue: [], waiting: 1 });
      expect(logged.some(({ level }) => level >= 30)).toBe(false);
      const summary = await archive({ incompleteTimeoutMs: 0 });
      expect(summary.overdue).toMatchObject([{ name, movedTo: null }]);
      expect(summary.overdue[0]?.reason).toContain('700000 of 1048576 bytes');
      expect(logged.filter(({ level }) => level === 40)[0]?.msg).toContain(`${incoming}/${name} is incomplete`);
      expect(await readdir(incoming)).toEqual([name]);
      await appendFile(join(incoming, name), bytes.subarray(700_000));
      expect(await archive()).toMatchObject({ archived: [{ name }] });
    }));

  test('an empty file is not whole, whatever its name', () =>
    withArchiver({}, async ({ incoming, archive }) => {
      const names = [name, '00000002.history', `${name}.00000028.backup`];
      for (const entry of names) await writeFile(join(incoming, entry), '');
      expect(await archive()).toMatchObject({ incomplete: 3, unknown: [] });
      expect((await readdir(incoming)).sort()).toEqual(names.sort());
    }));

  test('a history file is taken once it was left alone for a second, and only with a whole last line', () =>
    withArchiver({}, async ({ incoming, archive }) => {
      const path = join(incoming, '00000002.history');
      await writeFile(path, HISTORY);
      // Older than it is by its mtime: the time of the inode counts, which nobody can set back.
      await utimes(path, 1, 1);
      expect(await whileWritten(path, '2\t0/900000\tanother\n', archive)).toMatchObject({
        archived: [],
        incomplete: 1,
      });
      await writeFile(path, HISTORY.slice(0, -1));
      expect(await archive()).toMatchObject({ archived: [], incomplete: 1 });
      await writeFile(path, HISTORY);
      expect(await archive()).toMatchObject({ archived: [{ name: '00000002.history' }] });
    }));

  test('a compressed file that grows is left alone; a truncated one that stopped growing too; a damaged one goes to errors', () =>
    withArchiver({}, async ({ incoming, archive }) => {
      const packed = await createCompressor({ compression: 'gzip' }).compress(bytes);
      const path = join(incoming, name);
      await writeFile(path, packed.subarray(0, 100_000));
      expect(await whileWritten(path, packed.subarray(100_000, 100_100), archive)).toMatchObject({
        archived: [],
        incomplete: 1,
      });
      await writeFile(path, packed.subarray(0, 200_000));
      expect(await archive()).toMatchObject({ archived: [], incomplete: 1, unknown: [] });
      await writeFile(path, packed);
      expect(await archive()).toMatchObject({ archived: [{ name, compression: 'gzip' }] });
      const damaged = Buffer.from(packed);
      damaged.fill(0x55, 1000, 50_000);
      await writeFile(join(incoming, nameOf(2)), damaged);
      expect(await archive()).toMatchObject({ unknown: [{ name: nameOf(2) }], incomplete: 0 });
    }));
});

describe.concurrent('names and things that are no WAL files', () => {
  test('temporaries of others are ignored', () =>
    withArchiver({}, async ({ incoming, archive }) => {
      const ignored = [
        'archtemp.000000010000000000000001.4711.1234567',
        `${name}.tmp`,
        'x.tmp',
        `.${name}.swp`,
        `.4711-0123456789abcdef-${name}`,
        '.walwarden-not-a-name',
      ];
      for (const entry of ignored) await writeFile(join(incoming, entry), bytes);
      expect(await archive()).toMatchObject({ archived: [], unknown: [], incomplete: 0, waiting: 0 });
      expect((await readdir(incoming)).sort()).toEqual(ignored.sort());
    }));

  test('any other goes to errors as unknown, after the WAL files', () =>
    withArchiver({}, async ({ incoming, errors, archive }) => {
      await writeWal(incoming, { segment: 1 });
      const odd = ['archtemp', `${name}x`, 'RECOVERYXLOG', 'zwei\nzeilen', '日本', 'x'.repeat(255)];
      for (const entry of odd) await writeFile(join(incoming, entry), bytes);
      const raw = Buffer.concat([Buffer.from(`${incoming}/`), Buffer.from('b\xe4r', 'latin1')]);
      await writeFile(raw, bytes);
      const summary = await archive();
      expect(summary.archived.length).toBe(1);
      expect(summary.unknown.map((file) => file.name).sort()).toEqual([...odd, 'b\ufffdr'].sort());
      expect(await readdir(incoming)).toEqual([]);
      expect((await readdir(errors)).length).toBe(7);
      expect(await archive()).toMatchObject({ unknown: [] });
    }));

  test('a directory, a link, a fifo and a socket of a WAL name go to errors, and nobody waits for them', () =>
    withArchiver({}, async ({ incoming, errors, archive }) => {
      await mkdir(join(incoming, nameOf(1)));
      await writeFile(join(incoming, nameOf(1), 'inside'), 'x');
      await writeFile(join(errors, 'target'), bytes);
      await symlink(join(errors, 'target'), join(incoming, nameOf(2)));
      execFileSync('mkfifo', [join(incoming, nameOf(3))]);
      const server = createServer().listen(join(incoming, nameOf(4)));
      await new Promise((resolve) => server.once('listening', resolve));
      await writeWal(incoming, { segment: 5 });
      const summary = await archive();
      await new Promise((resolve) => server.close(resolve));
      expect(summary.archived.map((info) => info.name)).toEqual([nameOf(5)]);
      expect(summary.unknown.map(({ reason }) => reason)).toEqual(
        ['a directory', 'a symbolic link', 'a fifo', 'a socket'].map((what) => `it is ${what}, not a regular file`),
      );
      expect(await readdir(incoming)).toEqual([]);
      expect((await readdir(errors)).length).toBe(5);
    }));

  test('a file whose bytes are not what its name promises goes to errors with the reason', () =>
    withArchiver({}, async ({ incoming, errorFiles, archive }) => {
      await writeFile(join(incoming, nameOf(1)), makeWal({ segment: 2 }).bytes);
      await writeFile(join(incoming, nameOf(2)), Buffer.alloc(1 << 20, 'x'));
      await writeFile(join(incoming, nameOf(3)), Buffer.concat([makeWal({ segment: 3 }).bytes, Buffer.alloc(1)]));
      await writeFile(join(incoming, '00000002.history'), 'not a line of a history file\n');
      await writeWal(incoming, { segment: 4 });
      const summary = await archive();
      expect(summary.archived.map((info) => info.name)).toEqual([nameOf(4)]);
      const reasons = new Map((await errorFiles.list()).map((file) => [file.name, file.reason]));
      expect([...reasons.keys()].sort()).toEqual(['00000002.history', ...[1, 2, 3].map(nameOf)].sort());
      expect(reasons.get(nameOf(1))).toContain('address');
      expect(reasons.get(nameOf(3))).toContain('1048577 bytes');
    }));

  test('a thing that can not be moved to errors is told, and blocks nobody', async () => {
    const elsewhere = await mkdtemp('/dev/shm/walwarden-test-');
    try {
      await withArchiver({ errorsDirectory: elsewhere }, async ({ incoming, archive }) => {
        await mkdir(join(incoming, nameOf(1)));
        execFileSync('mkfifo', [join(incoming, 'fifo')]);
        await symlink('/nowhere', join(incoming, 'link'));
        await writeWal(incoming, { segment: 2 });
        const summary = await archive();
        expect(summary.archived.map((info) => info.name)).toEqual([nameOf(2)]);
        expect(summary.unknown.map((file) => file.name)).toEqual(['link']);
        expect(summary.failed.map((file) => file.name)).toEqual(['fifo', nameOf(1)]);
        expect((await readdir(incoming)).sort()).toEqual([nameOf(1), 'fifo'].sort());
      });
    } finally {
      await rm(elsewhere, { recursive: true });
    }
  });
});

describe.concurrent('claims of an interrupted pass', () => {
  const claim = (segment: number): string => `.walwarden-${nameOf(segment)}`;

  test('are taken first; an arrival of their name waits for the next pass', () =>
    withArchiver({}, async ({ incoming, archive }) => {
      await writeFile(join(incoming, claim(1)), bytes);
      await writeWal(incoming, { segment: 1 });
      await writeWal(incoming, { segment: 0 });
      expect((await archive()).archived.map((info) => info.name)).toEqual([nameOf(0), nameOf(1)]);
      expect(await readdir(incoming)).toEqual([nameOf(1)]);
      expect((await archive()).duplicates.map((info) => info.name)).toEqual([nameOf(1)]);
      expect(await readdir(incoming)).toEqual([]);
    }));

  test('that power loss cut short or filled with zeros do not keep out the file that PostgreSQL sends again', () =>
    withArchiver({}, async ({ incoming, errors, archive, wals }) => {
      const content = [Buffer.alloc(0), makeWal({ segment: 2 }).bytes.subarray(0, 500_000), Buffer.alloc(1 << 20)];
      for (const [index, left] of content.entries()) {
        await writeFile(join(incoming, claim(index + 1)), left);
        await writeWal(incoming, { segment: index + 1 });
      }
      expect((await archive()).archived.map((info) => info.name)).toEqual([1, 2, 3].map(nameOf));
      for (const segment of [1, 2, 3]) {
        const archived = await readFile(join(wals, nameOf(segment).slice(0, 16), nameOf(segment)));
        expect(archived.equals(makeWal({ segment }).bytes)).toBe(true);
      }
      // What can't be understood is kept: the zeros in errors, the others where they are.
      const summary = await archive({ incompleteTimeoutMs: 0 });
      expect(summary.unknown.map((file) => file.name)).toEqual([nameOf(3)]);
      expect(summary.overdue.map((file) => file.name)).toEqual([1, 2].map(nameOf));
      expect((await readdir(incoming)).sort()).toEqual([claim(1), claim(2)]);
      expect((await readFile(join(errors, (await readdir(errors))[0] ?? ''))).equals(Buffer.alloc(1 << 20))).toBe(true);
    }));

  test('that are unknown go to errors themselves, not the arrival of their name', () =>
    withArchiver({}, async ({ incoming, errors, archive }) => {
      await writeFile(join(incoming, claim(1)), Buffer.alloc(1 << 20));
      await writeFile(join(incoming, nameOf(1)), bytes.subarray(0, 10));
      expect(await archive()).toMatchObject({ archived: [], unknown: [{ name: nameOf(1) }] });
      expect(await readdir(incoming)).toEqual([nameOf(1)]);
      expect((await readFile(join(errors, (await readdir(errors))[0] ?? ''))).length).toBe(1 << 20);
    }));

  test('that vanish meanwhile are no trouble', () =>
    withArchiver({}, async ({ incoming, archiver }) => {
      await writeFile(join(incoming, claim(1)), bytes);
      await writeWal(incoming, { segment: 1 });
      const queue = await archiver().getNextBatch();
      await unlink(join(incoming, claim(1)));
      const found = [];
      for await (const wal of queue) found.push(wal.path);
      expect(found).toEqual([join(incoming, nameOf(1))]);
    }));
});
