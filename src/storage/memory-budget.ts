/** Larger files than this take turns. */
const LARGE = 64 * 1024 * 1024;
const USUAL = 16 * 1024 * 1024;

/**
 * Bounds the memory of files that are held as a whole. In order of asking;
 * whoever comes when nobody has any gets what it wants, or it would never.
 */
export class MemoryBudget<Owner extends object> {
  readonly #files: number;
  #capacity: number;
  #used = 0;
  readonly #taken = new Map<Owner, number>();
  readonly #waiting: (() => boolean)[] = [];

  /** Room for so many files of a usual size, or of up to 64 MiB once such come. */
  constructor(files: number) {
    this.#files = files;
    this.#capacity = files * USUAL;
  }

  /** Resolves once there is room. */
  take(owner: Owner, bytes: number): Promise<void> {
    this.#capacity = Math.max(this.#capacity, this.#files * Math.min(bytes, LARGE));
    return new Promise((resolve) => {
      this.#waiting.push(() => {
        if (this.#used > 0 && this.#used + bytes > this.#capacity) return false;
        this.#set(owner, bytes);
        resolve();
        return true;
      });
      this.#serve();
    });
  }

  /** It needs less from now on; 0 for nothing any more, which may be said again. */
  shrink(owner: Owner, bytes: number): void {
    if (!this.#taken.has(owner)) return;
    this.#set(owner, bytes);
    this.#serve();
  }

  #set(owner: Owner, bytes: number): void {
    this.#used += bytes - (this.#taken.get(owner) ?? 0);
    if (bytes === 0) this.#taken.delete(owner);
    else this.#taken.set(owner, bytes);
  }

  #serve(): void {
    while (this.#waiting[0]?.() === true) this.#waiting.shift();
  }
}
