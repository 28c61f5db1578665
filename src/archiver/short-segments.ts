import { join } from 'node:path';
import { messageOf, WalwardenError } from '../errors.ts';
import { placesOf } from '../storage/claim.ts';
import { collectGarbage } from '../compression/collect-garbage.ts';
import { isS3Failure } from '../storage/s3/s3-failure.ts';
import { readSource } from '../storage/sources.ts';
import type { ReadingKeys } from '../storage/stored-content.ts';
import type { Unpacker } from '../storage/unpacker.ts';
import type { WaitingWal, WalStorageStrategy } from '../storage/wal-storage-strategy.ts';
import { continuationOf, endInside } from '../wal/inner-end.ts';
import { partialName, walKind, type WalName } from '../wal/wal-name.ts';
import { shortDelivery, type ShortDeliveries, type ShortDelivery } from './short-deliveries.ts';
import { readGrowing, readWaiting } from './wal-finder.ts';

export interface ShortSegmentsParts {
  readonly strategy: Pick<WalStorageStrategy, 'read'>;
  readonly streaming: string;
  /** Where files of streaming are claimed. */
  readonly claims: string;
  readonly keys: ReadingKeys;
  readonly unpacker: Pick<Unpacker, 'unpack' | 'plainBytes'>;
  readonly deliveries: ShortDeliveries;
}

export interface Decision {
  /** The name to store it under: its own, or that of a partial segment. */
  readonly stored: WalName;
  /** To be remembered before it is stored; null when it is already, or there is nothing to be remembered. */
  readonly delivery: ShortDelivery | null;
}

/**
 * Decides under which name a segment is stored whose WAL ends inside. Where
 * streaming or the archive has a copy that begins with all of this WAL and goes
 * on, that copy is the segment, and this one a partial one: under the full name
 * it would keep the longer one out of the archive for ever.
 */
export class ShortSegments {
  readonly #parts: ShortSegmentsParts;

  constructor(parts: ShortSegmentsParts) {
    this.#parts = parts;
  }

  /**
   * The name under which a waiting file is to be stored; null when it is no more
   * what it was. Throws `source` when it can't be told because of what is in
   * streaming. The caller holds the archive-wal lock.
   */
  async nameOf(wal: WaitingWal): Promise<WalName | null> {
    const name = await this.#decideOn(wal);
    // Of this thread nothing else makes the collector come for what was read; only here no variable holds it any more.
    collectGarbage(Number(wal.identity.size));
    return name;
  }

  async #decideOn(wal: WaitingWal): Promise<WalName | null> {
    const bytes = await readSource(wal);
    if (bytes === null) return null;
    const { plain } = await this.#parts.unpacker.unpack(bytes, wal.name);
    const { stored, delivery } = await this.decide(wal.name, plain, wal.path);
    if (delivery !== null) await this.#parts.deliveries.add(delivery);
    return stored;
  }

  /** The same for plain bytes, to be decided once more later. `own`: where they lie themselves, which is no other copy. */
  async decide(name: WalName, plain: Buffer, own?: string): Promise<Decision> {
    const end = walKind(name) === 'segment' ? endInside(plain) : null;
    if (end === null) return { stored: name, delivery: null };
    const archived = await this.#archived(name);
    // It was stored before, when nothing longer was known; its line may still be due.
    if (archived?.equals(plain) === true) return { stored: name, delivery: null };
    const partial = partialName(name);
    const delivery = shortDelivery(name, plain, end);
    // As decided before, though the longer copy may be gone since.
    if (await this.#parts.deliveries.has(delivery)) return { stored: partial, delivery: null };
    const goesOn = (copy: Buffer | null): boolean =>
      copy !== null && continuationOf(padded(copy, plain.length), plain, end) === 'goes on';
    const isKnown =
      goesOn(archived) || goesOn(await this.#archived(partial)) || (await this.#isInStreaming(name, goesOn, own));
    return isKnown ? { stored: partial, delivery } : { stored: name, delivery: null };
  }

  /** Null also for what can't be read back: it proves nothing. */
  async #archived(name: WalName): Promise<Buffer | null> {
    const { strategy, keys, unpacker } = this.#parts;
    try {
      const stored = await strategy.read(name);
      return stored === null ? null : await unpacker.plainBytes(stored, name, keys);
    } catch (error) {
      if (!(error instanceof WalwardenError)) throw error;
      // An endpoint that gives no answer is another matter.
      if (error.code === 'storage' && !isS3Failure(error, 'cold')) throw error;
      return null;
    }
  }

  /** In the order in which a file moves there. */
  async #isInStreaming(name: WalName, goesOn: (copy: Buffer) => boolean, own: string | undefined): Promise<boolean> {
    const { streaming, claims } = this.#parts;
    const partial = join(streaming, partialName(name));
    const looks = [
      [partial, readGrowing],
      ...placesOf(streaming, claims, name).map((path) => [path, readWaiting] as const),
    ] as const;
    for (const [path, read] of looks) {
      if (path === own) continue;
      try {
        const found = await read(path);
        if (found !== null && goesOn(found.bytes)) return true;
      } catch (error) {
        // Should it hold more, the name would be taken by what holds less.
        throw new WalwardenError('source', `whether ${path} holds more of ${name} can't be told: ${messageOf(error)}`, {
          cause: error,
        });
      }
    }
    return false;
  }
}

/** pg_receivewal fills a partial segment up with zeros, unless it is killed while it does. */
function padded(copy: Buffer, size: number): Buffer {
  return copy.length < size ? Buffer.concat([copy, Buffer.alloc(size - copy.length)]) : copy;
}
