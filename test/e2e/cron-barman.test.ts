import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { acquireLock } from '../../src/durable/lock-file.ts';
import { commandsWith } from '../commands/cron-home.ts';
import { catalogueLines, namesIn, withServer, type TestServer } from '../commands/with-server.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { run, type RunResult } from '../support/run.ts';
import { BARMAN_GLOBAL, BARMAN_SERVER, debianBarman } from './barman-programs.ts';

/** As cron runs it: what it starts finds its program by the name that it has itself. */
function barmanCron(server: TestServer): Promise<RunResult> {
  return run('/usr/bin/barman', ['-c', server.config, 'cron'], { cwd: server.home });
}

/** Waits until nothing runs any more that a cron started. */
async function idle(server: TestServer): Promise<void> {
  await until('what was started to end', async () => (await commandsWith(server.config)).size === 0);
}

function withSharedHome<T>(body: (server: TestServer) => Promise<T>): Promise<T> {
  return withServer(
    { ...BARMAN_SERVER },
    async (server) => {
      try {
        return await body(server);
      } finally {
        await idle(server);
      }
    },
    BARMAN_GLOBAL,
  );
}

describe('our cron and Barman’s on one home', () => {
  test('every minute at the same time: every file is archived, once', () =>
    withSharedHome(async (server) => {
      const segments = Array.from({ length: 12 }, (_, index) => index + 1);
      for (const segment of segments) {
        await writeWal(server.incoming, { segment });
        const ours = [1, 2, 3].map(() => server.cli(['cron']));
        const theirs = [1, 2].map(() => barmanCron(server));
        for (const { status, stderr } of await Promise.all([...ours, ...theirs])) {
          expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
        }
      }
      await idle(server);
      expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
      expect(await namesIn(server.incoming)).toEqual([]);
      expect(await namesIn(server.errors)).toEqual([]);
      const made = segments.map((segment) => makeWal({ segment }));
      for (const { name, bytes } of made) {
        expect((await readFile(join(server.wals, name.slice(0, 16), name))).equals(bytes), name).toBe(true);
      }
      const lines = (await catalogueLines(server)).map((line) => line.split('\t')[0]);
      expect(lines).toEqual(made.map(({ name }) => name));
    }));

  test('ours leaves a server alone while theirs has it, and the other way round', () =>
    withSharedHome(async (server) => {
      const barman = debianBarman();
      await barman.withLock('ServerCronLock', server.home, 'main', async () => {
        expect(await server.cli(['cron'])).toMatchObject({
          status: 0,
          stdout: 'Another cron process is already running on server main. Skipping to the next server\n',
        });
      });
      await barman.withLock('ServerWalArchiveLock', server.home, 'main', async () => {
        expect(await server.cli(['cron'])).toMatchObject({
          status: 0,
          stdout: 'Another archive-wal process is already running on server main. Skipping to the next server\n',
        });
      });
      await using _lock = await acquireLock(join(server.home, '.main-cron.lock'));
      expect(await barmanCron(server)).toMatchObject({
        status: 0,
        stdout: 'Another cron process is already running on server main. Skipping to the next server\n',
      });
    }));
});
