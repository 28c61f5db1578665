import { link, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { WalHooks } from '../../src/hooks/wal-hooks.ts';
import { walDirectory, type WalName } from '../../src/wal/wal-name.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { namesOf } from '../storage/with-storage.ts';
import { partialWal } from '../wal/partial-wal.ts';
import { age, nameOf, partialOf, storedBytes, writePartial } from './streamed.ts';
import { withArchiver } from './with-archiver.ts';

const CONTINUE = { outcome: 'continue', reason: '' } as const;
const HISTORY = '1\t0/500000\tno recovery target specified\n';

describe('a pass while pg_receivewal writes', () => {
  test('archives the complete segments in WAL order, and leaves the partial file alone', () =>
    withArchiver({}, async ({ streaming, archiveStreamed, catalogue, logged }) => {
      for (const segment of [3, 1, 2]) await writeWal(streaming, { segment });
      const partial = await writePartial(streaming, { segment: 4 });
      const before = await stat(partial, { bigint: true });
      const summary = await archiveStreamed();
      expect(summary).toMatchObject({ archiver: 'streaming', waiting: 0, incomplete: 0, duplicates: [], unknown: [] });
      expect(summary.archived.map(({ name }) => name)).toEqual([1, 2, 3].map((segment) => nameOf(segment)));
      expect(await namesOf(catalogue)).toEqual([1, 2, 3].map((segment) => nameOf(segment)));
      expect(await readdir(streaming)).toEqual([partialOf(4)]);
      const { ino, nlink, ctimeNs } = await stat(partial, { bigint: true });
      expect({ ino, nlink, ctimeNs }).toEqual({ ino: before.ino, nlink: 1n, ctimeNs: before.ctimeNs });
      expect(logged.filter(({ level }) => level > 30)).toEqual([]);
    }));

  test('an empty partial file, as receive-wal --reset makes it, stays as well, and one of a wrong size', () =>
    withArchiver({ incompleteTimeoutMs: 0 }, async ({ streaming, archiveStreamed }) => {
      for (const size of [0, 8192, 700_000]) {
        await writeFile(join(streaming, partialOf(4)), Buffer.alloc(size));
        expect(await archiveStreamed()).toMatchObject({ waiting: 0, incomplete: 0, overdue: [], unknown: [] });
        expect(await readdir(streaming)).toEqual([partialOf(4)]);
      }
    }));

  test('what a killed pass prepared of a partial file goes, though that file stays now', () =>
    withArchiver({}, async ({ streaming, wals, archiveStreamed }) => {
      await writePartial(streaming, { segment: 4 });
      const directory = join(wals, walDirectory(partialOf(4)));
      await mkdir(directory);
      await writeFile(join(directory, `${partialOf(4)}.tmp`), 'half');
      await archiveStreamed();
      expect(await readdir(directory)).toEqual([]);
      expect(await readdir(streaming)).toEqual([partialOf(4)]);
    }));

  test('over nothing but the partial file tells so only when asked to', () =>
    withArchiver({}, async ({ streaming, streamingArchiver, logged }) => {
      await writePartial(streaming, { segment: 4 });
      await streamingArchiver().archive(false);
      expect(logged).toEqual([]);
      await streamingArchiver().archive(true);
      expect(logged).toMatchObject([{ level: 20, msg: `nothing waits in ${streaming}` }]);
    }));

  test('temporaries of pg_receivewal and dot files are ignored; what is no WAL goes to errors', () =>
    withArchiver({}, async ({ streaming, archiveStreamed, errors }) => {
      const ignored = ['00000002.history.tmp', `.${nameOf(1)}`, '.x'];
      for (const entry of [...ignored, 'archive_status', `${nameOf(1)}.gz`])
        await writeFile(join(streaming, entry), 'x');
      await mkdir(join(streaming, nameOf(9)));
      const summary = await archiveStreamed();
      expect(summary.unknown.map(({ name }) => name).sort()).toEqual(
        [`${nameOf(1)}.gz`, nameOf(9), 'archive_status'].sort(),
      );
      expect((await readdir(streaming)).sort()).toEqual(ignored.sort());
      expect((await readdir(errors)).length).toBe(3);
    }));

  test('what pg_receivewal --compress has open is told, and not moved from under it', () =>
    withArchiver({}, async ({ streaming, archiveStreamed }) => {
      for (const compression of ['gz', 'lz4'])
        await writeFile(join(streaming, `${nameOf(1)}.${compression}.partial`), 'x');
      const { failed, unknown } = await archiveStreamed();
      expect(unknown).toEqual([]);
      expect(failed.map(({ reason }) => reason)).toEqual([
        expect.stringContaining('--compress'),
        expect.stringContaining('--compress'),
      ]);
      expect((await readdir(streaming)).length).toBe(2);
    }));

  test('history files are archived; fetched again after a restart they are duplicates', () =>
    withArchiver({}, async ({ streaming, archiveStreamed }) => {
      await writePartial(streaming, { timeline: 2, segment: 4 });
      await writeFile(join(streaming, '00000002.history'), HISTORY);
      expect(await archiveStreamed()).toMatchObject({ archived: [{ name: '00000002.history' }] });
      await writeFile(join(streaming, '00000002.history'), HISTORY);
      expect(await archiveStreamed()).toMatchObject({ archived: [], duplicates: [{ name: '00000002.history' }] });
      expect(await readdir(streaming)).toEqual([partialOf(4, 2)]);
    }));

  test('a batch size limits a pass; what must stay does not count', () =>
    withArchiver({ batchSize: 2 }, async ({ streaming, streamingArchiver, archiveStreamed }) => {
      for (let segment = 1; segment <= 5; segment += 1) await writeWal(streaming, { segment });
      const names = async (): Promise<WalName[]> => (await archiveStreamed()).archived.map(({ name }) => name);
      expect(await streamingArchiver().getNextBatch()).toMatchObject({ totalSize: 5, runSize: 2, batchSize: 2 });
      expect(await names()).toEqual([nameOf(1), nameOf(2)]);
      expect(await names()).toEqual([nameOf(3), nameOf(4)]);
      expect(await names()).toEqual([nameOf(5)]);
      expect(await streamingArchiver().getNextBatch()).toMatchObject({ totalSize: 0, runSize: 0 });
      await writePartial(streaming, { segment: 6 });
      expect((await archiveStreamed()).duplicates.map(({ name }) => name)).toEqual([nameOf(5)]);
      expect(await readdir(streaming)).toEqual([partialOf(6)]);
    }));

  test('a segment that is not whole is left alone, and told once it is overdue', () =>
    withArchiver({}, async ({ streaming, archiveStreamed, logged }) => {
      await writePartial(streaming, { segment: 4 });
      await writeFile(join(streaming, nameOf(1)), makeWal({ segment: 1 }).bytes.subarray(0, 700_000));
      expect(await archiveStreamed()).toMatchObject({ incomplete: 1, overdue: [], waiting: 1 });
      expect(await archiveStreamed({ incompleteTimeoutMs: 0 })).toMatchObject({ overdue: [{ name: nameOf(1) }] });
      expect(logged.at(-1)?.msg).toContain('pg_receivewal gives a segment its name only when it is whole');
      expect((await readdir(streaming)).sort()).toEqual([nameOf(1), partialOf(4)]);
    }));
});

describe('partial files of before', () => {
  test('are archived under their name as a copy, and removed', () =>
    withArchiver({}, async (home) => {
      const { streaming, wals, archiveStreamed } = home;
      await writeWal(streaming, { segment: 4 });
      const path = await writePartial(streaming, { segment: 5 });
      await age(path);
      const [{ ino }, bytes] = [await stat(path), await readFile(path)];
      await writeWal(streaming, { timeline: 2, segment: 5, pageTimeline: 1 });
      await writePartial(streaming, { timeline: 2, segment: 6 });
      const { archived } = await archiveStreamed();
      expect(archived.map(({ name }) => name)).toEqual([nameOf(4), partialOf(5), nameOf(5, 2)]);
      expect(await readdir(streaming)).toEqual([partialOf(6, 2)]);
      expect((await storedBytes(home, partialOf(5))).equals(bytes)).toBe(true);
      expect((await stat(join(wals, walDirectory(partialOf(5)), partialOf(5)))).ino).not.toBe(ino);
    }));

  test('stay when they change while they are archived', () => {
    let change: (() => Promise<void>) | null = null;
    const after: WalHooks['after'] = async () => {
      await change?.();
      return CONTINUE;
    };
    return withArchiver({ storage: { hooks: { after } } }, async (home) => {
      const path = await writePartial(home.streaming, { segment: 5 });
      await age(path);
      const archived = await readFile(path);
      await writePartial(home.streaming, { timeline: 2, segment: 5 });
      change = () => writeFile(path, makeWal({ segment: 5 }).bytes);
      expect(await home.archiveStreamed()).toMatchObject({ archived: [{ name: partialOf(5) }] });
      expect((await readdir(home.streaming)).sort()).toEqual([partialOf(5), partialOf(5, 2)].sort());
      expect((await storedBytes(home, partialOf(5))).equals(archived)).toBe(true);
      change = null;
      // It was written last, so it may be open after all.
      expect(await home.archiveStreamed()).toMatchObject({ conflicts: [], waiting: 0 });
      await age(path);
      expect(await home.archiveStreamed()).toMatchObject({ conflicts: [{ name: partialOf(5) }] });
      const [entry = ''] = await readdir(home.errors);
      expect((await readFile(join(home.errors, entry))).equals(makeWal({ segment: 5 }).bytes)).toBe(true);
    });
  });

  test.each([
    [0, '0 bytes'],
    [700_000, '700000 of 1048576 bytes'],
  ])('of %d bytes go to errors when nothing has changed for long', (size, reason) =>
    withArchiver({}, async ({ streaming, archiveStreamed, errors }) => {
      await writeFile(join(streaming, partialOf(5)), makeWal({ segment: 5 }).bytes.subarray(0, size));
      await age(join(streaming, partialOf(5)));
      await writePartial(streaming, { timeline: 2, segment: 5 });
      expect(await archiveStreamed()).toMatchObject({ incomplete: 1, unknown: [] });
      const { unknown } = await archiveStreamed({ incompleteTimeoutMs: 0 });
      expect(unknown).toMatchObject([{ name: partialOf(5), reason: expect.stringContaining(reason) }]);
      expect(await readdir(streaming)).toEqual([partialOf(5, 2)]);
      expect((await stat(join(errors, (await readdir(errors))[0] ?? ''))).size).toBe(size);
    }),
  );

  test('that PostgreSQL archives as well are one file when only what fills them up differs', () =>
    withArchiver({ storage: { compression: 'gzip' } }, async ({ streaming, incoming, archive, archiveStreamed }) => {
      const { name, padded, recycled, shorter } = await partialWal();
      await writeFile(join(incoming, `${name}.partial`), recycled);
      expect(await archive()).toMatchObject({ archived: [{ name: `${name}.partial` }] });
      await writeFile(join(streaming, `${name}.partial`), padded);
      await age(join(streaming, `${name}.partial`));
      await writePartial(streaming, { timeline: 2, segment: 500 });
      expect(await archiveStreamed()).toMatchObject({ duplicates: [{ name: `${name}.partial` }], conflicts: [] });
      // A record more is another content.
      await writeFile(join(incoming, `${name}.partial`), shorter);
      expect(await archive()).toMatchObject({ conflicts: [{ name: `${name}.partial` }] });
    }));

  test('of the same WAL, but as whole segments, are another content', () =>
    withArchiver({}, async ({ incoming, archive }) => {
      const { name, padded, recycled } = await partialWal();
      await writeFile(join(incoming, name), recycled);
      await archive();
      await writeFile(join(incoming, name), padded);
      expect(await archive()).toMatchObject({ conflicts: [{ name }] });
    }));
});

describe('together with what else delivers', () => {
  test('a segment that came through incoming is removed as identical, whichever is first', () =>
    withArchiver({}, async ({ streaming, incoming, archive, archiveStreamed, catalogue, errors }) => {
      for (const segment of [1, 2, 3]) await writeWal(incoming, { segment });
      for (const segment of [1, 2, 3, 4]) await writeWal(streaming, { segment });
      await archive();
      expect(await archiveStreamed()).toMatchObject({
        duplicates: [1, 2, 3].map((segment) => ({ name: nameOf(segment) })),
        archived: [{ name: nameOf(4) }],
        conflicts: [],
      });
      await writeWal(incoming, { segment: 4 });
      expect(await archive()).toMatchObject({ duplicates: [{ name: nameOf(4) }], conflicts: [] });
      expect(await readdir(streaming)).toEqual([nameOf(4)]);
      expect(await readdir(incoming)).toEqual([]);
      expect(await namesOf(catalogue)).toEqual([1, 2, 3, 4].map((segment) => nameOf(segment)));
      expect(await readdir(errors)).toEqual([]);
    }));
});

describe('claims of an interrupted pass', () => {
  const claim = (segment: number): string => `.walwarden-${nameOf(segment)}`;

  test('are archived, and are no position', () =>
    withArchiver({}, async ({ streaming, archiveStreamed }) => {
      await writeFile(join(streaming, claim(1)), makeWal({ segment: 1 }).bytes);
      await writeWal(streaming, { segment: 2 });
      await writeFile(join(streaming, claim(3)), makeWal({ segment: 3 }).bytes);
      await writePartial(streaming, { segment: 4 });
      expect((await archiveStreamed()).archived.map(({ name }) => name)).toEqual(
        [1, 2, 3].map((segment) => nameOf(segment)),
      );
      expect(await readdir(streaming)).toEqual([partialOf(4)]);
    }));

  test('that can not be archived go to errors, and never have their own name again', () =>
    withArchiver({}, async ({ streaming, errors, archiveStreamed }) => {
      await writeWal(streaming, { segment: 1 });
      await writePartial(streaming, { segment: 2 });
      await archiveStreamed();
      await writeFile(join(streaming, claim(1)), makeWal({ segment: 1, seed: 7 }).bytes);
      await writeFile(join(streaming, claim(9)), makeWal({ segment: 9 }).bytes);
      const accept = async (): Promise<string> => 'it is WAL of another cluster';
      expect(await archiveStreamed({ storage: { accept } })).toMatchObject({
        unknown: [{ name: nameOf(1) }, { name: nameOf(9) }],
      });
      expect(await readdir(streaming)).toEqual([partialOf(2)]);
      await writeFile(join(streaming, claim(1)), makeWal({ segment: 1, seed: 7 }).bytes);
      expect(await archiveStreamed()).toMatchObject({ conflicts: [{ name: nameOf(1) }] });
      expect(await readdir(streaming)).toEqual([partialOf(2)]);
      expect((await readdir(errors)).map((entry) => entry.slice(0, 24)).sort()).toEqual([
        nameOf(1),
        nameOf(1),
        nameOf(9),
      ]);
    }));

  test('whose inode is the archive’s already are only removed', () =>
    withArchiver({}, async ({ streaming, wals, archiveStreamed }) => {
      await writeFile(join(streaming, claim(1)), makeWal({ segment: 1 }).bytes);
      await mkdir(join(wals, walDirectory(nameOf(1))));
      await link(join(streaming, claim(1)), join(wals, walDirectory(nameOf(1)), nameOf(1)));
      await writePartial(streaming, { segment: 2 });
      expect(await archiveStreamed()).toMatchObject({ duplicates: [{ name: nameOf(1) }] });
      expect(await readdir(streaming)).toEqual([partialOf(2)]);
    }));

  test('of the marker’s name are finished, the marker itself stays', () =>
    withArchiver({}, async ({ streaming, archiveStreamed }) => {
      await writeWal(streaming, { segment: 1 });
      await archiveStreamed();
      await writeFile(join(streaming, claim(1)), makeWal({ segment: 1 }).bytes);
      expect(await archiveStreamed()).toMatchObject({ duplicates: [{ name: nameOf(1) }], waiting: 0 });
      expect(await readdir(streaming)).toEqual([nameOf(1)]);
      // One that can't be used stays, and so does the marker.
      await writeFile(join(streaming, claim(1)), 'half');
      expect(await archiveStreamed()).toMatchObject({ incomplete: 1 });
      expect((await readdir(streaming)).sort()).toEqual([claim(1), nameOf(1)]);
    }));
});
