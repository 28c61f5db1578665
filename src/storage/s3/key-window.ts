import type { WalName } from '../../wal/wal-name.ts';
import type { ObjectStore } from './object-store.ts';
import { parseWalObjectKey, walKeyStem, walsPrefix, type WalRoot } from './wal-object-key.ts';

/** Keys of one look; S3 gives no more with one answer. */
const PAGE = 1000;

/**
 * Which objects a bucket holds for a name, whatever their extension, with one
 * listing for all names that lie together: an archive grows at its end, so
 * what is listed behind the first name of a batch is little. It is what the
 * bucket held at the moment of the listing: make a new one for every batch.
 */
export class KeyWindow {
  readonly #store: ObjectStore;
  readonly #root: WalRoot;
  readonly #signal: AbortSignal | undefined;
  /** Everything from here on, up to `#until`, is in `#keys`. */
  #from: string | null = null;
  /** Null: to the end. */
  #until: string | null = null;
  #keys = new Map<WalName, string[]>();
  /** One look at a time: who comes next probably finds what it wants in it. */
  #looking: Promise<unknown> = Promise.resolve();

  constructor(store: ObjectStore, root: WalRoot, signal?: AbortSignal) {
    this.#store = store;
    this.#root = root;
    this.#signal = signal;
  }

  /** The keys of a name's objects, in their order. Throws when the bucket can't be listed. */
  keysOf(name: WalName): Promise<readonly string[]> {
    const looked = this.#looking.then(async () => {
      if (!this.#covers(name)) await this.#look(name);
      return this.#keys.get(name) ?? [];
    });
    this.#looking = looked.catch(() => {});
    return looked;
  }

  #covers(name: WalName): boolean {
    const stem = walKeyStem(this.#root, name);
    if (this.#from === null || stem < this.#from) return false;
    // All that begins with the stem has to lie before the end.
    return this.#until === null || (stem < this.#until && !this.#until.startsWith(stem));
  }

  async #look(name: WalName): Promise<void> {
    const stem = walKeyStem(this.#root, name);
    const keys = new Map<WalName, string[]>();
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
    [this.#from, this.#until, this.#keys] = [stem, until, keys];
  }
}
