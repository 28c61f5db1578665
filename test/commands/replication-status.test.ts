import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { runCli, writeConfig } from '../support/cli.ts';
import { until } from '../support/poll.ts';
import { withPostgres, type TestPostgres } from '../support/postgres.ts';
import { killIfThere } from '../support/processes.ts';
import type { RunResult } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { commandsWith } from './cron-home.ts';
import { json } from './with-server.ts';

interface Asking {
  readonly pg: TestPostgres;
  readonly home: string;
  readonly config: string;
  /** `replication-status ARGS`, after global options. */
  readonly ask: (args: readonly string[], globals?: readonly string[]) => Promise<RunResult>;
  /** Another configuration beside the first. */
  readonly asking: (text: string) => Promise<Asking>;
}

/** A PostgreSQL and a server `main` that could stream from it. */
function withAsking<T>(body: (asking: Asking) => Promise<T>): Promise<T> {
  return withPostgres({}, (pg) =>
    withTempDir(async (home) => {
      const options = {
        archiver: 'off',
        streaming_archiver: 'on',
        conninfo: pg.conninfo,
        streaming_conninfo: pg.conninfo,
        slot_name: 'barman',
        create_slot: 'auto',
        path_prefix: pg.programs.bin,
      };
      const config = await writeConfig(home, { servers: { main: options } });
      try {
        return await body(askingOf(pg, home, config));
      } finally {
        for (const pid of (await commandsWith(config)).keys()) killIfThere(pid, 'SIGTERM');
        await until('what was started to end', async () => (await commandsWith(config)).size === 0);
      }
    }),
  );
}

function askingOf(pg: TestPostgres, home: string, config: string): Asking {
  return {
    pg,
    home,
    config,
    ask: (args, globals = []) => runCli([...globals, 'replication-status', ...args], { config }),
    asking: async (text) => {
      const other = join(home, 'other.conf');
      await writeFile(other, text);
      return askingOf(pg, home, other);
    },
  };
}

/** Starts receive-wal, and waits until it streams. */
async function receive({ pg, config }: Asking): Promise<void> {
  expect((await runCli(['cron'], { config })).status).toBe(0);
  await attached(pg, 'barman_receive_wal');
}

async function attached(pg: TestPostgres, name: string): Promise<void> {
  await until(`${name} to stream`, async () => {
    const rows = await pg.sql(
      `select 1 from pg_stat_replication where application_name = '${name}' and state = 'streaming'`,
    );
    return rows.length > 0;
  });
}

/** A standby that streams from the server. */
async function withStandby(pg: TestPostgres): Promise<TestPostgres> {
  const standby = await pg.restore(await pg.baseBackup(), {
    restoreCommand: `cp ${pg.walDir}/%f %p`,
    mode: 'standby',
    settings: { primary_conninfo: `${pg.conninfo} application_name=replica1` },
  });
  await attached(pg, 'replica1');
  return standby;
}

