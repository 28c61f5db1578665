import { createCompressor } from '../compression/codecs.ts';
import { collectGarbage } from '../compression/collect-garbage.ts';
import { isStill, readHead, withSource } from './open-source.ts';
import type { PackTask, StageResult } from './staged.ts';
import { arrivedCompression } from './taking.ts';
import { transform, turn } from './transform.ts';

/**
 * Prepares one file to be sent, in memory and from one open descriptor: read,
 * verify, compress, encrypt. Runs on a worker thread or in process; outcomes are
 * values, so that they cross threads.
 */
export async function packWal(task: PackTask): Promise<StageResult> {
  return withSource(task, async (fd): Promise<StageResult> => {
    // What the user's own filter wrote has no extension in a bucket: it is no WAL there.
    const arrived = arrivedCompression(readHead(fd), task) !== null;
    const compressor = task.compression === null ? null : createCompressor(task.compression);
    return turn(async (): Promise<StageResult> => {
      const { memory } = task;
      const made = await transform(task, fd, arrived, compressor, true, memory === null ? null : Buffer.from(memory));
      if (made.outcome !== 'transformed') return made;
      if (!isStill(task, fd)) return { outcome: 'changed', reason: 'it changed while it was read' };
      const { stored, plainSize, facts } = made;
      return { ...facts, packed: { bytes: handedOver(stored, memory), plainSize } };
    });
  });
}

/** In memory that may move to another thread: what came along, where that is enough. */
function handedOver(stored: Buffer, memory: ArrayBuffer | null): Uint8Array<ArrayBuffer> {
  if (memory !== null && stored.buffer === memory) return new Uint8Array(memory, stored.byteOffset, stored.length);
  // The codec's own memory, what it returned, and now a copy of it.
  collectGarbage(3 * stored.length);
  if (memory === null || stored.length > memory.byteLength) return new Uint8Array(stored);
  const bytes = new Uint8Array(memory, 0, stored.length);
  bytes.set(stored);
  return bytes;
}
