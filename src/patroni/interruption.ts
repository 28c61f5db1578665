import { setTimeout as delay } from 'node:timers/promises';

const NUMBERS = { SIGINT: 2, SIGTERM: 15 } as const;

/** The signals that stop us, at once. */
export type StopSignal = keyof typeof NUMBERS;

/** The reason of a stop: everything that waits is left with it. */
export class Interruption extends Error {
  override readonly name = 'Interruption';
  readonly signal: StopSignal;

  constructor(signal: StopSignal) {
    super(`stopped by ${signal}`);
    this.signal = signal;
  }

  /** As a shell tells of a process that a signal ended. */
  get exitStatus(): number {
    return 128 + NUMBERS[this.signal];
  }
}

/** Runs `body` with a signal that is aborted, with an {@link Interruption}, by SIGINT and SIGTERM. */
export async function untilStopped<T>(body: (stop: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const onSignal = (signal: NodeJS.Signals): void => {
    if (signal === 'SIGINT' || signal === 'SIGTERM') controller.abort(new Interruption(signal));
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  try {
    return await body(controller.signal);
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
  }
}

/** Waits; throws what `stop` was aborted with. */
export async function wait(seconds: number, stop: AbortSignal): Promise<void> {
  try {
    await delay(seconds * 1_000, undefined, { signal: stop });
  } catch (error) {
    stop.throwIfAborted();
    throw error;
  }
}
