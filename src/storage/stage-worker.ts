import { getEnvironmentData } from 'node:worker_threads';
import { usePrograms } from '../compression/running-programs.ts';
import { packWal } from './packing.ts';
import type { PackTask } from './staged.ts';

// The entry of a worker thread: tinypool calls the export that a task names, once for each file.

export { stageWal } from './staging.ts';

/** As `packWal`; the bytes change hands instead of being copied. */
export async function packAndMove(task: PackTask): Promise<unknown> {
  const result = await packWal(task);
  if (result.outcome !== 'staged' || result.packed === undefined) return result;
  const { Tinypool } = await import('tinypool');
  // What moves are the bytes, what arrives is the result with them.
  return Object.defineProperty(Tinypool.move(result.packed.bytes), Tinypool.valueSymbol, { value: result });
}

// A compressor that this thread started must not go on when the process ends, and nobody asks the thread then.
const programs = getEnvironmentData('programs');
if (programs instanceof SharedArrayBuffer) usePrograms(programs);
