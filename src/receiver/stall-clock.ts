import type { Lsn } from '../wal/lsn.ts';

/** What is seen at one look while pg_receivewal streams. What is unknown is null, and never speaks for a stall. */
export interface StreamLook {
  /** By a clock that only goes forward, in milliseconds. */
  readonly at: number;
  /** Another text whenever something was written: the newest file in streaming and its time. */
  readonly received: string;
  /** Where the segment of that file ends: nothing from there on was received. */
  readonly receivedBelow: Lsn | null;
  /** Up to where the server could send; looked at after what was received, so that what it says more later came later. */
  readonly sendable: Lsn | null;
  /** What pg_receivewal has told the server that it has written. */
  readonly written: Lsn | null;
}

/**
 * Tells a pg_receivewal that hangs from a server that has nothing to send: since
 * when the server has been ahead, at every look, and nothing was received.
 */
export class StallClock {
  /** The first look that saw what was received last, and what is known since. */
  #base: StreamLook | null = null;
  #last: Lsn | null = null;
  #asked = false;
  #aheadSince: number | null = null;

  /** Whether {@link StreamLook.written} could change the verdict: it takes a connection more to ask for it. */
  needsWritten({ received, sendable }: Pick<StreamLook, 'received' | 'sendable'>): boolean {
    if (this.#base?.received !== received) return false;
    return !this.#asked || this.#aheadSince !== null || sendable === null || sendable !== this.#last;
  }

  /** Takes a look into account. Since when the server has been ahead, by the clock of the looks; null while it isn't. */
  see(look: StreamLook): number | null {
    const base = this.#base;
    this.#last = look.sendable;
    if (base?.received !== look.received || isProgress(base.written, look.written)) {
      this.#base = look;
      this.#asked = look.written !== null;
      this.#aheadSince = null;
      return null;
    }
    this.#asked = true;
    const known = { ...base, sendable: base.sendable ?? look.sendable, written: look.written ?? base.written };
    this.#base = known;
    this.#aheadSince = isAhead(known, look) ? (this.#aheadSince ?? look.at) : null;
    return this.#aheadSince;
  }
}

function isProgress(before: Lsn | null, now: Lsn | null): boolean {
  return before !== null && now !== null && before !== now;
}

function isAhead({ sendable: then, written }: StreamLook, { sendable, receivedBelow }: StreamLook): boolean {
  if (sendable === null) return false;
  if (written !== null) return sendable > written;
  // Written by the server after all was received that was; or in a segment that nothing was received of.
  return (then !== null && sendable > then) || (receivedBelow !== null && sendable > receivedBelow);
}
