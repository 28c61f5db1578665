import type { CompressionName, CustomFilters } from '../compression/codec.ts';
import { decompress, decompressStart, formatsOf } from '../compression/codecs.ts';
import { WalwardenError } from '../errors.ts';
import { collectGarbage } from '../compression/collect-garbage.ts';
import { decodeLongPageHeader, LONG_PAGE_HEADER_SIZE } from '../wal/page-header.ts';
import { judgeContent, judgeSegment, MAX_TEXT_FILE_SIZE, type OpaqueWal, type Verdict } from '../wal/verify.ts';
import { MAX_SEGMENT_SIZE, parseWalName, walKind, type WalName } from '../wal/wal-name.ts';
import { isOpaque } from './stored-content.ts';

/** Bytes. xz would take as much memory as it is told to. */
const MAX_DICTIONARY = 64 * 1024 * 1024;

/** What a delivered file is opened with. */
export interface DeliveredKeys {
  /** Needed for what was compressed by the user's own filter. */
  readonly custom?: CustomFilters | undefined;
  /** Null where headers are verified. */
  readonly opaque?: OpaqueWal | null | undefined;
  /** Bytes of this server's segments, where they are known: no file may decompress to more. */
  readonly segmentSize?: number | null | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A delivered file, as far as its bytes tell what it is. */
export interface UnpackedDelivery {
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
 * bytes than any file of this name has; `program` when a program is missing; `aborted`
 */
export async function unpackDelivered(bytes: Buffer, name: WalName, keys: DeliveredKeys): Promise<UnpackedDelivery> {
  const { custom, signal } = keys;
  const untouched = asDelivered(bytes, name, keys.opaque);
  // Encrypted pages may begin like anything.
  if (isOpaque(name, keys) && untouched.verdict.verdict === 'valid') return untouched;
  let likeliest: UnpackedDelivery | null = null;
  let problem: WalwardenError | null = null;
  for (const compression of formatsOf(bytes, custom?.magic)) {
    try {
      const start = await judgeStart(bytes, name, compression, keys);
      if (start.refused !== null) {
        likeliest ??= { plain: start.plain, compression, verdict: start.refused };
        continue;
      }
      const limits = { maxSize: start.maxSize, maxDictionary: MAX_DICTIONARY, custom, signal };
      const plain = await decompress(bytes, compression, limits);
      const opened = { plain, compression, verdict: judgeDelivered(name, plain, keys.opaque) };
      if (opened.verdict.verdict === 'valid') return opened;
      likeliest ??= opened;
    } catch (error) {
      if (!(error instanceof WalwardenError)) throw error;
      problem ??= error;
    }
    // What came out so far is of no use, and whoever sends it sends more.
    collectGarbage(mostBytes(name, keys));
  }
  if (untouched.verdict.verdict === 'valid') return untouched;
  if (problem !== null) throw problem;
  return likeliest ?? untouched;
}

/** A file that arrived plain. */
export function asDelivered(bytes: Buffer, name: WalName, opaque?: OpaqueWal | null): UnpackedDelivery {
  return { plain: bytes, compression: null, verdict: judgeDelivered(name, bytes, opaque) };
}

/** Bytes that any file of this name may have. */
function mostBytes(name: WalName, { segmentSize }: DeliveredKeys): number {
  const isSegment = walKind(name) === 'segment' || walKind(name) === 'partial';
  return isSegment ? (segmentSize ?? MAX_SEGMENT_SIZE) : MAX_TEXT_FILE_SIZE;
}

/** Why a compressed file of so many bytes need not be read; null when it may be one of this name. */
export function whyTooLarge(size: number, name: WalName, keys: DeliveredKeys): string | null {
  const most = mostBytes(name, keys);
  // A little more where nothing can be compressed, and a third more where a user's filter writes base64.
  if (size <= most + most / 2 + 1024 * 1024) return null;
  return `it has ${size} bytes, and no file of ${most} bytes, which is the most that ${name} can have, has so many compressed`;
}

/** Enough for the long header of the first page. */
const START = 512;

/**
 * Judges the first page before the rest is decompressed: what isn't this WAL costs
 * no memory then, and what is says how large it is.
 */
async function judgeStart(
  bytes: Buffer,
  name: WalName,
  compression: CompressionName,
  keys: DeliveredKeys,
): Promise<{ readonly maxSize: number; readonly plain: Buffer; readonly refused: Verdict | null }> {
  const most = mostBytes(name, keys);
  const unknown = { maxSize: most, plain: bytes, refused: null };
  const parsed = parseWalName(name);
  if (parsed === undefined || (parsed.kind !== 'segment' && parsed.kind !== 'partial')) return unknown;
  if (keys.opaque) return unknown;
  const { custom, signal } = keys;
  const plain = await decompressStart(bytes, compression, START, { maxDictionary: MAX_DICTIONARY, custom, signal });
  if (plain === null || plain.length < LONG_PAGE_HEADER_SIZE) return unknown;
  const decoded = decodeLongPageHeader(plain);
  if (!decoded.ok) return { maxSize: most, plain, refused: { verdict: 'invalid', reason: decoded.reason } };
  const { segmentSize } = decoded.header;
  const verdict = judgeSegment(parsed, plain, segmentSize);
  if (verdict.verdict !== 'valid') return { maxSize: most, plain, refused: verdict };
  if (segmentSize <= most) return { maxSize: segmentSize, plain, refused: null };
  const reason =
    `its header declares segments of ${segmentSize} bytes, and those of this server have ${most}: ` +
    'where that has changed, one that is not compressed has to be archived first';
  return { maxSize: most, plain, refused: { verdict: 'invalid', reason } };
}

function judgeDelivered(name: WalName, plain: Buffer, opaque: OpaqueWal | null = null): Verdict {
  const parsed = parseWalName(name);
  return parsed === undefined
    ? { verdict: 'invalid', reason: 'not the name of a WAL file' }
    : judgeContent(parsed, plain, opaque);
}