describe('replication-status', () => {
  test('shows our receiver first, and every standby, with their lag', () =>
    withAsking(async (asking) => {
      await receive(asking);
      await withStandby(asking.pg);
      const { status, stdout, stderr } = await asking.ask(['main']);
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      const lines = stdout.split('\n');
      expect(lines.slice(0, 3)).toEqual([
        `Status of streaming clients for server 'main':`,
        expect.stringMatching(/^ {2}Current LSN on master: [0-9A-F]+\/[0-9A-F]+$/),
        '  Number of streaming clients: 2',
      ]);
      expect(lines).toContain('  1. Async WAL streamer (this is our receive-wal)');
      expect(lines).toContain('     Replication slot: barman');
      expect(lines).toContain('  2. Async standby');
      expect(lines).toContain('     Application name: replica1');
      expect(lines).toContain('     Communication   : Unix domain socket');
      expect(stdout).toMatch(/^ {5}Replay LSN : [0-9A-F/]+ \(diff: \d/m);
      expect(stdout.indexOf('replica1')).toBeGreaterThan(stdout.indexOf('barman_receive_wal'));
    }));

  test('has a JSON form that stays as it is', () =>
    withAsking(async (asking) => {
      await receive(asking);
      await withStandby(asking.pg);
      const lsn = expect.stringMatching(/^[0-9A-F]+\/[0-9A-F]+$/);
      const common = {
        user: 'postgres',
        address: null,
        port: null,
        pid: expect.any(Number),
        startedAt: expect.any(Number),
        state: 'streaming',
        syncState: 'async',
        syncPriority: 0,
        syncStage: expect.stringMatching(/^\d\/\d /),
      };
      const told = expect.objectContaining({ lsn, lagBytes: expect.any(Number) });
      // Without new WAL there is no time to tell.
      const report: unknown[] = [];
      await until('all positions to be known', async () => {
        report[0] = json(await asking.ask(['main'], ['-f', 'json']));
        return !JSON.stringify(report[0]).includes('"write":{"lsn":null');
      });
      expect(report[0]).toEqual([
        {
          server: 'main',
          skipped: null,
          isInRecovery: false,
          currentLsn: lsn,
          warning: null,
          error: null,
          clients: [
            {
              ...common,
              ours: true,
              kind: 'wal-streamer',
              applicationName: 'barman_receive_wal',
              slot: 'barman',
              sent: told,
              write: told,
              flush: expect.objectContaining({ lagSeconds: expect.toSatisfy(isTime) }),
              replay: { lsn: null, lagBytes: null, lagSeconds: null },
            },
            {
              ...common,
              ours: false,
              kind: 'hot-standby',
              applicationName: 'replica1',
              slot: null,
              sent: told,
              write: told,
              flush: told,
              replay: told,
            },
          ],
        },
      ]);
    }));

  test('--target chooses, and --minimal is one line a client', () =>
    withAsking(async (asking) => {
      await receive(asking);
      await withStandby(asking.pg);
      const standbys = await asking.ask(['--target', 'hot-standby', 'main']);
      expect(standbys.stdout).toContain(`Status of hot standby servers for server 'main':`);
      expect(standbys.stdout).toContain('  Number of hot standby servers: 1\n');
      expect(standbys.stdout).not.toContain('barman_receive_wal');
      const streamers = await asking.ask(['--minimal', '--target', 'wal-streamer', 'main']);
      expect(streamers.stdout).toMatch(
        /^WAL streamers for master 'main' \(LSN @ [0-9A-F/]+\):\n {2}1\. W\) postgres@socket S:\S+ W:\S+ P:0 AN:barman_receive_wal \(this is our receive-wal\)\n$/,
      );
      expect((await asking.ask(['--target', 'nobody', 'main'])).status).toBe(2);
    }));

  test('misses our receiver where it should be', () =>
    withAsking(async (asking) => {
      expect(await asking.ask(['main'])).toMatchObject({
        status: 0,
        stdout: expect.stringMatching(
          /No streaming clients attached\n {2}WARNING: receive-wal is not attached: no client has .*barman_receive_wal\n$/,
        ),
      });
    }));

  test('--source wal-host asks the server of wal_conninfo', () =>
    withAsking(async (asking) => {
      const standby = await withStandby(asking.pg);
      const text = await readFile(asking.config, 'utf8');
      const other = await asking.asking(
        `${text}wal_streaming_conninfo = ${standby.conninfo}\nwal_conninfo = ${standby.conninfo}\n`,
      );
      const { stdout } = await other.ask(['--source', 'wal-host', 'main']);
      expect(stdout).toMatch(/^ {2}Last LSN replayed by standby: [0-9A-F/]+$/m);
      expect((await other.ask(['main'])).stdout).toContain('Current LSN on master: ');
    }));
});

describe('replication-status is 1, and says why,', () => {
  test('when the role may not see who streams', () =>
    withAsking(async (asking) => {
      await receive(asking);
      await asking.pg.sql('create role barman login');
      const text = await readFile(asking.config, 'utf8');
      const limited = await asking.asking(text.replaceAll('user=postgres', 'user=barman'));
      const { status, stdout, stderr } = await limited.ask(['main']);
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      expect(stderr).toContain('ERROR: server main: the role of conninfo may not see who streams from its PostgreSQL');
      expect(stderr).toContain('GRANT pg_monitor TO');
      await asking.pg.sql('grant pg_monitor to barman');
      expect((await limited.ask(['main'])).stdout).toContain('Number of streaming clients: 1');
    }));

  test('when PostgreSQL is down, or a server is not configured; the others are shown', () =>
    withAsking(async ({ pg, asking }) => {
      const { ask } = await asking(
        [
          `[barman]\nbarman_home = ${pg.directory}\n[down]\narchiver = on\nconninfo = host=/nowhere/at/all`,
          `[main]\narchiver = on\nconninfo = ${pg.conninfo}\n[none]\narchiver = on`,
          '[off]\narchiver = on\nactive = false\n[wrong]\narchiver = on\ncompression = zip\n',
        ].join('\n'),
      );
      const { status, stdout, stderr } = await ask(['all']);
      expect(status).toBe(1);
      expect(stdout).toContain(`Status of streaming clients for server 'main':`);
      expect(stdout).toContain('  No streaming clients attached\n');
      expect(stdout).toContain(`Skipping inactive server 'off'\n`);
      expect(stderr).toMatch(/^ERROR: server down: .*\/nowhere\/at\/all/m);
      expect(stderr).toContain('ERROR: server none: conninfo is not set\nHINT: set conninfo in [none]\n');
      expect(stderr).toMatch(/^ERROR: server wrong is disabled: .*compression = "zip"/m);
      const report = json(await ask(['down'], ['-f', 'json']));
      expect(report).toMatchObject([{ server: 'down', clients: [], error: { code: 'postgres' } }]);
      expect((await ask(['mian'])).stderr).toContain('did you mean "main"?');
    }));
});

function isTime(value: unknown): boolean {
  return value === null || typeof value === 'number';
}
