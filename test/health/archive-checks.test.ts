import { expect, test } from 'vitest';
import { summariseErrorFiles } from '../../src/archiver/errors-directory.ts';
import {
  checkArchiverErrors,
  checkQueue,
  checkWalAge,
  describeGaps,
  isStuck,
  walSize,
  whyItWaits,
  type LastPass,
  type QueueFacts,
} from '../../src/health/archive-checks.ts';
import { walName } from '../../src/wal/wal-name.ts';
import { MINUTE, NOW } from './remote.ts';

const ARRIVED = NOW - 20 * MINUTE;
const FIRST = '000000010000000000000007';
const QUEUE: QueueFacts = {
  kind: 'incoming',
  directory: '/in',
  files: 3,
  waiting: 3,
  first: { name: FIRST, arrived: ARRIVED },
  unreadable: null,
};
const EMPTY: QueueFacts = { ...QUEUE, files: 0, waiting: 0, first: null };
const pass = (startedAt: number, running = false): LastPass => ({ startedAt, running, pid: 99 });

test('nothing waits in an empty directory', () => {
  expect(whyItWaits(EMPTY, null, NOW, 'main')).toBeNull();
  expect(isStuck(EMPTY, null, NOW)).toBe(false);
});

test('files that nobody comes for are told with the time of the last pass', () => {
  expect(whyItWaits(QUEUE, pass(NOW - 60 * MINUTE), NOW, 'main')).toBe(
    '3 files in /in wait, since 2026-10-03 11:40:00 UTC (20 min ago), and archive-wal has not run since ' +
      '2026-10-03 11:00:00 UTC (1 h ago): is walwarden cron, or its daemon, at work?',
  );
  expect(whyItWaits({ ...QUEUE, waiting: 1 }, null, NOW, 'main')).toMatch(
    /^1 file in \/in waits, .*archive-wal has never run/,
  );
});

