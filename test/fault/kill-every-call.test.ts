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
import { COUNTABLE, killAt, pointsOf, SYSCALLS } from './kill-points.ts';
import { readTrace, requireStrace, runTraced, type Call } from './strace.ts';

beforeAll(requireStrace);

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
          const { signal } = await killAt(fault, ['-q', 'archive-wal', 'main'], point);
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

async function passInProcess(fault: FaultHome): Promise<void> {
  const config = await loadConfig(fault.config);
  await using server = openServer(config, findServer(config, 'main'), pino({ level: 'silent' }));
  await server.archive(true);
}
