import { spawn, type ChildProcess } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { errnoOf, messageOf } from '../errors.ts';
import { forEachLine } from '../hooks/output-lines.ts';

/** How pg_receivewal ended. */
export type ReceiverEnd =
  | { readonly how: 'exited'; readonly status: number }
  | { readonly how: 'killed'; readonly signal: string }
  /** `missing`: a program is not installed; otherwise the system allows no more. */
  | { readonly how: 'not-started'; readonly why: string; readonly missing: boolean };

/** A pg_receivewal that runs, or did. */
export interface ReceiverProcess {
  /** Undefined when it could not be started. */
  readonly pid: number | undefined;
  /** Resolves once it is gone and everything that it said was handed on; never rejects. */
  readonly ended: Promise<ReceiverEnd>;
  /**
   * Asks it to end (by SIGINT, where no other signal is named); kills it after `graceMs`, or when `kill` fires.
   * Resolves to true when it had to be killed.
   */
  stop(graceMs: number, kill: AbortSignal, signal?: NodeJS.Signals): Promise<boolean>;
}

/** How long to wait for what it said last: a descendant that nobody expects could hold its pipes open. */
const OUTPUT_GRACE_MS = 1_000;

/**
 * Starts a program that must not outlive us: nobody would hold the receive-wal
 * lock for it, and the next receiver would write the same files. The kernel
 * kills it when we die, however we do (PR_SET_PDEATHSIG, which survives the
 * exec of Debian's wrapper). The shell asks whether we died before that was
 * set; then the program isn't started at all.
 *
 * It has a session of its own, so that a terminal's Ctrl-C reaches only us, who
 * then stop it in order.
 */
export function startReceiver(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  onLine: (line: string) => void,
): ReceiverProcess {
  const guard = ['--pdeathsig', 'KILL', '--', 'sh', '-c', '[ "$PPID" = "$0" ] && exec "$@"', String(process.pid)];
  let child: ChildProcess;
  try {
    child = spawn('setpriv', [...guard, program, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  } catch (error) {
    return neverStarted(notStarted(error));
  }
  return new Child(child, onLine);
}

function neverStarted(end: ReceiverEnd): ReceiverProcess {
  return { pid: undefined, ended: Promise.resolve(end), stop: () => Promise.resolve(false) };
}

class Child implements ReceiverProcess {
  readonly #child: ChildProcess;
  readonly ended: Promise<ReceiverEnd>;

  constructor(child: ChildProcess, onLine: (line: string) => void) {
    this.#child = child;
    const exited = this.#exited();
    this.ended = this.pid === undefined ? exited : this.#told(exited, onLine);
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  async stop(graceMs: number, kill: AbortSignal, signal: NodeJS.Signals = 'SIGINT'): Promise<boolean> {
    const done = new AbortController();
    const patience = delay(graceMs, true, { signal: AbortSignal.any([done.signal, kill]) }).catch(() => kill.aborted);
    const { exitCode, signalCode } = this.#child;
    // Its number may be another's by now.
    if (exitCode === null && signalCode === null) this.#signalGroup(signal);
    const killed = await Promise.race([this.ended.then(() => false), patience]);
    done.abort();
    if (killed) this.#signalGroup('SIGKILL');
    await this.ended;
    return killed;
  }

  /** To be called first of all: an 'error' that nobody hears ends us. */
  #exited(): Promise<ReceiverEnd> {
    return new Promise((resolve) => {
      this.#child.on('error', (error) => resolve(notStarted(error)));
      this.#child.once('exit', (status, signal) => {
        // A wrapper that started it, instead of becoming it, may have left it behind.
        this.#signalGroup('SIGKILL');
        resolve(status === null ? { how: 'killed', signal: signal ?? 'a signal' } : { how: 'exited', status });
      });
    });
  }

  async #told(exited: Promise<ReceiverEnd>, onLine: (line: string) => void): Promise<ReceiverEnd> {
    const streams = [this.#child.stdout, this.#child.stderr].filter((stream) => stream !== null);
    const output = Promise.all(streams.map((stream) => forEachLine(stream, onLine)));
    const end = await exited;
    const done = new AbortController();
    await Promise.race([output, delay(OUTPUT_GRACE_MS, null, { signal: done.signal }).catch(() => null)]);
    done.abort();
    for (const stream of streams) stream.destroy();
    return end;
  }

  /** It leads its group. */
  #signalGroup(signal: NodeJS.Signals): void {
    if (this.pid === undefined) return;
    try {
      process.kill(-this.pid, signal);
    } catch (error) {
      // Gone already, or run as another user (a wrapper with sudo), out of our reach.
      if (!['ESRCH', 'EPERM'].includes(errnoOf(error) ?? '')) throw error;
    }
  }
}

function notStarted(error: unknown): ReceiverEnd {
  const missing = errnoOf(error) === 'ENOENT';
  const why = missing ? 'the program setpriv is not found in PATH' : messageOf(error);
  return { how: 'not-started', why, missing };
}
