/** Addresses that are remembered. */
const MAX_CLIENTS = 1000;

/** Whoever is refused again and again is told of in the log every now and then. */
export class RefusedClients {
  readonly #everyMs: number;
  /** By performance.now(), the oldest first. */
  readonly #toldAt = new Map<string, number>();

  constructor(everyMs: number) {
    this.#everyMs = everyMs;
  }

  /** Whether it is worth a line that this address was refused; no for a while then. */
  isNews(client: string): boolean {
    const now = performance.now();
    const toldAt = this.#toldAt.get(client);
    if (toldAt !== undefined && now - toldAt < this.#everyMs) return false;
    this.#toldAt.delete(client);
    this.#toldAt.set(client, now);
    const [oldest] = this.#toldAt.keys();
    if (this.#toldAt.size > MAX_CLIENTS && oldest !== undefined) this.#toldAt.delete(oldest);
    return true;
  }
}
