import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, ftruncateSync, openSync, renameSync, writeSync } from 'node:fs';
import { chown, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { segmentName } from '../../src/wal/wal-name.ts';
import { catalogueLines, withServer } from '../commands/with-server.ts';
import { withFaultHome } from '../fault/fault-home.ts';
import { Producer, seededRandom } from '../fault/producer.ts';
import { ensureBuilt } from '../support/cli.ts';
import { makeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { descendantsOf } from '../support/processes.ts';
import { RunningDaemon, withDaemon } from '../support/running-daemon.ts';

beforeAll(ensureBuilt);

const SEED = Number(process.env['WALWARDEN_TEST_SEED'] ?? Date.now() % 1_000_000);
const KILLS = 25;

describe(`nothing is lost by the daemon (WALWARDEN_TEST_SEED=${SEED})`, () => {
  test.each([
    ['none', {}],
    ['zstd', { compression: 'zstd' }],
  ] as const)(`when it is killed ${KILLS} times at random over a growing incoming, %s`, (_name, options) =>
    withFaultHome(options, async (fault) => {
      const random = seededRandom(SEED);
      const producer = new Producer(fault, random);
      const { home } = fault.home;
      producer.start(30);
      try {
        for (let kills = 0; kills < KILLS || fault.produced.size <= 20; kills += 1) {
          const daemon = new RunningDaemon(fault.config, home);
          try {
            // Some die before they begin.
            await delay(random() * 1_200);
            expect(daemon.hasEnded, daemon.stderr).toBe(false);
          } finally {
            await daemon.dispose();
          }
        }
      } finally {
        await producer.stop();
      }
      expect(await fault.violations('crashed')).toEqual([]);
      const last = new RunningDaemon(fault.config, home);
      try {
        await last.waitsFor('it to heal', async () => (await fault.violations('healed')).length === 0, 60_000);
        expect(await last.stop()).toEqual({ status: 0, signal: null });
      } finally {
        await last.dispose();
      }
      expect(await fault.violations('healed')).toEqual([]);
    }),
  );

  test('when it is asked to stop under load, again and again; it ends with 0', () =>
    withFaultHome({ compression: 'zstd' }, async (fault) => {
      const random = seededRandom(SEED);
      const producer = new Producer(fault, random);
      producer.start(10);
      try {
        for (let stops = 0; stops < 8; stops += 1) {
          const daemon = new RunningDaemon(fault.config, fault.home.home);
          try {
            await daemon.ready();
            await delay(random() * 500);
            expect(await daemon.stop()).toEqual({ status: 0, signal: null });
          } finally {
            await daemon.dispose();
          }
        }
      } finally {
        await producer.stop();
      }
      expect(await fault.violations('crashed')).toEqual([]);
      await fault.archive();
      if ((await fault.violations('healed')).length > 0) await fault.archive();
      expect(await fault.violations('healed')).toEqual([]);
    }));
});

const BURST = 10_000;
const SEGMENT_SIZE = 1n << 20n;

/** Files that are valid, and sparse behind their first page. */
function deliverBurst(incoming: string, from: number, to: number): void {
  const page = makeWal({ content: 'zeros' }).bytes.subarray(0, 8192);
  for (let segment = from; segment <= to; segment += 1) {
    page.writeBigUInt64LE(BigInt(segment) * SEGMENT_SIZE, 8);
    const path = join(incoming, segmentName(1, BigInt(segment), Number(SEGMENT_SIZE)));
    const fd = openSync(`${path}.tmp`, 'w', 0o600);
    writeSync(fd, page);
    ftruncateSync(fd, Number(SEGMENT_SIZE));
    closeSync(fd);
    renameSync(`${path}.tmp`, path);
  }
}

test(
  `a burst of ${BURST} files is archived, in order, with the memory of a small one`,
  () =>
    withServer({ archiver_poll_interval: '1 h' }, async (server) => {
      await withDaemon(server.config, server.home, async (daemon) => {
        const arrived = (count: number): Promise<unknown> =>
          daemon.waitsFor(
            `${count} files in the archive`,
            async () => (await catalogueLines(server)).length === count,
            900_000,
          );
        deliverBurst(server.incoming, 1, 200);
        await arrived(200);
        const small = await daemon.peakBytes();
        deliverBurst(server.incoming, 201, 200 + BURST);
        await arrived(200 + BURST);
        const large = await daemon.peakBytes();
        expect(large).toBeLessThan(200e6);
        // Their names, and what the collector has not come by for.
        expect(large - small).toBeLessThan(60e6);
        const names = (await catalogueLines(server)).map((line) => line.slice(0, 24));
        expect(names).toEqual([...names].sort());
      });
    }),
  1_000_000,
);

/** Somebody who may do little, and whose limits are nobody else's. */
const UID = 54_321;

test('where the kernel takes no watch more, it says so, looks by itself, and watches again when it can', () =>
  withServer({ archiver_poll_interval: '200 ms' }, async (server) => {
    for (const path of [
      server.home,
      join(server.home, 'main'),
      server.incoming,
      server.streaming,
      server.wals,
      server.errors,
    ]) {
      await chown(path, UID, UID);
    }
    // All of this user's inotify instances, until its stdin ends.
    const hog = spawn(
      'python3',
      [
        '-c',
        'import ctypes,sys\nc=ctypes.CDLL(None)\nwhile c.inotify_init()>=0: pass\nprint("full",flush=True)\nsys.stdin.read()',
      ],
      { uid: UID, gid: UID, stdio: ['pipe', 'pipe', 'inherit'], cwd: '/' },
    );
    const ended = once(hog, 'exit');
    try {
      await once(hog.stdout, 'data');
      await withDaemon(
        server.config,
        server.home,
        async (daemon) => {
          const [first, second] = [makeWal({ segment: 1 }), makeWal({ segment: 2 })];
          expect((await daemon.says(/can't watch where WAL of main arrives/)).msg).toContain('max_user_instances');
          await putAs(UID, join(server.incoming, first.name), first.bytes);
          await daemon.waitsFor('the first', async () => (await catalogueLines(server)).length === 1);
          hog.stdin.end();
          await ended;
          await daemon.says(/watching where WAL of main arrives again/);
          await putAs(UID, join(server.incoming, second.name), second.bytes);
          await daemon.waitsFor('the second', async () => (await catalogueLines(server)).length === 2);
          expect(daemon.log.filter(({ msg }) => msg.includes("can't watch"))).toHaveLength(1);
        },
        { uid: UID, gid: UID },
      );
    } finally {
      hog.kill('SIGKILL');
      await ended;
    }
  }));

async function putAs(uid: number, path: string, bytes: Buffer): Promise<void> {
  await writeFile(`${path}.tmp`, bytes, { mode: 0o600 });
  await chown(`${path}.tmp`, uid, uid);
  renameSync(`${path}.tmp`, path);
}

/** Debian's package faketime. */
const FAKETIME = '/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1';

test('a clock that jumps, ahead and back, keeps nothing from being archived', () =>
  withServer({ archiver_poll_interval: '300 ms', compression: 'zstd' }, async (server) => {
    const shift = join(server.home, 'shift');
    await writeFile(shift, '+0');
    const env = {
      ...process.env,
      LD_PRELOAD: FAKETIME,
      FAKETIME_TIMESTAMP_FILE: shift,
      FAKETIME_NO_CACHE: '1',
      // What the kernel says of files, and the monotonic clock, jump in no real machine either.
      NO_FAKE_STAT: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    };
    await withDaemon(
      server.config,
      server.home,
      async (daemon) => {
        const jumps = ['+0', '+3h', '-3h', '+400d', '-400d', '+0'];
        for (const [index, jump] of jumps.entries()) {
          await writeFile(`${shift}.new`, jump);
          renameSync(`${shift}.new`, shift);
          const { name, bytes } = makeWal({ segment: index + 1 });
          await writeFile(join(server.incoming, name), bytes);
          // Its line in the log comes last, and has the time of this jump.
          await daemon.waitsFor(`${name}, at ${jump}`, () => daemon.log.some(({ msg }) => msg === `archived ${name}`));
          expect(await catalogueLines(server)).toHaveLength(index + 1);
        }
        const days = new Set(daemonTimes(daemon).map((time) => time.slice(0, 10)));
        // It did jump.
        expect(days.size).toBeGreaterThanOrEqual(3);
        expect(await daemon.stop()).toEqual({ status: 0, signal: null });
      },
      { env },
    );
  }));

function daemonTimes(daemon: RunningDaemon): string[] {
  return daemon.stderr.split('\n').flatMap((line) => /"time":"([^"]+)"/.exec(line)?.[1] ?? []);
}

describe('the second signal', () => {
  test('ends it at once, and the next one finds everything', () =>
    withFaultHome({ pre_archive_script: 'sleep 60', compression: 'zstd' }, async (fault) => {
      await fault.deliverSegments(1, 3);
      const daemon = new RunningDaemon(fault.config, fault.home.home);
      try {
        await until('a hook to run', async () => await hookRuns(daemon));
        daemon.process.kill('SIGTERM');
        await until('it to be asked', async () =>
          (await readFile(join(fault.home.home, 'walwarden.log'), 'utf8')).includes('asked to stop'),
        );
        expect(await daemon.stop('SIGTERM')).toEqual({ status: 143, signal: null });
        expect(await fault.violations('crashed')).toEqual([]);
      } finally {
        await daemon.dispose();
      }
    }));

  test('is not needed: what takes longer than shutdown_timeout is cut off, with exit status 1', () =>
    withFaultHome(
      { pre_archive_script: 'trap "" TERM; sleep 30 & wait; wait' },
      async (fault) => {
        await fault.deliverSegments(1, 3);
        const daemon = new RunningDaemon(fault.config, fault.home.home);
        try {
          await until('a hook to run', async () => await hookRuns(daemon));
          expect(await daemon.stop('SIGTERM')).toEqual({ status: 1, signal: null });
          expect(await fault.violations('crashed')).toEqual([]);
        } finally {
          await daemon.dispose();
        }
      },
      { shutdown_timeout: '500 ms' },
    ));
});

async function hookRuns(daemon: RunningDaemon): Promise<boolean> {
  return (await descendantsOf(daemon.pid)).some(({ command }) => command === 'sleep');
}
