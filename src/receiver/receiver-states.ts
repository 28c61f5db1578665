import type { ReceiverState } from './receiver-report.ts';

/** What can happen to a receiver. */
export type ReceiverEvent =
  | 'streams' // the server sends WAL
  | 'fails' // for a cause that may pass by itself
  | 'blocks' // for a cause that somebody has to remove
  | 'disk-low'
  | 'disk-free'
  | 'retry' // it is time for the next try
  | 'changed' // we end pg_receivewal, to start another one at once
  | 'stop' // we are asked to end
  | 'gone'; // nothing of us runs any more

/**
 * Where every event leads from every state; one that means nothing in a state
 * leaves it as it is. Nothing but `gone` follows a request to stop.
 */
// prettier-ignore
const TRANSITIONS: Readonly<Record<ReceiverState, Readonly<Record<ReceiverEvent, ReceiverState>>>> = {
  preparing: {
    streams: 'streaming', fails: 'waiting',   blocks: 'blocked',  'disk-low': 'low-disk',
    'disk-free': 'preparing', retry: 'preparing', stop: 'stopping', gone: 'preparing', changed: 'preparing',
  },
  streaming: {
    streams: 'streaming', fails: 'waiting',   blocks: 'blocked',  'disk-low': 'low-disk',
    'disk-free': 'streaming', retry: 'streaming', stop: 'stopping', gone: 'streaming', changed: 'preparing',
  },
  waiting: {
    streams: 'waiting',   fails: 'waiting',   blocks: 'waiting',  'disk-low': 'waiting',
    'disk-free': 'waiting',   retry: 'preparing', stop: 'stopping', gone: 'waiting', changed: 'waiting',
  },
  blocked: {
    streams: 'blocked',   fails: 'blocked',   blocks: 'blocked',  'disk-low': 'blocked',
    'disk-free': 'blocked',   retry: 'preparing', stop: 'stopping', gone: 'blocked', changed: 'blocked',
  },
  'low-disk': {
    streams: 'low-disk',  fails: 'low-disk',  blocks: 'low-disk', 'disk-low': 'low-disk',
    'disk-free': 'preparing', retry: 'low-disk',  stop: 'stopping', gone: 'low-disk', changed: 'low-disk',
  },
  stopping: {
    streams: 'stopping',  fails: 'stopping',  blocks: 'stopping', 'disk-low': 'stopping',
    'disk-free': 'stopping',  retry: 'stopping',  stop: 'stopping', gone: 'stopped', changed: 'stopping',
  },
  stopped: {
    streams: 'stopped',   fails: 'stopped',   blocks: 'stopped',  'disk-low': 'stopped',
    'disk-free': 'stopped',   retry: 'stopped',   stop: 'stopped',  gone: 'stopped', changed: 'stopped',
  },
};

/** The state after an event. */
export function nextState(state: ReceiverState, event: ReceiverEvent): ReceiverState {
  return TRANSITIONS[state][event];
}

/** A cause that somebody has to remove is looked at again so often, in milliseconds. */
const BLOCKED_RETRY_MS = 30_000;

/** After so much streaming the next failure counts as the first in a row. */
const STABLE_MS = 60_000;

const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 60_000;

/** A synchronous standby is tried so often at first: a restart of the server takes seconds. */
const EAGER_TRIES = 60;
/** What pg_receivewal itself waits between two tries. */
const LAST_SYNCHRONOUS_RETRY_MS = 5_000;

/**
 * How long to wait after so many failures in a row (0: after the first), in
 * milliseconds: doubling from 1 s to 60 s, less up to a half of it, so that
 * many receivers don't come back to one server at the same moment. `random` is
 * from 0 to 1. Every commit waits for a synchronous standby, so that comes back every
 * second for a minute, and then every 5 s.
 */
export function retryDelayMs(failures: number, random: number, synchronous = false): number {
  if (synchronous) return failures < EAGER_TRIES ? FIRST_RETRY_MS : LAST_SYNCHRONOUS_RETRY_MS;
  const longest = Math.min(FIRST_RETRY_MS * 2 ** failures, LAST_RETRY_MS);
  return Math.max(FIRST_RETRY_MS, Math.round(longest * (1 - random / 2)));
}

/** How long to wait after a failure, whatever kind of cause it has. */
export function waitAfterFailure(
  {
    passes,
    failures,
    synchronous,
  }: { readonly passes: boolean; readonly failures: number; readonly synchronous: boolean },
  random: number,
): number {
  return passes ? retryDelayMs(failures, random, synchronous) : BLOCKED_RETRY_MS;
}

/** The failures in a row that still count after so much streaming, in milliseconds. */
export function failuresAfter(failures: number, streamedMs: number): number {
  return streamedMs >= STABLE_MS ? 0 : failures;
}
