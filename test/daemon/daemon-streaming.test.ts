import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { isWalName } from '../../src/wal/wal-name.ts';
import { namesIn } from '../commands/with-server.ts';
import { withStreamingHome } from '../e2e/running-receiver.ts';
import { ensureBuilt } from '../support/cli.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { descendantsOf, killIfThere } from '../support/processes.ts';
import { RunningDaemon } from '../support/running-daemon.ts';
import type { TestHome } from '../support/temp-dir.ts';

beforeAll(ensureBuilt);

async function receiverOf(daemon: RunningDaemon, command: RegExp): Promise<number | undefined> {
  return (await descendantsOf(daemon.pid)).find((process) => command.test(process.command))?.pid;
}

const PG_RECEIVEWAL = /^pg_receivewal$/;

/** Writes WAL until a segment is full, and waits until the archive has it, with the server's own bytes. */
async function archivesNext(daemon: RunningDaemon, pg: TestPostgres, { wals }: TestHome): Promise<void> {
  await pg.sql('create table if not exists t (n int); insert into t select generate_series(1, 1000)');
  const name = await pg.switchWal();
  const stored = join(wals, name.slice(0, 16), name);
  await daemon.waitsFor(
    `${name} in the archive`,
    async () => {
      return (await namesIn(join(stored, '..'))).includes(name);
    },
    60_000,
  );
  expect((await readFile(stored)).equals(await readFile(join(pg.walDir, name)))).toBe(true);
}

async function withStreamingDaemon(
  body: (daemon: RunningDaemon, pg: TestPostgres, home: TestHome, config: string) => Promise<void>,
): Promise<void> {
  await withStreamingHome({ segmentSizeMb: 1 }, async (pg, { home, config }) => {
    const daemon = new RunningDaemon(config, home.home);
    try {
      await daemon.ready();
      await daemon.waitsFor('pg_receivewal', () => receiverOf(daemon, PG_RECEIVEWAL));
      await body(daemon, pg, home, config);
    } finally {
      await daemon.dispose();
    }
  });
}

test('the daemon receives and archives the WAL of a PostgreSQL, and ends its receiver when it is asked to stop', () =>
  withStreamingDaemon(async (daemon, pg, home) => {
    for (let segment = 0; segment < 3; segment += 1) await archivesNext(daemon, pg, home);
    const below = await descendantsOf(daemon.pid);
    expect(await daemon.stop()).toEqual({ status: 0, signal: null });
    for (const { pid, command } of below) expect(() => process.kill(pid, 0), command).toThrow(/ESRCH/);
    // What tells pg_receivewal its position stays for it.
    expect((await readdir(home.streaming)).filter(isWalName)).not.toEqual([]);
  }));

test('a receive-wal process that is killed, or pg_receivewal below it, is started again', () =>
  withStreamingDaemon(async (daemon, pg, home) => {
    await archivesNext(daemon, pg, home);
    for (const command of [PG_RECEIVEWAL, /^node|^MainThread|walwarden/]) {
      const pid = await daemon.waitsFor('the process', () => receiverOf(daemon, command));
      killIfThere(pid, 'SIGKILL');
      await daemon.waitsFor('another pg_receivewal', async () => {
        const now = await receiverOf(daemon, PG_RECEIVEWAL);
        return now !== undefined && now !== pid ? now : undefined;
      });
      await archivesNext(daemon, pg, home);
    }
  }));

test('nothing of it survives a SIGKILL of the daemon, and the next one goes on', () =>
  withStreamingDaemon(async (daemon, pg, home, config) => {
    await archivesNext(daemon, pg, home);
    const below = await descendantsOf(daemon.pid);
    daemon.process.kill('SIGKILL');
    await daemon.ended;
    const next = new RunningDaemon(config, home.home);
    try {
      await next.ready();
      await next.waitsFor('the old ones to be gone', () =>
        below.every(({ pid }) => {
          try {
            return !process.kill(pid, 0);
          } catch {
            return true;
          }
        }),
      );
      await archivesNext(next, pg, home);
      expect(await next.stop()).toEqual({ status: 0, signal: null });
    } finally {
      await next.dispose();
    }
  }));

test('a receive-wal that runs already is left alone, and replaced when it ends', () =>
  withStreamingHome({ segmentSizeMb: 1 }, async (pg, streaming) => {
    const receiver = await streaming.startStreaming();
    const daemon = new RunningDaemon(streaming.config, streaming.home.home);
    try {
      await daemon.ready();
      await daemon.waitsFor('it to give way', async () =>
        (await daemon.ask('/servers')).body.toString().includes('elsewhere'),
      );
      await archivesNext(daemon, pg, streaming.home);
      expect(await receiverOf(daemon, PG_RECEIVEWAL)).toBeUndefined();
      await receiver.stop();
      await daemon.waitsFor('one of its own', () => receiverOf(daemon, PG_RECEIVEWAL), 60_000);
      await archivesNext(daemon, pg, streaming.home);
    } finally {
      await daemon.dispose();
    }
  }));
