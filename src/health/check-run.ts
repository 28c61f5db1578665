import { WalwardenError } from '../errors.ts';
import { explain, formatSpan } from '../words.ts';
import { CheckStrategy, type CheckResult } from './check-strategy.ts';
import { firing, pause } from './patience.ts';

/** One or several checks that belong together. */
export interface CheckStep {
  /** What it is called when it gives no answer before it has announced a check. */
  readonly name: string;
  /** Once the signal fires, nobody waits for it any more. */
  readonly run: (strategy: CheckStrategy, signal: AbortSignal) => Promise<void>;
  /** It has an answer of its own when others don't answer: it gets a moment for that. */
  readonly patient?: boolean;
}

export interface CheckRun {
  readonly results: readonly CheckResult[];
  /** Something still runs that nobody waits for. */
  readonly abandoned: boolean;
}

const PATIENCE_MS = 500;

/**
 * Runs all steps at the same time; their results stand in the order of the
 * steps. After `limitMs` (0: no limit) those that have not answered are told as
 * `check timeout`, and aborted. Throws `aborted` when `signal` fires.
 */
export async function runChecks(
  steps: readonly CheckStep[],
  { limitMs, signal }: { readonly limitMs: number; readonly signal?: AbortSignal | undefined },
): Promise<CheckRun> {
  const stop = new AbortController();
  const pending = new Set<Part>();
  const parts = steps.map((step): Part => ({ step, strategy: new CheckStrategy() }));
  const work = Promise.all(
    parts.map(async (part) => {
      pending.add(part);
      await runStep(part, stop.signal);
      pending.delete(part);
    }),
  );
  const timer = new AbortController();
  const ends: Promise<unknown>[] = [work];
  if (limitMs > 0) ends.push(pause(limitMs, timer.signal));
  if (signal !== undefined) ends.push(firing(signal, timer.signal));
  try {
    await Promise.race(ends);
    if (signal?.aborted === true) throw new WalwardenError('aborted', 'the checks were interrupted');
    const late = [...pending];
    // Closed first: being aborted is no answer.
    for (const { step, strategy } of late) if (step.patient !== true) strategy.close();
    stop.abort();
    if (late.length > 0) await Promise.race([work, pause(PATIENCE_MS, timer.signal)]);
    const silent = late.filter((part) => part.step.patient !== true || pending.has(part));
    for (const { strategy } of silent) strategy.close();
    const results = parts.flatMap(({ strategy }) => strategy.results);
    if (silent.length > 0) results.push(timeout(silent, limitMs));
    return { results, abandoned: pending.size > 0 };
  } finally {
    stop.abort();
    timer.abort();
  }
}

interface Part {
  readonly step: CheckStep;
  readonly strategy: CheckStrategy;
}

/** Never rejects: what one check stumbles over is not the others'. */
async function runStep({ step, strategy }: Part, signal: AbortSignal): Promise<void> {
  try {
    await step.run(strategy, signal);
  } catch (error) {
    const why = error instanceof WalwardenError ? explain(error) : `it can't be checked: ${String(error)}`;
    strategy.result(false, why, strategy.current ?? step.name);
  }
}

function timeout(silent: readonly Part[], limitMs: number): CheckResult {
  const names = silent.map(({ step, strategy }) => strategy.current ?? step.name);
  const hint = `no answer within ${formatSpan(limitMs)} (check_timeout): ${[...new Set(names)].join(', ')}`;
  return { check: 'check timeout', ok: false, hint };
}
