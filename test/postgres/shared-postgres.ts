import { afterAll, beforeAll } from 'vitest';
import { withPostgres, type PostgresOptions, type TestPostgres } from '../support/postgres.ts';

/** One server for all tests of a describe block; `prepare` runs once, before them. */
export function sharedPostgres(
  options: PostgresOptions,
  prepare: (pg: TestPostgres) => Promise<void> = async () => {},
): () => TestPostgres {
  let server: TestPostgres | undefined;
  let finish: (() => void) | undefined;
  let ended: Promise<void> | undefined;
  beforeAll(async () => {
    const finished = new Promise<void>((resolve) => (finish = resolve));
    await new Promise<void>((ready, failed) => {
      ended = withPostgres(options, async (pg) => {
        await prepare(pg);
        server = pg;
        ready();
        await finished;
      });
      ended.catch(failed);
    });
  }, 60_000);
  afterAll(async () => {
    finish?.();
    await ended;
  }, 60_000);
  return () => {
    if (server === undefined) throw new Error('the server was not started');
    return server;
  };
}
