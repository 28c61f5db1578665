/** Smaller ones are not worth keeping. */
const WORTH_KEEPING = 1024 * 1024;

/**
 * Memory that files were held in as a whole, for the next ones of the same size.
 * Once freed, buffers of this size often stay with the process: the allocator
 * takes them from its heap after the first few, and a heap has gaps.
 */
export class SpareBuffers {
  readonly #most: number;
  #size = 0;
  #spare: ArrayBuffer[] = [];

  /** Keeps so many of them. */
  constructor(most: number) {
    this.#most = most;
  }

  take(size: number): ArrayBuffer {
    if (size < WORTH_KEEPING) return new ArrayBuffer(size);
    if (size !== this.#size) this.clear();
    this.#size = size;
    return this.#spare.pop() ?? new ArrayBuffer(size);
  }

  /** Nobody reads or writes it any more. False when it is not kept. */
  give(buffer: ArrayBuffer): boolean {
    if (buffer.byteLength !== this.#size || this.#spare.length >= this.#most) return false;
    this.#spare.push(buffer);
    return true;
  }

  clear(): void {
    this.#spare = [];
  }
}
