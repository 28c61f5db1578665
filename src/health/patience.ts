import { setTimeout as delay } from 'node:timers/promises';

/** Resolves to what `work` gives; undefined when it has given nothing `graceMs` after `signal` fired. */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal, graceMs = 0): Promise<T | undefined> {
  const ended = new AbortController();
  try {
    return await Promise.race([work, givenUp(signal, graceMs, ended.signal)]);
  } finally {
    ended.abort();
  }
}

async function givenUp(signal: AbortSignal, graceMs: number, ended: AbortSignal): Promise<undefined> {
  await firing(signal, ended);
  await pause(graceMs, ended);
}

/** Resolves with `work`, or after so many milliseconds. */
export async function within(work: Promise<void>, ms: number): Promise<void> {
  const ended = new AbortController();
  try {
    await Promise.race([work, pause(ms, ended.signal)]);
  } finally {
    ended.abort();
  }
}

/** Resolves after so many milliseconds, or when `ended` fires. */
export async function pause(ms: number, ended: AbortSignal): Promise<void> {
  try {
    await delay(ms, undefined, { signal: ended });
  } catch (error) {
    if (!ended.aborted) throw error;
  }
}

/** Resolves when either fires. */
export function firing(signal: AbortSignal, ended: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted || ended.aborted) return resolve();
    signal.addEventListener('abort', () => resolve(), { once: true, signal: ended });
    ended.addEventListener('abort', () => resolve(), { once: true });
  });
}
