import type { CustomFilters } from '../compression/codec.ts';
import { collectGarbage } from '../compression/collect-garbage.ts';
import { formatsOf, RECOGNITION_BYTES } from '../compression/codecs.ts';
import type { DeliveredFile } from '../durable/delivered-file.ts';
import { isGpgEncrypted } from '../encryption/gpg.ts';
import { WalwardenError } from '../errors.ts';
import { LONG_PAGE_HEADER_SIZE } from '../wal/page-header.ts';
import { judgeSegment, MAX_TEXT_FILE_SIZE, type OpaqueWal, type Verdict } from '../wal/verify.ts';
import { parseWalName, type WalName } from '../wal/wal-name.ts';
import { asDelivered, unpackDelivered, whyTooLarge, type UnpackedDelivery } from './delivered-content.ts';
import { StagerOnDemand, type Stager } from './stager.ts';
import { isOpaque, plainBytes, type ReadingKeys, type StoredBytes } from './stored-content.ts';

/** Why a file need not be read. */
export type NotRead = Exclude<Verdict, { readonly verdict: 'valid' }>;

/** PostgreSQL's default. */
const USUAL_SEGMENT_SIZE = 16 * 1024 * 1024;

/** Enough to tell what it is. */
const HEAD_BYTES = Math.max(LONG_PAGE_HEADER_SIZE, RECOGNITION_BYTES);

export interface UnpackerSettings {
  readonly custom: CustomFilters | undefined;
  /** Bytes of this server's segments; null while they are not known. */
  readonly segmentSize: () => Promise<number | null>;
  /** Null where headers are verified. */
  readonly opaque?: (() => Promise<OpaqueWal | null>) | undefined;
  /** The process has other things to do: it is done on a thread of its own, one file at a time. */
  readonly resident: boolean;
}

/** Opens what was delivered compressed, and reads back what is compared with it. */
export class Unpacker implements AsyncDisposable {
  readonly #settings: UnpackerSettings;
  readonly #stagers: StagerOnDemand;

  constructor(settings: UnpackerSettings) {
    this.#settings = settings;
    this.#stagers = new StagerOnDemand(settings.resident ? 1 : 0, settings.resident);
  }

  /**
   * Why a delivered file can't be this WAL, by its first bytes and its size: then
   * it need not be read, however large it is. Null when it may be.
   */
  async whyNotRead({ handle, stat }: Pick<DeliveredFile, 'handle' | 'stat'>, name: WalName): Promise<NotRead | null> {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(HEAD_BYTES), 0, HEAD_BYTES, 0);
    const head = buffer.subarray(0, bytesRead);
    const size = Number(stat.size);
    const { custom } = this.#settings;
    if (formatsOf(head, custom?.magic).length > 0) {
      const reason = whyTooLarge(size, name, { segmentSize: await this.#settings.segmentSize() });
      return reason === null ? null : { verdict: 'invalid', reason };
    }
    if (size <= MAX_TEXT_FILE_SIZE) return null;
    const parsed = parseWalName(name);
    if (parsed === undefined || (parsed.kind !== 'segment' && parsed.kind !== 'partial')) {
      return { verdict: 'invalid', reason: `${size} bytes, and no such file has more than ${MAX_TEXT_FILE_SIZE}` };
    }
    // What may be one of this server's is read, and judged as a whole.
    if (size <= ((await this.#settings.segmentSize()) ?? USUAL_SEGMENT_SIZE)) return null;
    const verdict = judgeSegment(parsed, head, size);
    return verdict.verdict === 'valid' ? null : verdict;
  }

  /** Throws as `unpackDelivered` does. */
  async unpack(bytes: Buffer, name: WalName): Promise<UnpackedDelivery> {
    const { custom } = this.#settings;
    const { segmentSize } = this.#settings;
    const opaque = await this.#settings.opaque?.();
    const isWhole = isOpaque(name, { opaque }) && opaque?.segmentSize === bytes.length;
    if (isWhole || formatsOf(bytes, custom?.magic).length === 0) return asDelivered(bytes, name, opaque);
    const keys = { custom, segmentSize: await segmentSize(), opaque };
    const tooLarge = whyTooLarge(bytes.length, name, keys);
    if (tooLarge !== null) throw new WalwardenError('damaged', tooLarge);
    if (!this.#settings.resident) return unpackDelivered(bytes, name, keys);
    const opened = await this.#stagers.for(1).unpack(bytes, name, keys);
    collectGarbage(2 * bytes.length + opened.plain.length);
    return opened;
  }

  /** The plain bytes of a stored file. Throws as `plainBytes` does. */
  async plainBytes(stored: StoredBytes, name: WalName, keys: ReadingKeys): Promise<Buffer> {
    const isPlain =
      !isGpgEncrypted(stored.bytes) &&
      formatsOf(stored.bytes, keys.custom?.magic).length === 0 &&
      keys.custom?.decompress === undefined;
    if (isPlain || !this.#settings.resident) return plainBytes(stored, name, keys);
    return this.#stagers.for(1).plainBytes(stored, name, keys);
  }

  /** Where a waiting file that arrived compressed is staged; null where any other is. */
  get stager(): Stager | null {
    return this.#settings.resident ? this.#stagers.for(1) : null;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stagers[Symbol.asyncDispose]();
  }
}
