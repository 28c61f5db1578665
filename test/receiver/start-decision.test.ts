import { describe, expect, test } from 'vitest';
import { decideStart, targetOf, type SlotPlace, type StartFacts } from '../../src/receiver/start-decision.ts';

const MIB = 1024n * 1024n;
/** Segments of 1 MiB; received up to segment 5, and the server is in the middle of segment 12. */
const at = (segment: number, offset = 0): bigint => BigInt(segment) * MIB + BigInt(offset);
const P = at(5);
const slotAt = (segment: number): SlotPlace => ({ state: 'at', lsn: at(segment, 40) });
const gone = (segment: number): SlotPlace => ({ state: 'gone', lsn: at(segment, 40) });

function facts(slot: SlotPlace, known: Partial<StartFacts> = {}): StartFacts {
  const server = { timeline: 2, lsn: at(12, 500), history: [{ timeline: 1, switchPoint: at(7, 300), reason: '' }] };
  return { position: { timeline: 1, lsn: P }, server, segmentSize: Number(MIB), slot, ...known };
}

const run = (end: number, problem: string | null = null): Partial<StartFacts> => ({
  sends: false,
  archived: { end: at(end), problem },
});
const start = { kind: 'start', until: null };
const ask = (what: string): unknown => ({ kind: 'ask', what });
const notArchived = (from: number, to: number | null): unknown => ({
  kind: 'blocked',
  why: { cause: 'not-archived', from: at(from), to: to === null ? null : at(to) },
});

describe('a position that the slot reserves', () => {
  test.each([
    ['behind the place of the slot', slotAt(4)],
    ['in the very segment of it', slotAt(5)],
  ])('is started from, %s', (_what, slot) => {
    expect(decideStart(facts(slot))).toEqual(start);
    expect(decideStart(facts(slot), { prove: true })).toEqual(ask('sends'));
    expect(decideStart(facts(slot, { sends: true }), { prove: true })).toEqual(start);
  });
});

test('without a slot there is nothing to be moved back', () => {
  expect(decideStart(facts({ state: 'none' }))).toEqual(start);
  expect(decideStart(facts({ state: 'none' }), { prove: true })).toEqual(start);
});

describe('a position that nothing vouches for', () => {
  test.each([
    ['an unknown slot', { state: 'unknown' }],
    ['a slot that reserves nothing', { state: 'empty' }],
    ['a slot ahead', slotAt(9)],
    ['a slot whose WAL is gone', gone(3)],
  ] as const)('is asked for first: %s', (_what, slot) => {
    expect(decideStart(facts(slot))).toEqual(ask('sends'));
  });

  test.each([
    ['an unknown slot', { state: 'unknown' }, null],
    ['a slot that reserves nothing', { state: 'empty' }, null],
    ['a slot behind', slotAt(4), null],
    ['a slot whose WAL is gone', gone(3), null],
    // The slot would be moved back: without it, as far as its place.
    ['a slot ahead', slotAt(9), at(9)],
  ] as const)('is started from when the server sends it: %s', (_what, slot, until) => {
    expect(decideStart(facts(slot, { sends: true }))).toEqual({ kind: 'start', until });
  });
});

describe('a position that the server has removed', () => {
  test.each([
    [{ state: 'unknown' }, 'unknown-slot'],
    [{ state: 'empty' }, 'empty-slot'],
  ] as const)('is blocked where no place is reserved: $state', (slot, cause) => {
    expect(decideStart(facts(slot, { sends: false }))).toEqual({ kind: 'blocked', why: { cause } });
  });

  test('is gone on from at the slot when everything up to there is archived, and the server has WAL there', () => {
    const slot = slotAt(9);
    expect(decideStart(facts(slot, { sends: false }))).toEqual(ask('archived'));
    expect(targetOf(facts(slot, run(9)))).toBe(at(9));
    expect(decideStart(facts(slot, run(9)))).toEqual(ask('sendsTarget'));
    expect(decideStart(facts(slot, { ...run(9), sendsTarget: false }))).toEqual(notArchived(9, null));
    expect(decideStart(facts(slot, { ...run(9), sendsTarget: true }))).toEqual({
      kind: 'go-on',
      at: { timeline: 2, lsn: at(9) },
      moveSlot: false,
    });
    // On the timeline that the server wrote there.
    expect(decideStart(facts(slotAt(6), { ...run(6), sendsTarget: true }))).toMatchObject({
      at: { timeline: 1, lsn: at(6) },
    });
  });

  test.each([
    ['nothing', 5, notArchived(5, 9)],
    ['a part', 7, notArchived(7, 9)],
    ['all but the last segment', 8, notArchived(8, 9)],
  ])('is blocked when %s of that is archived', (_what, end, decision) => {
    expect(decideStart(facts(slotAt(9), run(end)))).toEqual(decision);
  });

  test('is blocked when what is archived can not stand in for what was received', () => {
    expect(decideStart(facts(slotAt(9), run(9, 'it lacks a commit')))).toEqual({
      kind: 'blocked',
      why: { cause: 'not-usable', problem: 'it lacks a commit' },
    });
  });

  test.each([
    ['was moved back', gone(3)],
    ['is said to keep it', slotAt(4)],
    ['stands in its very segment', slotAt(5)],
  ])('is gone on from where the archive ends when the slot %s, and the slot is moved there', (_what, slot) => {
    expect(targetOf(facts(slot, run(8)))).toBe(at(8));
    expect(decideStart(facts(slot, run(8)), { prove: true })).toEqual(ask('sendsTarget'));
    expect(decideStart(facts(slot, { ...run(8), sendsTarget: true }), { prove: true })).toEqual({
      kind: 'go-on',
      at: { timeline: 2, lsn: at(8) },
      moveSlot: true,
    });
    expect(decideStart(facts(slot, { ...run(8), sendsTarget: false }), { prove: true })).toEqual(notArchived(8, null));
    expect(decideStart(facts(slot, run(5)), { prove: true })).toEqual(notArchived(5, null));
  });
});
