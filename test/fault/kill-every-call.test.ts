import { join } from 'node:path';
import { pino } from 'pino';
import { beforeAll, describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { findServer } from '../../src/config/config.ts';
import { openServer } from '../../src/server.ts';
import {
  CONFIGURATIONS,
  STREAMING,
  streamAfterPromotion,
  withConfiguration,
  withFaultHome,
  type FaultHome,
  type FaultOptions,
} from './fault-home.ts';
import { readTrace, requireStrace, runTraced, type Call } from './strace.ts';

beforeAll(requireStrace);

/** All that change something, and those that open: what only reads lies between two of them. */
const SYSCALLS = [
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
interface Point {
  readonly syscall: string;
  /** Null for a name that holds the pid, which nobody knows before: then n counts the calls on any file. */
  readonly path: string | null;
  readonly n: number;
}

const HOLDS_PID = /\.\d+(?:-\d+)?\.tmp$/;
/** Node itself makes the others too, and not always as many; gpg makes these as well. */
const COUNTABLE = ['fsync', 'link', 'unlink', 'rename'];

interface Scenario {
  readonly from: string;
  readonly options: FaultOptions;
  readonly deliver: (fault: FaultHome) => Promise<void>;
}

/** No text files: a pass waits a second for them. */
const SCENARIOS: readonly Scenario[] = [
  { from: 'incoming', options: {}, deliver: (fault) => fault.deliverSegments(1, 3) },
  { from: 'streaming', options: STREAMING, deliver: streamAfterPromotion },
];

const CASES = SCENARIOS.flatMap((scenario) => CONFIGURATIONS.map((configuration) => ({ ...scenario, configuration })));

describe.concurrent('archive-wal, killed after every call that changes a file', () => {
  test.each(CASES)('loses nothing, and the next pass heals, $from, $configuration', (testCase) =>
    withConfiguration(testCase.configuration, (options) =>
      withFaultHome({ ...options, ...testCase.options, archiver_workers: 0 }, async (fault) => {
        const countable = testCase.configuration === 'gpg' ? [] : COUNTABLE;
        await testCase.deliver(fault);
        const points = pointsOf(await reference(fault), fault, countable);
        expect(points.length).toBeGreaterThan(40);
        for (const point of points) {
          await fault.reset();
          await testCase.deliver(fault);
          const { syscall, path, n } = point;
          const { signal } = await runTraced({
            config: fault.config,
            args: ['-q', 'archive-wal', 'main'],
            syscalls: [syscall],
            paths: path === null ? [] : [path],
            inject: [`${syscall}:signal=SIGKILL:when=${n}`],
            output: join(fault.home.home, 'trace'),
          });
          expect({ point, signal }).toEqual({ point, signal: 'SIGKILL' });
          expect({ point, broken: await fault.violations('crashed') }).toEqual({ point, broken: [] });
          await passInProcess(fault);
          expect({ point, broken: await fault.violations('healed') }).toEqual({ point, broken: [] });
        }
      }),
    ),
  );
});

async function reference(fault: FaultHome): Promise<Call[]> {
  const output = join(fault.home.home, 'trace');
  const { status } = await runTraced({
    config: fault.config,
    args: ['archive-wal', 'main'],
    syscalls: SYSCALLS,
    output,
  });
  expect(status).toBe(0);
  expect(await fault.violations('healed')).toEqual([]);
  return readTrace(output);
}

function pointsOf(calls: readonly Call[], { home }: FaultHome, countable: readonly string[]): Point[] {
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

async function passInProcess(fault: FaultHome): Promise<void> {
  const config = await loadConfig(fault.config);
  await using server = openServer(config, findServer(config, 'main'), pino({ level: 'silent' }));
  await server.archive(true);
}
