import type { CompressionSettings } from '../../compression/codec.ts';
import { messageOf, WalwardenError } from '../../errors.ts';
import type { WalName } from '../../wal/wal-name.ts';
import { packReplacement, type Replacement, type ReplaceResult, type StoredCopy } from '../replacement.ts';
import type { ReadingKeys } from '../stored-content.ts';
import type { ObjectStore } from './object-store.ts';
import { buildWalObjectKey, formatS3Url, parseWalObjectKey, walsPrefix, type WalRoot } from './wal-object-key.ts';
import { formatWalObjectMetadata } from './wal-object-metadata.ts';
import type { WalObjects } from './wal-objects.ts';

export interface ObjectReplacementParts {
  readonly store: ObjectStore;
  readonly objects: WalObjects;
  readonly root: WalRoot;
  readonly compression: CompressionSettings | null;
  readonly encryption: { readonly keyId: string; readonly homedir?: string | undefined } | null;
  readonly keys: ReadingKeys;
  readonly version: string;
  readonly signal?: AbortSignal | undefined;
}

/** Puts one object of the archive in the place of another, under the same key. */
export class ObjectReplacement {
  readonly #parts: ObjectReplacementParts;

  constructor(parts: ObjectReplacementParts) {
    this.#parts = parts;
  }

  /** Every object of this name, whatever its key says of its compression. */
  async copies(name: WalName): Promise<readonly StoredCopy[]> {
    const { objects, root } = this.#parts;
    const copies: StoredCopy[] = [];
    for (const key of await objects.keysOf(name)) {
      const copy = await this.#read(key);
      if (copy !== null) copies.push({ ...copy, compression: parseWalObjectKey(root, key)?.compression });
    }
    return copies;
  }

  async #read(key: string): Promise<StoredCopy | null> {
    const { store, signal } = this.#parts;
    const path = formatS3Url(store.settings.bucket, key);
    try {
      const object = await store.get(key, { signal, evenDamaged: true });
      if (object === null) return null;
      return { path, version: object.etag ?? '', content: object.bytes, mtime: (object.modifiedMs ?? 0) / 1000 };
    } catch (error) {
      if (!(error instanceof WalwardenError) || error.code === 'aborted') throw error;
      const found = await store.head(key, { signal }).catch(() => null);
      return { path, version: found?.etag ?? '', content: { reason: messageOf(error), lost: false }, mtime: 0 };
    }
  }

  /** The endpoint's condition decides whether it still is the object that was judged; that one is copied aside first. */
  async exchange(old: StoredCopy, by: Replacement): Promise<ReplaceResult> {
    const { store, encryption, keys, version, signal } = this.#parts;
    const { bucket } = store.settings;
    const key = old.path.slice(formatS3Url(bucket, '').length);
    const aside = this.#asideKey(key, old.version);
    if ((store.capabilities?.ifMatch ?? 'none') === 'none' || old.version === '') {
      return {
        outcome: 'refused',
        reason: 'the endpoint does not enforce If-Match, so another writer could be overwritten',
        byHand: `while nothing else writes there, copy ${old.path} to ${formatS3Url(bucket, aside)} and delete ${old.path}`,
      };
    }
    const changed: ReplaceResult = {
      outcome: 'refused',
      reason: `${old.path} is another object than the one that was judged, or gone`,
    };
    const compression = this.#compressionOf(key, by.name);
    const packed = await packReplacement(by, { compression, encryption, custom: keys.custom }, true);
    if ((await store.head(aside, { signal })) === null) {
      if (!(await store.copyObject(key, old.version, aside, { signal }))) return changed;
    }
    const kept = formatS3Url(bucket, aside);
    // Not every endpoint enforces a condition on what is copied.
    const there = await store.get(aside, { signal, evenDamaged: true });
    if (there === null || !Buffer.isBuffer(old.content) || !there.bytes.equals(old.content)) {
      throw new WalwardenError('storage', `${kept} is not there as a copy of ${old.path} after it was made`, {
        hint: 'nothing was replaced; does something delete objects there?',
      });
    }
    const outcome = await store.replaceObject(key, old.version, packed.stored, {
      sha256: packed.digests.stored,
      signal,
      metadata: formatWalObjectMetadata({
        size: by.plain.length,
        sha256: packed.digests.plain,
        mtime: by.mtime,
        compression: compression?.compression ?? null,
        encryption: encryption === null ? null : 'gpg',
        version,
      }),
    });
    return outcome === 'changed' ? changed : { outcome: 'replaced', info: packed.info, kept };
  }

  /** Beside the WAL, where nothing takes it for a part of the archive. The same object comes to the same place, however often. */
  #asideKey(key: string, etag: string): string {
    const base = walsPrefix(this.#parts.root);
    const name = key.slice(key.lastIndexOf('/') + 1);
    return `${base.replace(/wals\/$/, 'walwarden/damaged/')}${name}${etag === '' ? '' : `.${etag}`}`;
  }

  /** The key says it, and stays. As configured where that is the same. */
  #compressionOf(key: string, name: WalName): CompressionSettings | null {
    const { root, compression } = this.#parts;
    if (buildWalObjectKey(root, name, compression?.compression ?? null) === key) return compression;
    const inKey = parseWalObjectKey(root, key)?.compression ?? null;
    return inKey === null ? null : { compression: inKey };
  }
}
