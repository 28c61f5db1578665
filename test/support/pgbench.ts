import { join } from 'node:path';
import type { TestPostgres } from './postgres.ts';
import { run, type RunResult } from './run.ts';

/** How long pgbench works: so many seconds, or transactions of each client. */
export type PgbenchLoad = { readonly seconds: number } | { readonly transactions: number };

export interface PgbenchOptions {
  /** Default 2. */
  readonly clients?: number;
  /** More of pgbench's own options. */
  readonly args?: readonly string[];
  /** false: resolves also when it fails, because the server is killed under it, say. */
  readonly check?: boolean;
}

/** Runs pgbench to its end; makes its tables when they are missing. Where `programs.complete` only. */
export async function runPgbench(
  pg: TestPostgres,
  load: PgbenchLoad,
  { clients = 2, args = [], check = true }: PgbenchOptions,
): Promise<RunResult> {
  const bench = async (more: readonly string[]): Promise<RunResult> => {
    const where = ['-h', pg.socketDir, '-p', String(pg.port), '-U', 'postgres'];
    const result = await run(join(pg.programs.bin, 'pgbench'), [...where, ...more, 'postgres'], {
      cwd: pg.directory,
      timeoutMs: 600_000,
    });
    if (check && result.status !== 0) throw new Error(`pgbench failed: ${result.stderr}`);
    return result;
  };
  if ((await pg.value(`select to_regclass('pgbench_accounts') is null`)) === 't') await bench(['-i', '-q']);
  const howMuch = 'seconds' in load ? ['-T', String(load.seconds)] : ['-t', String(load.transactions)];
  return bench(['-n', '-c', String(clients), ...howMuch, ...args]);
}
