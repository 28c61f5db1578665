import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { isMainThread } from 'node:worker_threads';

/** V8 lets about 64 MiB of buffers wait for each thread's collector; after so many bytes made we call it. */
const PATIENCE = 8 * 1024 * 1024;

let made = 0;
let collect: (() => void) | null = null;

/**
 * Frees the buffers of files that are done with, every now and then. Compressed
 * bytes lie outside of the JavaScript heap, which stays nearly empty meanwhile,
 * so the collector sees no reason to come by, and a process with several
 * threads would hold hundreds of megabytes of them. The main thread has a heap
 * worth the name and other things to do: there only what is young is looked at,
 * which takes a millisecond or two.
 */
export function collectGarbage(bytes: number): void {
  made += bytes;
  if (made < PATIENCE) return;
  made = 0;
  collect ??= exposedCollector();
  collect();
}

function exposedCollector(): () => void {
  setFlagsFromString('--expose-gc');
  const gc: unknown = runInNewContext('gc');
  const options = isMainThread ? { type: 'minor' } : undefined;
  return typeof gc === 'function' ? () => void gc(options) : () => {};
}
