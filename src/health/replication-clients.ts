import type { ReplicationClient } from '../postgres/remote-status.ts';
import type { Lsn } from '../wal/lsn.ts';

/** A standby replays what it gets; a WAL streamer, such as pg_receivewal, only keeps it. */
export type ClientKind = 'hot-standby' | 'wal-streamer';

/** How far a client is: what was sent, written, flushed, replayed there. */
export type Stage = 'sent' | 'write' | 'flush' | 'replay';

export const STAGES: readonly Stage[] = ['sent', 'write', 'flush', 'replay'];

export interface Progress {
  /** Null where the client doesn't tell, or never gets so far. */
  readonly lsn: Lsn | null;
  /** Bytes that it is behind the server. */
  readonly lagBytes: number | null;
  /** The time that the last WAL took; null too when there was none lately. */
  readonly lagMs: number | null;
}

/** A client that streams from a server, ready to be shown. */
export interface StreamingClient {
  readonly client: ReplicationClient;
  /** It is our own receiver. */
  readonly ours: boolean;
  readonly kind: ClientKind;
  /** Barman's grading of what a commit could rely on now: `3/3 Remote write`. Null when the server's position is not known. */
  readonly syncStage: string | null;
  readonly progress: Readonly<Record<Stage, Progress>>;
}

/** By what our own receiver is known. */
export interface OwnReceiver {
  /** `streaming_archiver_name` */
  readonly applicationName: string;
  readonly slotName: string | null;
}

/** Does this row belong to our own receiver? */
export function isOwnReceiver({ applicationName, slotName }: ReplicationClient, own: OwnReceiver): boolean {
  return own.slotName === null || slotName === null
    ? applicationName === own.applicationName
    : slotName === own.slotName;
}

/** PostgreSQL shows only that there is a client: the role may not see more. */
export function isHidden({ state, sentLsn, backendStart }: ReplicationClient): boolean {
  return state === null && sentLsn === null && backendStart === null;
}

/** Clients as they are shown: our own first, then the synchronous ones by priority. */
export function describeClients(
  clients: readonly ReplicationClient[],
  currentLsn: Lsn | null,
  own: OwnReceiver,
): StreamingClient[] {
  return clients
    .map((client) => describe(client, currentLsn, isOwnReceiver(client, own)))
    .sort((a, b) => Number(b.ours) - Number(a.ours) || rank(a) - rank(b) || a.client.pid - b.client.pid);
}

function describe(client: ReplicationClient, currentLsn: Lsn | null, ours: boolean): StreamingClient {
  const kind = client.replayLsn === null ? 'wal-streamer' : 'hot-standby';
  const progress = {
    sent: progressTo(client.sentLsn, currentLsn, null),
    write: progressTo(client.writeLsn, currentLsn, client.writeLag),
    flush: progressTo(client.flushLsn, currentLsn, client.flushLag),
    replay: progressTo(client.replayLsn, currentLsn, client.replayLag),
  };
  return { client, ours, kind, progress, syncStage: currentLsn === null ? null : syncStage(kind, progress) };
}

function progressTo(lsn: Lsn | null, currentLsn: Lsn | null, lagMs: number | null): Progress {
  // PostgreSQL also tells times of a stage that pg_receivewal never reaches.
  if (lsn === null) return { lsn, lagBytes: null, lagMs: null };
  // A client can be ahead of a position that was asked for a moment earlier.
  const lagBytes = currentLsn === null ? null : lsn > currentLsn ? 0 : Number(currentLsn - lsn);
  return { lsn, lagBytes, lagMs };
}

/** Barman's stages (output.py, replication_status). */
function syncStage(kind: ClientKind, { sent, write, flush, replay }: StreamingClient['progress']): string {
  const standby = kind === 'hot-standby';
  if (standby && replay.lagBytes === 0) return '5/5 Hot standby (max)';
  if (standby && flush.lagBytes === 0) return '4/5 2-safe';
  const max = standby ? 5 : 3;
  if (write.lagBytes === 0) return `3/${max} Remote write`;
  return sent.lagBytes === 0 ? `2/${max} WAL Sent (min)` : `1/${max} 1-safe`;
}

const SYNC_STATES = ['sync', 'quorum', 'potential', 'async'];

function rank({ client: { syncState, syncPriority } }: StreamingClient): number {
  const at = SYNC_STATES.indexOf(syncState ?? '');
  return (at === -1 ? SYNC_STATES.length : at) * 1_000 + (syncPriority ?? 0);
}
