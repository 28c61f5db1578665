import { beforeAll, describe, expect, test } from 'vitest';
import { ensureBuilt, runCli } from '../support/cli.ts';
import { CONFIGURATIONS, withConfiguration, withFaultHome } from './fault-home.ts';
import { killOnce } from './kill-once.ts';
import { Producer, seededRandom } from './producer.ts';

/** 200 in all; a pass with gpg takes longest. */
const KILLS = { none: 80, zstd: 80, gpg: 40 };
const SEED = Number(process.env['WALWARDEN_TEST_SEED'] ?? Date.now() % 1_000_000);

beforeAll(ensureBuilt);

// Each configuration has a home and a producer of its own, and its share of the kills.
describe.concurrent(
  `archive-wal, killed 200 times at random over a growing incoming (WALWARDEN_TEST_SEED=${SEED})`,
  () => {
    test.each(CONFIGURATIONS)('loses nothing, and the next pass heals, %s', (configuration) =>
      withConfiguration(configuration, (options) =>
        withFaultHome(options, async (fault) => {
          const random = seededRandom(SEED + CONFIGURATIONS.indexOf(configuration));
          const producer = new Producer(fault, random);
          for (let file = 0; file < 10; file += 1) await producer.deliverOne();
          // As long as a pass takes here and now, but for the wait for a history file.
          let passMs = 300;
          producer.start(50);
          try {
            for (let kills = 0; kills < KILLS[configuration] || fault.produced.size <= 50;) {
              const begun = Date.now();
              const wasKilled = await killOnce(fault, random() * passMs);
              if (wasKilled) kills += 1;
              passMs = Math.min(wasKilled ? 1.05 * passMs : 1.1 * (Date.now() - begun), 800);
            }
          } finally {
            await producer.stop();
          }

          expect(await fault.violations('crashed')).toEqual([]);
          expect(await fault.archive()).toMatchObject({ status: 0 });
          // A file that came while its name was claimed waits for one pass more.
          if ((await fault.violations('healed')).length > 0) await fault.archive();
          expect(await fault.violations('healed')).toEqual([]);

          const names = [...fault.produced.keys()];
          for (const name of [names[0], names[Math.floor(names.length / 2)], names.at(-1)]) {
            if (name === undefined) continue;
            const { bytes, status, stderr } = await runCli(['get-wal', 'main', name], { config: fault.config });
            const isSame = bytes.equals(fault.produced.get(name)?.() ?? Buffer.alloc(0));
            expect({ name, status, stderr, isSame }).toEqual({ name, status: 0, stderr: '', isSame: true });
          }
        }),
      ),
    );
  },
);
