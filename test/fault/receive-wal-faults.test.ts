import { chmod, mkdir, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { commandLine, withStreamingHome, type RunningReceiver, type StreamingHome } from '../e2e/running-receiver.ts';
import { until } from '../support/poll.ts';
import { killIfThere, liveProcesses } from '../support/processes.ts';
import { run } from '../support/run.ts';

async function isAlive(pid: number): Promise<boolean> {
  return (await liveProcesses()).some((other) => other.pid === pid);
}

async function childOf(receiver: RunningReceiver): Promise<number> {
  return until('pg_receivewal to run', () => receiver.child());
}

/** Waits until it streams again, after a failure. */
async function streamsAgain(home: StreamingHome, receiver: RunningReceiver, restarts = 1): Promise<void> {
  await until(
    'it to stream again',
    async () => {
      const report = await home.report();
      return report?.state === 'streaming' && report.restarts >= restarts;
    },
    60_000,
  );
  expect(receiver.process.exitCode).toBeNull();
}

/** A directory with a pg_receivewal of our own. */
async function programDirectory(home: StreamingHome, script: string): Promise<string> {
  const bin = join(home.home.home, 'bin');
  await mkdir(bin);
  await writeFile(join(bin, 'pg_receivewal'), script);
  await chmod(join(bin, 'pg_receivewal'), 0o755);
  return bin;
}

describe('kill -9', () => {
  test('of pg_receivewal: it is started again, and nothing is lost', () =>
    withStreamingHome({}, async (pg, home) => {
      const receiver = await home.startStreaming();
      await pg.writeSegments(2);
      for (const restarts of [1, 2]) {
        const child = await childOf(receiver);
        killIfThere(child, 'SIGKILL');
        await pg.writeSegments(2);
        await streamsAgain(home, receiver, restarts);
        expect(await childOf(receiver)).not.toBe(child);
      }
      await home.expectReceived(pg, await pg.writeSegments(2));
      const messages = await home.messages();
      expect(messages).toContainEqual(expect.stringMatching(/^pg_receivewal was killed by SIGKILL; trying again in /));
      expect(messages).toContainEqual(expect.stringMatching(/^receiving WAL of main again, after /));
      expect((await home.report())?.restarts).toBe(2);
    }));

  test('of receive-wal: pg_receivewal goes with it, and the next one streams on', () =>
    withStreamingHome({}, async (pg, home) => {
      const receiver = await home.startStreaming();
      const streamedBefore = (await home.report())?.lastStreamed;
      await pg.writeSegments(2);
      const child = await childOf(receiver);
      expect(await receiver.stop('SIGKILL')).toEqual({ status: null, signal: 'SIGKILL' });
      await until('pg_receivewal to be gone', async () => !(await isAlive(child)));
      // The lock is free, and the report is known to be of one that is gone.
      await pg.writeSegments(2);
      const next = await home.startStreaming();
      expect(next.pid).not.toBe(receiver.pid);
      expect((await home.report())?.lastStreamed).toBeGreaterThanOrEqual(streamedBefore ?? Infinity);
      await home.expectReceived(pg, await pg.writeSegments(2));
    }));

  test('of a whole receive-wal while it starts pg_receivewal leaves none behind', () =>
    withStreamingHome({}, async (_pg, home) => {
      for (let round = 0; round < 10; round++) {
        const receiver = home.start();
        // Whatever it is then: setpriv, the shell, Debian's wrapper or the program.
        const child = await until('a child', async () => {
          for (const candidate of await home.childrenOf(receiver)) {
            if ((await commandLine(candidate.pid)).includes('--directory=')) return candidate;
          }
          return undefined;
        });
        await receiver.stop('SIGKILL');
        await until('its child to be gone', async () => !(await isAlive(child.pid)));
      }
      expect(await home.report()).toMatchObject({ state: 'preparing' });
    }));

  test('reaches pg_receivewal also where a wrapper becomes it, as Debian has one', () =>
    withStreamingHome({}, async (pg, home) => {
      const wrapper = `#!/bin/sh\nexec ${join(pg.programs.bin, 'pg_receivewal')} "$@"\n`;
      const wrapped = await home.with({ path_prefix: await programDirectory(home, wrapper) });
      const receiver = await wrapped.startStreaming();
      const child = await childOf(receiver);
      await receiver.stop('SIGKILL');
      await until('pg_receivewal to be gone', async () => !(await isAlive(child)));
    }));

  test('of the server: receive-wal waits for it, and nothing is lost', () =>
    withStreamingHome({ settings: { fsync: 'on' } }, async (pg, home) => {
      const receiver = await home.startStreaming();
      await pg.writeSegments(2);
      await pg.kill9();
      await home.reaches('waiting', receiver);
      await pg.start();
      await streamsAgain(home, receiver);
      await home.expectReceived(pg, await pg.writeSegments(2));
    }));
});

test('a restart of the server is told in a few lines, and streaming goes on', () =>
  withStreamingHome({}, async (pg, home) => {
    const receiver = await home.startStreaming();
    await pg.writeSegments(1);
    await pg.stop('fast');
    await home.reaches('waiting', receiver);
    await until('some tries', async () => ((await home.report())?.retryAt ?? 0) > Date.now() + 1_500);
    await pg.start();
    await streamsAgain(home, receiver);
    await home.expectReceived(pg, await pg.writeSegments(2));
    const messages = await home.messages();
    expect(messages.filter((msg) => msg.includes('trying again')).length).toBeLessThanOrEqual(4);
    expect(messages).toContainEqual(expect.stringMatching(/^receiving WAL of main again, after \d+ failures in /));
  }));

test('pg_receivewal that ignores SIGINT is killed after ten seconds, and the exit status is 0', () =>
  withStreamingHome({}, async (pg, home) => {
    const script = `#!/bin/sh
      [ "$1" = --version ] && exec ${join(pg.programs.bin, 'pg_receivewal')} --version
      trap '' INT TERM
      echo 'pg_receivewal: starting log streaming at 0/1000000 (timeline 1)' >&2
      while :; do sleep 0.1; done`;
    const stubborn = await home.with({ path_prefix: await programDirectory(home, script) });
    const receiver = await stubborn.startStreaming();
    expect(await receiver.stop()).toEqual({ status: 0, signal: null });
    expect(await stubborn.messages()).toContain('pg_receivewal did not end when it was asked to, and was killed');
    expect(await stubborn.report()).toMatchObject({ state: 'stopped' });

    // A second signal doesn't wait; nothing survives it either.
    const impatient = await stubborn.startStreaming();
    const below = await stubborn.childrenOf(impatient);
    killIfThere(impatient.pid, 'SIGTERM');
    await stubborn.reaches('stopping', impatient);
    expect(await impatient.stop()).toEqual({ status: 143, signal: null });
    for (const { pid } of below) await until('its child to be gone', async () => !(await isAlive(pid)));
  }));

test('a stop that reaches pg_receivewal at the same time, as systemd does it, is no failure', () =>
  withStreamingHome({}, async (_pg, home) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const receiver = await home.startStreaming();
      const child = await childOf(receiver);
      // Both have happened before it can see either.
      killIfThere(receiver.pid, 'SIGSTOP');
      killIfThere(child, signal);
      await until('pg_receivewal to have ended', async () => (await commandLine(child)) === '');
      killIfThere(receiver.pid, 'SIGTERM');
      killIfThere(receiver.pid, 'SIGCONT');
      expect(await receiver.ended).toEqual({ status: 0, signal: null });
    }
    expect((await home.log()).filter(({ level }) => level >= 40)).toEqual([]);
  }));

