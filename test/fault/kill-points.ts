import { join } from 'node:path';
import type { RunResult } from '../support/run.ts';
import type { FaultHome } from './fault-home.ts';
import { runTraced, type Call } from './strace.ts';

/** All that change something, and those that open: what only reads lies between two of them. */
export const SYSCALLS = [
  'openat',
  'write',
  'pwrite64',
  'fsync',
  'fdatasync',
  'ftruncate',
  'link',
  'unlink',
  'rename',
  'mkdir',
  'rmdir',
  'fchmod',
  'utimensat',
  'copy_file_range',
  'sendfile',
];

/** The n-th call of a kind that one thread makes on one file: strace counts in this way. */
export interface Point {
  readonly syscall: string;
  /** Null for a name that holds the pid, which nobody knows before: then n counts the calls on any file. */
  readonly path: string | null;
  readonly n: number;
}

const HOLDS_PID = /\.\d+(?:-\d+)?\.tmp$/;
/** Node itself makes the others too, and not always as many; gpg makes these as well. */
export const COUNTABLE = ['fsync', 'link', 'unlink', 'rename'];

/** The points of a trace at which a run on this server may be killed. */
export function pointsOf(calls: readonly Call[], { home }: FaultHome, countable: readonly string[]): Point[] {
  const points = new Map<string, Point>();
  const counted = new Map<string, number>();
  const count = (key: string): number => {
    const n = (counted.get(key) ?? 0) + 1;
    counted.set(key, n);
    return n;
  };
  for (const { thread, name: syscall, paths } of calls) {
    const nOfAll = count(`${thread} ${syscall}`);
    const [path] = paths;
    // Locks, log and configuration are not what is at stake here; their calls lie between those that are.
    if (path === undefined || !path.startsWith(join(home.home, home.server))) continue;
    const point = HOLDS_PID.test(path)
      ? { syscall, path: null, n: nOfAll }
      : { syscall, path, n: count(`${thread} ${syscall} ${path}`) };
    if (point.path !== null || countable.includes(syscall)) points.set(JSON.stringify(point), point);
  }
  return [...points.values()];
}

/** Runs a command and kills it right after a call. */
export function killAt(
  { config, home }: Pick<FaultHome, 'config' | 'home'>,
  args: readonly string[],
  { syscall, path, n }: Point,
): Promise<RunResult> {
  return runTraced({
    config,
    args,
    syscalls: [syscall],
    paths: path === null ? [] : [path],
    inject: [`${syscall}:signal=SIGKILL:when=${n}`],
    output: join(home.home, 'trace'),
  });
}
