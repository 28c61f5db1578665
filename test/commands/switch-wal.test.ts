import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { isThere } from '../../src/durable/durable-file.ts';
import { acquireLock } from '../../src/durable/lock-file.ts';
import { walName } from '../../src/wal/wal-name.ts';
import { runCli, writeConfig } from '../support/cli.ts';
import { until } from '../support/poll.ts';
import { withPostgres, type PostgresOptions, type TestPostgres } from '../support/postgres.ts';
import { killIfThere } from '../support/processes.ts';
import type { RunResult } from '../support/run.ts';
import { withTempDir, type TestHome } from '../support/temp-dir.ts';
import { commandsWith } from './cron-home.ts';
import { catalogueLines, json, namesIn, placeStored } from './with-server.ts';

type Options = Readonly<Record<string, string | number>>;

/** A PostgreSQL with segments of 1 MiB, and a home whose server `main` it is. */
class Switching {
  readonly pg: TestPostgres;
  readonly home: TestHome;
  readonly config: string;

  constructor(pg: TestPostgres, home: TestHome, config: string) {
    this.pg = pg;
    this.home = home;
    this.config = config;
  }

  run(...args: readonly string[]): Promise<RunResult> {
    return runCli(['switch-wal', ...args], { config: this.config });
  }

  /** WAL that a switch can close. */
  async write(): Promise<void> {
    await this.pg.sql(`select pg_create_restore_point('here')`);
  }

  /** The segment that is written to. */
  current(): Promise<string> {
    return this.pg.value('select pg_walfile_name(pg_current_wal_insert_lsn())');
  }

  /** PostgreSQL delivers into incoming. */
  async archiveByCopy(command = 'cp %p INCOMING/%f'): Promise<void> {
    await this.pg.configure({ archive_command: command.replace('INCOMING', this.home.incoming) });
  }

  stored(name: string): string {
    return join(this.home.wals, name.slice(0, 16), name);
  }
}

function withSwitching<T>(
  options: Options,
  body: (switching: Switching) => Promise<T>,
  postgres: PostgresOptions = {},
): Promise<T> {
  const settings = { archive_mode: 'on', archive_command: 'false', ...postgres.settings };
  return withPostgres({ ...postgres, settings }, (pg) =>
    withTempDir(async (directory) => {
      const at = (name: string): string => join(directory, 'main', name);
      const home = { home: directory, server: 'main', incoming: at('incoming'), streaming: at('streaming') };
      const layout = { ...home, wals: at('wals'), errors: at('errors') };
      await mkdir(layout.incoming, { recursive: true });
      // PostgreSQL writes there, as another user.
      await pg.giveToServer(layout.incoming);
      const config = await writeConfig(directory, { servers: { main: { conninfo: pg.conninfo, ...options } } });
      try {
        return await body(new Switching(pg, layout, config));
      } finally {
        for (const pid of (await commandsWith(config)).keys()) killIfThere(pid, 'SIGTERM');
        await until('what was started to end', async () => (await commandsWith(config)).size === 0);
      }
    }),
  );
}

