import { spawn, type ChildProcess } from 'node:child_process';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { errnoOf, messageOf } from '../errors.ts';
import { forEachLine } from './output-lines.ts';

/** How a script ended. */
export type ScriptEnd =
  | { readonly how: 'exited'; readonly status: number }
  | { readonly how: 'signalled'; readonly signal: string }
  | { readonly how: 'timed-out'; readonly afterMs: number }
  | { readonly how: 'aborted' }
  | { readonly how: 'not-started'; readonly why: string };

export interface ScriptRun {
  /** A shell command line. */
  readonly script: string;
  readonly env: NodeJS.ProcessEnv;
  /** Gets each line of stdout and stderr, without its newline. */
  readonly onLine: (line: string, stream: 'stdout' | 'stderr') => void;
  readonly timeoutMs?: number | undefined;
  /** Ends the script, now. */
  readonly kill?: AbortSignal | undefined;
  /** Between SIGTERM and SIGKILL. */
  readonly killGraceMs: number;
}

/** How long to wait for output once the script has ended: a job that it left in the background keeps the pipes open. */
const OUTPUT_GRACE_MS = 500;

/**
 * Runs a command line through `sh -c`, in a process group of its own. Resolves
 * when the script has ended, and, when it had to be killed, when nothing of
 * its group is left. Never rejects.
 */
export async function runScript(run: ScriptRun): Promise<ScriptEnd> {
  if (run.kill?.aborted) return { how: 'aborted' };
  let child;
  try {
    child = spawn('sh', ['-c', run.script], { env: run.env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  } catch (error) {
    return { how: 'not-started', why: messageOf(error) };
  }
  const ended = endOf(child);
  // Node may have left out the streams, too.
  if (child.pid === undefined) return ended;
  const output = Promise.all([
    forEachLine(child.stdout, (line) => run.onLine(line, 'stdout')),
    forEachLine(child.stderr, (line) => run.onLine(line, 'stderr')),
  ]);
  const end = await endOrKill(child, ended, run);
  // Its trailing output belongs to it; a background job's doesn't hold us up, nor do its pipes keep us alive.
  await withinMs(output, OUTPUT_GRACE_MS);
  for (const stream of [child.stdout, child.stderr]) unref(stream);
  return end;
}

/** The end that the script found by itself. To be called first of all: an 'error' that nobody hears ends us. */
function endOf(child: ChildProcess): Promise<ScriptEnd> {
  return new Promise((resolve) => {
    child.on('error', (error) => resolve({ how: 'not-started', why: error.message }));
    child.once('exit', (status, signal) =>
      resolve(status === null ? { how: 'signalled', signal: signal ?? 'unknown' } : { how: 'exited', status }),
    );
  });
}

async function endOrKill(child: ChildProcess, ended: Promise<ScriptEnd>, run: ScriptRun): Promise<ScriptEnd> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  const forced = new Promise<ScriptEnd>((resolve) => {
    const { timeoutMs } = run;
    if (timeoutMs !== undefined) {
      timer = setTimeout(() => resolve({ how: 'timed-out', afterMs: timeoutMs }), timeoutMs);
    }
    onAbort = () => {
      // At once: whoever aborts may end us with the next instruction.
      if (child.pid !== undefined) signalGroup(child.pid, 'SIGTERM');
      resolve({ how: 'aborted' });
    };
    run.kill?.addEventListener('abort', onAbort, { once: true });
  });
  try {
    const end = await Promise.race([ended, forced]);
    if (end.how === 'timed-out' || end.how === 'aborted') {
      await killGroup(child, run.killGraceMs);
      // A script that changed its user (sudo) is out of our reach; it may not hold us for ever.
      await withinMs(ended, run.killGraceMs);
      child.unref();
    }
    return end;
  } finally {
    clearTimeout(timer);
    if (onAbort !== undefined) run.kill?.removeEventListener('abort', onAbort);
  }
}

/**
 * SIGTERM to the whole group, SIGKILL to what is left of it after the grace
 * time. The shell's own end is not enough: its children may ignore SIGTERM.
 */
async function killGroup(child: ChildProcess, graceMs: number): Promise<void> {
  const group = child.pid;
  if (group === undefined) return;
  if (!signalGroup(group, 'SIGTERM')) return;
  const deadline = Date.now() + graceMs;
  while (Date.now() < deadline) {
    await delay(20);
    if (!signalGroup(group, 0)) return;
  }
  signalGroup(group, 'SIGKILL');
}

/** False when the group has no member any more. */
function signalGroup(group: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(-group, signal);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ESRCH') return false;
    // EPERM: what is left runs as another user (sudo in the script) and is out of our reach.
    if (errnoOf(error) === 'EPERM') return true;
    throw error;
  }
}

/** Waits for something that may take for ever, but not for ever. */
async function withinMs(what: Promise<unknown>, ms: number): Promise<void> {
  const timer = new AbortController();
  await Promise.race([what, delay(ms, undefined, { signal: timer.signal }).catch(() => undefined)]);
  timer.abort();
}

function unref(stream: Readable): void {
  if ('unref' in stream && typeof stream.unref === 'function') stream.unref();
}
