import type { Lsn } from '../wal/lsn.ts';
import type { TimelineSwitch } from '../wal/timeline-history.ts';

/** A place in the WAL of one timeline. */
export interface TimelinePosition {
  readonly timeline: number;
  readonly lsn: Lsn;
}

/** Where a server is, and how it came there. */
export interface ServerHistory extends TimelinePosition {
  /** The timelines that its own descends from. */
  readonly history: readonly TimelineSwitch[];
}

/** Whether a server can send WAL from a position on. */
export type Standing =
  | { readonly reachable: true }
  /** `ahead`: the server has not written that much. `diverged`: its history left that timeline before. `unknown`: it was never on that timeline. */
  | { readonly reachable: false; readonly why: 'ahead' | 'unknown' }
  | { readonly reachable: false; readonly why: 'diverged'; readonly switchPoint: Lsn };

/** What START_REPLICATION would say (PostgreSQL: replication/walsender.c, StartReplication). */
export function judgePosition(position: TimelinePosition, server: ServerHistory): Standing {
  if (position.timeline === server.timeline) {
    return position.lsn <= server.lsn ? { reachable: true } : { reachable: false, why: 'ahead' };
  }
  const left = server.history.find(({ timeline }) => timeline === position.timeline);
  if (left === undefined) return { reachable: false, why: 'unknown' };
  return position.lsn <= left.switchPoint
    ? { reachable: true }
    : { reachable: false, why: 'diverged', switchPoint: left.switchPoint };
}

/** The timeline on which a server wrote the WAL at an LSN. */
export function timelineAt(lsn: Lsn, server: ServerHistory): number {
  return server.history.find(({ switchPoint }) => lsn < switchPoint)?.timeline ?? server.timeline;
}
