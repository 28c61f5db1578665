import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** V8 lets about 64 MiB of buffers wait for each thread's collector; so many bytes of files are what we let it. */
const PATIENCE = 96 * 1024 * 1024;

let processed = 0;
let collect: (() => void) | null = null;

/**
 * Frees the buffers of files that are done with, every now and then. Compressed
 * bytes lie outside of the JavaScript heap, which stays nearly empty meanwhile,
 * so the collector sees no reason to come by, and a process with several
 * threads would hold hundreds of megabytes of them.
 */
export function collectGarbage(bytes: number): void {
  processed += bytes;
  if (processed < PATIENCE) return;
  processed = 0;
  collect ??= exposedCollector();
  collect();
}

function exposedCollector(): () => void {
  setFlagsFromString('--expose-gc');
  const gc: unknown = runInNewContext('gc');
  return typeof gc === 'function' ? () => void gc() : () => {};
}
