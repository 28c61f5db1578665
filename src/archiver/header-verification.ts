import type { OpaqueWal } from '../wal/verify.ts';
import type { RememberedSegmentSize } from './segment-size.ts';

/** A server that gave no answer is asked again after so many milliseconds: not once for every file. */
const ASK_AGAIN_MS = 10_000;

export interface SegmentSizeSources {
  /** `wal_segment_size`, in bytes; null where it is not set. */
  readonly configured: number | null;
  readonly remembered: RememberedSegmentSize;
  /** What the server says; null when it can't be asked. Never rejects. */
  readonly ask: () => Promise<number | null>;
}

/**
 * Whether the headers of a server's WAL are verified (`verify_wal_header`), and
 * what takes their place where they aren't: the size of its segments, which is
 * set, remembered, or asked from the server.
 */
export class HeaderVerification {
  readonly #enabled: boolean;
  readonly #sources: SegmentSizeSources;
  #known: number | null;
  #asked: { readonly size: Promise<number | null>; readonly at: number } | null = null;

  constructor(enabled: boolean, sources: SegmentSizeSources) {
    this.#enabled = enabled;
    this.#sources = sources;
    this.#known = sources.configured;
  }

  get isOff(): boolean {
    return !this.#enabled;
  }

  /** {@link opaque} as far as it is known now, and again whenever it is looked at: for what is read back, which waits for no server. */
  get current(): OpaqueWal | null {
    return this.#enabled ? null : { segmentSize: this.#known };
  }

  /** Null where headers are verified. */
  async opaque(): Promise<OpaqueWal | null> {
    if (this.#enabled) return null;
    this.#known ??= await this.#segmentSize();
    return { segmentSize: this.#known };
  }

  /** So that the next process knows without asking. */
  async remember(): Promise<void> {
    if (this.#asked !== null && this.#known !== null) await this.#sources.remembered.write(this.#known);
  }

  async #segmentSize(): Promise<number | null> {
    const { remembered, ask } = this.#sources;
    const known = await remembered.read();
    if (known !== null) return known;
    if (this.#asked === null || Date.now() - this.#asked.at >= ASK_AGAIN_MS) {
      this.#asked = { size: ask(), at: Date.now() };
    }
    return this.#asked.size;
  }
}
