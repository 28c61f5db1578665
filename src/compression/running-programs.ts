import { errnoOf } from '../errors.ts';

const MAX_PROGRAMS = 1_024;

/**
 * The process groups that run for us, by pid; 0 is a free place, and the first
 * place tells that we end. One table for all threads: a worker thread is ended
 * without being asked, and what it started would go on without it.
 */
let table = new Int32Array(new SharedArrayBuffer(4 * (1 + MAX_PROGRAMS)));
let owner = true;
const ENDING = 0;

process.on('exit', () => {
  if (!owner) return;
  Atomics.store(table, ENDING, 1);
  for (const pid of table.subarray(1)) if (pid !== 0) killGroup(pid);
});

/** Sees to it that a process group ends with us. Returns what to call once it has ended. */
export function registerProgram(pid: number): () => void {
  const place = takePlace(pid);
  // Started while the others were being killed.
  if (Atomics.load(table, ENDING) === 1) killGroup(pid);
  return () => {
    if (place !== null) Atomics.store(table, place, 0);
  };
}

function takePlace(pid: number): number | null {
  for (let place = ENDING + 1; place < table.length; place += 1) {
    if (Atomics.compareExchange(table, place, 0, pid) === 0) return place;
  }
  return null; // more than anybody runs at once
}

/** For a worker thread to register its programs in. */
export function programTable(): SharedArrayBuffer {
  return table.buffer;
}

/** What this thread starts from now on ends with the thread that this table is of. */
export function usePrograms(shared: SharedArrayBuffer): void {
  table = new Int32Array(shared);
  owner = false;
}

/** SIGKILL to a program and all that it started. */
export function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    // Gone already, or run as another user by now (sudo): its pipes are all that we can take away.
    const errno = errnoOf(error);
    if (errno !== 'ESRCH' && errno !== 'EPERM') throw error;
  }
}