describe('switch-wal', () => {
  test('closes the current segment, and says when there is nothing in it', () =>
    withSwitching({}, async (switching) => {
      await switching.write();
      const current = await switching.current();
      expect(await switching.run('main')).toMatchObject({
        status: 0,
        stdout: `The WAL file ${current} has been closed on server 'main'\n`,
        stderr: '',
      });
      expect(await switching.current()).not.toBe(current);
      expect(await switching.run('main')).toMatchObject({
        status: 0,
        stdout: `No switch required for server 'main'\n`,
        stderr: '',
      });
      await switching.write();
      const result = await runCli(['-f', 'json', 'switch-xlog', 'main'], { config: switching.config });
      expect(json(result)).toEqual([
        {
          server: 'main',
          skipped: null,
          closed: expect.stringMatching(/^[0-9A-F]{24}$/),
          isStandby: false,
          archived: null,
          error: null,
        },
      ]);
    }));

  test('--force finds something to close', () =>
    withSwitching({}, async (switching) => {
      await switching.run('main');
      const current = await switching.current();
      expect((await switching.run('--force', 'main')).stdout).toBe(
        `The WAL file ${current} has been closed on server 'main'\n`,
      );
    }));

  test('does nothing on a standby', () =>
    withSwitching({}, async ({ pg, config, home }) => {
      const standby = await pg.restore(await pg.baseBackup(), {
        restoreCommand: `cp ${pg.walDir}/%f %p`,
        mode: 'standby',
      });
      const text = await readFile(config, 'utf8');
      const other = join(home.home, 'standby.conf');
      await writeFile(other, text.replace(pg.conninfo, standby.conninfo));
      expect(await runCli(['switch-wal', '--force', 'main'], { config: other })).toMatchObject({
        status: 0,
        stdout: `No switch performed because server 'main' is a standby.\n`,
        stderr: '',
      });
    }));

  test('works on several, whatever becomes of one', () =>
    withSwitching({}, async (switching) => {
      const config = await writeConfig(switching.home.home, {
        servers: {
          down: { conninfo: 'host=/nowhere/at/all' },
          main: { conninfo: switching.pg.conninfo },
          none: {},
          off: { active: 'false' },
          passive: { primary_ssh_command: 'ssh primary' },
          wrong: { compression: 'zip' },
        },
      });
      await switching.write();
      const { status, stdout, stderr } = await runCli(['switch-wal', 'all'], { config });
      expect(status).toBe(1);
      expect(stdout).toMatch(/^The WAL file \S+ has been closed on server 'main'$/m);
      expect(stdout).toContain(`Skipping inactive server 'off'\n`);
      expect(stdout).toContain(`Skipping passive server 'passive'\n`);
      expect(stderr).toMatch(/^ERROR: server down: .*\/nowhere\/at\/all/m);
      expect(stderr).toContain('HINT: is PostgreSQL running, with its socket there (unix_socket_directories, port)');
      expect(stderr).toContain('ERROR: server none: conninfo is not set');
      expect(stderr).toContain('HINT: set conninfo in [none]\n');
      expect(stderr).toMatch(/^ERROR: server wrong is disabled: .*compression = "zip"/m);
      const quiet = await runCli(['-q', 'switch-wal', 'all'], { config });
      expect(quiet.stdout).toBe('');
      expect(quiet.stderr).toContain('ERROR: server down: ');
    }));

  test('names the privilege that is missing', () =>
    withSwitching({}, async ({ pg, config, home }) => {
      await pg.sql('create role barman login');
      const limited = join(home.home, 'limited.conf');
      await writeFile(limited, (await readFile(config, 'utf8')).replace('user=postgres', 'user=barman'));
      const refused = await runCli(['switch-wal', 'main'], { config: limited });
      expect(refused).toMatchObject({ status: 1, stdout: '' });
      expect(refused.stderr).toContain('ERROR: server main: permission denied for function pg_switch_wal');
      expect(refused.stderr).toContain('GRANT EXECUTE ON FUNCTION pg_switch_wal() TO barman\n');
      await pg.sql('grant execute on function pg_switch_wal() to barman');
      expect((await runCli(['switch-wal', 'main'], { config: limited })).status).toBe(0);
      const forced = await runCli(['switch-wal', '--force', 'main'], { config: limited });
      expect(forced).toMatchObject({ status: 1, stdout: '' });
      expect(forced.stderr).toContain(pg.programs.major >= 15 ? 'GRANT pg_checkpoint TO barman\n' : 'superuser');
    }));

  test('does nothing in another cluster than the archive’s, unless it can’t be told', () =>
    withSwitching({}, async (switching) => {
      const { pg, home, config } = switching;
      const path = join(home.home, 'main', 'identity.json');
      await writeFile(path, JSON.stringify({ systemid: '42', version: '15' }));
      await switching.write();
      const current = await switching.current();
      const { status, stdout, stderr } = await switching.run('--archive', '--force', 'main');
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      expect(stderr).toContain(
        `conninfo of main leads to another cluster: its system identifier is ${await pg.systemIdentifier()}, and this archive belongs to 42 (${path})`,
      );
      expect(stderr).toContain('HINT: another cluster answers at conninfo of [main]: correct it');
      expect(await switching.current()).toBe(current);
      await pg.sql('create role barman login');
      await pg.sql('grant execute on function pg_switch_wal() to barman');
      await pg.sql('revoke execute on function pg_control_system() from public');
      await writeFile(config, (await readFile(config, 'utf8')).replace('user=postgres', 'user=barman'));
      expect((await switching.run('main')).stdout).toContain(`The WAL file ${current} has been closed`);
    }));

  test('wants a time-out that is a number', async () => {
    const { status, stderr } = await runCli(['switch-wal', '--archive-timeout', 'soon', 'main']);
    expect(status).toBe(2);
    expect(stderr).toContain('expected a whole number');
  });
});