test('a cause that somebody has to remove is told once, however often it is looked at again', () =>
  withStreamingHome({ server: { create_slot: 'manual' } }, async (pg, home) => {
    const receiver = home.start();
    const { cause, since } = await home.reaches('blocked', receiver);
    expect(cause).toMatchObject({ failure: 'slot-missing', hint: expect.stringContaining('--create-slot') });
    const { retryAt } = await home.reaches('blocked', receiver);
    await until('the next look', async () => ((await home.report())?.retryAt ?? 0) > (retryAt ?? 0), 60_000);
    expect(await home.report()).toMatchObject({ state: 'blocked', since });
    expect((await home.messages()).filter((msg) => msg.includes('does not exist'))).toHaveLength(1);
    expect((await home.cli(['receive-wal', '--create-slot', 'main'])).status).toBe(0);
    await home.reaches('streaming', receiver);
    await home.expectReceived(pg, await pg.writeSegments(2));
  }));

test('what only pg_receivewal finds out is a cause of its own, and no streaming for a moment', () =>
  withStreamingHome(
    {
      settings: { wal_keep_size: '0', min_wal_size: '2MB', max_wal_size: '2MB' },
      server: { archiver: 'on', slot_name: 'none' },
    },
    async (pg, home) => {
      const before = await home.startStreaming();
      await pg.writeSegments(1);
      await before.stop();
      const { lastStreamed } = (await home.report()) ?? {};
      // Without a slot the server removes what was not received.
      await until('WAL to be removed', async () => {
        await pg.writeSegments(3);
        await pg.sql('checkpoint');
        return (await pg.value('select count(*) from pg_ls_waldir()')) < '4';
      });
      const receiver = home.start();
      const report = await home.reaches('blocked', receiver);
      expect(report).toMatchObject({ lastStreamed, cause: { failure: 'wal-removed' } });
      expect(report.cause?.message).toMatch(/^pg_receivewal ended with exit status 1: .*has already been removed$/);
      const messages = await home.messages();
      expect(messages.filter((msg) => msg === 'receiving WAL of main')).toHaveLength(1);
      expect(await receiver.stop()).toEqual({ status: 0, signal: null });
    },
  ));

