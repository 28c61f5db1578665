import { getEnvironmentData } from 'node:worker_threads';
import { usePrograms } from '../compression/running-programs.ts';
import { packWal } from './packing.ts';
import type { PackTask } from './staged.ts';
import { asBuffer } from '../compression/decompress-errors.ts';
import { WalwardenError, type ErrorCode } from '../errors.ts';
import type { WalName } from '../wal/wal-name.ts';
import { collectGarbage } from '../compression/collect-garbage.ts';
import { unpackDelivered, type DeliveredKeys } from './delivered-content.ts';
import { plainBytes, type ReadingKeys } from './stored-content.ts';
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

/** A stored file to be read back. */
export interface ReadTask {
  readonly bytes: Uint8Array;
  /** What others say of its compression, where that may matter. */
  readonly said: readonly (string | null)[] | undefined;
  readonly name: WalName;
  readonly keys: ReadingKeys;
}

/** Outcomes are values, so that they cross threads. */
export type OpenResult<T extends { readonly plain: Uint8Array }> =
  | { readonly outcome: 'opened'; readonly opened: T }
  | {
      readonly outcome: 'failed';
      readonly code: ErrorCode;
      readonly message: string;
      readonly hint?: string | undefined;
    };

/** As `unpackDelivered`; the plain bytes change hands instead of being copied. */
export function unpackAndMove({ bytes, name, keys }: UnpackTask): Promise<unknown> {
  return openAndMove(bytes, (asArrived) => unpackDelivered(asArrived, name, keys));
}

/** As `plainBytes`; they change hands instead of being copied. */
export function readAndMove({ bytes, said, name, keys }: ReadTask): Promise<unknown> {
  return openAndMove(bytes, async (asStored) => ({
    plain: await plainBytes({ bytes: asStored, said: async () => said ?? [] }, name, keys),
  }));
}

function openAndMove<T extends { readonly plain: Uint8Array }>(
  bytes: Uint8Array,
  open: (bytes: Buffer) => Promise<T>,
): Promise<unknown> {
  return turn(async (): Promise<unknown> => {
    let opened: T;
    try {
      opened = await open(asBuffer(bytes));
    } catch (error) {
      collectGarbage(bytes.length);
      if (!(error instanceof WalwardenError)) throw error;
      const { code, message, hint } = error;
      return { outcome: 'failed', code, message, hint } satisfies OpenResult<T>;
    }
    const { plain } = opened;
    collectGarbage(bytes.length + plain.length);
    const { Tinypool } = await import('tinypool');
    // Of memory that it shares with others, only a copy may move.
    const own = plain.byteLength === plain.buffer.byteLength ? plain : new Uint8Array(plain);
    const moved = { outcome: 'opened', opened: { ...opened, plain: own } };
    return Object.defineProperty(Tinypool.move(own), Tinypool.valueSymbol, { value: moved });
  });
}

// A compressor that this thread started must not go on when the process ends, and nobody asks the thread then.
const programs = getEnvironmentData('programs');
if (programs instanceof SharedArrayBuffer) usePrograms(programs);
