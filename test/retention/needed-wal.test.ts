import { expect, test } from 'vitest';
import {
  firstNeeded,
  isNeeded,
  neededWal,
  type BackupFacts,
  type NeededRange,
} from '../../src/retention/needed-wal.ts';
import { walName, type WalName } from '../../src/wal/wal-name.ts';

/** Timeline, log and segment, one hexadecimal digit or more each. */
const wal = (timeline: string, log: string, segment: string): WalName =>
  walName([timeline, log, segment].map((part) => part.padStart(8, '0')).join(''));

const done: BackupFacts = {
  id: 'a',
  status: 'DONE',
  beginWal: wal('1', '1', '4'),
  endWal: wal('1', '1', '6'),
  keep: null,
};

test.each<[string, Partial<BackupFacts>, WalName | null | undefined]>([
  ['a backup that is done needs all from its first segment on', {}, null],
  ['one that waits for its last WAL as well', { status: 'WAITING_FOR_WALS' }, null],
  ['one that is being taken, whose end is not known', { status: 'STARTED', endWal: null }, null],
  ['one that is being copied from another Barman', { status: 'SYNCING' }, null],
  ['one with a status that is not known', { status: 'TELEPORTED' }, null],
  ['a failed one nothing', { status: 'FAILED' }, undefined],
  ['a failed one without a beginning nothing', { status: 'FAILED', beginWal: null }, undefined],
  ['an empty one nothing', { status: 'EMPTY', beginWal: null }, undefined],
  ['one that is kept in full all from its first segment on', { keep: 'full' }, null],
  ['one that is kept standalone no more than it takes to be consistent', { keep: 'standalone' }, wal('1', '1', '6')],
  ['one that is kept standalone and has no end all', { keep: 'standalone', endWal: null }, null],
  ['one whose end is before its beginning all', { keep: 'standalone', endWal: wal('1', '1', '3') }, null],
  ['one whose end is on an earlier timeline all', { keep: 'standalone', beginWal: wal('2', '1', '4') }, null],
])('%s', (_what, facts, last) => {
  const { ranges, unknown } = neededWal([{ ...done, ...facts }]);
  const first = facts.beginWal ?? done.beginWal;
  expect(ranges).toEqual(last === undefined ? [] : [{ backup: 'a', first, last }]);
  expect(unknown).toEqual([]);
});

test('a backup of which nothing can be read, and one without a first segment, may need anything', () => {
  expect(neededWal([{ id: 'b', problem: 'no' }, { ...done, beginWal: null }, done])).toEqual({
    ranges: [{ backup: 'a', first: done.beginWal, last: null }],
    unknown: [
      { id: 'b', problem: 'no' },
      { id: 'a', problem: 'its status is DONE, and it has no begin_wal that can be read' },
    ],
  });
});

const open: NeededRange = { backup: 'a', first: wal('2', '1', '4'), last: null };
const closed: NeededRange = { ...open, last: wal('3', '1', '6') };

test.each<[string, NeededRange, boolean]>([
  [wal('2', '1', '4'), open, true],
  [wal('2', '1', '3'), open, false],
  [wal('2', '0', 'FF'), open, false],
  [wal('2', '2', '0'), open, true],
  // A later timeline may follow; what lies before the backup there is of no use to it.
  [wal('3', '1', '4'), open, true],
  [wal('A', '1', '5'), open, true],
  [wal('3', '1', '3'), open, false],
  [wal('1', '1', '5'), open, false],
  [`${wal('2', '1', '4')}.partial`, open, true],
  [`${wal('2', '1', '4')}.00000028.backup`, open, true],
  [`${wal('2', '1', '3')}.00000028.backup`, open, false],
  ['00000003.history', open, false],
  [wal('2', '1', 'A').toLowerCase(), open, true],
  [wal('2', '1', '6'), closed, true],
  [wal('3', '1', '5'), closed, true],
  [wal('2', '1', '7'), closed, false],
  [wal('4', '1', '5'), closed, false],
])('%s is needed or not: %o, %s', (name, range, expected) => {
  expect(isNeeded(walName(name), range)).toBe(expected);
});

test('nothing is needed before the first of all ranges', () => {
  expect(firstNeeded([])).toBeNull();
  const ranges = [open, { ...open, first: wal('1', '0', 'AB') }, { ...open, first: wal('1', '0', 'AC') }];
  expect(firstNeeded(ranges)).toBe(wal('1', '0', 'AB'));
});
