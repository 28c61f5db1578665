import { describe, expect, test } from 'vitest';
import { archiveOf, collect, lines, named, wal, withCatalogue } from './with-catalogue.ts';

const KINDS = [
  ['a segment', wal(3)],
  ['an encrypted one', wal(3, { encryption: 'gpg' })],
  ['a history file', named('00000002.history', { compression: null })],
] as const;

describe.each(KINDS)('a crash that tears the last line, of %s, at any byte', (_what, last) => {
  const whole = lines(wal(1), wal(2), last);
  const start = lines(wal(1), wal(2)).length;
  const cuts = Array.from({ length: whole.length - start }, (_, index) => start + index);

  test('loses no file: the archive is asked, and the catalogue is as if nothing had happened', async () => {
    for (const cut of cuts) {
      await withCatalogue(
        async ({ xlogdb, content, put, damaged }) => {
          await put(whole.slice(0, cut));
          const torn = await xlogdb.withLock(async (session) => session.tornName);
          expect(torn).toBeUndefined();
          // As soon as the name was written in full, it is enough.
          const known = cut > start + last.name.length;
          expect(await content()).toBe(known ? whole : whole.slice(0, start));
          // What didn't make it is kept.
          const lost = cut > start && cut < whole.length - 1;
          expect(await damaged()).toEqual(lost ? [whole.slice(start, cut)] : []);
        },
        { describeStored: archiveOf(last) },
      );
    }
  });

  test('believes nothing that is not certainly whole, and names the file when nobody knows it', async () => {
    for (const cut of cuts) {
      await withCatalogue(async ({ xlogdb, content, put, damaged, logged }) => {
        await put(whole.slice(0, cut));
        const complete = cut === whole.length - 1;
        await xlogdb.withLock(async (session) => {
          expect(session.tornName).toBe(!complete && cut > start + last.name.length ? last.name : undefined);
          // The caller looks for the file, and its line is there again.
          if (session.tornName !== undefined) await session.ensure([last]);
        });
        expect(await content()).toBe(cut > start + last.name.length ? whole : whole.slice(0, start));
        expect(await damaged()).toEqual(cut > start && !complete ? [whole.slice(start, cut)] : []);
        if (cut > start) expect(logged[0]).toMatchObject({ level: 'warn', message: expect.stringContaining('torn') });
      });
    }
  });

  test('reads without lock as the lines that are whole', async () => {
    for (const cut of cuts) {
      await withCatalogue(async ({ xlogdb, put }) => {
        await put(whole.slice(0, cut));
        const expected = cut === whole.length - 1 ? [wal(1), wal(2), last] : [wal(1), wal(2)];
        expect(await collect(xlogdb.read())).toEqual(expected);
        const problems = (await collect(xlogdb.readEntries())).filter(({ kind }) => kind === 'problem');
        expect(problems).toEqual(
          cut > start && cut < whole.length - 1
            ? [{ kind: 'problem', lineNumber: 3, text: whole.slice(start, cut) }]
            : [],
        );
      });
    }
  });
});
