import { getEnvironmentData } from 'node:worker_threads';
import { usePrograms } from '../compression/running-programs.ts';
import { packWal } from './packing.ts';
import type { PackTask } from './staged.ts';
import { asBuffer } from '../compression/decompress-errors.ts';
import { WalwardenError, type ErrorCode } from '../errors.ts';
import type { WalName } from '../wal/wal-name.ts';
import { collectGarbage } from './collect-garbage.ts';
import { unpackDelivered, type DeliveredKeys, type UnpackedDelivery } from './delivered-content.ts';
import { turn } from './transform.ts';

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

/** A delivered file to be opened. */
export interface UnpackTask {
  readonly bytes: Uint8Array;
  readonly name: WalName;
  readonly keys: DeliveredKeys;
}

/** Outcomes are values, so that they cross threads. */
export type UnpackResult =
  | ({ readonly outcome: 'unpacked'; readonly plain: Uint8Array } & Omit<UnpackedDelivery, 'plain'>)
  | {
      readonly outcome: 'failed';
      readonly code: ErrorCode;
      readonly message: string;
      readonly hint?: string | undefined;
    };

/** As `unpackDelivered`; the plain bytes change hands instead of being copied. */
export function unpackAndMove(task: UnpackTask): Promise<unknown> {
  return turn(async (): Promise<unknown> => {
    let result: UnpackResult;
    try {
      result = { outcome: 'unpacked', ...(await unpackDelivered(asBuffer(task.bytes), task.name, task.keys)) };
    } catch (error) {
      if (!(error instanceof WalwardenError)) throw error;
      const { code, message, hint } = error;
      result = { outcome: 'failed', code, message, hint };
    }
    if (result.outcome === 'failed') return result;
    collectGarbage(task.bytes.length + result.plain.length);
    const { Tinypool } = await import('tinypool');
    // Of memory that it shares with others, only a copy may move.
    const own =
      result.plain.byteLength === result.plain.buffer.byteLength ? result.plain : new Uint8Array(result.plain);
    const moved = { ...result, plain: own };
    return Object.defineProperty(Tinypool.move(own), Tinypool.valueSymbol, { value: moved });
  });
}

// A compressor that this thread started must not go on when the process ends, and nobody asks the thread then.
const programs = getEnvironmentData('programs');
if (programs instanceof SharedArrayBuffer) usePrograms(programs);
