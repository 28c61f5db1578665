import type { WalName } from '../../wal/wal-name.ts';
import type { ObjectStore } from './object-store.ts';
import { parseWalObjectKey, walKeyStem, walsPrefix, type WalRoot } from './wal-object-key.ts';

/** A batch may take hours, and others may write to the bucket: what was seen is looked at again after so long, in milliseconds. */
const VALID_MS = 30_000;

/** Keys of one look; S3 gives no more with one answer. */
const PAGE = 1000;

/**
 * Which objects a bucket holds for a name, whatever their extension, with one
 * listing for all names that lie together: an archive grows at its end, so
 * what is listed behind the first name of a batch is little. It is what the
 * bucket held at the moment of the listing, and what was noted since: make a
 * new one for every batch.
 */
export class KeyWindow {
  readonly #store: ObjectStore;
  readonly #root: WalRoot;
  readonly #signal: AbortSignal | undefined;
  readonly #now: () => number;
  /** Everything from here on, up to `#until`, is in `#keys`. */
  #from: string | null = null;
  /** Null: to the end. */
  #until: string | null = null;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #keys = new Map<WalName, string[]>();
  readonly #noted = new Map<WalName, string[]>();
  /** One look at a time: who comes next probably finds what it wants in it. */
  #looking: Promise<unknown> = Promise.resolve();

  /** `now` is a clock in milliseconds that never goes back. */
  constructor(store: ObjectStore, root: WalRoot, signal?: AbortSignal, now: () => number = () => performance.now()) {
    this.#now = now;
    this.#store = store;
    this.#root = root;
    this.#signal = signal;
  }

  /** The keys of a name's objects, in their order. Throws when the bucket can't be listed. */
  keysOf(name: WalName): Promise<readonly string[]> {
    const looked = this.#looking.then(async () => {
      if (!this.#covers(name)) await this.#look(name);
      return [...new Set([...(this.#keys.get(name) ?? []), ...(this.#noted.get(name) ?? [])])].sort();
    });
    this.#looking = looked.catch(() => {});
    return looked;
  }

  /** There is an object that the listing may not show yet. */
  note(name: WalName, key: string): void {
    const noted = this.#noted.get(name) ?? [];
    if (!noted.includes(key)) this.#noted.set(name, [...noted, key]);
    // Names come in order, so what was noted long ago is asked for no more.
    const [oldest] = this.#noted.keys();
    if (this.#noted.size > PAGE && oldest !== undefined) this.#noted.delete(oldest);
  }

  #covers(name: WalName): boolean {
    const stem = walKeyStem(this.#root, name);
    if (this.#from === null || stem < this.#from || this.#now() - this.#lookedAt > VALID_MS) return false;
    // All that begins with the stem has to lie before the end.
    return this.#until === null || (stem < this.#until && !this.#until.startsWith(stem));
  }

  async #look(name: WalName): Promise<void> {
    const stem = walKeyStem(this.#root, name);
    const keys = new Map<WalName, string[]>();
    const lookedAt = this.#now();
    let until: string | null = null;
    let seen = 0;
    // A listing begins behind a key; the stem itself, which is the key of an uncompressed file, has to be in it.
    const startAfter = stem.slice(0, -1);
    const options = { startAfter, pageSize: PAGE, signal: this.#signal };
    for await (const { key } of this.#store.list(walsPrefix(this.#root), options)) {
      const parsed = parseWalObjectKey(this.#root, key);
      if (parsed !== null) keys.set(parsed.name, [...(keys.get(parsed.name) ?? []), key]);
      seen += 1;
      if (seen === PAGE) {
        until = key;
        break;
      }
    }
    [this.#from, this.#until, this.#keys, this.#lookedAt] = [stem, until, keys, lookedAt];
  }
}
