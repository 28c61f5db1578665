import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsync,
  futimesSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs';
import { copyFile, open, unlink, type FileHandle } from 'node:fs/promises';
import pLimit from 'p-limit';
import type { CompressionName, CompressionSettings, Compressor } from '../compression/codec.ts';
import { createCompressor, decompress, recogniseCompression, RECOGNITION_BYTES } from '../compression/codecs.ts';
import { encryptGpg } from '../encryption/gpg.ts';
import { OUT_OF_RESOURCES } from '../durable/durable-file.ts';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import { LONG_PAGE_HEADER_SIZE } from '../wal/page-header.ts';
import { judgeContent, judgeSegment, judgeTextFile, MAX_TEXT_FILE_SIZE, type Verdict } from '../wal/verify.ts';
import { MAX_SEGMENT_SIZE, parseWalName, walKind, type WalName } from '../wal/wal-name.ts';
import { collectGarbage } from './collect-garbage.ts';

/** By these a file is recognised as the one that was looked at before. */
export interface FileIdentity {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly size: bigint;
  readonly mtimeNs: bigint;
}

export interface StageTask {
  readonly name: WalName;
  readonly source: string;
  readonly identity: FileIdentity;
  /** Where the stored bytes are prepared; null leaves the source to be linked as it is. */
  readonly temporary: string | null;
  readonly mode: number;
  readonly compression: CompressionSettings | null;
  readonly encryption: { readonly keyId: string; readonly homedir?: string | undefined } | null;
}

/** What staging found out; the sizes are in bytes. */
export interface StagedFacts {
  readonly outcome: 'staged';
  readonly storedSize: number;
  readonly compression: CompressionName | null;
  /** Of a segment's first page; null for backup labels and history files. */
  readonly systemIdentifier: bigint | null;
  readonly majorVersion: number | null;
  /** In bytes. */
  readonly segmentSize: number | null;
  /** SHA-256 of the plain and of the stored bytes, only where the file is encrypted. */
  readonly digests: { readonly plain: string; readonly stored: string } | null;
}

export type StageResult =
  | StagedFacts
  /** The file is not what its name promises (`invalid`), or not whole yet (`incomplete`). */
  | { readonly outcome: 'invalid' | 'incomplete'; readonly reason: string }
  /** The source went away or changed while we read it: a new arrival, for the next pass. */
  | { readonly outcome: 'changed'; readonly reason: string }
  /** The source's own inode can't be trusted to be durable: stage it again, by copying. */
  | { readonly outcome: 'restage'; readonly reason: string }
  /** `source`: this file can't be read, others can. `destination`: nothing more can be stored. */
  | {
      readonly outcome: 'failed';
      readonly side: 'source' | 'destination';
      readonly reason: string;
      /** What to do about it, where that is known. */
      readonly hint?: string | undefined;
      readonly errno: string | null;
    };

/** A segment that could not be compressed is a little larger afterwards. */
const MAX_DELIVERED_SIZE = BigInt(MAX_SEGMENT_SIZE) * 2n;

/**
 * What one thread does with bytes in memory, it does for one file at a time:
 * the buffers below are used again, and codecs use theirs again. Meanwhile
 * another file may be fsynced.
 */
const turn = pLimit(1);

let readBuffer: Buffer = Buffer.alloc(0);

/** A buffer for a whole file. A new one for each would only be freed when the collector comes by. */
function bufferFor(size: number): Buffer {
  if (readBuffer.length < size) readBuffer = Buffer.allocUnsafeSlow(size);
  return readBuffer.subarray(0, size);
}

export function identityOf(stat: {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly size: bigint;
  readonly mtimeNs: bigint;
}): FileIdentity {
  return { dev: stat.dev, ino: stat.ino, size: stat.size, mtimeNs: stat.mtimeNs };
}

export function sameIdentity(a: FileIdentity, b: FileIdentity): boolean {
  return a.dev === b.dev && a.ino === b.ino && a.size === b.size && a.mtimeNs === b.mtimeNs;
}

class SourceFault extends Error {
  constructor(cause: unknown) {
    super(messageOf(cause), { cause });
  }
}

/**
 * Prepares one file for publication, from one open descriptor: read, verify,
 * compress, encrypt, write `temporary`, fsync. Nothing becomes visible. Runs on
 * a worker thread or in process; outcomes are values, so that they cross threads.
 */
