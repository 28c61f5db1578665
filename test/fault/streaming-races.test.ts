import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { ensureBuilt } from '../support/cli.ts';
import { STREAMING, withFaultHome, type FaultHome, type FaultOptions } from './fault-home.ts';
import { killOnce } from './kill-once.ts';
import { Producer, seededRandom } from './producer.ts';
import { ReceiverStandIn } from './receiver-stand-in.ts';

const SEED = Number(process.env['WALWARDEN_TEST_SEED'] ?? Date.now() % 1_000_000);
const KILLS = 40;

beforeAll(ensureBuilt);

/** Nothing is left in streaming but what pg_receivewal has open. */
async function expectHealed(fault: FaultHome): Promise<void> {
  expect(await fault.violations('crashed')).toEqual([]);
  for (let pass = 0; pass < 2; pass += 1) expect(await fault.archive()).toMatchObject({ status: 0, stderr: '' });
  const [open = '', ...others] = await readdir(fault.home.streaming);
  expect({ open, others }).toEqual({ open: expect.stringMatching(/\.partial$/), others: [] });
  const bytes = await readFile(join(fault.home.streaming, open));
  fault.staying.set(open, () => bytes);
  expect(await fault.violations('healed')).toEqual([]);
}

describe.concurrent(`streaming, while pg_receivewal writes (WALWARDEN_TEST_SEED=${SEED})`, () => {
  test.each<[string, FaultOptions]>([
    ['without compression', {}],
    ['with zstd', { compression: 'zstd' }],
  ])('passes killed at random lose nothing, and never touch what pg_receivewal needs, %s', (_how, options) =>
    withFaultHome({ ...STREAMING, ...options }, async (fault) => {
      const random = seededRandom(SEED);
      const receiver = new ReceiverStandIn(fault, random);
      receiver.start();
      try {
        let passMs = 300;
        const isEnough = (kills: number): boolean =>
          kills >= KILLS && fault.produced.size > 40 && receiver.restarts > 2 && receiver.timelines > 1;
        for (let kills = 0; !isEnough(kills);) {
          receiver.checkAlive();
          const begun = Date.now();
          const wasKilled = await killOnce(fault, random() * passMs);
          if (wasKilled) kills += 1;
          passMs = Math.min(wasKilled ? 1.05 * passMs : 1.1 * (Date.now() - begun), 1_500);
        }
      } finally {
        await receiver.stop();
      }
      await expectHealed(fault);
    }),
  );

  test('several passes at once, with files in incoming as well: each is archived once', () =>
    withFaultHome({ ...STREAMING, archiver: 'on' }, async (fault) => {
      const random = seededRandom(SEED + 1);
      const receiver = new ReceiverStandIn(fault, random);
      const producer = new Producer(fault, random, ['rename'], 5_000);
      receiver.start();
      producer.start(40);
      const archived: string[] = [];
      const end = Date.now() + 6_000;
      const archive = async (): Promise<void> => {
        while (Date.now() < end) {
          const { status, stdout, stderr } = await fault.archive();
          expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
          archived.push(...(stdout.match(/^\t[0-9A-F.a-z]+$/gm) ?? []));
        }
      };
      try {
        await Promise.all([archive(), archive()]);
      } finally {
        await producer.stop();
        await receiver.stop();
      }
      expect(new Set(archived).size).toBe(archived.length);
      await expectHealed(fault);
    }));
});
