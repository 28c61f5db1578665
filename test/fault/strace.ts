import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { CLI, ensureBuilt } from '../support/cli.ts';
import { run, type RunResult } from '../support/run.ts';

/** One system call of a trace. Two calls of different threads may overlap: one was before the other if it left before that entered. */
export interface Call {
  readonly thread: number;
  readonly name: string;
  /** Arguments and result as strace prints them. */
  readonly text: string;
  /** The files it names, as arguments or by descriptor. */
  readonly paths: readonly string[];
  /** True when it succeeded. */
  readonly ok: boolean;
  /** Lines of the trace. */
  readonly entered: number;
  readonly left: number;
}

export interface TraceOptions {
  readonly config: string;
  readonly args: readonly string[];
  readonly syscalls: readonly string[];
  /** Only calls that touch one of these files. */
  readonly paths?: readonly string[];
  /** `-e inject=` expressions; they count the calls that pass `paths`, for each thread. */
  readonly inject?: readonly string[];
  /** Where the trace goes. */
  readonly output: string;
}

/** Fails where strace is missing: these tests must not be skipped in silence. */
export function requireStrace(): void {
  try {
    execFileSync('strace', ['--version'], { stdio: 'ignore' });
  } catch (cause) {
    throw new Error('strace is needed for the fault tests: apt-get install strace', { cause });
  }
}

/**
 * Runs walwarden under strace. One thread does what is asynchronous
 * (UV_THREADPOOL_SIZE), the main one the rest; staging in process is the
 * caller's `archiver_workers = 0`.
 */
export async function runTraced(options: TraceOptions): Promise<RunResult> {
  await ensureBuilt();
  const filters = (options.paths ?? []).flatMap((path) => ['-P', path]);
  const injections = (options.inject ?? []).flatMap((expression) => ['-e', `inject=${expression}`]);
  // Not --seccomp-bpf: with it, strace 6.1 never delivers an injected signal.
  const strace = ['-f', '-qq', '-y', '-s', '64', '-o', options.output, '-e', 'signal=none'];
  const traced = ['-e', `trace=${options.syscalls.join(',')}`, ...injections, ...filters];
  return run('strace', [...strace, ...traced, process.execPath, CLI, '-c', options.config, ...options.args], {
    env: { ...process.env, UV_THREADPOOL_SIZE: '1' },
    timeoutMs: 120_000,
  });
}

const START = /^(\d+) +(\w+)\((.*)$/s;
const RESUMED = /^(\d+) +<\.\.\. (\w+) resumed>(.*)$/s;
const UNFINISHED = / ?<unfinished \.\.\.>$/;

export async function readTrace(path: string): Promise<Call[]> {
  const calls: Call[] = [];
  const open = new Map<string, { readonly index: number; readonly text: string }>();
  const lines = (await readFile(path, 'latin1')).split('\n');
  for (const [index, line] of lines.entries()) {
    const resumed = RESUMED.exec(line);
    const [, thread = '', name = '', text = ''] = resumed ?? START.exec(line) ?? [];
    if (thread === '') continue;
    if (resumed === null && UNFINISHED.test(text)) {
      open.set(thread, { index, text: text.replace(UNFINISHED, '') });
      continue;
    }
    const begun = resumed === null ? undefined : open.get(thread);
    calls.push(callOf(thread, name, (begun?.text ?? '') + text, begun?.index ?? index, index));
  }
  return calls;
}

function callOf(thread: string, name: string, text: string, entered: number, left: number): Call {
  const quoted = [...text.matchAll(/"(\/(?:[^"\\]|\\.)*)"/g)].map(([, path = '']) => path);
  const described = [...text.matchAll(/(?:^|, )\d+<(\/[^>]*)>/g)].map(([, path = '']) => path);
  const ok = /\) += \d/.test(text);
  return { thread: Number(thread), name, text, paths: [...described, ...quoted], ok, entered, left };
}
