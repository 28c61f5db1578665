import { existsSync, readdirSync, statSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { acquireLock } from '../../src/durable/lock-file.ts';
import { run, type RunOptions, type RunResult } from './run.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** The built program; {@link ensureBuilt} first. */
export const CLI = join(ROOT, 'dist', 'cli.js');

export interface CliOptions extends RunOptions {
  /** Configuration file, given as -c. */
  readonly config?: string;
}

let built: Promise<void> | undefined;

/** Builds dist when a source is newer. Test files run in parallel: one builds, the others wait. */
export function ensureBuilt(): Promise<void> {
  built ??= build();
  return built;
}

async function build(): Promise<void> {
  if (isFresh()) return;
  await using _lock = await acquireLock(join(ROOT, 'node_modules', '.walwarden-build.lock'), { wait: true });
  if (isFresh()) return;
  const result = await run('npm', ['run', '-s', 'build'], { cwd: ROOT, timeoutMs: 300_000 });
  if (result.status !== 0) throw new Error(`the build fails:\n${result.stdout}${result.stderr}`);
}

function isFresh(): boolean {
  if (!existsSync(CLI)) return false;
  const builtAt = statSync(CLI).mtimeMs;
  const sources = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' });
  return sources.every((name) => statSync(join(ROOT, 'src', name)).mtimeMs <= builtAt);
}

/** Runs `walwarden ARGS` as a process of its own, to its end. As another user: give that user's `uid` and `gid`. */
export async function runCli(args: readonly string[], options: CliOptions = {}): Promise<RunResult> {
  await ensureBuilt();
  const { config, ...rest } = options;
  const globals = config === undefined ? [] : ['-c', config];
  return run(process.execPath, [CLI, ...globals, ...args], { cwd: dirname(config ?? ROOT), ...rest });
}

/** The command line of the CLI for a shell, as archive_command and restore_command need it. */
export function cliCommand(config: string, ...args: string[]): string {
  return [process.execPath, CLI, '-c', config, ...args].join(' ');
}

export interface ConfigOptions {
  /** barman_home; default: the directory of the file. */
  readonly home?: string;
  readonly global?: Readonly<Record<string, string | number>>;
  /** Options of each server; default one server `main` with `archiver = on`. */
  readonly servers?: Readonly<Record<string, Readonly<Record<string, string | number>>>>;
}

/** Writes `<directory>/walwarden.conf`, which anybody may read, and tells its path. */
export async function writeConfig(directory: string, options: ConfigOptions = {}): Promise<string> {
  const { home = directory, global = {}, servers = { main: {} } } = options;
  const section = (name: string, values: Readonly<Record<string, string | number>>): string =>
    `[${name}]\n${Object.entries(values)
      .map(([option, value]) => `${option} = ${value}\n`)
      .join('')}\n`;
  const text = [
    section('barman', { barman_home: home, ...global }),
    ...Object.entries(servers).map(([name, values]) => section(name, { description: name, archiver: 'on', ...values })),
  ].join('');
  await mkdir(directory, { recursive: true });
  const path = join(directory, 'walwarden.conf');
  await writeFile(path, text, { mode: 0o644 });
  return path;
}
