import { mkdir, readdir, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { findWal, type WalFinderParts } from '../../src/archiver/wal-finder.ts';
import { Unpacker } from '../../src/storage/unpacker.ts';
import { isOfTimelineOrLater, walName } from '../../src/wal/wal-name.ts';
import { until } from '../support/poll.ts';
import { withArchiver, type ArchiverOptions, type TestArchiver } from './with-archiver.ts';

const HISTORY = '1\t0/2000000\tno recovery target specified\n';
const LABEL = 'START WAL LOCATION: 0/1000028 (file 000000010000000000000001)\n';

/** Text files that nobody completes any more. */
const TORN = [
  ['00000002.history', ''],
  ['00000003.history', HISTORY + '2\t0/3000000\tno rec'],
  ['000000010000000000000001.00000028.backup', ''],
  ['000000010000000000000002.00000028.backup', LABEL.replaceAll('1)', '2)')],
] as const;

const names = async (directory: string): Promise<string[]> => (await readdir(directory)).sort();

test.each(['incoming', 'streaming'] as const)(
  'a history file or a backup label in %s that is empty or cut goes to errors after incomplete_wal_timeout, and a segment stays',
  (where) =>
    withArchiver({}, async (archiver) => {
      const directory = archiver[where];
      const pass = (options: ArchiverOptions) =>
        where === 'incoming' ? archiver.archive(options) : archiver.archiveStreamed(options);
      await mkdir(directory, { recursive: true });
      for (const [name, content] of TORN) await writeFile(join(directory, name), content);
      const segment = '000000010000000000000001';
      await writeFile(join(directory, segment), '');
      const all = [...TORN.map(([name]) => name), segment].sort();
      await pass({ incompleteTimeoutMs: 300_000 });
      expect(await names(directory)).toEqual(all);

      const summary = await pass({ incompleteTimeoutMs: 0 });
      expect(await names(directory)).toEqual([segment]);
      expect(summary.unknown.map(({ name }) => name).sort()).toEqual(TORN.map(([name]) => name).sort());
      for (const { reason } of summary.unknown) {
        expect(reason).toMatch(/^it has been incomplete, and unchanged, for .*: .*; copy it from pg_wal$/);
      }
      expect((await names(archiver.errors)).length).toBe(TORN.length);
    }),
);

function finder(
  { open, incoming, streaming, claims, keys, deliveries, errorFiles }: TestArchiver,
  incompleteTimeoutMs = 0,
): WalFinderParts {
  const everything = {
    strategy: open(),
    errors: errorFiles,
    foreign: async () => null,
    checkAbsent: async () => {},
  };
  return { ...everything, incoming, streaming, claims, keys, deliveries, unpacker, incompleteTimeoutMs };
}

const unpacker = new Unpacker({ custom: undefined, segmentSize: async () => null, resident: false });

const NAME = walName('00000002.history');
const LOST = { code: 'incomplete-wal', message: 'the history of timeline 2 was delivered empty; copy it from pg_wal' };

/** What counts as WAL of timeline 2 or a later one, wherever it lies. */
const LATER: readonly (readonly [string, (archiver: TestArchiver) => string, string])[] = [
  ['a segment in incoming', ({ incoming }) => incoming, '000000020000000000000003'],
  ['a claim of an older version in incoming', ({ incoming }) => incoming, '.walwarden-000000020000000000000003'],
  ['what was claimed in incoming', ({ claims }) => claims.incoming, '000000020000000000000003'],
  ['what was claimed in streaming', ({ claims }) => claims.streaming, '000000020000000000000003'],
  ['a partial segment in streaming', ({ streaming }) => streaming, '000000020000000000000003.partial'],
  ['a compressed one in streaming', ({ streaming }) => streaming, '000000020000000000000003.gz.partial'],
  ['a later history in incoming', ({ incoming }) => incoming, '00000003.history'],
  ['a segment of a later timeline in streaming', ({ streaming }) => streaming, '0000000A0000000000000003'],
  ['an archived segment', ({ wals }) => join(wals, '0000000200000000'), '000000020000000000000003'],
  [
    'an archived backup label',
    ({ wals }) => join(wals, '0000000200000001'),
    '000000020000000100000003.00000028.backup',
  ],
  ['an archived later history', ({ wals }) => wals, '00000003.history'],
];

test.each(LATER)('an empty history that was moved to errors is not absent while there is %s', (_case, where, entry) =>
  withArchiver({}, async (archiver) => {
    for (const directory of [archiver.incoming, archiver.streaming]) await mkdir(directory, { recursive: true });
    await mkdir(join(archiver.wals, '0000000100000000'), { recursive: true });
    await writeFile(join(archiver.wals, '0000000100000000', '000000010000000000000002'), '');
    await writeFile(join(archiver.incoming, NAME), '');
    await archiver.archive({ incompleteTimeoutMs: 0 });
    expect(await names(archiver.incoming)).toEqual([]);
    expect(await findWal(finder(archiver), NAME, false)).toBeNull();

    await mkdir(where(archiver), { recursive: true });
    await writeFile(join(where(archiver), entry), 'something');
    await expect(findWal(finder(archiver), NAME, false)).rejects.toMatchObject(LOST);
    // Nobody has delivered anything of that one.
    expect(await findWal(finder(archiver), walName('00000004.history'), false)).toBeNull();
  }),
);

test('one that waits, and that no pass moves, is judged in the same way once nobody will complete it', () =>
  withArchiver({}, async (archiver) => {
    await mkdir(archiver.incoming, { recursive: true });
    await writeFile(join(archiver.incoming, NAME), '');
    await expect(findWal(finder(archiver, 300_000), NAME, false)).rejects.toMatchObject({ code: 'incomplete-wal' });
    expect(await findWal(finder(archiver), NAME, false)).toBeNull();
    await writeFile(join(archiver.incoming, '000000020000000000000003'), '');
    await expect(findWal(finder(archiver), NAME, false)).rejects.toMatchObject({
      message: 'the history of timeline 2 was delivered empty or incomplete; copy it from pg_wal',
    });
  }));

test('the whole one, delivered again, is what is handed out', () =>
  withArchiver({}, async (archiver) => {
    await mkdir(archiver.incoming, { recursive: true });
    const path = join(archiver.incoming, NAME);
    await writeFile(path, '');
    await archiver.archive({ incompleteTimeoutMs: 0 });
    await writeFile(join(archiver.incoming, '000000020000000000000003'), '');
    await writeFile(path, HISTORY);
    await utimes(path, 1, 1);
    expect((await findWal(finder(archiver), NAME, false))?.plain.toString()).toBe(HISTORY);
    await until('it to be archived', async () => {
      await archiver.archive();
      return !(await names(archiver.incoming)).includes(NAME);
    });
    expect((await findWal(finder(archiver), NAME, false))?.plain.toString()).toBe(HISTORY);
  }));

test.each([
  ['000000020000000000000003', true],
  ['00000002.history', false],
  ['00000003.history', true],
  ['00000001.history', false],
  ['000000010000000000000003', false],
  ['0000000200000000', true],
  ['0000000a0000000000000003.gz', true],
  ['something else', false],
])('%s is of timeline 2 or a later one: %s', (entry, wanted) => {
  expect(isOfTimelineOrLater(entry, 2)).toBe(wanted);
});
