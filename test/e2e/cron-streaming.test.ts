import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { isThere } from '../../src/durable/durable-file.ts';
import { lockOwner } from '../../src/durable/lock-file.ts';
import { commandsWith, LOGGED, withCron, type CronHome } from '../commands/cron-home.ts';
import { until } from '../support/poll.ts';
import { withPostgres, type TestPostgres } from '../support/postgres.ts';
import { killIfThere } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { BARMAN_GLOBAL } from './barman-programs.ts';
import { segmentsIn } from './postgres-archive.ts';

/** A PostgreSQL and a home that streams from it; receive-wal is stopped at the end. */
function withStreaming<T>(
  body: (pg: TestPostgres, cron: CronHome) => Promise<T>,
  global: Readonly<Record<string, string>> = LOGGED,
): Promise<T> {
  return withPostgres({}, (pg) => {
    const options = {
      archiver: 'off',
      streaming_archiver: 'on',
      backup_method: 'postgres',
      conninfo: pg.conninfo,
      streaming_conninfo: pg.conninfo,
      slot_name: 'barman',
      create_slot: 'auto',
      path_prefix: pg.programs.bin,
      pre_archive_script: 'true',
    };
    return withCron({ global, servers: { main: options } }, async (cron) => {
      try {
        return await body(pg, cron);
      } finally {
        for (const pid of await receivers(cron)) killIfThere(pid, 'SIGTERM');
      }
    });
  });
}

/** The pids of every receive-wal of this home, ours and Barman's. */
async function receivers(cron: CronHome): Promise<number[]> {
  const commands = await commandsWith(cron.config);
  return [...commands].filter(([, words]) => words.includes('receive-wal')).map(([pid]) => pid);
}

function receiver(cron: CronHome): Promise<number | null> {
  return lockOwner(cron.at('.main-receive-wal.lock'));
}

async function streams(pg: TestPostgres): Promise<number> {
  return until('the slot to be in use', async () => {
    const rows = await pg.sql(`select active_pid from pg_replication_slots where slot_name = 'barman' and active`);
    return rows[0]?.[0] === undefined ? false : Number(rows[0][0]);
  });
}

/** So often as a quarter of an hour has minutes, but for the waiting. */
async function everyMinute(cron: CronHome, minutes: number): Promise<void> {
  for (let minute = 0; minute < minutes; minute += 1) {
    expect(await cron.cron(['-q'])).toMatchObject({ status: 0, stdout: '', stderr: '' });
  }
}

describe('cron', () => {
  test('starts receive-wal where none runs, lets it run on, and leaves it alone', () =>
    withStreaming(async (pg, cron) => {
      const { stdout } = await cron.cron();
      expect(stdout).toBe('Starting WAL archiving for server main\nStarting streaming archiver for server main\n');
      const walSender = await streams(pg);
      const pid = await receiver(cron);
      expect(await receivers(cron)).toEqual([pid]);
      await everyMinute(cron, 5);
      expect((await cron.report()).servers['main']?.receiveWal).toEqual({ state: 'running', pid });
      expect(await streams(pg)).toBe(walSender);
      expect(await receivers(cron)).toEqual([pid]);
    }));

  test('archives all that is streamed, minute by minute', () =>
    withStreaming(async (pg, cron) => {
      await pg.configure({ wal_keep_size: '1GB' });
      await everyMinute(cron, 1);
      await streams(pg);
      const first = (await segmentsIn(cron.at('main', 'streaming')))[0];
      const last = await pg.writeSegments(12);
      await until('the last segment to be archived', async () => {
        await everyMinute(cron, 1);
        return isThere(cron.at('main', 'wals', last.slice(0, 16), last));
      });
      await cron.archiversEnd();
      const expected = (await segmentsIn(pg.walDir, last)).filter((name) => first === undefined || name >= first);
      for (const name of expected) {
        const stored = await readFile(cron.at('main', 'wals', name.slice(0, 16), name));
        expect(stored.equals(await readFile(join(pg.walDir, name))), name).toBe(true);
      }
    }));

  test('many of them and Barman’s at once start one receive-wal', () =>
    withStreaming(
      async (pg, cron) => {
        for (let minute = 0; minute < 4; minute += 1) {
          const ours = [1, 2, 3].map(() => cron.cron());
          const theirs = [1, 2].map(() => run('/usr/bin/barman', ['-c', cron.config, 'cron'], { cwd: cron.home }));
          for (const { status, stderr } of await Promise.all([...ours, ...theirs])) {
            expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
          }
        }
        await streams(pg);
        await cron.archiversEnd();
        const owner = await receiver(cron);
        await until('all others to give up', async () => (await receivers(cron)).length === 1);
        expect(await receivers(cron)).toEqual([owner]);
      },
      { ...LOGGED, ...BARMAN_GLOBAL },
    ));

  test('starts it again after it was killed', () =>
    withStreaming(async (pg, cron) => {
      await everyMinute(cron, 1);
      await streams(pg);
      const pid = await receiver(cron);
      if (pid === null) throw new Error('no receive-wal to kill');
      process.kill(pid, 'SIGKILL');
      await until('its lock to be free', async () => (await receiver(cron)) === null);
      await everyMinute(cron, 1);
      await until('another one', async () => ![null, pid].includes(await receiver(cron)));
      await streams(pg);
    }));

  test('does not pile up receivers while there is nothing to receive from', () =>
    withStreaming(async (pg, cron) => {
      await pg.stop();
      await everyMinute(cron, 1);
      const pid = await until('receive-wal to run', async () => (await receiver(cron)) ?? false);
      await everyMinute(cron, 6);
      expect(await receivers(cron)).toEqual([pid]);
      await pg.start();
      await streams(pg);
      expect(await receiver(cron)).toBe(pid);
    }));

  test.each([
    ['streaming_archiver is off', 'streaming_archiver = on', 'streaming_archiver = off\narchiver = on'],
    ['the server is not active', 'streaming_archiver = on', 'streaming_archiver = on\nactive = false'],
  ])('stops receive-wal once %s', (_what, before, after) =>
    withStreaming(async (pg, cron) => {
      await everyMinute(cron, 1);
      await streams(pg);
      const pid = await receiver(cron);
      const text = (await readFile(cron.config, 'utf8')).replace('archiver = off\n', '');
      await writeFile(cron.config, text.replace(before, after));
      const { stdout } = await cron.cron();
      expect(stdout).toContain('Stopping streaming archiver for server main\n');
      await until('receive-wal to end', async () => (await receivers(cron)).length === 0);
      expect(await cron.log()).toContain(`asked receive-wal of main to stop`);
      expect(pid).not.toBeNull();
    }),
  );

  test('a slip in the configuration does not end a stream', () =>
    withStreaming(async (pg, cron) => {
      await everyMinute(cron, 1);
      const walSender = await streams(pg);
      await cron.archiversEnd();
      await writeFile(cron.config, `${await readFile(cron.config, 'utf8')}compression = zip\n`);
      expect((await cron.cron()).status).toBe(1);
      expect(await streams(pg)).toBe(walSender);
      expect(await receivers(cron)).toEqual([await receiver(cron)]);
    }));

  test('what receive-wal says without log_file is in the home', () =>
    withStreaming(async (pg, cron) => {
      expect((await cron.cron(['-q'])).stderr).toContain(`logs to ${cron.at('walwarden.log')}`);
      await streams(pg);
      await until('receive-wal to say something', async () => (await cron.log()).includes('receiv'));
    }, {}));
});
