import { setTimeout as delay } from 'node:timers/promises';
import { errnoOf, WalwardenError } from '../errors.ts';
import { isSynchronousName } from '../postgres/synchronous-standby-names.ts';
import { formatLsn, parseLsn, type Lsn } from '../wal/lsn.ts';
import { formatSpan } from '../words.ts';
import { fetchLostHistories } from './history-files.ts';
import { findOwnWalsender } from './own-walsender.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { StallClock } from './stall-clock.ts';
import { lastReceived } from './streaming-directory.ts';
import { connectForStreaming } from './streaming-server.ts';

/** Why pg_receivewal has to be started again, though it goes on. */
export type StreamNews =
  /** The server begins, or ceases, to wait for us: without --synchronous pg_receivewal confirms whole segments only. */
  | { readonly what: 'synchronous'; readonly synchronous: boolean; readonly walsender: string | null }
  /** The server is ahead, and nothing arrives. */
  | { readonly what: 'stalled'; readonly message: string; readonly walsender: string | null };

/** What is looked at while pg_receivewal runs. */
export interface WatchedStream {
  /** It was started with --synchronous. */
  readonly synchronous: boolean;
  /** It was started with the slot, where there is one. */
  readonly withSlot: boolean;
  /** Bytes. */
  readonly segmentSize: number;
  readonly systemIdentifier: bigint;
}

/** How often the server is asked, at least. */
const LOOK_MS = 15_000;

/** What pg_receivewal tells the server of its position is as old as its status interval, {@link statusIntervalS}. */
const MIN_STALL_MS = 2_000;

/** `receive_wal_stall_timeout` as it counts; null when it is off. */
export function stallTimeoutMs({ stallTimeoutMs: asked }: Pick<ReceiverSettings, 'stallTimeoutMs'>): number | null {
  return asked === 0 ? null : Math.max(asked, MIN_STALL_MS);
}

/** Seconds between two messages of pg_receivewal's to the server: its own 10, or less, so that a short timeout sees several. */
export function statusIntervalS(settings: Pick<ReceiverSettings, 'stallTimeoutMs'>): number {
  const limit = stallTimeoutMs(settings);
  return limit === null ? 10 : Math.min(10, Math.max(1, Math.floor(limit / 4_000)));
}

/** Resolves once pg_receivewal has to be started again; rejects when `scope` ends. */
export async function untilNews(
  settings: ReceiverSettings,
  stream: WatchedStream,
  scope: AbortSignal,
): Promise<StreamNews> {
  const limitMs = stallTimeoutMs(settings);
  const clock = new StallClock();
  const lookMs = limitMs === null ? LOOK_MS : Math.min(LOOK_MS, limitMs / 4);
  for (;;) {
    await delay(lookMs, undefined, { signal: scope });
    const received = await lookAtDirectory(settings, stream.segmentSize);
    const server = await askServer(settings, stream, scope);
    const wanted = server?.synchronous ?? null;
    if (wanted !== null && wanted !== stream.synchronous) {
      const walsender = (await findOwnWalsender(settings, stream, scope))?.pid ?? null;
      return { what: 'synchronous', synchronous: wanted, walsender };
    }
    if (limitMs === null || received === null) continue;
    const seen = { received: received.text, sendable: server?.lsn ?? null };
    const own = clock.needsWritten(seen) ? await findOwnWalsender(settings, stream, scope) : null;
    const sendable = seen.sendable ?? own?.flushed ?? null;
    const at = performance.now();
    const written = own?.written ?? null;
    const since = clock.see({ at, ...seen, sendable, receivedBelow: received.below, written });
    if (since === null || sendable === null || at - since < limitMs) continue;
    const upTo = written === null ? '' : `, and pg_receivewal has told it of ${formatLsn(written)}`;
    const message =
      `pg_receivewal hangs: nothing was received for ${formatSpan(at - since)}, ` +
      `though the server has written up to ${formatLsn(sendable)}${upTo}`;
    return { what: 'stalled', message, walsender: own?.pid ?? null };
  }
}

/** Null when the directory can't be looked at. */
async function lookAtDirectory(
  { streamingDirectory }: ReceiverSettings,
  segmentSize: number,
): Promise<{ readonly text: string; readonly below: Lsn | null } | null> {
  try {
    return await lastReceived(streamingDirectory, segmentSize);
  } catch (error) {
    if (errnoOf(error) !== undefined) return null;
    throw error;
  }
}

interface Answer {
  /** Null when the setting can't be understood. */
  readonly synchronous: boolean | null;
  readonly lsn: Lsn | null;
}

/** Null when the server can't be asked. The connection is closed at once: every WAL sender counts. */
async function askServer(
  settings: ReceiverSettings,
  { systemIdentifier }: WatchedStream,
  signal: AbortSignal,
): Promise<Answer | null> {
  try {
    await using connection = await connectForStreaming(settings, signal);
    const [system] = await connection.query('IDENTIFY_SYSTEM');
    const [names] = await connection.query('SHOW synchronous_standby_names');
    const { systemid, timeline, xlogpos: position } = system ?? {};
    // While we are connected, and to the server that WAL comes from.
    if (systemid === String(systemIdentifier)) await fetchLostHistories(settings, connection, Number(timeline));
    return {
      synchronous: isSynchronous(names?.['synchronous_standby_names'] ?? '', settings.postgres.streamingName),
      lsn: typeof position === 'string' ? parseLsn(position) : null,
    };
  } catch (error) {
    if (error instanceof WalwardenError) return null;
    throw error;
  }
}

function isSynchronous(setting: string, name: string): boolean | null {
  try {
    return isSynchronousName(setting, name);
  } catch (error) {
    if (error instanceof WalwardenError) return null;
    throw error;
  }
}
