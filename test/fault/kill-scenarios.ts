import { join } from 'node:path';
import { pino } from 'pino';
import { expect } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { findServer } from '../../src/config/config.ts';
import { openServer, type Server } from '../../src/server.ts';
import {
  withConfiguration,
  withFaultHome,
  type Configuration,
  type FaultHome,
  type FaultOptions,
} from './fault-home.ts';
import { COUNTABLE, killAt, pointsOf, SYSCALLS } from './kill-points.ts';
import { readTrace, runTraced, type Call } from './strace.ts';

/** What is delivered to a server, for a pass that is killed. */
export interface Scenario {
  readonly from: string;
  readonly options: FaultOptions;
  readonly deliver: (fault: FaultHome) => Promise<void>;
  /** What else is broken at any moment. */
  readonly broken?: (fault: FaultHome) => Promise<string[]>;
  /** What pg_receivewal does after the pass that heals; one more pass follows. */
  readonly goOn?: (fault: FaultHome) => Promise<void>;
}

/** Kills archive-wal after every call that changes a file, looks at what is left, and has the next pass heal it. */
export function killAtEveryCall(scenario: Scenario, configuration: Configuration): Promise<void> {
  return withConfiguration(configuration, (options) =>
    withFaultHome({ ...options, ...scenario.options, archiver_workers: 0 }, async (fault) => {
      const countable = configuration === 'gpg' ? [] : COUNTABLE;
      await scenario.deliver(fault);
      const points = pointsOf(await reference(fault), fault, countable);
      expect(points.length).toBeGreaterThan(30);
      const broken = async (state: 'crashed' | 'healed'): Promise<string[]> => [
        ...(await fault.violations(state)),
        ...((await scenario.broken?.(fault)) ?? []),
      ];
      for (const point of points) {
        await fault.reset();
        await scenario.deliver(fault);
        const { signal } = await killAt(fault, ['-q', 'archive-wal', 'main'], point);
        expect({ point, signal }).toEqual({ point, signal: 'SIGKILL' });
        expect({ point, broken: await broken('crashed') }).toEqual({ point, broken: [] });
        await passInProcess(fault);
        expect({ point, broken: await broken('healed') }).toEqual({ point, broken: [] });
        if (scenario.goOn === undefined) continue;
        await scenario.goOn(fault);
        await passInProcess(fault);
        expect({ point, broken: await broken('healed') }).toEqual({ point, broken: [] });
      }
    }),
  );
}

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
  await using server = await openMain(fault);
  await server.archive(true);
}

/** The server, in this process. */
export async function openMain(fault: FaultHome): Promise<Server> {
  const config = await loadConfig(fault.config);
  return openServer(config, findServer(config, 'main'), pino({ level: 'silent' }));
}
