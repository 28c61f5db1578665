// Processes, files and temporary directories of the benchmark.
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));
/** Another build can be measured against ours: WALWARDEN_BENCH_CLI. */
export const CLI = process.env['WALWARDEN_BENCH_CLI'] ?? path.join(ROOT, 'dist', 'cli.js');
export const NODE = process.execPath;

/** @typedef {{ argv: string[], env?: Record<string, string>, cwd?: string, uid?: number, gid?: number }} Command */
/** @typedef {{ status: number | null, signal: string | null, ms: number, stdout: string, stderr: string }} Ended */

/**
 * Runs a command to its end; stdout is thrown away unless asked for.
 * @param {Command} command
 * @param {{ keepStdout?: boolean, input?: string, onStart?: (pid: number) => void, stderr?: number }} [options]
 * @returns {Promise<Ended>}
 */
export function run(command, options = {}) {
  const [program = '', ...args] = command.argv;
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const child = spawn(program, args, {
      cwd: command.cwd,
      env: { ...process.env, ...command.env },
      ...(command.uid === undefined ? {} : { uid: command.uid, gid: command.gid }),
      stdio: [options.input === undefined ? 'ignore' : 'pipe', options.keepStdout ? 'pipe' : 'ignore', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    let ended = 0;
    child.stdout?.setEncoding('utf8').on('data', (text) => (stdout += text));
    child.stderr?.setEncoding('utf8').on('data', (text) => (stderr = (stderr + text).slice(-4_000)));
    child.once('error', reject);
    child.once('exit', () => (ended = performance.now()));
    child.once('close', (status, signal) => resolve({ status, signal, ms: ended - started, stdout, stderr }));
    if (options.input !== undefined) child.stdin?.end(options.input);
    children.add(child);
    child.once('exit', () => children.delete(child));
    if (child.pid !== undefined) options.onStart?.(child.pid);
  });
}

/**
 * Like run, but anything else than exit status 0 is an error.
 * @param {Command} command
 * @param {{ keepStdout?: boolean, input?: string }} [options]
 */
export async function mustRun(command, options) {
  const ended = await run(command, options);
  if (ended.status !== 0) {
    throw new Error(`${command.argv.join(' ').slice(0, 200)}: ${ended.signal ?? ended.status}\n${ended.stderr}`);
  }
  return ended;
}

/** The path of a program, undefined when it is not installed. @param {string} name */
export function which(name) {
  for (const directory of (process.env['PATH'] ?? '').split(':')) {
    const file = path.join(directory, name);
    if (fs.existsSync(file)) return file;
  }
  return undefined;
}

/** First line that a program says about its version. @param {string[]} argv */
export function versionOf(argv) {
  try {
    const [program = '', ...args] = argv;
    return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split('\n')[0] ?? '';
  } catch {
    return 'unknown';
  }
}

/** Writes everything down, so that nobody pays for another's dirty pages. */
export async function settle() {
  await mustRun({ argv: ['sync'] });
}

const MARK = 'WALWARDEN_BENCH_MARK';

/**
 * Runs a command and tells the largest sum of the peak RSS of its processes
 * that lived at the same time, in bytes. Looks at /proc all the while, so the
 * time it takes is no measurement. Daemons that it leaves behind count too.
 * @param {Command} command
 */
export async function peakRss(command) {
  const mark = `${process.pid}-${Math.random()}`;
  const watch = watchRss(mark);
  const ended = await run({ ...command, env: { ...command.env, [MARK]: mark } });
  return { ...ended, rss: watch.stop() };
}

/** The environment by which watchRss finds a command's processes. @param {string} mark */
export function markedEnv(mark) {
  return { [MARK]: mark };
}

/** @param {string} mark */
export function watchRss(mark) {
  /** @type {Map<string, boolean>} */
  const known = new Map();
  let peak = 0;
  /** Those of the last look: what was just forked, and has not become its program yet, shows its parent's memory as its own. */
  let before = new Set();
  const look = () => {
    let sum = 0;
    const now = new Set();
    for (const pid of fs.readdirSync('/proc')) {
      if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
      let mine = known.get(pid);
      if (mine === undefined) {
        mine = read(`/proc/${pid}/environ`).includes(`${MARK}=${mark}`);
        known.set(pid, mine);
      }
      if (!mine) continue;
      now.add(pid);
      if (before.has(pid)) sum += 1024 * Number(/VmHWM:\s+(\d+)/.exec(read(`/proc/${pid}/status`))?.[1] ?? 0);
    }
    before = now;
    peak = Math.max(peak, sum);
  };
  const timer = setInterval(look, 15);
  return {
    peak: () => peak,
    stop: () => {
      look();
      clearInterval(timer);
      return peak;
    },
  };
}

/** @param {string} file */
function read(file) {
  try {
    return fs.readFileSync(file, 'latin1');
  } catch {
    // Ended meanwhile, or somebody else's: neither is ours.
    return '';
  }
}

/**
 * Number of fsync, fdatasync and syncfs calls of a command; undefined without strace.
 * @param {Command} command
 */
export async function countSyncs(command) {
  if (which('strace') === undefined) return undefined;
  const out = path.join(os.tmpdir(), `walwarden-bench-strace-${process.pid}`);
  const trace = ['strace', '-f', '-c', '-o', out, '-e', 'trace=fsync,fdatasync,syncfs'];
  try {
    const ended = await run({ ...command, argv: [...trace, ...command.argv] });
    if (ended.status !== 0) return undefined;
    let calls = 0;
    for (const line of fs.readFileSync(out, 'utf8').split('\n')) {
      const match = /^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(fsync|fdatasync|syncfs)$/.exec(line);
      if (match !== null) calls += Number(match[1]);
    }
    return calls;
  } finally {
    fs.rmSync(out, { force: true });
  }
}

/** @type {Set<import('node:child_process').ChildProcess>} */
const children = new Set();
/** @type {Set<string>} */
const scratch = new Set();
process.once('exit', removeScratch);
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) process.once(signal, () => process.exit(130));

function removeScratch() {
  for (const child of children) child.kill();
  for (const directory of scratch) fs.rmSync(directory, { recursive: true, force: true });
}

/** A directory that goes when `body` ends, or we do. @template T @param {(directory: string) => Promise<T>} body */
export async function withScratch(body) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'walwarden-bench-'));
  // A server of another user may work below it.
  fs.chmodSync(directory, 0o755);
  scratch.add(directory);
  try {
    return await body(directory);
  } finally {
    fs.rmSync(directory, { recursive: true, force: true });
    scratch.delete(directory);
  }
}

/** @param {number[]} values */
export function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? NaN)
    : ((sorted[middle - 1] ?? NaN) + (sorted[middle] ?? NaN)) / 2;
}

/** Names below a directory, whatever the depth, of whole WAL files. @param {string} directory */
export function storedWals(directory) {
  if (!fs.existsSync(directory)) return [];
  return fs
    .readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((name) => /^[0-9A-F]{24}(-[0-9a-f]{40})?(\.(gz|lz4|zst))?$/.test(path.basename(name)))
    .toSorted();
}

/** @param {string} text */
export function say(text) {
  process.stderr.write(`${text}\n`);
}
