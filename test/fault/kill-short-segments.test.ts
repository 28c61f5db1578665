import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, test } from 'vitest';
import { findWal } from '../../src/archiver/wal-finder.ts';
import { finderParts } from '../../src/server-wal.ts';
import { partialName, walName } from '../../src/wal/wal-name.ts';
import { partialWal, spliced } from '../wal/partial-wal.ts';
import { CONFIGURATIONS, STREAMING, type FaultHome } from './fault-home.ts';
import { killAtEveryCall, openMain, type Scenario } from './kill-scenarios.ts';
import { requireStrace } from './strace.ts';

beforeAll(requireStrace);

const short = await partialWal();
const name = walName(short.name);
const partial = partialName(name);

/** A segment is delivered that is only the beginning of what is received. */
async function deliverShort({ deliver, produced, cameAs }: FaultHome): Promise<void> {
  await deliver(name, () => short.padded);
  produced.delete(name);
  produced.set(partial, () => short.padded);
  cameAs.set(partial, name);
}

/** pg_receivewal has finished that segment, and is in a later one. */
async function finishReceived({ stream, staying, home }: FaultHome): Promise<void> {
  await stream(name, () => short.whole);
  await stream(walName(`${name.slice(0, 16)}000000FF.partial`), () => short.whole, 'only');
  if (staying.delete(partial)) await rm(join(home.streaming, partial));
}

/** Whether get-wal hands out the WAL that was delivered, or that and more. */
async function notHandedOut(fault: FaultHome): Promise<string[]> {
  await using server = await openMain(fault);
  const broken: string[] = [];
  for (const asPartial of [false, true]) {
    const found = await findWal(finderParts(server), name, asPartial);
    const isThere = found?.plain.subarray(0, short.end).equals(short.padded.subarray(0, short.end));
    if (isThere !== true) broken.push(`get-wal${asPartial ? ' --partial' : ''}: ${found?.path ?? 'absent'}`);
  }
  return broken;
}

const COMPLETE: Scenario = {
  from: 'a complete segment in streaming',
  options: STREAMING,
  deliver: async (fault) => {
    await deliverShort(fault);
    await finishReceived(fault);
  },
  broken: notHandedOut,
};

const BEING_RECEIVED: Scenario = {
  from: 'what is being received',
  options: STREAMING,
  deliver: async (fault) => {
    await deliverShort(fault);
    const received = spliced(short.whole, short.end + 100_000, Buffer.alloc(short.whole.length));
    await fault.stream(partial, () => received, 'only');
  },
  broken: notHandedOut,
  goOn: finishReceived,
};

/** What is being received differs by nothing that the configuration changes. */
const CASES = [
  ...CONFIGURATIONS.map((configuration) => ({ ...COMPLETE, configuration })),
  { ...BEING_RECEIVED, configuration: 'none' as const },
];

describe.concurrent(
  'a segment that is only the beginning of a longer copy, killed after every call that changes a file',
  () => {
    test.each(CASES)('is never absent, and the longer one is archived in the end, $from, $configuration', (scenario) =>
      killAtEveryCall(scenario, scenario.configuration),
    );
  },
);
