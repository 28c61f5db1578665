import { link, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { findWal, peekWals, type FoundWal } from '../../src/archiver/wal-finder.ts';
import { partialName, walDirectory, walName, type WalName } from '../../src/wal/wal-name.ts';
import { Unpacker } from '../../src/storage/unpacker.ts';
import { writeWal } from '../support/make-wal.ts';
import { namesOf, plainOf } from '../storage/with-storage.ts';
import { partialWal, spliced } from '../wal/partial-wal.ts';
import { withArchiver, type TestArchiver } from './with-archiver.ts';

const wal = await partialWal();
const name = walName(wal.name);
const partial = partialName(name);
const zeros = Buffer.alloc(wal.whole.length);
/** It shares the first pages with {@link wal}, and then goes another way. */
const other = spliced(wal.padded, 8192 * 4, Buffer.alloc(wal.whole.length, 3));

/** Where a longer copy may lie. */
const places: Record<string, (archiver: TestArchiver) => Promise<void>> = {
  'in streaming, while it is received': ({ streaming }) => writeFile(join(streaming, partial), received),
  'in streaming, complete': ({ streaming }) => writeFile(join(streaming, name), wal.whole),
  'in streaming, claimed': ({ streaming }) => writeFile(join(streaming, `.walwarden-${name}`), wal.whole),
  'in the archive': (archiver) => store(archiver, wal.whole),
};
const received = spliced(wal.whole, 500_000, zeros);

const unpacker = new Unpacker({ custom: undefined, segmentSize: async () => null, resident: false });

/** A segment that arrives in incoming, and is archived. */
async function store({ incoming, archive }: TestArchiver, bytes: Buffer, as: WalName = name): Promise<void> {
  await writeFile(join(incoming, as), bytes);
  expect(await archive()).toMatchObject({ archived: [{ name: as }] });
}

/** What is handed out for the full name. */
function handedOut(archiver: TestArchiver, asPartial = false): Promise<FoundWal | null> {
  return findWal(finder(archiver), name, asPartial);
}

function finder(archiver: TestArchiver): Parameters<typeof findWal>[0] {
  const { errorFiles: errors } = archiver;
  const answers = { checkAbsent: async () => {}, foreign: async () => null };
  return { ...archiver, ...answers, unpacker, strategy: archiver.open(), errors, incompleteTimeoutMs: 300_000 };
}

async function archivedBytes(archiver: TestArchiver, wanted: WalName): Promise<Buffer | null> {
  return plainOf(archiver, archiver.open(), wanted);
}

describe.each([
  ['uncompressed', {}],
  ['compressed', { storage: { compression: 'zstd' } }],
  ['compressed by a program', { storage: { compression: 'pigz' } }],
] as const)('%s, a segment whose WAL ends inside, while a longer copy is', (_what, options) => {
  test.each(Object.keys(places))('%s, is stored as a partial one', (place) =>
    withArchiver(options, async (archiver) => {
      const { incoming, archive, errors, catalogue } = archiver;
      await places[place]?.(archiver);
      for (const bytes of [wal.padded, wal.recycled]) {
        await writeFile(join(incoming, name), bytes);
        // The second has the same WAL, filled up with something else: there is one copy, and one line.
        const [list, none] = bytes === wal.padded ? ['archived', 'duplicates'] : ['duplicates', 'archived'];
        expect(await archive()).toMatchObject({ [list]: [{ name: partial }], [none]: [], conflicts: [] });
        expect(await readdir(incoming)).toEqual([]);
        expect((await archivedBytes(archiver, partial))?.equals(wal.padded)).toBe(true);
      }
      const isWhole = place === 'in the archive';
      expect(await namesOf(catalogue)).toEqual(isWhole ? [name, partial] : [partial]);
      expect((await archivedBytes(archiver, name))?.equals(wal.whole)).toBe(isWhole ? true : undefined);
      expect(await readdir(errors)).toEqual([]);
    }),
  );
});

test('the longer copy is archived under its name by the same pass, and a crash after any step changes nothing', () =>
  withArchiver({}, async (archiver) => {
    const { incoming, streaming, archive, archiveStreamed, catalogue, errors } = archiver;
    await writeFile(join(streaming, name), wal.whole);
    await writeFile(join(streaming, walName(`${name.slice(0, 16)}000000FF.partial`)), zeros);
    await writeFile(join(incoming, name), wal.padded);
    await archive();
    await archiveStreamed();
    expect(await namesOf(catalogue)).toEqual([name, partial]);
    expect(await readdir(streaming)).toEqual([`${name.slice(0, 16)}000000FF.partial`]);
    // PostgreSQL was not told, and delivers it again.
    await writeFile(join(incoming, name), wal.padded);
    expect(await archive()).toMatchObject({ archived: [], duplicates: [{ name: partial }] });
    expect(await namesOf(catalogue)).toEqual([name, partial]);
    expect((await archivedBytes(archiver, name))?.equals(wal.whole)).toBe(true);
    expect(await readdir(errors)).toEqual([]);
  }));

test('what was decided stays so when the longer copy is gone before it was stored', () =>
  withArchiver({}, async (archiver) => {
    const { incoming, streaming, wals, archive, catalogue } = archiver;
    await writeFile(join(streaming, partial), received);
    await writeFile(join(incoming, name), wal.padded);
    await archive();
    // As a power loss leaves it between the decision and the link, or between the link and the line.
    for (const isLinked of [false, true]) {
      await rm(join(streaming, partial), { force: true });
      await rm(join(wals, 'main-xlog.db'));
      const stored = join(wals, walDirectory(name), partial);
      const claim = join(incoming, `.walwarden-${name}`);
      await writeFile(claim, wal.padded);
      await rm(stored);
      if (isLinked) await link(claim, stored);
      await archive();
      expect(await readdir(incoming)).toEqual([]);
      expect(await namesOf(catalogue)).toEqual([partial]);
      expect((await archivedBytes(archiver, partial))?.equals(wal.padded)).toBe(true);
    }
  }));

test('what was stored under the full name, because nothing longer was known, stays there when it comes again', () =>
  withArchiver({}, async (archiver) => {
    const { incoming, streaming, archive, catalogue, errors } = archiver;
    await store(archiver, wal.padded);
    await writeFile(join(streaming, partial), received);
    await writeFile(join(incoming, name), wal.padded);
    expect(await archive()).toMatchObject({ archived: [], duplicates: [{ name }], conflicts: [] });
    expect(await namesOf(catalogue)).toEqual([name]);
    // Of another standby, which fills it up with something else: that is another file, and the beginning of what is received.
    await writeFile(join(incoming, name), wal.recycled);
    expect(await archive()).toMatchObject({ archived: [{ name: partial }], conflicts: [] });
    expect((await archivedBytes(archiver, name))?.equals(wal.padded)).toBe(true);
    expect(await readdir(errors)).toEqual([]);
  }));

describe('is stored under its own name, as ever,', () => {
  test.each([
    ['when nothing else is known', null],
    ['when what is received is the same', wal.recycled],
    ['when what is received is less', wal.shorter],
    ['when what is received is other WAL', other],
  ])('%s', (_what, inStreaming) =>
    withArchiver({}, async (archiver) => {
      if (inStreaming !== null) await writeFile(join(archiver.streaming, partial), inStreaming);
      await store(archiver, wal.padded);
      expect(await namesOf(archiver.catalogue)).toEqual([name]);
    }),
  );

  test('when it is full', () =>
    withArchiver({}, async (archiver) => {
      await writeFile(join(archiver.streaming, partial), received);
      await store(archiver, wal.whole);
      expect(await namesOf(archiver.catalogue)).toEqual([name]);
    }));
});

describe('goes to errors', () => {
  test('when the archived segment is other WAL', () =>
    withArchiver({}, async (archiver) => {
      await store(archiver, other);
      await writeFile(join(archiver.incoming, name), wal.padded);
      expect(await archiver.archive()).toMatchObject({ archived: [], conflicts: [{ name }] });
      expect(await namesOf(archiver.catalogue)).toEqual([name]);
    }));

  test('when a partial segment of other WAL is archived, which is not handed out for it', () =>
    withArchiver({}, async (archiver) => {
      const { incoming, streaming, errors, archive, catalogue } = archiver;
      await store(archiver, other, partial);
      await writeFile(join(streaming, partial), received);
      await writeFile(join(incoming, name), wal.padded);
      expect(await archive()).toMatchObject({ archived: [], conflicts: [{ name }] });
      expect((await readdir(errors)).length).toBe(1);
      expect(await namesOf(catalogue)).toEqual([partial]);
      expect((await archivedBytes(archiver, partial))?.equals(other)).toBe(true);
      await rm(join(streaming, partial));
      expect(await handedOut(archiver)).toBeNull();
    }));
});

test('the archive has a partial segment that begins with all of it and goes on: nothing more is stored, and that is handed out', () =>
  withArchiver({}, async (archiver) => {
    const { incoming, errors, archive, catalogue } = archiver;
    await store(archiver, received, partial);
    await writeFile(join(incoming, name), wal.recycled);
    expect(await archive()).toMatchObject({ archived: [], duplicates: [{ name: partial }] });
    expect(await namesOf(catalogue)).toEqual([partial]);
    expect((await handedOut(archiver))?.plain.equals(received)).toBe(true);
    expect(await readdir(errors)).toEqual([]);
  }));

test('one that arrives compressed is judged by what is in it, and stored as it came', () =>
  withArchiver({}, async (archiver) => {
    const { incoming, streaming, archive, wals } = archiver;
    const packed = gzipSync(wal.padded);
    await writeFile(join(streaming, partial), received);
    await writeFile(join(incoming, name), packed);
    expect(await archive()).toMatchObject({ archived: [{ name: partial, compression: 'gzip' }] });
    expect((await readFile(join(wals, walDirectory(name), partial))).equals(packed)).toBe(true);
  }));

test('what is received can not be looked at: it waits, and the others do not', () =>
  withArchiver({}, async (archiver) => {
    const { incoming, streaming, archive, catalogue } = archiver;
    // Not even root can read it.
    await mkdir(join(streaming, partial));
    await writeFile(join(incoming, name), wal.padded);
    const next = await writeWal(incoming, { segment: 4_000 });
    const summary = await archive();
    expect(summary).toMatchObject({ archived: [{ name: next.name }], failed: [{ name }] });
    expect(summary.failed[0]?.reason).toContain(partial);
    expect(await readdir(incoming)).toEqual([name]);
    expect(await namesOf(catalogue)).toEqual([next.name]);
    await rm(join(streaming, partial), { recursive: true });
    expect(await archive()).toMatchObject({ archived: [{ name }] });
  }));

describe('what was delivered under the full name and stored as a partial segment', () => {
  const stored = (body: (archiver: TestArchiver) => Promise<void>): Promise<void> =>
    withArchiver({ storage: { compression: 'gzip' } }, async (archiver) => {
      const { incoming, streaming, archive } = archiver;
      await writeFile(join(streaming, partial), received);
      await writeFile(join(incoming, name), wal.recycled);
      await archive();
      await body(archiver);
    });

  test('is handed out as it came while nothing longer is there, without --partial', () =>
    stored(async (archiver) => {
      await rm(join(archiver.streaming, partial));
      for (const asPartial of [false, true]) {
        const found = await handedOut(archiver, asPartial);
        expect(found?.name).toBe(name);
        expect(found?.plain.equals(wal.recycled)).toBe(true);
      }
      expect(await peekWals(finder(archiver), name, 3, 1 << 20)).toEqual([name]);
    }));

  test('gives way to what is received, while that is more', () =>
    stored(async (archiver) => {
      expect((await handedOut(archiver))?.plain.equals(received)).toBe(true);
      for (const less of [wal.shorter, wal.padded, other, zeros]) {
        await writeFile(join(archiver.streaming, partial), less);
        expect((await handedOut(archiver))?.plain.equals(wal.recycled)).toBe(true);
        expect((await handedOut(archiver, true))?.plain.equals(wal.recycled)).toBe(true);
      }
    }));

  test('gives way to the whole segment, wherever that is', () =>
    stored(async (archiver) => {
      await writeFile(join(archiver.streaming, name), wal.whole);
      expect((await handedOut(archiver))?.plain.equals(wal.whole)).toBe(true);
      await rm(join(archiver.streaming, name));
      await store(archiver, wal.whole);
      expect((await handedOut(archiver))?.plain.equals(wal.whole)).toBe(true);
    }));

  test('is never absent while what says so can not be read', () =>
    stored(async (archiver) => {
      await rm(join(archiver.streaming, partial));
      await writeFile(join(archiver.home, 'main', '.short-segments.json'), 'no JSON');
      await expect(handedOut(archiver)).rejects.toThrow('.short-segments.json is damaged');
    }));

  test('is absent once it was deleted', () =>
    stored(async (archiver) => {
      await rm(join(archiver.streaming, partial));
      await rm(join(archiver.wals, walDirectory(name), partial));
      expect(await handedOut(archiver)).toBeNull();
    }));
});
