import pLimit from 'p-limit';
import { isErrorCode } from '../../errors.ts';
import type { WalFileInfo } from '../../wal/wal-file-info.ts';
import { walKind, type WalName } from '../../wal/wal-name.ts';
import { anotherContent, differenceOf } from '../duplicate.ts';
import { plainBytes, type ReadingKeys, type ReadPlain } from '../stored-content.ts';
import { isAsWritten, type StoredObject } from './get-object.ts';
import type { ObjectStore } from './object-store.ts';
import { isS3Failure, S3Error } from './s3-failure.ts';
import { formatS3Url, type WalRoot } from './wal-object-key.ts';
import { parseWalObjectMetadata } from './wal-object-metadata.ts';
import { infoOf } from './wal-objects.ts';

export type ObjectComparison =
  /** `changed`: the file that was to be compared is no more what it was. */
  | { readonly result: 'absent' | 'changed' }
  | { readonly result: 'same'; readonly info: WalFileInfo }
  | { readonly result: 'different'; readonly reason: string };

/** A file that objects are compared with. */
export interface Compared {
  readonly name: WalName;
  /** SHA-256 of its plain bytes. */
  readonly digest: string;
  /** Its plain bytes, null when it is no more. Only asked for where the digest doesn't decide. */
  readonly incoming: () => Promise<Buffer | null>;
  /** See `CompareOptions`. */
  readonly asShort?: boolean | undefined;
}

/** Tells whether objects hold what a file holds: by what they say of themselves, else by their bytes. */
export class ObjectComparer {
  readonly #store: ObjectStore;
  readonly #root: WalRoot;
  readonly #keys: ReadingKeys;
  readonly #read: ReadPlain;
  readonly #signal: AbortSignal | undefined;
  /** An object, a file, and what both are decompressed to: that is enough in memory at a time. */
  readonly #download = pLimit(1);

  /** `read`: how an object is read back, in this thread without it. */
  constructor(store: ObjectStore, root: WalRoot, keys: ReadingKeys, signal?: AbortSignal, read?: ReadPlain) {
    this.#store = store;
    this.#root = root;
    this.#keys = keys;
    this.#signal = signal;
    this.#read = read ?? ((stored, name) => plainBytes(stored, name, keys));
  }

  /**
   * The same only when all that are there are: which of them a reader gets is
   * not ours to say. Throws when that can't be told now.
   */
  async compareAll(file: Compared, keys: readonly string[]): Promise<ObjectComparison> {
    let found: ObjectComparison = { result: 'absent' };
    for (const key of keys) {
      const comparison = await this.#compare(file, key);
      if (comparison.result === 'different' || comparison.result === 'changed') return comparison;
      if (found.result === 'absent') found = comparison;
    }
    return found;
  }

  async #compare(file: Compared, key: string): Promise<ObjectComparison> {
    const { name, digest } = file;
    const facts = await this.#store.head(key, { signal: this.#signal });
    if (facts === null) return { result: 'absent' };
    const info = infoOf(this.#root, name, facts);
    const { sha256, encryption } = parseWalObjectMetadata(facts.metadata);
    if (sha256 === digest && isAsWritten(facts)) return { result: 'same', info };
    const readable = encryption !== 'gpg' || this.#keys.passphraseCommand !== undefined;
    // Partial segments may differ in what they are filled up with.
    if (sha256 !== null && sha256 !== digest && !(walKind(name) === 'partial' && readable)) {
      return { result: 'different', reason: anotherContent(digest, sha256) };
    }
    return this.#download(() => this.#compareBytes(file, key, info));
  }

  async #compareBytes(
    { name, incoming, asShort = false }: Compared,
    key: string,
    info: WalFileInfo,
  ): Promise<ObjectComparison> {
    let stored: StoredObject | null;
    try {
      stored = await this.#store.get(key, { signal: this.#signal });
    } catch (error) {
      // This file must not keep the others waiting: what lies there does not get better.
      const isLost = isErrorCode(error, 'damaged') && !(error instanceof S3Error);
      if (!isLost && !isS3Failure(error, 'cold')) throw error;
      const why = isLost ? 'is damaged' : "can't be read";
      const url = formatS3Url(this.#store.settings.bucket, key);
      return {
        result: 'different',
        reason: `the archived copy ${url} ${why}, so that nobody can tell whether they are the same: ${error.message}`,
      };
    }
    if (stored === null) return { result: 'absent' };
    const bytes = await incoming();
    if (bytes === null) return { result: 'changed' };
    const reason = await differenceOf(
      name,
      bytes,
      { bytes: stored.bytes, said: async () => [info.compression] },
      this.#read,
      null,
      { asShort },
    );
    return reason === null ? { result: 'same', info } : { result: 'different', reason };
  }
}
