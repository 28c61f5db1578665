import { link, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { segmentName } from '../../src/wal/wal-name.ts';
import { BARMAN_GLOBAL, BARMAN_SERVER, debianBarman } from '../e2e/barman-programs.ts';
import { deliveryOf } from '../commands/tar-stream.ts';
import { catalogueLines, namesIn } from '../commands/with-server.ts';
import { ensureBuilt, runCli } from '../support/cli.ts';
import { makeWal } from '../support/make-wal.ts';
import type { RunResult } from '../support/run.ts';
import { withFaultHome, type FaultHome } from './fault-home.ts';
import { Producer, seededRandom, WAYS, type Way } from './producer.ts';

beforeAll(ensureBuilt);

const SEED = Number(process.env['WALWARDEN_TEST_SEED'] ?? Date.now() % 1_000_000);
const BUSY = 'Another archive-wal process is already running on server main. Skipping to the next server\n';
const name = (segment: number): string => segmentName(1, BigInt(segment), 1 << 20);

/** Runs several workers at the same time, each again and again, while files arrive, and until they have met what they are to meet. */
async function raceFor(
  milliseconds: number,
  fault: FaultHome,
  workers: readonly (() => Promise<unknown>)[],
  ways: readonly Way[] = WAYS,
  hasMet: () => boolean = () => true,
): Promise<void> {
  const producer = new Producer(fault, seededRandom(SEED), ways);
  const end = Date.now() + milliseconds;
  producer.start(60);
  try {
    await Promise.all(
      workers.map(async (work) => {
        while (Date.now() < end || !hasMet()) await work();
      }),
    );
  } finally {
    await producer.stop();
  }
}

async function expectHealed(fault: FaultHome): Promise<void> {
  expect(await fault.violations('crashed')).toEqual([]);
  expect(await fault.archive()).toMatchObject({ status: 0 });
  // A file that came while its name was claimed waits for one pass more.
  if ((await fault.violations('healed')).length > 0) await fault.archive();
  expect(await fault.violations('healed')).toEqual([]);
}

describe(`at the same time on one home (WALWARDEN_TEST_SEED=${SEED})`, () => {
  test('two archive-wal: one works, the other says so; every file is archived once', () =>
    withFaultHome({ compression: 'zstd' }, async (fault) => {
      const outputs: string[] = [];
      const archive = async (): Promise<void> => {
        const { status, stdout, stderr } = await fault.archive();
        expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: '' });
        outputs.push(stdout);
      };
      await raceFor(4_000, fault, [archive, archive, archive], WAYS, () => outputs.includes(BUSY));
      const archived = outputs.flatMap((output) => output.match(/^\t[0-9A-F.a-z]+$/gm) ?? []);
      expect(new Set(archived).size).toBe(archived.length);
      await expectHealed(fault);
    }));

  test('archive-wal and rebuild-xlogdb: no line is lost, none comes twice', () =>
    withFaultHome({}, async (fault) => {
      const succeed = async (running: Promise<RunResult>): Promise<void> => {
        const { status, stderr } = await running;
        expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      };
      await raceFor(6_000, fault, [
        () => succeed(fault.archive()),
        () => succeed(runCli(['rebuild-xlogdb', 'main'], { config: fault.config })),
        () => succeed(runCli(['list-wals', 'main'], { config: fault.config })),
      ]);
      await expectHealed(fault);
      const withoutTimes = async (): Promise<string[]> =>
        (await catalogueLines(fault.home)).map((line) => line.replace(/^(\S+\t\d+)\t\S+/, '$1'));
      const lines = await withoutTimes();
      await succeed(runCli(['rebuild-xlogdb', 'main'], { config: fault.config }));
      expect(await withoutTimes()).toEqual(lines);
    }));

  test('archive-wal and delete-wals: what is deleted has no line, what is not is there with its line', () =>
    withFaultHome({ compression: 'zstd' }, async (fault) => {
      await fault.deliverSegments(1, 60);
      let before = 1;
      const archiving = (async () => {
        for (let pass = 0; pass < 12; pass += 1) {
          await fault.archive();
          await fault.deliverSegments(61 + pass * 3, 63 + pass * 3);
        }
      })();
      const deleting = (async () => {
        for (before = 5; before <= 55; before += 5) {
          const { status } = await runCli(['delete-wals', '--before', name(before), 'main'], { config: fault.config });
          expect(status).toBe(0);
        }
      })();
      await Promise.all([archiving, deleting]);
      await fault.archive();
      await runCli(['delete-wals', '--before', name(56), 'main'], { config: fault.config });
      for (const produced of fault.produced.keys()) if (produced < name(56)) fault.produced.delete(produced);
      expect(await fault.violations('healed')).toEqual([]);
    }));

  test('put-wal and archive-wal: what was acknowledged is archived or waits', () =>
    withFaultHome({}, async (fault) => {
      const passes = (async () => {
        for (let pass = 0; pass < 8; pass += 1) await fault.archive();
      })();
      for (let segment = 1; segment <= 6; segment += 1) {
        const wal = makeWal({ segment });
        // Twice, as after a crash of PostgreSQL.
        for (let time = 0; time < 2; time += 1) {
          const { status } = await putWal(fault, wal.name, wal.bytes);
          expect(status).toBe(0);
          fault.produced.set(wal.name, () => wal.bytes);
          // A file may move from the place that is looked at last to the one that was looked at first: what is lost stays lost.
          let broken = await fault.violations('crashed');
          for (let look = 0; look < 5 && broken.length > 0; look += 1) broken = await fault.violations('crashed');
          expect(broken).toEqual([]);
        }
      }
      await passes;
      await expectHealed(fault);
    }));
});

