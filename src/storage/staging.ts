import { fchmodSync, fstatSync, fsync, futimesSync, writeSync } from 'node:fs';
import { open, unlink, type FileHandle } from 'node:fs/promises';
import type { CompressionName, Compressor } from '../compression/codec.ts';
import { createCompressor } from '../compression/codecs.ts';
import { copyAsOurs } from '../durable/durable-file.ts';
import { errnoOf, messageOf } from '../errors.ts';
import { judgeTextFile, MAX_TEXT_FILE_SIZE, type Verdict } from '../wal/verify.ts';
import { parseWalName, walKind, type WalName } from '../wal/wal-name.ts';
import { collectGarbage } from '../compression/collect-garbage.ts';
import { isStill, readFully, readHead, withSource } from './open-source.ts';
import type { StagedFacts, StageFailure, StageResult, TransformTask } from './staged.ts';
import { arrivedCompression, endsInsideOpen, judgeOpenSegment } from './taking.ts';
import { factsOf, stageFailureOf, transform, turn } from './transform.ts';

export interface StageTask extends TransformTask {
  /** Where the stored bytes are prepared; null leaves the source to be linked as it is. */
  readonly temporary: string | null;
  readonly mode: number;
}

/**
 * Prepares one file for publication, from one open descriptor: read, verify,
 * compress, encrypt, write `temporary`, fsync. Nothing becomes visible. Runs on
 * a worker thread or in process; outcomes are values, so that they cross threads.
 */
export function stageWal(task: StageTask): Promise<StageResult> {
  return withSource(task, async (fd) => {
    const began = changeOf(fd);
    const result = await stageOpenFile(task, fd);
    if (result.outcome !== 'staged' || task.temporary === null || changeOf(fd) === began) return result;
    await unlink(task.temporary);
    return { outcome: 'changed', reason: 'it changed while it was read' };
  });
}

/** When its inode changed last: a process that writes to a file of its own can set back any other time. */
function changeOf(fd: number): bigint {
  return fstatSync(fd, { bigint: true }).ctimeNs;
}

async function stageOpenFile(task: StageTask, fd: number): Promise<StageResult> {
  const head = readHead(fd);
  const arrived = arrivedCompression(head, task, task.delivered.custom?.magic) !== null;
  if (!arrived && task.compression === null && task.encryption === null) {
    return stageUntouched(task, fd, head);
  }
  if (task.temporary === null) throw new Error('only a file that is stored untouched can do without a temporary');

  const { temporary } = task;
  const compressor = task.compression === null ? null : createCompressor(task.compression);
  const byFile =
    !arrived && task.encryption === null && isSegment(task.name) ? (compressor?.compressFile ?? null) : null;
  const prepared = await turn(() =>
    byFile === null
      ? transformInMemory(task, temporary, fd, arrived, compressor)
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

async function transformInMemory(
  task: StageTask,
  temporary: string,
  fd: number,
  arrived: boolean,
  compressor: Compressor | null,
): Promise<StageFailure | WrittenTemporary> {
  const made = await transform(task, fd, arrived, compressor, task.encryption !== null);
  if (made.outcome !== 'transformed') return made;
  const { stored, facts } = made;
  const handle = await createTemporary(task, temporary, fd, (created) => {
    let done = 0;
    while (done < stored.length) done += writeSync(created.fd, stored, done, stored.length - done);
  });
  collectGarbage(stored.length);
  if (handle === null) return { outcome: 'changed', reason: 'it changed while it was read' };
  return { temporary: handle, facts };
}

/** A segment through a program, from file to file. */
async function transformFile(
  task: StageTask,
  temporary: string,
  fd: number,
  head: Buffer,
  compressFile: NonNullable<Compressor['compressFile']>,
): Promise<StageFailure | WrittenTemporary> {
  const parsed = parseWalName(task.name);
  if (parsed === undefined) return { outcome: 'invalid', reason: 'not the name of a WAL file' };
  const verdict = await judgeOpenSegment(parsed, { fd, head, size: Number(task.identity.size) }, task.rules);
  if (verdict.verdict !== 'valid') return stageFailureOf(verdict);
  const handle = await createTemporary(task, temporary, fd, (created) => compressFile(fd, created.fd));
  if (handle === null) return { outcome: 'changed', reason: 'it changed while it was compressed' };
  const { size } = fstatSync(handle.fd);
  return { temporary: handle, facts: await untouched(task, fd, verdict, size, task.compression?.compression ?? null) };
}

/** No compression and no encryption: the bytes need not pass through us, they are only judged. */
async function stageUntouched(task: StageTask, fd: number, head: Buffer): Promise<StageResult> {
  const size = Number(task.identity.size);
  const parsed = parseWalName(task.name);
  if (parsed === undefined) return { outcome: 'invalid', reason: 'not the name of a WAL file' };
  let verdict: Verdict;
  if (isSegment(task.name)) {
    verdict = await judgeOpenSegment(parsed, { fd, head, size }, task.rules);
  } else {
    // One byte more than such a file may have is enough to see that it is none.
    const content = Buffer.alloc(Math.min(size, MAX_TEXT_FILE_SIZE + 1));
    readFully(fd, content);
    verdict = judgeTextFile(parsed, content);
  }
  if (verdict.verdict !== 'valid') return stageFailureOf(verdict);
  if (!isStill(task, fd)) return { outcome: 'changed', reason: 'it changed while it was read' };
  if (task.temporary === null) {
    try {
      await syncSource(fd, task.mode);
    } catch (error) {
      // The kernel tells a failed write-back once: the next fsync of this inode would succeed and mean nothing.
      return { outcome: 'restage', reason: messageOf(error) };
    }
  } else {
    await copyToTemporary(task, fd, task.temporary);
    if (!isStill(task, fd)) {
      await unlink(task.temporary);
      return { outcome: 'changed', reason: 'it changed while it was copied' };
    }
  }
  return untouched(task, fd, verdict, size, null);
}

/** Of a file whose bytes did not pass through us. */
async function untouched(
  task: StageTask,
  fd: number,
  verdict: Extract<Verdict, { verdict: 'valid' }>,
  storedSize: number,
  compression: CompressionName | null,
): Promise<StagedFacts> {
  const { header } = verdict;
  const endsInside = walKind(task.name) === 'segment' && header !== null && (await endsInsideOpen(fd, header));
  return factsOf(verdict, { storedSize, compression, encryption: null, endsInside, digests: null });
}

function isSegment(name: WalName): boolean {
  return walKind(name) === 'segment' || walKind(name) === 'partial';
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
    if (isStill(task, fd)) return handle;
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
  await removeLeftover(path, () => copyAsOurs(`/proc/self/fd/${fd}`, path));
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
