import type { Lsn } from '../wal/lsn.ts';
import { timelineAt, type ServerHistory, type TimelinePosition } from './server-history.ts';

// Whenever pg_receivewal starts with a slot, its first feedback moves the slot to where it starts, backwards too
// (PostgreSQL: replication/walsender.c, PhysicalConfirmReceivedLocation). From a place whose WAL the server has removed
// nothing comes, and a slot that was moved there protects nothing any more. So it is decided first whether, where and
// with what pg_receivewal starts.

/** Where a slot is, and whether the server has the WAL there. */
export type SlotPlace =
  | { readonly state: 'none' } // slot_name is not set
  | { readonly state: 'unknown' } // nothing tells where it is
  | { readonly state: 'empty' } // it has reserved nothing yet
  // `at`: the server may have the WAL there. wal_status can't vouch for that: it goes by max_wal_size before it looks.
  | { readonly state: 'at' | 'gone'; readonly lsn: Lsn };

/** What is archived behind a position, on the server's own history. */
export interface ArchivedRun {
  /** Where the first segment begins that is not archived. */
  readonly end: Lsn;
  /** Why it can't stand in for what was, or will be, received; null when it can. */
  readonly problem: string | null;
}

/** What decides where pg_receivewal starts; undefined: not asked yet. */
export interface StartFacts {
  /** Behind what was received; at the beginning of a segment. */
  readonly position: TimelinePosition;
  readonly server: ServerHistory;
  /** Bytes. */
  readonly segmentSize: number;
  readonly slot: SlotPlace;
  /** Whether the server sends WAL from the position on. */
  readonly sends?: boolean;
  readonly archived?: ArchivedRun;
  /** Whether it sends WAL from {@link targetOf} on. */
  readonly sendsTarget?: boolean;
}

export type StartDecision =
  /** Find this out, and decide again. */
  | { readonly kind: 'ask'; readonly what: 'sends' | 'archived' | 'sendsTarget' }
  /** At the position. `until`: without the slot as far as that, because the slot reserves WAL from there on only. */
  | { readonly kind: 'start'; readonly until: Lsn | null }
  /** Everything up to there is archived, and the slot reserves the rest; `moveSlot`: once it was moved forward to there. */
  | { readonly kind: 'go-on'; readonly at: TimelinePosition; readonly moveSlot: boolean }
  | { readonly kind: 'blocked'; readonly why: BlockedWhy };

export type BlockedWhy =
  | { readonly cause: 'unknown-slot' | 'empty-slot' }
  /** `to`: where receiving could go on; null: where the archive ends the server has no WAL either. */
  | { readonly cause: 'not-archived'; readonly from: Lsn; readonly to: Lsn | null }
  | { readonly cause: 'not-usable'; readonly problem: string };

/** Decides on what is known, or says what has to be asked first. `prove`: also where the slot says that it reserves the position. */
export function decideStart(facts: StartFacts, { prove = false } = {}): StartDecision {
  const { position, slot, sends, archived } = facts;
  const place = placeOf(facts);
  if (!prove && slot.state === 'at' && place !== null && position.lsn >= place) {
    return { kind: 'start', until: null };
  }
  // There is none that could be moved back: pg_receivewal says itself what the server has no longer.
  if (slot.state === 'none') return { kind: 'start', until: null };
  if (sends === undefined) return { kind: 'ask', what: 'sends' };
  if (sends) return { kind: 'start', until: place !== null && position.lsn < place ? place : null };
  if (slot.state === 'unknown' || slot.state === 'empty') {
    return { kind: 'blocked', why: { cause: `${slot.state}-slot` } };
  }
  if (archived === undefined) return { kind: 'ask', what: 'archived' };
  const { end, problem } = archived;
  if (end <= position.lsn) return notArchived(position.lsn, reservedAhead(facts));
  if (problem !== null) return { kind: 'blocked', why: { cause: 'not-usable', problem } };
  const target = targetOf(facts);
  if (end < target) return notArchived(end, target);
  if (facts.sendsTarget === undefined) return { kind: 'ask', what: 'sendsTarget' };
  if (!facts.sendsTarget) return notArchived(end, null);
  const at = { timeline: timelineAt(target, facts.server), lsn: target };
  return { kind: 'go-on', at, moveSlot: reservedAhead(facts) === null };
}

/** Where receiving would go on in place of the position: at the slot, or, where that is of no use, where the archive ends. */
export function targetOf(facts: StartFacts): Lsn {
  return reservedAhead(facts) ?? facts.archived?.end ?? facts.position.lsn;
}

/** As far as it has to be looked what is archived: a segment that is being written can't be. */
export function archiveLimit(facts: StartFacts): Lsn {
  return reservedAhead(facts) ?? segmentStartOf(facts.server.lsn, facts);
}

const notArchived = (from: Lsn, to: Lsn | null): StartDecision => ({
  kind: 'blocked',
  why: { cause: 'not-archived', from, to },
});

/** The slot's place where it is ahead of the position and its WAL may be there. */
function reservedAhead(facts: StartFacts): Lsn | null {
  const place = placeOf(facts);
  return facts.slot.state === 'gone' || place === null || place <= facts.position.lsn ? null : place;
}

/** The server keeps whole segments. */
function placeOf(facts: StartFacts): Lsn | null {
  return 'lsn' in facts.slot ? segmentStartOf(facts.slot.lsn, facts) : null;
}

const segmentStartOf = (lsn: Lsn, { segmentSize }: StartFacts): Lsn => lsn - (lsn % BigInt(segmentSize));
