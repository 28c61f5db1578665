import type { Tinypool } from 'tinypool';
import { programTable } from '../compression/running-programs.ts';
import { stageWal, type StageResult, type StageTask } from './staging.ts';

/** Files that one worker thread may have in hand: while one is fsynced, the next is compressed. */
const TASKS_PER_WORKER = 2;

/** Stages files, on worker threads or in process. */
export interface Stager extends AsyncDisposable {
  /** How many files are worth staging at the same time. */
  readonly concurrency: number;
  stage(task: StageTask): Promise<StageResult>;
}

/**
 * A stager with so many worker threads; 0 stages in process, which is quicker
 * for a single file (a thread takes 40 ms to start) and what fault tests need.
 */
export function createStager(workers: number): Stager {
  if (workers === 0) {
    return { concurrency: 1, stage: stageWal, [Symbol.asyncDispose]: async () => {} };
  }
  let pool: Promise<Tinypool> | null = null;
  return {
    concurrency: workers * TASKS_PER_WORKER,
    async stage(task) {
      pool ??= startPool(workers);
      const result: StageResult = await (await pool).run(task);
      return result;
    },
    async [Symbol.asyncDispose]() {
      if (pool !== null) await (await pool).destroy();
    },
  };
}

async function startPool(workers: number): Promise<Tinypool> {
  const { setEnvironmentData } = await import('node:worker_threads');
  const { Tinypool } = await import('tinypool');
  setEnvironmentData('programs', programTable());
  return new Tinypool({
    filename: new URL('./stage-worker.js', import.meta.url).href,
    runtime: 'worker_threads',
    minThreads: workers,
    maxThreads: workers,
    concurrentTasksPerWorker: TASKS_PER_WORKER,
  });
}