test('below receive_wal_min_free receiving pauses, and goes on by itself', () =>
  withStreamingHome({}, async (pg, home) => {
    const { bsize, bavail } = await statfs(home.streaming);
    const free = bsize * bavail;
    // Others use this disk at the same time.
    const margin = Math.floor(Math.min(1024 ** 3, free / 8) / 1024 ** 2);
    const small = await home.with({ receive_wal_min_free: `${Math.floor(free / 1024 ** 2) - margin}MiB` });
    const receiver = await small.startStreaming();
    const child = await childOf(receiver);
    await pg.writeSegments(2);

    const ballast = join(home.home.home, 'ballast');
    expect((await run('fallocate', ['-l', `${2 * margin}MiB`, ballast], {})).status).toBe(0);
    const report = await small.reaches('low-disk', receiver);
    expect(report.cause).toMatchObject({
      failure: 'low-disk',
      message: expect.stringContaining(`are free for ${home.streaming}, receiving pauses below`),
      hint: expect.stringMatching(/receive_wal_min_free.*slot "walwarden"/),
    });
    await until('pg_receivewal to be gone', async () => !(await isAlive(child)));
    // The server keeps the WAL meanwhile.
    await pg.writeSegments(2);

    await rm(ballast);
    await streamsAgain(small, receiver);
    await small.expectReceived(pg, await pg.writeSegments(2));
    const messages = await small.messages();
    expect(messages.filter((msg) => msg.includes('receiving pauses'))).toHaveLength(1);
    expect(messages).toContainEqual(expect.stringContaining('receiving goes on'));
  }));

test('it does not even start with too little space, and stops at once when asked to', () =>
  withStreamingHome({ server: { receive_wal_min_free: '1000TiB' } }, async (pg, home) => {
    const receiver = home.start();
    await home.reaches('low-disk', receiver);
    expect(await receiver.stop()).toEqual({ status: 0, signal: null });
    expect(await pg.sql('select * from pg_replication_slots')).toEqual([]);
  }));

test('a report that can not be written is told, and keeps nobody from streaming', () =>
  withStreamingHome({}, async (pg, home) => {
    await mkdir(`${home.reportPath}.tmp`);
    const receiver = home.start();
    await home.expectReceived(pg, await pg.writeSegments(2));
    expect(await receiver.stop()).toEqual({ status: 0, signal: null });
    expect((await home.messages()).filter((msg) => msg.includes('.receive-wal.json, from which'))).toHaveLength(1);
    expect((await stat(`${home.reportPath}.tmp`)).isDirectory()).toBe(true);
  }));
