import { expect, test } from 'vitest';
import { checkListing, type ListingCheck } from '../../src/health/listing-check.ts';
import { walName } from '../../src/wal/wal-name.ts';
import { MINUTE, NOW } from './remote.ts';

const A = walName('000000010000000000000001');
const B = walName('000000010000000000000002');
const HOUR = 60 * MINUTE;

const sound: ListingCheck = {
  server: 'main',
  listing: { finishedAt: NOW - 3 * HOUR, files: 12, missing: { count: 0, first: [] }, unlisted: { count: 0 } },
  stillMissing: [],
  seen: { looked: 4, missing: [], untold: null },
  expected: true,
};
const lost = (count: number, ...first: (typeof A)[]): ListingCheck['listing'] => ({
  finishedAt: NOW - 3 * HOUR,
  files: 12,
  missing: { count, first },
  unlisted: { count: 0 },
});

test('a sound archive is told with the age of its listing and with what was looked at', () => {
  expect(checkListing(sound, NOW)).toEqual({
    check: 'archived files',
    ok: true,
    hint:
      '12 files listed 2026-10-03 09:00:00 UTC (3 h ago), none missing; ' +
      'the newest, the oldest and what lies between, 4 files, looked at now',
    praise:
      '12 files listed 3 h ago, none missing; the newest, the oldest and what lies between, 4 files, looked at now',
  });
});

test('what was missing in the listing, and still is, fails with its names and the ways out', () => {
  const { ok, hint } = checkListing({ ...sound, listing: lost(2, A, B), stillMissing: [A, B] }, NOW);
  expect(ok).toBe(false);
  expect(hint).toBe(
    `2 files of the catalogue are not stored: ${A}, ${B} (listed 2026-10-03 09:00:00 UTC (3 h ago)): put them back from a ` +
      'copy of the archive, then walwarden list-wals --stored main; if there is none, walwarden rebuild-xlogdb main drops ' +
      'their lines: take a base backup, for no recovery gets over what is missing',
  );
});

test('of more missing files than are remembered by name all are counted', () => {
  const { ok, hint } = checkListing({ ...sound, listing: lost(500, A, B), stillMissing: [A, B] }, NOW);
  expect(ok).toBe(false);
  expect(hint).toMatch(/^500 files of the catalogue are not stored: .*, … /);
});

test('what is back, or has no line any more, does not fail', () => {
  const { ok, hint } = checkListing({ ...sound, listing: lost(2, A, B) }, NOW);
  expect(ok).toBe(true);
  expect(hint).toMatch(/; 2 files that were missing then no longer$/);
  expect(checkListing({ ...sound, listing: lost(3, A, B) }, NOW).ok).toBe(false);
});

test('a file that is missing at this moment fails, whatever the listing said', () => {
  const { ok, hint } = checkListing({ ...sound, seen: { looked: 4, missing: [B], untold: null } }, NOW);
  expect(ok).toBe(false);
  expect(hint).toMatch(/^1 file of the catalogue is not stored: 0{7}10{15}2 \(/);
});

test('a listing that is two days old is a warning where one is to be expected', () => {
  const old = {
    ...sound,
    listing: {
      ...lost(0),
      finishedAt: NOW - 49 * HOUR,
      files: 1,
      missing: { count: 0, first: [] },
      unlisted: { count: 0 },
    },
  };
  expect(checkListing(old, NOW)).toMatchObject({
    ok: true,
    severity: 'warning',
    hint: expect.stringMatching(
      /^listed .* ago\): is walwarden cron, or its daemon, at work\? To list it now: walwarden list-wals --stored main; /,
    ),
  });
  expect(checkListing({ ...old, expected: false }, NOW).severity).toBeUndefined();
  expect(checkListing({ ...sound, listing: null }, NOW)).toMatchObject({ severity: 'warning' });
  expect(checkListing({ ...sound, listing: null, expected: false }, NOW)).toMatchObject({
    ok: true,
    praise: expect.stringMatching(/^never listed; /),
  });
});

test('stored files without a line are told with what gives them one; what could not be looked at as well', () => {
  const listing = { ...lost(0), finishedAt: NOW, files: 1, missing: { count: 0, first: [] }, unlisted: { count: 3 } };
  const { ok, hint } = checkListing({ ...sound, listing, seen: { looked: 0, missing: [], untold: 'no answer' } }, NOW);
  expect(ok).toBe(true);
  expect(hint).toMatch(/; no answer; 3 stored files without a line: walwarden rebuild-xlogdb main$/);
});
