import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** V8 lets about 64 MiB of buffers wait for each thread's collector; after so many bytes made we call it. */
const PATIENCE = 16 * 1024 * 1024;

let made = 0;
let collect: (() => void) | null = null;

/**
 * Frees the buffers of files that are done with, every now and then. Compressed
 * bytes lie outside of the JavaScript heap, which stays nearly empty meanwhile,
 * so the collector sees no reason to come by, and a process with several
 * threads would hold hundreds of megabytes of them.
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
  return typeof gc === 'function' ? () => void gc() : () => {};
}