describe('beside Debian’s Barman on one home', () => {
  // Barman takes a file that is still being copied for a whole one.
  const ATOMIC: readonly Way[] = ['rename', 'link'];

  const withBoth = <T>(compression: string | null, body: (fault: FaultHome) => Promise<T>): Promise<T> =>
    withFaultHome({ ...BARMAN_SERVER, ...(compression === null ? {} : { compression }) }, body, BARMAN_GLOBAL);

  test.each([null, 'gzip'])(
    'both archive (compression %s): every file once, with one line in our catalogue',
    (compression) =>
      withBoth(compression, async (fault) => {
        const barman = debianBarman();
        let theirs = 0;
        await raceFor(
          10_000,
          fault,
          [
            async () => {
              const { status, stdout } = await fault.archive();
              expect({ status, stdout }).toMatchObject({ status: 0 });
            },
            async () => {
              const { stdout } = await barman.run(fault.config, ['archive-wal', 'main']);
              theirs += stdout.match(/^\t[0-9A-F]{24}$/gm)?.length ?? 0;
            },
          ],
          ATOMIC,
          () => theirs > 0,
        );
        await expectHealed(fault);
      }),
  );

  test('both rebuild the catalogue while we archive', () =>
    withBoth('gzip', async (fault) => {
      const barman = debianBarman();
      await raceFor(
        6_000,
        fault,
        [
          () => fault.archive(),
          () => barman.run(fault.config, ['rebuild-xlogdb', 'main']),
          () => runCli(['rebuild-xlogdb', 'main'], { config: fault.config }),
        ],
        ATOMIC,
      );
      await expectHealed(fault);
    }));
});

test('a file that reached the archive without a line gets it, by whichever way it comes again', () =>
  withFaultHome({}, async (fault) => {
    await fault.deliverSegments(1, 2);
    await fault.archive();
    const stored = join(fault.home.wals, name(1).slice(0, 16));
    // As after a crash between link and line.
    await link(join(stored, name(2)), join(fault.home.incoming, `.walwarden-${name(2)}`));
    const catalogue = join(fault.home.wals, 'main-xlog.db');
    const [line = ''] = await catalogueLines(fault.home);
    await writeFile(catalogue, `${line}\n`);
    expect(await fault.archive()).toMatchObject({ status: 0 });
    expect(await fault.violations('healed')).toEqual([]);
    expect(await namesIn(fault.home.incoming)).toEqual([]);
  }));

/** As barman-wal-archive does. */
async function putWal(fault: FaultHome, wal: string, bytes: Buffer): Promise<RunResult> {
  return runCli(['put-wal', 'main'], { config: fault.config, input: await deliveryOf([{ name: wal, bytes }]) });
}
