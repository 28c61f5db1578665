import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { once } from 'node:events';
import { CLI, ensureBuilt } from '../support/cli.ts';
import { killIfThere } from '../support/processes.ts';
import { run, type RunOptions, type RunResult } from '../support/run.ts';
import { until } from '../support/poll.ts';

/** The second executable. */
export const PATRONI_CLI = join(CLI, '..', 'patroni-cli.js');

export const DATA_DIRECTORY = '/var/lib/postgresql/patroni';

export interface RecoverOptions extends RunOptions {
  /** Before `recover`; instead of no waiting, with three tries. */
  readonly globals?: readonly string[];
  /** Behind `recover`, before what Patroni adds. */
  readonly words?: readonly string[];
}

const AT_ONCE = ['--retry-wait', '0', '--max-retries', '3'];
const WORDS = ['--barman-server', 'main', '--ssh-command', 'ssh postgres@patroni1', '--loop-wait', '0'];

/** What Patroni adds for a replica, to a configured `command`. */
const ADDED = [
  '--no_leader=1',
  '--scope=batman',
  '--role=replica',
  `--datadir=${DATA_DIRECTORY}`,
  '--connstring=postgres://replicator:secret@10.0.0.1:5432/postgres',
];

function commandLine(url: string, { globals = AT_ONCE, words = WORDS }: RecoverOptions): string[] {
  return [PATRONI_CLI, '--api-url', url, ...globals, 'recover', ...words, ...ADDED];
}

/** Runs `walwarden-patroni` with these words, as they are. */
export async function runPatroniCli(words: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  await ensureBuilt();
  return run(process.execPath, [PATRONI_CLI, ...words], options);
}

/** Runs `walwarden-patroni … recover …` as Patroni does, to its end. */
export async function runRecover(url: string, options: RecoverOptions = {}): Promise<RunResult> {
  await ensureBuilt();
  const { globals: _globals, words: _words, ...rest } = options;
  return run(process.execPath, commandLine(url, options), rest);
}

/** Starts the same, and gives it `signal` once `isTime`. */
export async function stopRecover(
  url: string,
  signal: 'SIGINT' | 'SIGTERM',
  isTime: (log: string) => boolean,
  options: RecoverOptions = {},
): Promise<Pick<RunResult, 'status' | 'stderr'>> {
  await ensureBuilt();
  const child = spawn(process.execPath, commandLine(url, options), { stdio: ['ignore', 'ignore', 'pipe'] });
  const stderr: Buffer[] = [];
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  const closed = once(child, 'close');
  try {
    await until('the moment for the signal', () => isTime(Buffer.concat(stderr).toString()));
    child.kill(signal);
    await closed;
    return { status: child.exitCode, stderr: Buffer.concat(stderr).toString() };
  } finally {
    if (child.pid !== undefined && child.exitCode === null) killIfThere(child.pid, 'SIGKILL');
    await closed;
  }
}

/** What a log says, line by line. */
export function messages(log: string): string[] {
  return log
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => String(JSON.parse(line).msg));
}

/** The last line of a log, with its facts. */
export function lastLine(log: string): Record<string, unknown> {
  return JSON.parse(log.trimEnd().split('\n').at(-1) ?? '');
}
