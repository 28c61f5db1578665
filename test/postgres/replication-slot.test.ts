import { describe, expect, test } from 'vitest';
import type { Row } from '../../src/postgres/connection.ts';
import { describeHolder, endsBy, lossOf, slotOf } from '../../src/postgres/replication-slot.ts';

/** Rows as servers answered. */
const NEW: Row = {
  slot_name: 'walwarden',
  slot_type: 'physical',
  active: 'f',
  active_pid: null,
  restart_lsn: '0/865D98',
  wal_status: 'reserved',
  safe_wal_size: null,
  invalidation_reason: null,
  max_slot_wal_keep_size: '-1',
  idle_replication_slot_timeout: '0',
  application_name: null,
  client_addr: null,
};
/** PostgreSQL 18, idle for longer than allowed: the place stays, and nothing is kept there. */
const IDLE_18: Row = {
  ...NEW,
  wal_status: 'lost',
  invalidation_reason: 'idle_timeout',
  idle_replication_slot_timeout: '2s',
};
/** PostgreSQL 17 and 18, too far behind. */
const BEHIND_18: Row = {
  ...NEW,
  restart_lsn: null,
  wal_status: 'lost',
  invalidation_reason: 'wal_removed',
  max_slot_wal_keep_size: '2MB',
};
/** PostgreSQL 13 to 16, the same. */
const BEHIND_15: Row = { ...BEHIND_18, invalidation_reason: null, idle_replication_slot_timeout: null };
/** A position moved back by feedback, to where the WAL is not there any more. */
const MOVED_BACK: Row = { ...NEW, wal_status: 'lost' };

describe('a lost slot', () => {
  test.each([
    [
      'by PostgreSQL 18 for being idle',
      IDLE_18,
      /idle_replication_slot_timeout/,
      /timeout of the server, now 2s, to 0/,
    ],
    [
      'by 17 and later for being behind',
      BEHIND_18,
      /removed WAL that it held/,
      /raise max_slot_wal_keep_size.*now 2MB/,
    ],
    ['by 13 to 16 for being behind', BEHIND_15, /removed WAL that it held/, /raise max_slot_wal_keep_size.*now 2MB/],
    [
      'for wal_level',
      { ...IDLE_18, invalidation_reason: 'wal_level_insufficient' },
      /wal_level/,
      /wal_level = replica/,
    ],
    ['for rows', { ...IDLE_18, invalidation_reason: 'rows_removed' }, /rows/, /log of PostgreSQL/],
    [
      'for a cause of a later release',
      { ...IDLE_18, invalidation_reason: 'full_moon' },
      /full_moon/,
      /log of PostgreSQL/,
    ],
  ])('%s is told with its own cure', (_by, row, why, cure) => {
    expect(lossOf(slotOf(row))).toEqual({
      why: expect.stringMatching(why),
      cure: expect.stringMatching(cure),
      invalidated: true,
    });
  });

  test('each cause names its own setting only', () => {
    expect(JSON.stringify(lossOf(slotOf(IDLE_18)))).not.toContain('max_slot_wal_keep_size');
    expect(JSON.stringify(lossOf(slotOf(BEHIND_18)))).not.toContain('idle_replication_slot_timeout');
  });

  test('whose place alone is gone can be moved forward', () => {
    expect(lossOf(slotOf(MOVED_BACK))).toMatchObject({ invalidated: false });
  });

  test.each([
    ['reserved', NEW],
    ['never used', { ...NEW, restart_lsn: null, wal_status: null }],
    ['of PostgreSQL 12', { ...NEW, wal_status: null, max_slot_wal_keep_size: null }],
    ['about to be lost', { ...NEW, wal_status: 'unreserved' }],
  ])('is none that is %s', (_what, row) => {
    expect(lossOf(slotOf(row))).toBeNull();
  });
});

test('what can end a slot is named as it is set, and nothing where nothing can', () => {
  expect(endsBy(slotOf(NEW))).toBeNull();
  expect(endsBy(slotOf({ ...NEW, max_slot_wal_keep_size: null, idle_replication_slot_timeout: null }))).toBeNull();
  expect(endsBy(slotOf({ ...NEW, max_slot_wal_keep_size: '2MB', safe_wal_size: '1048576' }))).toBe(
    'max_slot_wal_keep_size (2MB, 1.00 MiB to go)',
  );
  expect(endsBy(slotOf({ ...NEW, max_slot_wal_keep_size: '2MB', idle_replication_slot_timeout: '1d' }))).toBe(
    'max_slot_wal_keep_size (2MB) or idle_replication_slot_timeout (1d)',
  );
});

test('the process that has it is named as far as it can be seen', () => {
  const used = { ...NEW, active: 't', active_pid: '4711' };
  expect(describeHolder(slotOf(used))).toBe('server process 4711');
  expect(describeHolder(slotOf({ ...used, application_name: 'standby1' }))).toBe('server process 4711, "standby1"');
  expect(describeHolder(slotOf({ ...used, application_name: 'standby1', client_addr: '10.0.0.3' }))).toBe(
    'server process 4711, "standby1" from 10.0.0.3',
  );
});
