import pLimit from 'p-limit';
import type { Compressor } from '../compression/codec.ts';
import { encryptGpg } from '../encryption/gpg.ts';
import { MAX_DELIVERED_SIZE } from '../durable/delivered-file.ts';
import { isErrorCode } from '../errors.ts';
import { endInside } from '../wal/inner-end.ts';
import type { Verdict } from '../wal/verify.ts';
import { parseWalName, walKind } from '../wal/wal-name.ts';
import { asDelivered, unpackDelivered, whyTooLarge, type UnpackedDelivery } from './delivered-content.ts';
import { readFully, SourceFault } from './open-source.ts';
import { sha256 } from './sha256.ts';
import type { StagedFacts, StageFailure, TransformTask } from './staged.ts';
import { judgeForTaking } from './taking.ts';

/**
 * What one thread does with bytes in memory, it does for one file at a time:
 * the buffer below is used again, and codecs use theirs again. Meanwhile
 * another file may be fsynced.
 */
export const turn = pLimit(1);

/** Every thread would hold the memory of the largest segment for good. */
const LARGEST_KEPT = 64 * 1024 * 1024;

let readBuffer: Buffer = Buffer.alloc(0);

/** A buffer for a whole file. A new one for each would only be freed when the collector comes by. */
function bufferFor(size: number): Buffer {
  if (size > LARGEST_KEPT) return Buffer.allocUnsafeSlow(size);
  if (readBuffer.length < size) readBuffer = Buffer.allocUnsafeSlow(size);
  return readBuffer.subarray(0, size);
}

/** A whole file in memory, verified, compressed and encrypted. */
export interface Transformed {
  readonly outcome: 'transformed';
  /** The bytes to store. */
  readonly stored: Buffer;
  readonly plainSize: number;
  readonly facts: StagedFacts;
}

/**
 * Reads an open file and makes of it what is to be stored: verified, compressed
 * unless it arrived so, encrypted. Take your {@link turn}. The bytes lie in `into` where
 * that can be, which has at least the size of the file, or else in memory that the next
 * file uses again.
 */
export async function transform(
  task: TransformTask,
  fd: number,
  arrived: boolean,
  compressor: Compressor | null,
  wantsDigests: boolean,
  into: Buffer | null = null,
): Promise<StageFailure | Transformed> {
  if (task.identity.size > MAX_DELIVERED_SIZE) {
    return { outcome: 'invalid', reason: `${task.identity.size} bytes are more than any WAL file has` };
  }
  const size = Number(task.identity.size);
  const reason = arrived ? whyTooLarge(size, task.name, task.delivered) : null;
  if (reason !== null) return { outcome: 'invalid', reason };
  const asItIs = (arrived || compressor === null) && task.encryption === null;
  const content = into !== null && asItIs ? into.subarray(0, size) : bufferFor(size);
  readFully(fd, content);
  const opened = await unpack(task, content, arrived);
  if ('outcome' in opened) return opened;
  const { plain } = opened;
  const verdict = judge(task, plain);
  if (verdict.verdict !== 'valid') return stageFailureOf(verdict);
  const digest = wantsDigests ? sha256(plain) : null;
  // What arrives compressed is stored as it is.
  const packed =
    compressor === null || opened.compression !== null
      ? content
      : await compressor.compressTransient(content, undefined, into ?? undefined);
  const stored = task.encryption === null ? packed : await encryptGpg(packed, task.encryption);
  const facts = factsOf(verdict, {
    storedSize: stored.length,
    compression: opened.compression ?? compressor?.name ?? null,
    encryption: task.encryption === null ? null : 'gpg',
    endsInside: walKind(task.name) === 'segment' && endInside(plain) !== null,
    digests: digest === null ? null : { plain: digest, stored: stored === plain ? digest : sha256(stored) },
  });
  return { outcome: 'transformed', stored, plainSize: plain.length, facts };
}

export function stageFailureOf(verdict: Exclude<Verdict, { verdict: 'valid' }>): StageFailure {
  const broken = verdict.verdict === 'invalid' && verdict.broken !== undefined;
  return { outcome: verdict.verdict, reason: verdict.reason, broken };
}

export function factsOf(
  verdict: Extract<Verdict, { verdict: 'valid' }>,
  stored: Pick<StagedFacts, 'storedSize' | 'compression' | 'encryption' | 'endsInside' | 'digests'>,
): StagedFacts {
  return {
    outcome: 'staged',
    systemIdentifier: verdict.header?.systemIdentifier ?? null,
    majorVersion: verdict.header?.majorVersion ?? null,
    magic: verdict.header?.magic ?? null,
    segmentSize: verdict.header?.segmentSize ?? null,
    ...stored,
  };
}

function judge(task: TransformTask, plain: Buffer): Verdict {
  const parsed = parseWalName(task.name);
  return parsed === undefined
    ? { verdict: 'invalid', reason: 'not the name of a WAL file' }
    : judgeForTaking(parsed, plain, task.rules);
}

/** The plain bytes, or why a file that arrived compressed gives none. */
async function unpack(
  task: TransformTask,
  content: Buffer,
  arrived: boolean,
): Promise<UnpackedDelivery | StageFailure> {
  if (!arrived) return asDelivered(content, task.name);
  try {
    return await unpackDelivered(content, task.name, task.delivered);
  } catch (error) {
    if (isErrorCode(error, 'incomplete-wal')) return { outcome: 'incomplete', reason: error.message };
    if (isErrorCode(error, 'damaged')) return { outcome: 'invalid', reason: error.message };
    // A program that is missing, say. Others don't need it.
    throw new SourceFault(error);
  }
}