describe('switch-wal --archive', () => {
  test('archives the closed segment, delivered by archive_command', () =>
    withSwitching({}, async (switching) => {
      await switching.archiveByCopy();
      await switching.write();
      const current = await switching.current();
      const { status, stdout, stderr } = await switching.run('--archive', 'main');
      expect({ status, stderr: stderr.match(/ERROR.*/)?.[0] }).toEqual({ status: 0 });
      expect(stdout).toContain(
        `The WAL file ${current} has been closed on server 'main'\n` +
          `Waiting for the WAL file ${current} from server 'main' (max: 30 seconds)\n` +
          'Processing xlog segments from file archival for main\n',
      );
      expect(stdout).toContain(`\t${current}\nThe WAL file ${current} of server 'main' has been archived\n`);
      expect((await catalogueLines(switching.home)).at(-1)).toMatch(new RegExp(`^${current}\t`));
      // There is nothing to close now, but what was closed last is safe.
      const again = await switching.run('--archive', 'main');
      expect(again).toMatchObject({
        status: 0,
        stdout:
          `No switch required for server 'main'\n` +
          `Waiting for the WAL file ${current} from server 'main' (max: 30 seconds)\n` +
          `The WAL file ${current} of server 'main' has been archived\n`,
      });
    }));

  test('archives the closed segment of a server that only streams', () =>
    withSwitching({ archiver: 'off', streaming_archiver: 'on' }, async (switching) => {
      await expectStreamed(switching, 'streaming');
    }));

  test('archives it once where it is delivered and streamed', () =>
    withSwitching({ archiver: 'on', streaming_archiver: 'on' }, async (switching) => {
      await switching.archiveByCopy();
      await expectStreamed(switching, '(streaming|file archival)');
      expect(await namesIn(switching.home.errors)).toEqual([]);
      const names = (await catalogueLines(switching.home)).map((line) => line.split('\t')[0]);
      expect(new Set(names).size).toBe(names.length);
    }));

  test('waits for another process that archives', () =>
    withSwitching({}, async (switching) => {
      await switching.archiveByCopy();
      await switching.write();
      const current = await switching.current();
      await using lock = await acquireLock(join(switching.home.home, '.main-archive-wal.lock'));
      const running = switching.run('--archive', '--archive-timeout', '0', 'main');
      await until('the segment to be delivered', () => isThere(join(switching.home.incoming, current)));
      expect(await isThere(switching.stored(current))).toBe(false);
      await lock[Symbol.asyncDispose]();
      const { status, stdout } = await running;
      expect(status).toBe(0);
      expect(stdout).toContain(`Waiting for the WAL file ${current} from server 'main'\n`);
      expect(await isThere(switching.stored(current))).toBe(true);
    }));

  test('names what keeps the segment: an archive_command that fails', () =>
    withSwitching({}, async (switching) => {
      await switching.write();
      await switching.run('main');
      const failed = 'select last_failed_wal from pg_stat_archiver';
      await until('archive_command to fail', async () => (await switching.pg.sql(failed))[0]?.[0] !== null);
      const { status, stdout, stderr } = await switching.run('--archive', '--archive-timeout', '1', '--force', 'main');
      expect(status).toBe(1);
      expect(stdout).toMatch(/^The WAL file \S+ has been closed on server 'main'\nWaiting for the WAL file/);
      expect(stderr).toMatch(/ERROR: server main: The WAL file [0-9A-F]{24} has not been received in 1 seconds\n/);
      expect(stderr).toMatch(/HINT: archive_command of PostgreSQL fails for [0-9A-F]{24}, last at .* UTC/);
    }));

  test.each([
    ['archive_mode is off', { archiver: 'on' }, 'archive_mode of PostgreSQL is off', { archive_mode: 'off' }],
    [
      'no receive-wal',
      { archiver: 'off', streaming_archiver: 'on', slot_name: 'barman' },
      'no receive-wal runs: start it with',
      {},
    ],
  ])('names what keeps the segment: %s', (_what, options, hint, settings) =>
    withSwitching(
      options,
      async (switching) => {
        const { status, stderr } = await switching.run('--archive', '--archive-timeout', '1', '--force', 'main');
        expect(status).toBe(1);
        expect(stderr).toMatch(/ERROR: server main: The WAL file [0-9A-F]{24} has not been received in 1 seconds\n/);
        expect(stderr).toContain(`HINT: ${hint}`);
      },
      { settings },
    ),
  );

  test('names what keeps the segment: another archive-wal', () =>
    withSwitching({}, async (switching) => {
      await switching.archiveByCopy();
      await switching.write();
      const current = await switching.current();
      await switching.run('main');
      await until('the segment to be delivered', () => isThere(join(switching.home.incoming, current)));
      await using _lock = await acquireLock(join(switching.home.home, '.main-archive-wal.lock'));
      // The one before, since there is nothing new: the same words whatever is waited for.
      const { status, stderr } = await switching.run('--archive', '--archive-timeout', '1', 'main');
      expect(status).toBe(1);
      expect(stderr).toContain(`HINT: it waits in ${switching.home.incoming}, and another archive-wal (process `);
    }));

  test('ends at once when the archive has another content under that name', () =>
    withSwitching({}, async (switching) => {
      await switching.archiveByCopy();
      await switching.write();
      const current = walName(await switching.current());
      await placeStored(switching.home, current, new Uint8Array(1 << 20));
      const { status, stderr } = await switching.run('--archive', '--archive-timeout', '0', 'main');
      expect(status).toBe(1);
      expect(stderr).toContain(`ERROR: server main: the WAL file ${current} was not archived: its content is another`);
      expect(stderr).toContain(`HINT: see: walwarden errors explain main ${current}.`);
    }));
});

/** With receive-wal at work: a switch, archived by streaming alone, then on an idle server nothing to do. */
async function expectStreamed(switching: Switching, archiver: string): Promise<void> {
  const { pg, config } = switching;
  const streaming = `streaming_conninfo = ${pg.conninfo}\nslot_name = barman\ncreate_slot = auto\n`;
  await writeFile(config, `${await readFile(config, 'utf8')}${streaming}path_prefix = ${pg.programs.bin}\n`);
  expect((await runCli(['cron'], { config })).status).toBe(0);
  await until('the slot to be in use', async () => {
    const rows = await pg.sql(`select 1 from pg_replication_slots where active`);
    return rows.length > 0;
  });
  await switching.write();
  const current = await switching.current();
  const { status, stdout, stderr } = await switching.run('--archive', 'main');
  expect({ status, stderr: stderr.match(/ERROR.*/)?.[0] }).toEqual({ status: 0 });
  expect(stdout).toMatch(new RegExp(`Processing xlog segments from ${archiver} for main\n`));
  expect(stdout).toContain(`The WAL file ${current} of server 'main' has been archived\n`);
  const archived = await readFile(switching.stored(current));
  expect(archived.equals(await readFile(join(pg.walDir, current)))).toBe(true);
}
