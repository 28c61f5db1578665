import type { CompressionName } from '../../compression/codec.ts';
import type { WalFileInfo } from '../../wal/wal-file-info.ts';
import { parseWalName, walKind, type WalName } from '../../wal/wal-name.ts';
import type { StoredSize, StoredWal } from '../wal-storage-strategy.ts';
import type { ObjectFacts } from './get-object.ts';
import type { ListedObject } from './list-objects.ts';
import type { ObjectStore } from './object-store.ts';
import {
  buildWalObjectKey,
  formatS3Url,
  parseWalObjectKey,
  walKeyStem,
  walsPrefix,
  type WalRoot,
} from './wal-object-key.ts';
import { parseWalObjectMetadata } from './wal-object-metadata.ts';

/** Objects that are looked at at the same time when all are. */
const LOOKS = 32;

/** Files that a listing gives at a time. */
const PAGE = 1000;

/** The WAL files in a bucket, whoever stored them. Reading only. */
export class WalObjects {
  readonly #store: ObjectStore;
  readonly #root: WalRoot;
  readonly #usual: CompressionName | null;
  readonly #signal: AbortSignal | undefined;

  /** `usual`: the compression that most files have. */
  constructor(store: ObjectStore, root: WalRoot, usual: CompressionName | null, signal?: AbortSignal) {
    this.#store = store;
    this.#root = root;
    this.#usual = usual;
    this.#signal = signal;
  }

  /** Where a file would be stored now. */
  usualKey(name: WalName): string {
    return buildWalObjectKey(this.#root, name, this.#usual);
  }

  url(key: string): string {
    return formatS3Url(this.#store.settings.bucket, key);
  }

  /** The keys of a file; more than one when it was stored with several compressions. */
  async keysOf(name: WalName): Promise<string[]> {
    const keys: string[] = [];
    const objects = this.#store.list(walKeyStem(this.#root, name), { signal: this.#signal });
    for await (const { key } of objects) if (parseWalObjectKey(this.#root, key)?.name === name) keys.push(key);
    return keys;
  }

  /** The stored bytes; null only when there is certainly no such file. */
  read(name: WalName): Promise<StoredWal | null> {
    return this.#first(name, (key) => this.readKey(key));
  }

  async readKey(key: string): Promise<StoredWal | null> {
    const object = await this.#store.get(key, { signal: this.#signal });
    if (object === null) return null;
    const said = async (): Promise<(string | null)[]> => compressionsSaid(this.#root, object);
    return { path: this.url(key), bytes: object.bytes, mtime: mtimeOf(object), said };
  }

  /** What the object says of itself; null only when there is certainly no such file. */
  async describe(name: WalName): Promise<WalFileInfo | null> {
    const facts = await this.look(name);
    return facts === null ? null : infoOf(this.#root, name, facts);
  }

  /** One request where the file has the usual compression. */
  look(name: WalName): Promise<ObjectFacts | null> {
    return this.#first(name, (key) => this.#store.head(key, { signal: this.#signal }));
  }

  /** Under the usual key, or else under any. */
  async #first<T>(name: WalName, ask: (key: string) => Promise<T | null>): Promise<T | null> {
    const usual = this.usualKey(name);
    const found = await ask(usual);
    if (found !== null) return found;
    for (const key of await this.keysOf(name)) {
      const other = await ask(key);
      if (other !== null) return other;
    }
    return null;
  }

  /** All files, by name; each is looked at, several at a time. */
  async *list(): AsyncGenerator<WalFileInfo> {
    const looks: Promise<WalFileInfo | null>[] = [];
    for await (const [name, objects] of this.#byName()) {
      const look = this.#describeOne(
        name,
        objects.map(({ key }) => key),
      );
      // It is awaited in its turn, which another's failure may come before.
      look.catch(() => {});
      looks.push(look);
      if (looks.length < LOOKS) continue;
      const info = await looks.shift();
      if (info) yield info;
    }
    for (const look of looks) {
      const info = await look;
      if (info !== null) yield info;
    }
  }

  /** All files with their sizes, by name, a page at a time: the listing tells, no object is looked at. */
  async *listSizes(): AsyncGenerator<readonly StoredSize[]> {
    let page: StoredSize[] = [];
    for await (const [name, objects] of this.#byName()) {
      page.push({ name, sizes: objects.map(({ size }) => size) });
      if (page.length < PAGE) continue;
      yield page;
      page = [];
    }
    yield page;
  }

  async #describeOne(name: WalName, keys: readonly string[]): Promise<WalFileInfo | null> {
    const usual = this.usualKey(name);
    const [key = usual] = keys.includes(usual) ? [usual] : keys;
    const facts = await this.#store.head(key, { signal: this.#signal });
    return facts === null ? null : infoOf(this.#root, name, facts);
  }

  /** Names with their objects, in the order of the names: an extension sorts a segment behind its backup labels. */
  async *#byName(): AsyncGenerator<[WalName, ListedObject[]]> {
    let segment: string | null = null;
    let names = new Map<WalName, ListedObject[]>();
    const inOrder = (): [WalName, ListedObject[]][] => [...names].sort(([a], [b]) => (a < b ? -1 : 1));
    for await (const object of this.#store.list(walsPrefix(this.#root), { signal: this.#signal })) {
      const parsed = parseWalObjectKey(this.#root, object.key);
      if (parsed === null) continue;
      const [stem = ''] = parsed.name.split('.');
      if (stem !== segment) {
        yield* inOrder();
        [segment, names] = [stem, new Map()];
      }
      names.set(parsed.name, [...(names.get(parsed.name) ?? []), object]);
    }
    yield* inOrder();
  }

  /** The first segments of the archive, up to so many. */
  async firstSegments(count: number): Promise<WalName[]> {
    const names = new Set<WalName>();
    for await (const { key } of this.#store.list(walsPrefix(this.#root), { signal: this.#signal })) {
      const name = parseWalObjectKey(this.#root, key)?.name;
      if (name !== undefined && walKind(name) === 'segment') names.add(name);
      if (names.size === count) break;
    }
    return [...names];
  }

  /** Bytes of a segment, as the object of one says; null when it doesn't. */
  async segmentSize(name: WalName): Promise<number | null> {
    if (walKind(name) !== 'segment' || parseWalName(name) === undefined) return null;
    const facts = await this.look(name);
    return facts === null ? null : parseWalObjectMetadata(facts.metadata).size;
  }
}

/** The catalogue's facts; of an object that others stored, as far as its key and its time tell. */
export function infoOf(root: WalRoot, name: WalName, facts: ObjectFacts): WalFileInfo {
  const { compression, encryption } = parseWalObjectMetadata(facts.metadata);
  return {
    name,
    size: facts.size,
    mtime: mtimeOf(facts),
    compression: compression === undefined ? (parseWalObjectKey(root, facts.key)?.compression ?? null) : compression,
    encryption: encryption ?? null,
  };
}

/** What the metadata and the key say of the compression, in this order. */
function compressionsSaid(root: WalRoot, { metadata, key }: ObjectFacts): (string | null)[] {
  const { compression } = parseWalObjectMetadata(metadata);
  const ofKey = parseWalObjectKey(root, key)?.compression ?? null;
  return compression === undefined ? [ofKey] : [compression, ofKey];
}

function mtimeOf({ metadata, modifiedMs }: ObjectFacts): number {
  return parseWalObjectMetadata(metadata).mtime ?? (modifiedMs ?? 0) / 1000;
}
