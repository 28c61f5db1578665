import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { runChecks, type CheckStep } from '../../src/health/check-run.ts';
import { WalwardenError } from '../../src/errors.ts';

/** Never answers, but for its signal. */
const silent = (name: string, announced?: string): CheckStep => ({
  name,
  run: (strategy, signal) =>
    new Promise((resolve) => {
      if (announced !== undefined) strategy.initCheck(announced);
      signal.addEventListener('abort', () => {
        strategy.result(false, 'too late', name);
        resolve();
      });
    }),
});

const fine = (name: string, afterMs = 0): CheckStep => ({
  name,
  run: async (strategy) => {
    strategy.initCheck(name);
    await delay(afterMs);
    strategy.result(true);
  },
});

test('results stand in the order of the steps, whichever was first', async () => {
  const { results, abandoned } = await runChecks([fine('a', 30), fine('b'), fine('c', 10)], { limitMs: 0 });
  expect(results.map(({ check }) => check)).toEqual(['a', 'b', 'c']);
  expect(abandoned).toBe(false);
});

test('what one check stumbles over is its failure, and not the others’', async () => {
  const hint = 'mount it';
  const failing: CheckStep = {
    name: 'directories',
    run: () => Promise.reject(new WalwardenError('storage', 'no disk', { hint })),
  };
  const broken: CheckStep = { name: 'x', run: () => Promise.reject(new TypeError('oops')) };
  const { results } = await runChecks([failing, broken, fine('b')], { limitMs: 0 });
  expect(results).toEqual([
    { check: 'directories', ok: false, hint: 'no disk; mount it' },
    { check: 'x', ok: false, hint: "it can't be checked: TypeError: oops" },
    { check: 'b', ok: true, hint: null },
  ]);
});

test('when time is up, the silent ones are named, the others told, and nothing comes later', async () => {
  const run = await runChecks([silent('PostgreSQL'), fine('directories'), silent('streaming', 'pg_receivexlog')], {
    limitMs: 50,
  });
  const expected = [
    { check: 'directories', ok: true, hint: null },
    { check: 'check timeout', ok: false, hint: 'no answer within 50 ms (check_timeout): PostgreSQL, pg_receivexlog' },
  ];
  expect(run).toEqual({ results: expected, abandoned: false });
});

test('a check with an answer of its own gets a moment more', async () => {
  const patient = { ...silent('WAL archive'), patient: true };
  const { results } = await runChecks([patient, silent('PostgreSQL')], { limitMs: 20 });
  expect(results).toEqual([
    { check: 'WAL archive', ok: false, hint: 'too late' },
    { check: 'check timeout', ok: false, hint: 'no answer within 20 ms (check_timeout): PostgreSQL' },
  ]);
});

test('what does not end when it is told to is left behind', async () => {
  let end: (() => void) | undefined;
  const stuck: CheckStep = { name: 'disk', run: () => new Promise((resolve) => (end = resolve)) };
  const { results, abandoned } = await runChecks([stuck], { limitMs: 20 });
  expect(results).toMatchObject([{ check: 'check timeout', ok: false }]);
  expect(abandoned).toBe(true);
  end?.();
});

test('an interruption ends everything', async () => {
  const interrupt = new AbortController();
  const work = runChecks([silent('PostgreSQL')], { limitMs: 0, signal: interrupt.signal });
  interrupt.abort();
  await expect(work).rejects.toMatchObject({ code: 'aborted' });
});
