import { chmod, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { segmentName, segmentNumber, walKind, isWalName, parseWalName } from '../../src/wal/wal-name.ts';
import { commandLine, withStreamingHome, type RunningReceiver, type StreamingHome } from '../e2e/running-receiver.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { killIfThere } from '../support/processes.ts';

const NAME = 'walwarden_test';
const LOAD_MS = 30_000;
const KILLS = 10;

/** Sessions that insert numbers, one transaction each, and note those whose commit was confirmed to them. */
class Writers {
  readonly acknowledged: number[] = [];
  #next = 0;
  #stopped = false;
  readonly #sessions: Promise<void>[];

  constructor(pg: TestPostgres, sessions: number) {
    this.#sessions = Array.from({ length: sessions }, () => this.#write(pg));
  }

  async #write(pg: TestPostgres): Promise<void> {
    while (!this.#stopped) {
      try {
        await using session = await pg.connect();
        while (!this.#stopped) {
          const number = this.#next++;
          await session.query(`insert into written values (${number}, repeat(md5('${number}'), 20))`);
          this.acknowledged.push(number);
        }
      } catch {
        // The server was killed: whether that one was committed, nobody knows. On with the next.
        await delay(50);
      }
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#sessions);
  }
}

const CONTENT = 'select count(*), min(id), max(id), md5(string_agg(filler, null order by id)) from written';

/** Everything that the archive and streaming/ hold, put where a restore_command can copy it from. */
async function fetchAll(pg: TestPostgres, home: StreamingHome): Promise<string> {
  const target = await pg.makeDirectory(join(pg.directory, `fetched${Date.now()}`));
  await chmod(target, 0o755);
  const listed = await home.cli(['-q', 'archive-wal', 'main']);
  expect(listed.stderr).toBe('');
  const archived = (await readdir(home.home.wals, { recursive: true })).map((path) => path.split('/').at(-1) ?? '');
  const waiting = (await readdir(home.streaming)).map((name) => name.slice(0, 24));
  const names = new Set([...archived, ...waiting].filter((name) => isWalName(name) && walKind(name) === 'segment'));
  for (const name of names) {
    const got = await home.cli(['get-wal', '--partial', '-o', target, 'main', name]);
    expect(got.status, `get-wal of ${name}: ${got.stderr}`).toBe(0);
    await chmod(join(target, name), 0o644);
  }
  return target;
}

/** Kills a pass, at whatever it is at. */
async function killPass(home: StreamingHome): Promise<void> {
  await until('a pass to kill', async () => {
    const pid = Number(await readFile(join(home.home.home, '.main-archive-wal.lock'), 'utf8'));
    // The lock's last owner may be gone, and its number another's.
    if (!(await commandLine(pid)).includes('archive-wal')) return false;
    killIfThere(pid, 'SIGKILL');
    return true;
  });
}

async function waitSynchronous(pg: TestPostgres): Promise<void> {
  const sql = `select count(*) from pg_stat_replication where application_name = '${NAME}' and sync_state = 'sync'`;
  await until('the receiver to be the synchronous standby', async () => (await pg.value(sql)) === '1', 60_000);
}

test('under load, with ten kills of everything that takes part, not one byte is missing: a restored cluster proves it', () =>
  withStreamingHome(
    {
      settings: { synchronous_standby_names: '', max_wal_size: '4GB', wal_keep_size: '4GB', checkpoint_timeout: '1h' },
      server: { streaming_archiver_name: NAME, compression: 'zstd' },
    },
    async (pg, home) => {
      await pg.sql('create table written (id int, filler text)');
      let receiver: RunningReceiver = await home.startStreaming();
      await pg.sql('select pg_switch_wal()');
      const backup = await pg.baseBackup();
      await pg.configure({ synchronous_standby_names: NAME });
      await waitSynchronous(pg);

      const writers = new Writers(pg, 4);
      const over = new AbortController();
      let kills = 0;
      const passes = (async () => {
        while (!over.signal.aborted) {
          await Promise.all([home.cli(['-q', 'archive-wal', 'main']), delay(200)]);
        }
      })();
      const victims = [
        async (): Promise<void> =>
          killIfThere(await until('a pg_receivewal to kill', () => receiver.child(), 60_000), 'SIGKILL'),
        async (): Promise<void> => {
          killIfThere(receiver.pid, 'SIGKILL');
          await receiver.ended;
          receiver = home.start();
        },
        async (): Promise<void> => {
          await pg.kill9();
          await pg.start();
        },
        () => killPass(home),
      ];
      try {
        for (; kills < KILLS; kills += 1) {
          await delay(LOAD_MS / KILLS);
          const before = writers.acknowledged.length;
          await victims[kills % victims.length]?.();
          await until('commits to return again', () => writers.acknowledged.length > before + 50, 120_000);
        }
      } finally {
        over.abort();
        await writers.stop();
        await passes;
      }
      expect(kills).toBe(KILLS);
      await home.reaches('streaming', receiver);
      const last = await pg.currentLsn();
      const flushed = `select coalesce(max(flush_lsn), '0/0') >= pg_current_wal_flush_lsn() from pg_stat_replication where application_name = '${NAME}'`;
      await until('all WAL to be received', async () => (await pg.value(flushed)) === 't', 60_000);
      const content = await pg.sql(CONTENT);
      const there = new Set((await pg.sql('select id from written')).map(([id]) => Number(id)));
      expect(writers.acknowledged.filter((number) => !there.has(number))).toEqual([]);

      const fetched = await fetchAll(pg, home);
      const names = (await readdir(fetched)).sort();
      const [first = ''] = names;
      const firstNumber = segmentNumber(parsed(first), pg.segmentSize);
      const lastNumber = last / BigInt(pg.segmentSize);
      const expected = Array.from({ length: Number(lastNumber - firstNumber) + 1 }, (_, index) =>
        String(segmentName(1, firstNumber + BigInt(index), pg.segmentSize)),
      );
      expect(names, 'every segment from the first to the last is there').toEqual(expected);
      for (const name of names.slice(0, -1)) {
        const [ours, theirs] = await Promise.all([readFile(join(fetched, name)), readFile(join(pg.walDir, name))]);
        expect(ours.equals(theirs), `${name} is as the server wrote it`).toBe(true);
      }
      const errors = await readdir(home.home.errors);
      expect(errors).toEqual([]);

      await receiver.stop();
      await pg.kill9();
      const restored = await pg.restore(backup, {
        restoreCommand: `cp ${fetched}/%f %p`,
        settings: { synchronous_standby_names: '' },
      });
      await restored.writable();
      expect(await restored.sql(CONTENT)).toEqual(content);
    },
  ));

test('commits wait for us as the only synchronous standby; what was confirmed survives the server, in streaming/ alone', () =>
  withStreamingHome(
    { settings: { max_wal_size: '4GB' }, server: { streaming_archiver_name: NAME } },
    async (pg, home) => {
      await pg.sql('create table written (id int, filler text)');
      const receiver = await home.startStreaming();
      await pg.sql('select pg_switch_wal()');
      const backup = await pg.baseBackup();
      await pg.configure({ synchronous_standby_names: `FIRST 1 ("${NAME}")` });
      await waitSynchronous(pg);
      await receiver.stop();

      const writers = new Writers(pg, 2);
      const waiting = `select count(*) from pg_stat_activity where wait_event = 'SyncRep'`;
      await until('commits to wait for us', async () => (await pg.value(waiting)) === '2', 60_000);
      expect(writers.acknowledged).toEqual([]);
      const next = await home.startStreaming();
      await until('commits to return', () => writers.acknowledged.length > 500, 60_000);
      await pg.kill9();
      await writers.stop();
      await until('the receiver to notice', async () => (await home.report())?.state !== 'streaming', 60_000);
      await next.stop();

      const fetched = await fetchAll(pg, home);
      const restored = await pg.restore(backup, {
        restoreCommand: `cp ${fetched}/%f %p`,
        settings: { synchronous_standby_names: '' },
      });
      await restored.writable();
      const there = new Set((await restored.sql('select id from written')).map(([id]) => Number(id)));
      expect(writers.acknowledged.filter((number) => !there.has(number))).toEqual([]);
      expect(there.size).toBeGreaterThanOrEqual(writers.acknowledged.length);
    },
  ));

function parsed(name: string): NonNullable<ReturnType<typeof parseWalName>> {
  const result = parseWalName(name);
  if (result === undefined) throw new Error(`no WAL name: ${name}`);
  return result;
}
