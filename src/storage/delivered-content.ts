import type { CompressionName, CustomFilters } from '../compression/codec.ts';
import { decompress, formatsOf } from '../compression/codecs.ts';
import { WalwardenError } from '../errors.ts';
import { judgeContent, type OpaqueWal, type Verdict } from '../wal/verify.ts';
import { MAX_SEGMENT_SIZE, parseWalName, type WalName } from '../wal/wal-name.ts';
import { isOpaque } from './stored-content.ts';

/** What a delivered file is opened with. */
export interface DeliveredKeys {
  /** Needed for what was compressed by the user's own filter. */
  readonly custom?: CustomFilters | undefined;
  /** Null where headers are verified. */
  readonly opaque?: OpaqueWal | null | undefined;
  /** Bytes. More plain ones than these can't be a WAL file here. */
  readonly maxSize?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A delivered file, as far as its bytes tell what it is. */
export interface OpenedDelivery {
  readonly plain: Buffer;
  /** What it arrived compressed with; null for plain. */
  readonly compression: CompressionName | null;
  readonly verdict: Verdict;
}

/**
 * Opens a delivered file by what its first bytes tell: where they may mean
 * several formats, the first whose result is the WAL file of this name. What is
 * encrypted is not opened: WAL is encrypted here, never delivered so.
 *
 * @throws WalwardenError `incomplete-wal` when the data is cut short; `damaged` when it doesn't decompress, or to more
 * than `maxSize` bytes; `program` when a program is missing; `aborted`
 */
export async function unpackDelivered(bytes: Buffer, name: WalName, keys: DeliveredKeys): Promise<OpenedDelivery> {
  const { custom, maxSize = MAX_SEGMENT_SIZE, signal } = keys;
  if (isOpaque(name, keys)) {
    // Encrypted pages may begin like anything.
    const verdict = judgeDelivered(name, bytes, keys);
    if (verdict.verdict === 'valid') return { plain: bytes, compression: null, verdict };
  }
  let likeliest: OpenedDelivery | null = null;
  let problem: WalwardenError | null = null;
  for (const compression of formatsOf(bytes, custom?.magic)) {
    try {
      const plain = await decompress(bytes, compression, { maxSize, custom, signal });
      const opened = { plain, compression, verdict: judgeDelivered(name, plain, keys) };
      if (opened.verdict.verdict === 'valid') return opened;
      likeliest ??= opened;
    } catch (error) {
      if (!(error instanceof WalwardenError)) throw error;
      problem ??= error;
    }
  }
  if (problem !== null) throw problem;
  return likeliest ?? { plain: bytes, compression: null, verdict: judgeDelivered(name, bytes, keys) };
}

function judgeDelivered(name: WalName, plain: Buffer, { opaque = null }: DeliveredKeys): Verdict {
  const parsed = parseWalName(name);
  return parsed === undefined
    ? { verdict: 'invalid', reason: 'not the name of a WAL file' }
    : judgeContent(parsed, plain, opaque);
}
