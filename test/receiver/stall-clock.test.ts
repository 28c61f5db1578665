import { expect, test } from 'vitest';
import { StallClock, type StreamLook } from '../../src/receiver/stall-clock.ts';
import { stallTimeoutMs } from '../../src/receiver/stream-watch.ts';

type Look = Partial<StreamLook> & { readonly at: number };

/** What the clock says at each look: since when the server has been ahead. */
function since(...looks: readonly Look[]): (number | null)[] {
  const clock = new StallClock();
  const nothing = { received: 'a', receivedBelow: null, sendable: null, written: null };
  return looks.map((look) => clock.see({ ...nothing, ...look }));
}

test('a server that has written more than pg_receivewal has told it of is ahead, from the second look on', () => {
  expect(
    since(
      { at: 0, sendable: 100n },
      { at: 5, sendable: 100n, written: 60n },
      { at: 10, sendable: 100n, written: 60n },
      { at: 15, sendable: 300n, written: 60n },
    ),
  ).toEqual([null, 5, 5, 5]);
});

test('without that, it is ahead once it has written more than after the last look that saw something arrive', () => {
  expect(
    since({ at: 0, sendable: 100n }, { at: 5, sendable: 100n }, { at: 10, sendable: 101n }, { at: 15, sendable: 101n }),
  ).toEqual([null, null, 10, 10]);
});

test('WAL in a segment that nothing was received of is ahead as well', () => {
  expect(since({ at: 0, sendable: 40n, receivedBelow: 32n }, { at: 5, sendable: 40n, receivedBelow: 32n })).toEqual([
    null,
    5,
  ]);
});

test('an idle server is not ahead, however long it is idle', () => {
  expect(since(...[0, 5, 10, 500].map((at) => ({ at, sendable: 100n })))).toEqual([null, null, null, null]);
  expect(since(...[0, 5, 10, 500].map((at) => ({ at, sendable: 100n, written: 100n })))).toEqual([
    null,
    null,
    null,
    null,
  ]);
  const asSegment = { sendable: 32n, receivedBelow: 32n };
  expect(since({ at: 0, ...asSegment }, { at: 900, ...asSegment })).toEqual([null, null]);
});

test.each([
  ['the file grows', { received: 'b', written: 60n }],
  ['pg_receivewal tells of a new position', { received: 'a', written: 61n }],
])('when %s, the time begins again', (_case, progress) => {
  const ahead = { sendable: 100n, written: 60n };
  expect(
    since(
      { at: 0, ...ahead },
      { at: 5, ...ahead },
      { at: 10, ...ahead, ...progress },
      { at: 15, ...ahead, ...progress },
      { at: 20, ...ahead, ...progress },
    ),
  ).toEqual([null, 5, null, 15, 15]);
});

test('what is unknown is no stall: a server that can not be asked starts the time again', () => {
  const ahead = { sendable: 100n, written: 60n };
  expect(
    since({ at: 0, ...ahead }, { at: 5, ...ahead }, { at: 10 }, { at: 15, ...ahead }, { at: 20, ...ahead }),
  ).toEqual([null, 5, null, 15, 15]);
  expect(since({ at: 0 }, { at: 5 }, { at: 900 })).toEqual([null, null, null]);
  // It could not be asked at first: what it says then is where it was, not how far it got since.
  expect(since({ at: 0 }, { at: 5, sendable: 100n }, { at: 10, sendable: 100n })).toEqual([null, null, null]);
});

test('a position that is known already is not asked for again while nothing changes', () => {
  const clock = new StallClock();
  const look = { at: 0, received: 'a', receivedBelow: null, sendable: 100n, written: null };
  expect(clock.needsWritten(look)).toBe(false);
  clock.see(look);
  expect(clock.needsWritten(look)).toBe(true);
  expect(clock.see({ ...look, at: 5, written: 100n })).toBeNull();
  expect(clock.needsWritten(look)).toBe(false);
  // And without asking the verdict stays what it was.
  expect(clock.see({ ...look, at: 10 })).toBeNull();
  expect(clock.needsWritten({ ...look, sendable: 101n })).toBe(true);
  expect(clock.see({ ...look, at: 15, sendable: 101n, written: 100n })).toBe(15);
  expect(clock.needsWritten({ ...look, sendable: 101n })).toBe(true);
});

test('a timeout of 0 is none, and a very short one is as long as pg_receivewal takes to tell its position', () => {
  expect([0, 1, 2_000, 60_000].map((ms) => stallTimeoutMs({ stallTimeoutMs: ms }))).toEqual([
    null,
    2_000,
    2_000,
    60_000,
  ]);
});
