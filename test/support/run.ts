import { spawn } from 'node:child_process';
import type { RunAs } from './postgres-programs.ts';

export interface RunOptions extends RunAs {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** For its stdin; without it stdin is empty. */
  readonly input?: string | Uint8Array;
  /** SIGKILL after so many milliseconds; default a minute. */
  readonly timeoutMs?: number;
}

export interface RunResult {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  /** stdout as it came. */
  readonly bytes: Buffer;
}

/** Runs a program to its end; never throws for how it ended, only when it can't be started. */
export function run(program: string, args: readonly string[], options: RunOptions): Promise<RunResult> {
  const { input, timeoutMs = 60_000, ...spawnOptions } = options;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { ...spawnOptions, stdio: 'pipe' });
    const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
    // EPIPE: it ended before it read all of its input, which its status tells better.
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once('close', (status, signal) => {
      clearTimeout(timer);
      const bytes = Buffer.concat(stdout);
      resolve({ status, signal, stdout: bytes.toString(), stderr: Buffer.concat(stderr).toString(), bytes });
    });
  });
}
