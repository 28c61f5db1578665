import type { Tinypool } from 'tinypool';
import { programTable } from '../compression/running-programs.ts';
import { unpackDelivered, type DeliveredKeys, type UnpackedDelivery } from './delivered-content.ts';
import { packWal } from './packing.ts';
import type { PackTask, StageResult } from './staged.ts';
import { stageWal, type StageTask } from './staging.ts';
import type { OpenResult, ReadTask, UnpackTask } from './stage-worker.ts';
import { plainBytes, type ReadingKeys, type StoredBytes } from './stored-content.ts';
import { asBuffer } from '../compression/decompress-errors.ts';
import { WalwardenError } from '../errors.ts';
import type { WalName } from '../wal/wal-name.ts';

/** Files that one worker thread may have in hand: while one is fsynced, the next is compressed. */
const TASKS_PER_WORKER = 2;

/** Stages files, on worker threads or in process. */
export interface Stager extends AsyncDisposable {
  /** How many files are worth staging at the same time. */
  readonly concurrency: number;
  /** Into a temporary file. */
  stage(task: StageTask): Promise<StageResult>;
  /** Into memory. */
  pack(task: PackTask): Promise<StageResult>;
  /** Opens a delivered file. Throws as `unpackDelivered` does. */
  unpack(bytes: Buffer, name: WalName, keys: DeliveredKeys): Promise<UnpackedDelivery>;
  /** Reads a stored file back. Throws as `plainBytes` of stored-content.ts does. */
  plainBytes(stored: StoredBytes, name: WalName, keys: ReadingKeys): Promise<Buffer>;
}

/**
 * A stager with so many worker threads; 0 stages in process, which is quicker
 * for a single file (a thread takes 40 ms to start) and what fault tests need.
 * `resident`: threads start when they are needed, and end when they are not.
 */
export function createStager(workers: number, resident = false): Stager {
  if (workers === 0) {
    return {
      concurrency: 1,
      stage: stageWal,
      pack: packWal,
      unpack: unpackDelivered,
      plainBytes,
      [Symbol.asyncDispose]: async () => {},
    };
  }
  let pool: Promise<Tinypool> | null = null;
  const run = async <T>(
    name: 'stageWal' | 'packAndMove' | 'unpackAndMove' | 'readAndMove',
    task: object,
    transferList: ArrayBuffer[] = [],
  ): Promise<T> => {
    pool ??= startPool(workers, resident);
    const result: T = await (await pool).run(task, { name, transferList });
    return result;
  };
  return {
    concurrency: workers * TASKS_PER_WORKER,
    stage: (task) => run('stageWal', task),
    pack: (task) => run('packAndMove', task, task.memory === null ? [] : [task.memory]),
    async unpack(bytes, name, { custom, segmentSize, opaque }) {
      const task: UnpackTask = { bytes, name, keys: { custom, segmentSize, opaque } };
      return orThrow(await run<OpenResult<UnpackedDelivery>>('unpackAndMove', task));
    },
    async plainBytes({ bytes, said }, name, keys) {
      // A function can't cross; it matters only where a filter may have been at work.
      const told = keys.custom?.decompress === undefined ? undefined : await said?.();
      const task: ReadTask = { bytes, said: told, name, keys: { ...keys } };
      return orThrow(await run<OpenResult<{ plain: Uint8Array }>>('readAndMove', task)).plain;
    },
    async [Symbol.asyncDispose]() {
      if (pool !== null) await (await pool).destroy();
    },
  };
}

function orThrow<T extends { readonly plain: Uint8Array }>(result: OpenResult<T>): T & { readonly plain: Buffer } {
  if (result.outcome === 'failed') {
    throw new WalwardenError(result.code, result.message, result.hint === undefined ? {} : { hint: result.hint });
  }
  const { opened } = result;
  return { ...opened, plain: asBuffer(opened.plain) };
}

/** Threads of a process that has other things to do as well, and goes on: with nothing to do, they end after so many milliseconds. */
const IDLE_MS = 60_000;

/** Starts threads once there are several files to transform. */
export class StagerOnDemand implements AsyncDisposable {
  readonly #workers: number;
  readonly #resident: boolean;
  #stager: { readonly stager: Stager; readonly workers: number } | null = null;

  /** At most so many threads; 0 for none, ever. `resident`: a thread for a single file, too, and ready for the next. */
  constructor(workers: number, resident: boolean) {
    this.#workers = workers;
    this.#resident = resident;
  }

  /** For so many files. In a process that ends with it, one is quicker in process than a thread is started. */
  for(expected: number): Stager {
    const workers = expected > 1 || this.#resident ? this.#workers : 0;
    if (this.#stager === null || this.#stager.workers < workers) {
      this.#stager = { stager: createStager(workers, this.#resident), workers };
    }
    return this.#stager.stager;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stager?.stager[Symbol.asyncDispose]();
    this.#stager = null;
  }
}

/** Beside us; a thread can't run the sources, where tests run us from, so it is the built one then. */
const WORKER = import.meta.url.endsWith('.ts') ? '../../dist/stage-worker.js' : './stage-worker.js';

async function startPool(workers: number, resident: boolean): Promise<Tinypool> {
  const { setEnvironmentData } = await import('node:worker_threads');
  const { Tinypool } = await import('tinypool');
  setEnvironmentData('programs', programTable());
  return new Tinypool({
    filename: new URL(WORKER, import.meta.url).href,
    runtime: 'worker_threads',
    minThreads: resident ? 0 : workers,
    maxThreads: workers,
    idleTimeout: resident ? IDLE_MS : 0,
    concurrentTasksPerWorker: TASKS_PER_WORKER,
  });
}