export async function stageWal(task: StageTask): Promise<StageResult> {
  let fd: number;
  try {
    fd = openSync(task.source, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const errno = errnoOf(error) ?? '';
    if (errno === 'ENOENT') return { outcome: 'changed', reason: 'it is gone' };
    const side = OUT_OF_RESOURCES.has(errno) ? 'destination' : 'source';
    return { outcome: 'failed', side, reason: messageOf(error), errno };
  }
  try {
    if (!sameIdentity(identityOf(fstatSync(fd, { bigint: true })), task.identity)) {
      return { outcome: 'changed', reason: 'it changed since it was looked at' };
    }
    return await stageOpenFile(task, fd);
  } catch (error) {
    const side = error instanceof SourceFault ? 'source' : 'destination';
    const cause = error instanceof SourceFault ? error.cause : error;
    const hint = error instanceof WalwardenError ? error.hint : undefined;
    return { outcome: 'failed', side, reason: messageOf(error), hint, errno: errnoOf(cause) ?? null };
  } finally {
    closeSync(fd);
  }
}

async function stageOpenFile(task: StageTask, fd: number): Promise<StageResult> {
  const head = readHead(fd);
  const arrived = recogniseCompression(head, task.compression?.custom?.magic);
  if (arrived === null && task.compression === null && task.encryption === null) {
    return stageUntouched(task, fd, head);
  }
  if (task.temporary === null) throw new Error('only a file that is stored untouched can do without a temporary');

  const { temporary } = task;
  const compressor = arrived === null && task.compression !== null ? createCompressor(task.compression) : null;
  const byFile = task.encryption === null && isSegment(task.name) ? (compressor?.compressFile ?? null) : null;
  const prepared = await turn(() =>
    byFile === null
      ? transform(task, temporary, fd, arrived, compressor)
      : transformFile(task, temporary, fd, head, byFile),
  );
  if (!('temporary' in prepared)) return prepared;
  await finishTemporary(task, prepared.temporary);
  return prepared.facts;
}

/** A temporary that is written but for its mode, time and fsync. The handle is the taker's to close. */
interface WrittenTemporary {
  readonly temporary: FileHandle;
  readonly facts: StagedFacts;
}

async function transform(
  task: StageTask,
  temporary: string,
  fd: number,
  arrived: CompressionName | null,
  compressor: Compressor | null,
): Promise<StageResult | WrittenTemporary> {
  if (task.identity.size > MAX_DELIVERED_SIZE) {
    return { outcome: 'invalid', reason: `${task.identity.size} bytes are more than any WAL file has` };
  }
  const content = bufferFor(Number(task.identity.size));
  readFully(fd, content);
  const opened = await openCompressed(task, content, arrived);
  if (!Buffer.isBuffer(opened)) return opened;
  const verdict = judge(task, opened);
  if (verdict.verdict !== 'valid') return { outcome: verdict.verdict, reason: verdict.reason };
  // What arrives compressed is stored as it is.
  const packed = compressor === null ? content : await compressor.compressTransient(content);
  const stored = task.encryption === null ? packed : await encryptGpg(packed, task.encryption);
  const digests = task.encryption === null ? null : { plain: sha256(opened), stored: sha256(stored) };
  const handle = await createTemporary(task, temporary, fd, (created) => {
    let done = 0;
    while (done < stored.length) done += writeSync(created.fd, stored, done, stored.length - done);
  });
  collectGarbage(stored.length);
  if (handle === null) return { outcome: 'changed', reason: 'it changed while it was read' };
  return { temporary: handle, facts: facts(verdict, stored.length, arrived ?? compressor?.name ?? null, digests) };
}

/** A segment through a program, from file to file. */
async function transformFile(
  task: StageTask,
  temporary: string,
  fd: number,
  head: Buffer,
  compressFile: NonNullable<Compressor['compressFile']>,
): Promise<StageResult | WrittenTemporary> {
  const parsed = parseWalName(task.name);
  if (parsed === undefined) return { outcome: 'invalid', reason: 'not the name of a WAL file' };
  const verdict = judgeSegment(parsed, head, Number(task.identity.size));
  if (verdict.verdict !== 'valid') return { outcome: verdict.verdict, reason: verdict.reason };
  const handle = await createTemporary(task, temporary, fd, (created) => compressFile(fd, created.fd));
  if (handle === null) return { outcome: 'changed', reason: 'it changed while it was compressed' };
  const { size } = fstatSync(handle.fd);
  return { temporary: handle, facts: facts(verdict, size, task.compression?.compression ?? null, null) };
}

/** No compression and no encryption: the bytes need not pass through us, only their head is judged. */
async function stageUntouched(task: StageTask, fd: number, head: Buffer): Promise<StageResult> {
  const size = Number(task.identity.size);
  const parsed = parseWalName(task.name);
  if (parsed === undefined) return { outcome: 'invalid', reason: 'not the name of a WAL file' };
  let verdict: Verdict;
  if (isSegment(task.name)) {
    verdict = judgeSegment(parsed, head, size);
  } else {
    // One byte more than such a file may have is enough to see that it is none.
    const content = Buffer.alloc(Math.min(size, MAX_TEXT_FILE_SIZE + 1));
    readFully(fd, content);
    verdict = judgeTextFile(parsed, content);
  }
  if (verdict.verdict !== 'valid') return { outcome: verdict.verdict, reason: verdict.reason };
  if (task.temporary === null) {
    try {
      await syncSource(fd, task.mode);
    } catch (error) {
      // The kernel tells a failed write-back once: the next fsync of this inode would succeed and mean nothing.
      return { outcome: 'restage', reason: messageOf(error) };
    }
  } else {
    await copyToTemporary(task, fd, task.temporary);
    if (!sameIdentity(identityOf(fstatSync(fd, { bigint: true })), task.identity)) {
      await unlink(task.temporary);
      return { outcome: 'changed', reason: 'it changed while it was copied' };
    }
  }
  return facts(verdict, size, null, null);
}

function facts(
  verdict: Extract<Verdict, { verdict: 'valid' }>,
  storedSize: number,
  compression: CompressionName | null,
  digests: StagedFacts['digests'],
): StagedFacts {
  return {
    outcome: 'staged',
    storedSize,
    compression,
    systemIdentifier: verdict.header?.systemIdentifier ?? null,
    majorVersion: verdict.header?.majorVersion ?? null,
    segmentSize: verdict.header?.segmentSize ?? null,
    digests,
  };
}

function isSegment(name: WalName): boolean {
  return walKind(name) === 'segment' || walKind(name) === 'partial';
}

function judge(task: StageTask, plain: Buffer): Verdict {
  const parsed = parseWalName(task.name);
  return parsed === undefined
    ? { verdict: 'invalid', reason: 'not the name of a WAL file' }
    : judgeContent(parsed, plain);
}

/** The plain bytes, or why a file that arrived compressed gives none. */
async function openCompressed(
  task: StageTask,
  content: Buffer,
  arrived: CompressionName | null,
): Promise<Buffer | StageResult> {
  if (arrived === null) return content;
  try {
    return await decompress(content, arrived, { maxSize: MAX_SEGMENT_SIZE, custom: task.compression?.custom });
  } catch (error) {
    if (isErrorCode(error, 'incomplete-wal')) return { outcome: 'incomplete', reason: error.message };
    if (isErrorCode(error, 'damaged')) return { outcome: 'invalid', reason: error.message };
    // A program that is missing, say. Others don't need it.
    throw new SourceFault(error);
  }
}

export function sha256(data: Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

function readHead(fd: number): Buffer {
  const head = Buffer.alloc(Math.max(LONG_PAGE_HEADER_SIZE, RECOGNITION_BYTES));
  return head.subarray(0, readAt(fd, head, 0));
}

function readFully(fd: number, into: Buffer): void {
  let done = 0;
  while (done < into.length) {
    const count = readAt(fd, into.subarray(done), done);
    if (count === 0) throw new SourceFault(new Error('it became shorter while it was read'));
    done += count;
  }
}

function readAt(fd: number, into: Buffer, position: number): number {
  try {
    return readSync(fd, into, 0, into.length, position);
  } catch (error) {
    throw new SourceFault(error);
  }
}

/** The source itself will be linked into the archive, so its bytes and its mode must be right and durable now. */
async function syncSource(fd: number, mode: number): Promise<void> {
  fchmodSync(fd, mode);
  await fsyncDescriptor(fd);
}

/** Null, and no temporary, when the source changed meanwhile. */
async function createTemporary(
  task: StageTask,
  path: string,
  fd: number,
  fill: (handle: FileHandle) => void | Promise<void>,
): Promise<FileHandle | null> {
  const handle = await removeLeftover(path, () => open(path, 'wx', task.mode));
  try {
    await fill(handle);
    if (sameIdentity(identityOf(fstatSync(fd, { bigint: true })), task.identity)) return handle;
  } catch (error) {
    await handle.close();
    await unlink(path);
    throw error;
  }
  await handle.close();
  await unlink(path);
  return null;
}

async function copyToTemporary(task: StageTask, fd: number, path: string): Promise<void> {
  // Through the descriptor, so that it is the inode we judged; a reflink where the file system can.
  await removeLeftover(path, () =>
    copyFile(`/proc/self/fd/${fd}`, path, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE),
  );
  // Only for reading: the copy has the mode of the source, which may forbid more.
  await finishTemporary(task, await open(path, 'r'));
}

/** Mode, time, and the one fsync of a stored file. On failure the temporary is gone. */
async function finishTemporary(task: StageTask, handle: FileHandle): Promise<void> {
  try {
    try {
      fchmodSync(handle.fd, task.mode);
      const mtime = Number(task.identity.mtimeNs / 1000n) / 1e6;
      futimesSync(handle.fd, mtime, mtime);
      // Not the synchronous call: meanwhile this thread compresses the next file.
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (task.temporary !== null) await unlink(task.temporary);
    throw error;
  }
}

/** A temporary of this name can only be left over from a crash: we hold the archive-wal lock. */
async function removeLeftover<T>(path: string, create: () => Promise<T>): Promise<T> {
  try {
    return await create();
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
    await unlink(path);
    return create();
  }
}

function fsyncDescriptor(fd: number): Promise<void> {
  return new Promise((resolve, reject) => fsync(fd, (error) => (error === null ? resolve() : reject(error))));
}
