import { createHash } from 'node:crypto';
import { read } from 'node:fs';
import { promisify } from 'node:util';
import { endInside, isFilled } from '../wal/inner-end.ts';
import type { LongPageHeader } from '../wal/page-header.ts';
import { judgeContent, judgePages, judgeSegment, readerOfPages, type OpaqueWal, type Verdict } from '../wal/verify.ts';
import type { ParsedWalName } from '../wal/wal-name.ts';
import type { CompressionName } from '../compression/codec.ts';
import { recogniseCompression } from '../compression/codecs.ts';
import { collectGarbage } from '../compression/collect-garbage.ts';
import { readFully, SourceFault } from './open-source.ts';
import type { TransformTask } from './staged.ts';
import { isOpaque } from './stored-content.ts';
import { sha256 } from './sha256.ts';

/** What decides whether WAL is taken, beside its own bytes; a plain record, so that it crosses threads. */
export interface TakingRules {
  /** Null where headers are verified. */
  readonly opaque: OpaqueWal | null;
  /** SHA-256 of the plain bytes of segments that a person has taken as they are, though a page of them is broken; `any`: this one is archived already. */
  readonly asTheyAre: readonly string[] | 'any';
}

/** What a delivered file is compressed with, by its first bytes. Encrypted pages may begin like anything: there a file of the right size is plain. */
export function arrivedCompression(
  head: Buffer,
  { name, identity, rules }: Pick<TransformTask, 'name' | 'identity' | 'rules'>,
  magic?: Uint8Array,
): CompressionName | null {
  const isWhole = isOpaque(name, rules) && rules.opaque?.segmentSize === Number(identity.size);
  return isWhole ? null : recogniseCompression(head, magic);
}

/** By the bytes alone. */
export const STRICT: TakingRules = { opaque: null, asTheyAre: [] };

/** Judges the plain bytes of a WAL file that is to be taken; `first`: what its first page said. */
export function judgeForTaking(
  parsed: ParsedWalName,
  plain: Buffer,
  { opaque, asTheyAre }: TakingRules,
  first = judgeContent(parsed, plain, opaque),
): Verdict {
  if (asTheyAre === 'any') return first;
  const pages = readerOfPages(parsed, first);
  pages?.take(plain, 0);
  const verdict = judgePages(first, pages);
  return verdict !== first && asTheyAre.length > 0 && asTheyAre.includes(sha256(plain)) ? first : verdict;
}

/** {@link judgeForTaking} of an open segment, by its first bytes and then piece by piece. Throws {@link SourceFault}. */
export async function judgeOpenSegment(
  parsed: ParsedWalName,
  file: { readonly fd: number; readonly head: Buffer; readonly size: number },
  { opaque, asTheyAre }: TakingRules,
): Promise<Verdict> {
  const first = judgeSegment(parsed, file.head, file.size, opaque);
  const pages = readerOfPages(parsed, first);
  if (pages === null || asTheyAre === 'any') return first;
  await readPieces(file, (piece, at) => pages.take(piece, at));
  const verdict = judgePages(first, pages);
  if (verdict === first || asTheyAre.length === 0) return verdict;
  const digest = createHash('sha256');
  await readPieces(file, (piece) => digest.update(piece));
  return asTheyAre.includes(digest.digest('hex')) ? first : verdict;
}

/**
 * Whether the WAL of an open segment ends inside, as far as can be told. Of
 * nearly every one, the last page is enough. Throws {@link SourceFault}.
 */
export async function endsInsideOpen(fd: number, header: LongPageHeader): Promise<boolean> {
  const { segmentSize: size, blockSize } = header;
  const lastPage = Buffer.alloc(blockSize);
  readFully(fd, lastPage, size - blockSize);
  if (isFilled(lastPage, header)) return false;
  const segment = Buffer.allocUnsafeSlow(size);
  await readPieces({ fd, size }, (piece, at) => piece.copy(segment, at));
  collectGarbage(size);
  return endInside(segment) !== null;
}

/** A multiple of every block size. */
const PIECE = 256 * 1024;

const readAt = promisify(read);

/** Not the synchronous call: without compression, a file is staged on the thread that serves HTTP. */
async function readPieces(
  { fd, size }: { readonly fd: number; readonly size: number },
  take: (piece: Buffer, at: number) => void,
): Promise<void> {
  const buffer = Buffer.allocUnsafe(Math.min(PIECE, size));
  for (let at = 0; at < size;) {
    const length = Math.min(buffer.length, size - at);
    let done = 0;
    while (done < length) {
      const { bytesRead } = await attempt(() => readAt(fd, buffer, done, length - done, at + done));
      if (bytesRead === 0) throw new SourceFault(new Error('it became shorter while it was read'));
      done += bytesRead;
    }
    take(buffer.subarray(0, length), at);
    at += length;
  }
}

async function attempt<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw new SourceFault(error);
  }
}
