import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';

/** Small enough that uploads in parallel share the rate, large enough to cost nothing. */
const CHUNK = 64 * 1024;

/** So many milliseconds of the rate may be sent at once after a pause. */
const BURST_MS = 100;

/** A rate that several uploads share, in order of their asking. */
export class BandwidthLimit {
  readonly #bytesPerMs: number;
  readonly #now: () => number;
  /** When everything that was promised so far will have been sent. */
  #busyUntil = Number.NEGATIVE_INFINITY;

  /** `now` is a clock in milliseconds that never goes back. */
  constructor(bytesPerSecond: number, now: () => number = () => performance.now()) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#now = now;
  }

  /** Promises so many bytes their place; returns the milliseconds to wait before they are sent. */
  reserve(bytes: number): number {
    const now = this.#now();
    const start = Math.max(this.#busyUntil, now - BURST_MS);
    this.#busyUntil = start + bytes / this.#bytesPerMs;
    return Math.max(0, start - now);
  }

  /** The bytes as a stream that keeps to the limit. Destroying it ends the waiting. */
  stream(bytes: Uint8Array): Readable {
    const stop = new AbortController();
    const stream = Readable.from(this.#chunks(bytes, stop.signal), { objectMode: false, highWaterMark: CHUNK });
    stream.once('close', () => stop.abort());
    return stream;
  }

  async *#chunks(bytes: Uint8Array, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    // A slow link gets smaller pieces, or each would take seconds and look like a stall.
    const size = Math.max(1, Math.min(CHUNK, Math.floor(this.#bytesPerMs * BURST_MS)));
    for (let at = 0; at < bytes.length; at += size) {
      const chunk = bytes.subarray(at, at + size);
      const wait = this.reserve(chunk.length);
      try {
        if (wait > 0) await delay(wait, undefined, { signal });
      } catch {
        return; // nobody reads on
      }
      yield chunk;
    }
  }
}
