import { expect, test } from 'vitest';
import { causePasses } from '../../src/receiver/receiver-output.ts';
import type { ReceiverState } from '../../src/receiver/receiver-report.ts';
import {
  failuresAfter,
  nextState,
  retryDelayMs,
  waitAfterFailure,
  type ReceiverEvent,
} from '../../src/receiver/receiver-states.ts';

const STATES: readonly ReceiverState[] = [
  'preparing',
  'streaming',
  'waiting',
  'blocked',
  'low-disk',
  'stopping',
  'stopped',
];
const EVENTS: readonly ReceiverEvent[] = [
  'streams',
  'fails',
  'blocks',
  'disk-low',
  'disk-free',
  'retry',
  'changed',
  'stop',
  'gone',
];

/** Everything that may follow; any other event leaves the state as it is. */
const MOVES: Readonly<Record<ReceiverState, Partial<Record<ReceiverEvent, ReceiverState>>>> = {
  preparing: { streams: 'streaming', fails: 'waiting', blocks: 'blocked', 'disk-low': 'low-disk', stop: 'stopping' },
  streaming: {
    fails: 'waiting',
    blocks: 'blocked',
    'disk-low': 'low-disk',
    changed: 'preparing',
    stop: 'stopping',
  },
  waiting: { retry: 'preparing', stop: 'stopping' },
  blocked: { retry: 'preparing', stop: 'stopping' },
  'low-disk': { 'disk-free': 'preparing', stop: 'stopping' },
  stopping: { gone: 'stopped' },
  stopped: {},
};

const CASES = STATES.flatMap((state) => EVENTS.map((event) => [state, event, MOVES[state][event] ?? state] as const));

test.each(CASES)('%s: after %s it is %s', (state, event, next) => {
  expect(nextState(state, event)).toBe(next);
});

test('from every state a stop ends it, whatever else happens meanwhile', () => {
  for (const state of STATES.filter((candidate) => candidate !== 'stopped')) {
    let now = nextState(state, 'stop');
    for (const event of EVENTS.filter((candidate) => candidate !== 'gone')) now = nextState(now, event);
    expect(nextState(now, 'gone')).toBe('stopped');
  }
});

test('only a try that succeeds streams, and every try is preceded by a look', () => {
  const leadToStreaming = STATES.filter((state) => state !== 'streaming').filter((state) =>
    EVENTS.some((event) => nextState(state, event) === 'streaming'),
  );
  expect(leadToStreaming).toEqual(['preparing']);
});

test('the wait after a failure doubles from 1 s to 60 s, less up to a half', () => {
  expect([0, 1, 2, 3, 4, 5, 6, 7, 100, 5_000].map((failures) => retryDelayMs(failures, 0) / 1_000)).toEqual([
    1, 2, 4, 8, 16, 32, 60, 60, 60, 60,
  ]);
  expect(retryDelayMs(4, 1)).toBe(8_000);
  expect(retryDelayMs(0, 1)).toBe(1_000);
  expect(retryDelayMs(9, 0.5)).toBe(45_000);
});

test('a synchronous standby comes back every second for a minute, and then every 5 s', () => {
  const waits = Array.from({ length: 5_000 }, (_, failures) => retryDelayMs(failures, failures % 2, true));
  expect(waits.slice(0, 60)).toEqual(Array.from({ length: 60 }, () => 1_000));
  expect(waits.slice(60)).toEqual(Array.from({ length: 4_940 }, () => 5_000));
});

test.each([
  ['unreachable', 1_000],
  ['starting-up', 1_000],
  ['slot-active', 1_000],
  ['too-many-walsenders', 1_000],
  ['killed', 1_000],
  ['stalled', 1_000],
  ['other', 1_000],
  ['authentication', 30_000],
  ['pg-hba', 30_000],
  ['slot-missing', 30_000],
  ['directory', 30_000],
] as const)(
  'a synchronous standby that fails for %s waits %d ms, even after a long outage of other causes',
  (failure, ms) => {
    const passes = causePasses({ failure, message: '', hint: null });
    expect(waitAfterFailure({ passes, failures: 7, synchronous: true }, 0)).toBe(ms);
    expect(waitAfterFailure({ passes, failures: 7, synchronous: false }, 0)).toBe(passes ? 60_000 : 30_000);
  },
);

test('after a minute of streaming the next failure is the first in a row again, and waits a second', () => {
  expect(failuresAfter(6, 59_000)).toBe(6);
  expect(failuresAfter(6, 60_000)).toBe(0);
  expect(retryDelayMs(failuresAfter(6, 96_000), 0)).toBe(1_000);
});