test('files that a pass is at work on, or has left there, are told as such', () => {
  expect(whyItWaits(QUEUE, pass(NOW - 60 * MINUTE, true), NOW, 'main')).toMatch(
    /archive-wal is at work \(process 99, since/,
  );
  expect(whyItWaits(QUEUE, pass(NOW - MINUTE), NOW, 'main')).toMatch(
    /archive-wal ran at .* and left the first, 0{7}10{15}7: walwarden archive-wal main tells why$/,
  );
});

test('files that have just come are for the next pass', () => {
  const fresh: QueueFacts = { ...QUEUE, first: { name: FIRST, arrived: NOW - 5_000 } };
  expect(whyItWaits(fresh, null, NOW, 'main')).toMatch(/, for the next archive-wal$/);
  expect(whyItWaits(fresh, pass(NOW - MINUTE), NOW, 'main')).toMatch(
    /for the next archive-wal \(the last one ran at .*1 min ago/,
  );
});

test('a file is forgotten after an hour without a pass', () => {
  const old: QueueFacts = { ...QUEUE, first: { name: FIRST, arrived: NOW - 61 * MINUTE } };
  expect(isStuck(old, null, NOW)).toBe(true);
  expect(isStuck(old, pass(NOW - 90 * MINUTE), NOW)).toBe(true);
  expect(isStuck(old, pass(NOW - 90 * MINUTE, true), NOW)).toBe(false);
  expect(isStuck(QUEUE, null, NOW)).toBe(false);
});

test('a file that a pass has left is told after five minutes', () => {
  expect(isStuck(QUEUE, pass(NOW - MINUTE), NOW)).toBe(true);
  expect(isStuck(QUEUE, pass(NOW - MINUTE, true), NOW)).toBe(false);
  const arrived = NOW - 4 * MINUTE;
  expect(isStuck({ ...QUEUE, first: { name: FIRST, arrived } }, pass(NOW - MINUTE), NOW)).toBe(false);
  const partial = { ...QUEUE, kind: 'streaming', first: { name: `${FIRST}.partial`, arrived: ARRIVED } } as const;
  expect(isStuck(partial, pass(NOW - MINUTE), NOW)).toBe(false);
});

test('files that can not be read are told at once, with whose they are and what to change', () => {
  const first = { name: FIRST, arrived: ARRIVED, mode: '0600', owner: 'postgres' };
  const unreadable = { files: 2, more: false, first, errno: 'EACCES', user: 'barman' };
  const queue: QueueFacts = { ...QUEUE, unreadable };
  expect(isStuck(queue, null, NOW)).toBe(true);
  expect(whyItWaits(queue, null, NOW, 'main')).toBe(
    "2 files in /in can't be read by barman: EACCES (first 000000010000000000000007, of postgres, mode 0600, since " +
      '2026-10-03 11:40:00 UTC (20 min ago)): chmod or chown them, and let archive_command leave them readable for ' +
      'barman, or deliver by walwarden put-wal',
  );
  const streamed: QueueFacts = { ...queue, kind: 'streaming', unreadable: { ...unreadable, more: true } };
  expect(whyItWaits(streamed, null, NOW, 'main')).toMatch(
    /^at least 2 files .*: chown them to barman, and run receive-wal/,
  );
});

test('gaps are told with how many segments are missing, and where', () => {
  const range = (first: string, last: string, segments: number) => ({
    first: walName(`0000000100000000000000${first}`),
    last: walName(`0000000100000000000000${last}`),
    segments,
  });
  expect(describeGaps([], 'main')).toBeNull();
  expect(describeGaps([range('03', '03', 1)], 'main')).toMatch(
    /^1 segment missing, 0{7}10{14}03: walwarden list-wals --gaps main/,
  );
  expect(describeGaps([range('03', '03', 1), range('06', '08', 3)], 'main')).toMatch(
    /^4 segments missing, between 0{7}10{14}03 and 0{7}10{14}08: /,
  );
});

test('files that wait for an archiver that is off fail under Barman’s names', () => {
  const options = { enabled: false, limit: null, why: null };
  expect(checkQueue(QUEUE, { ...options, kind: 'incoming' })).toEqual([
    {
      check: 'empty incoming directory',
      ok: false,
      hint: '3 files in /in will never be archived as long as archiver = off: set it to on, or see who delivers there',
    },
  ]);
  expect(checkQueue(QUEUE, { ...options, kind: 'streaming' })).toMatchObject([
    { check: 'empty streaming directory', ok: false, hint: expect.stringMatching(/streaming_archiver = off/) },
  ]);
  expect(checkQueue(EMPTY, { ...options, kind: 'incoming' })).toEqual([]);
});

test('too many files fail, with the reason; as many as allowed do not', () => {
  const options = { kind: 'incoming', enabled: true, why: 'archive-wal sleeps' } as const;
  expect(checkQueue(QUEUE, { ...options, limit: 2 })).toEqual([
    { check: 'incoming WALs directory', ok: false, hint: '3 files, max_incoming_wals_queue = 2; archive-wal sleeps' },
  ]);
  expect(checkQueue(QUEUE, { ...options, limit: 3 })).toEqual([]);
  expect(checkQueue(QUEUE, { ...options, limit: null })).toEqual([]);
});

const newest = {
  name: walName(FIRST),
  size: 5,
  mtime: (NOW - 90 * MINUTE) / 1000,
  compression: null,
  encryption: null,
};

test('the age of the newest WAL is held against last_wal_maximum_age', () => {
  expect(checkWalAge(newest, null, NOW)).toMatchObject({ ok: true, hint: 'last_wal_maximum_age is not set' });
  expect(checkWalAge(newest, 120 * MINUTE, NOW)).toMatchObject({
    check: 'wal maximum age',
    ok: true,
    hint: `the newest archived WAL, ${FIRST}, was written 1 h 30 min ago; last_wal_maximum_age is 2 h`,
  });
  expect(checkWalAge(newest, 60 * MINUTE, NOW).ok).toBe(false);
  expect(checkWalAge(null, 60 * MINUTE, NOW)).toMatchObject({ ok: false, hint: 'nothing is archived' });
});

test('the size of the archive is told, in bytes for performance data', () => {
  expect(walSize({ files: 2, bytes: 3 * 1024 * 1024, newest, damagedLines: 0 })).toEqual({
    check: 'wal size',
    ok: true,
    hint: '3.00 MiB in 2 files',
    bytes: 3 * 1024 * 1024,
  });
});

const errors = (...names: string[]): unknown => checkArchiverErrors(names, summariseErrorFiles(names), 'main');

test('files in errors fail with Barman’s summary and the command that explains them', () => {
  expect(errors()).toEqual({ check: 'archiver errors', ok: true, hint: null });
  expect(errors(`${FIRST}.20261003T110000Z.duplicate`, `${FIRST}.20261003T110001Z.duplicate`, 'x.unknown')).toEqual({
    check: 'archiver errors',
    ok: false,
    hint: 'duplicates: 2, unknown: 1; see: walwarden errors explain main',
  });
});

test('partial files that a reset set aside are told, and no failure', () => {
  expect(errors(`${FIRST}.partial.20261003T110000Z.reset`)).toMatchObject({ ok: true });
  expect(errors(`${FIRST}.partial.20261003T110000Z.reset`, 'x.20261003T110000Z.unknown')).toMatchObject({ ok: false });
});
