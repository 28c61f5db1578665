import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { debianBarman } from '../e2e/barman-programs.ts';
import { makeArchive, type Archive } from '../e2e/postgres-archive.ts';
import { runCli, writeConfig } from '../support/cli.ts';
import { until } from '../support/poll.ts';
import { pgReceivewalOf } from '../support/postgres-programs.ts';
import { withPostgres, type TestPostgres } from '../support/postgres.ts';
import { run, type RunResult } from '../support/run.ts';
import { withSilentPort } from '../support/silent-port.ts';

// `check` and `status` against a real PostgreSQL.

interface Checked {
  readonly pg: TestPostgres;
  readonly archive: Archive;
  /** The lines of `check`. */
  readonly checks: () => Promise<string[]>;
  /** The line of one check, or that there is none. */
  readonly line: (name: string) => Promise<string>;
}

interface CheckedOptions {
  /** Options of walwarden's server, beside conninfo. */
  readonly server?: Readonly<Record<string, string | number>>;
  /** Settings of PostgreSQL, instead of a working archive_command. */
  readonly settings?: (archive: Archive) => Readonly<Record<string, string>>;
}

const NO_ARCHIVING = (): Readonly<Record<string, string>> => ({ archive_mode: 'off' });
const STREAMING = { archiver: 'off', streaming_archiver: 'on', slot_name: 'walwarden' } as const;

function withChecked<T>(options: CheckedOptions, body: (checked: Checked) => Promise<T>): Promise<T> {
  return withPostgres({ start: false }, async (pg) => {
    const archive = await makeArchive(pg, { conninfo: pg.conninfo, path_prefix: pg.programs.bin, ...options.server });
    const settings = options.settings?.(archive) ?? { archive_mode: 'on', archive_command: archive.copyCommand };
    await pg.configure(settings);
    await pg.start();
    const checks = async (): Promise<string[]> => linesOf(await archive.walwarden(['check', 'main']));
    const line = async (name: string): Promise<string> =>
      (await checks()).find((text) => text.startsWith(`${name}: `)) ?? `no ${name}`;
    return await body({ pg, archive, checks, line });
  });
}

function linesOf({ stdout, stderr, status }: RunResult): string[] {
  expect(stderr).toBe('');
  expect(status).not.toBeNull();
  const lines = stdout.split('\n').slice(1, -1);
  return lines.map((text) => text.slice(1));
}

const names = (lines: readonly string[]): string[] => lines.map((text) => text.slice(0, text.indexOf(':')));

async function statusOf(archive: Archive): Promise<Record<string, unknown>> {
  const { stdout } = await archive.walwarden(['-f', 'json', 'status', 'main']);
  const [report]: { status: Record<string, unknown> }[] = JSON.parse(stdout);
  return report?.status ?? {};
}

test('a server that archives passes every check', () =>
  withChecked({}, async ({ pg, archive, checks }) => {
    await pg.archived(await pg.writeSegments(2));
    await archive.pass();
    const lines = await checks();
    expect(lines.filter((text) => !text.includes(': OK'))).toEqual([]);
    expect(names(lines)).toEqual([
      'PostgreSQL',
      'wal_level',
      'directories',
      'wal maximum age',
      'archived files',
      'wal size',
      'compression settings',
      'systemid coherence',
      'archive_mode',
      'archive_command',
      'continuous archiving',
      'archiver errors',
    ]);
    expect(lines).toContain('systemid coherence: OK');
    expect((await archive.walwarden(['check', 'main'])).status).toBe(0);
    expect((await archive.walwarden(['check', '--nagios', 'main'])).status).toBe(0);
  }));

test('status tells what PostgreSQL says of itself and of its archiver', () =>
  withChecked({}, async ({ pg, archive }) => {
    const last = await pg.writeSegments(2);
    await pg.archived(last);
    await archive.pass();
    expect(await statusOf(archive)).toMatchObject({
      pg_version: expect.stringMatching(new RegExp(`^${pg.programs.major}\\b`)),
      is_in_recovery: false,
      data_directory: pg.dataDir,
      current_xlog: expect.stringMatching(/^[0-9A-F]{24}$/),
      timeline: 1,
      xlog_segment_size: pg.segmentSize,
      systemid: String(await pg.systemIdentifier()),
      archive_mode: 'on',
      archive_command: archive.copyCommand,
      is_archiving: true,
      last_archived_wal: { wal: last, time: expect.any(Number) },
      failed_count: 0,
      archive_last_wal: { wal: last, time: expect.any(Number) },
      incoming_queue: { files: 0 },
      last_archive_wal: { started: expect.any(Number), running: false },
    });
  }));

test('a failing archive_command is the cause that is told, with the WAL that it fails for', () =>
  withChecked({ settings: () => ({ archive_mode: 'on', archive_command: 'false' }) }, async ({ pg, checks }) => {
    const wal = await pg.switchWal();
    await until(
      'archive_command to fail',
      async () => (await pg.value('select failed_count from pg_stat_archiver')) !== '0',
    );
    const lines = await checks();
    expect(lines).toContainEqual(
      expect.stringMatching(
        new RegExp(
          `^continuous archiving: FAILED \\(archive_command = 'false' fails \\(\\d+ times?, last at .* for ${wal}\\); it has never succeeded`,
        ),
      ),
    );
    expect(lines[0]).toMatch(/^WAL archive: FAILED \(nothing ever arrived in .*: archive_command = 'false' fails/);
  }));

test('archive_mode = off is told, and is the cause of an empty archive', () =>
  withChecked({ settings: () => ({ archive_mode: 'off' }) }, async ({ checks }) => {
    const lines = await checks();
    expect(lines[0]).toMatch(/^WAL archive: FAILED \(nothing ever arrived in .*: archive_mode is off/);
    expect(lines).toContainEqual(expect.stringMatching(/^archive_mode: FAILED/));
    expect(lines).toContainEqual(expect.stringMatching(/^archive_command: FAILED \(it is not in use/));
    expect(names(lines)).not.toContain('continuous archiving');
  }));

test('an archive_command that delivers elsewhere is suspected', () =>
  withChecked({ settings: () => ({ archive_mode: 'on', archive_command: 'test -f %p' }) }, async ({ pg, line }) => {
    const wal = await pg.switchWal();
    await pg.archived(wal);
    expect(await line('continuous archiving')).toBe('continuous archiving: OK');
    expect(await line('WAL archive')).toMatch(
      new RegExp(
        `archive_command = 'test -f %p' succeeds \\(its last archived WAL is ${wal}, .*\\): does it deliver to this`,
      ),
    );
  }));

test('a server that is down is one failure, and the cause of an empty archive', () =>
  withChecked({ server: { ...STREAMING, archiver: 'on' }, settings: NO_ARCHIVING }, async ({ pg, checks, archive }) => {
    await pg.stop();
    const lines = (await checks()).filter((text) => text.includes(': FAILED'));
    expect(names(lines)).toEqual(['WAL archive', 'PostgreSQL', 'receive-wal running']);
    expect(lines[0]).toMatch(/nothing ever arrived in .*: PostgreSQL can't be asked why: .*; no receive-wal runs/);
    expect((await statusOf(archive))['pg_version']).toBeNull();
  }));

test('wal_level = minimal is told', () =>
  withChecked(
    { settings: () => ({ archive_mode: 'off', wal_level: 'minimal', max_wal_senders: '0' }) },
    async ({ line }) => {
      expect(await line('wal_level')).toMatch(/^wal_level: FAILED \(it is minimal/);
    },
  ));

test('another cluster than the archive’s is told with both identifiers', () =>
  withChecked({}, async ({ pg, archive, line }) => {
    const path = join(archive.home, 'main', 'identity.json');
    await writeFile(path, '{"systemid": "42", "version": "15"}');
    await pg.giveToServer(path);
    expect(await line('systemid coherence')).toMatch(
      new RegExp(
        `FAILED \\(conninfo reaches system identifier ${await pg.systemIdentifier()}, but this archive belongs to 42`,
      ),
    );
  }));

test('a server that never answers does not keep the check for longer than check_timeout', () =>
  withSilentPort(async (port) =>
    withChecked(
      { server: { conninfo: `host=127.0.0.1 port=${port} user=postgres dbname=postgres`, check_timeout: 2 } },
      async ({ checks }) => {
        const lines = await checks();
        expect(lines.at(-1)).toMatch(
          /^check timeout: FAILED \(no answer within 2 s \(check_timeout\): PostgreSQL, systemid coherence, file archival\)$/,
        );
        expect(lines[0]).toMatch(/^WAL archive: FAILED \(nothing ever arrived in .*: PostgreSQL can't be asked why/);
        expect(lines).toContain('directories: OK');
      },
    ),
  ));

test('a role that does not exist is told with what to do', () =>
  withChecked({ server: { conninfo: 'replaced below' } }, async ({ pg, archive }) => {
    const config = await writeConfig(archive.home, {
      servers: { main: { conninfo: pg.conninfo.replace('user=postgres', 'user=nobody') } },
    });
    const lines = linesOf(await archive.withConfig(config).walwarden(['check', 'main']));
    expect(lines).toContainEqual(expect.stringMatching(/^PostgreSQL: FAILED \(.*nobody.*;.+\)$/));
  }));

test('a server that does not let us stream is told, with the line that is missing', () =>
  withChecked({ server: STREAMING, settings: NO_ARCHIVING }, async ({ pg, line }) => {
    const path = join(pg.dataDir, 'pg_hba.conf');
    const lines = (await readFile(path, 'utf8')).split('\n').filter((text) => !/^[a-z]+\s+replication/.test(text));
    await writeFile(path, lines.join('\n'));
    await pg.configure({});
    const told = await until('the new pg_hba.conf', async () => {
      const text = await line('PostgreSQL streaming');
      return text.includes(': FAILED') && text;
    });
    expect(told).toMatch(/FAILED \(.*pg_hba\.conf.*;.*replication.*\)$/);
  }));

test('status says nothing of a slot where none is configured', () =>
  withChecked({ server: { streaming_archiver: 'on' }, settings: NO_ARCHIVING }, async ({ archive }) => {
    const status = await statusOf(archive);
    expect(status).toMatchObject({ streaming: true, receive_wal_running: false });
    expect(status).not.toHaveProperty('replication_slot');
  }));

test('a missing slot is told, and nothing of a slot where none is configured', () =>
  withChecked({ server: STREAMING, settings: NO_ARCHIVING }, async ({ line, pg, archive }) => {
    expect(await line('replication slot')).toBe(
      'replication slot: FAILED (slot "walwarden" does not exist on the server: walwarden receive-wal --create-slot main, or create_slot = auto)',
    );
    await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
    expect(await line('replication slot')).toMatch(
      /FAILED \(slot "walwarden" is not in use, and the server keeps WAL for it since .*: no receive-wal runs for this server/,
    );
    expect(await line('receive-wal running')).toMatch(/FAILED \(no receive-wal runs.*walwarden receive-wal main/);
    expect((await statusOf(archive))['replication_slot']).toMatchObject({
      name: 'walwarden',
      active: false,
      lag_bytes: expect.any(Number),
    });
  }));

test('a slot whose WAL the server has removed is told, with the way out', () =>
  withChecked(
    {
      server: STREAMING,
      settings: () => ({ archive_mode: 'off', max_slot_wal_keep_size: '1MB', min_wal_size: '2MB' }),
    },
    async ({ pg, line }) => {
      await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      await pg.writeSegments(6);
      await pg.sql('checkpoint');
      expect(await line('replication slot')).toMatch(
        /FAILED \(slot "walwarden" is lost, the server has removed WAL that it held \(max_slot_wal_keep_size\): .*--drop-slot main, then --create-slot and --reset/,
      );
    },
  ));

test('a slot in use by a foreign process names that process, and a limit that can end a slot is told', () =>
  withChecked(
    { server: STREAMING, settings: () => ({ archive_mode: 'off', max_slot_wal_keep_size: '64MB' }) },
    async ({ pg, archive, line }) => {
      await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      expect(await line('replication slot')).toMatch(
        /FAILED \(slot "walwarden" is not in use, and the server keeps WAL for it since \S+ .*, but only until max_slot_wal_keep_size \(64MB, \S+ MiB to go\) ends that: /,
      );
      const directory = await pg.makeDirectory(join(archive.home, 'foreign'));
      const args = [
        '--no-loop',
        `--directory=${directory}`,
        '--slot=walwarden',
        `--dbname=${pg.conninfo} application_name=standby1`,
      ];
      const foreign = spawn(pgReceivewalOf(pg.programs), args, { ...pg.owner, cwd: directory, stdio: 'ignore' });
      const ended = once(foreign, 'close');
      try {
        const pid = await until('the slot to be in use', async () => {
          const rows = await pg.sql('select active_pid from pg_replication_slots where active');
          return rows[0]?.[0] ?? undefined;
        });
        expect(await line('replication slot')).toMatch(
          new RegExp(
            `FAILED \\(slot "walwarden" is in use by server process ${pid}, "standby1", which is not our receiver: `,
          ),
        );
        expect((await statusOf(archive))['replication_slot']).toMatchObject({
          pid: Number(pid),
          application_name: 'standby1',
        });
      } finally {
        foreign.kill('SIGINT');
        await ended;
      }
    },
  ));

test('a server that streams passes every check, and status tells what the receiver does', () =>
  withChecked(
    { server: { ...STREAMING, create_slot: 'auto' }, settings: NO_ARCHIVING },
    async ({ pg, archive, checks, line }) => {
      await withReceiver(pg, archive, async () => {
        await until(
          'the receiver to stream',
          async () =>
            (await line('receive-wal running')).includes('receiving since') &&
            (await line('replication slot')) === 'replication slot: OK',
        );
        const last = await pg.writeSegments(3);
        const stored = async (): Promise<boolean> => {
          await archive.walwarden(['archive-wal', 'main']);
          return (await archive.timelines()).some(({ ranges }) => ranges.some((range) => range.last >= last));
        };
        await until('the segments to be archived', stored);
        const lines = await checks();
        expect(lines.filter((text) => !text.includes(': OK'))).toEqual([]);
        expect(names(lines)).toEqual([
          'PostgreSQL',
          'PostgreSQL streaming',
          'wal_level',
          'replication slot',
          'directories',
          'wal maximum age',
          'archived files',
          'wal size',
          'compression settings',
          'systemid coherence',
          'pg_receivexlog',
          'pg_receivexlog compatible',
          'receive-wal running',
          'archiver errors',
        ]);
        expect(await statusOf(archive)).toMatchObject({
          streaming: true,
          receive_wal_running: true,
          receive_wal_state: 'streaming',
          receive_wal_slot: 'walwarden',
          replication_slot: { active: true, lag_bytes: expect.any(Number) },
        });
      });
      await until(
        'the slot to be free',
        async () => (await pg.value(`select active from pg_replication_slots`)) === 'f',
      );
      expect(await line('receive-wal running')).toMatch(
        /FAILED \(no receive-wal runs for this server; it stopped at .*it received until/,
      );
    },
  ));

test('a receiver whose server is gone is running, and yet fails with the cause', () =>
  withChecked(
    { server: { ...STREAMING, create_slot: 'auto' }, settings: NO_ARCHIVING },
    async ({ pg, archive, line }) => {
      await withReceiver(pg, archive, async () => {
        await until('the receiver to stream', async () => (await line('receive-wal running')).includes('receiving'));
        await pg.stop();
        const told = await until('the cause', async () => {
          const text = await line('receive-wal running');
          return text.includes(': FAILED') && text;
        });
        expect(told).toMatch(
          /FAILED \((process \d+ runs, but receives nothing since|it tries again since) .*[:,] .+\)$/,
        );
      });
    },
  ));

test('files of a receiver wait for an archiver that is off', () =>
  withChecked({}, async ({ pg, archive, line }) => {
    const streaming = join(archive.home, 'main', 'streaming');
    await mkdir(streaming, { recursive: true });
    for (const name of ['000000010000000000000001', '000000010000000000000002', '000000010000000000000003.partial'])
      await writeFile(join(streaming, name), '');
    await pg.giveToServer(streaming);
    expect(await line('empty streaming directory')).toMatch(/FAILED \(2 files in .*streaming_archiver = off/);
  }));

test('a directory that may not be written to is told', () =>
  withChecked({}, async ({ archive, line }) => {
    await chmod(archive.incoming, 0o500);
    expect(await line('directories')).toMatch(
      /FAILED \(.*\/incoming can't be read and written by user \d+, whom walwarden runs as\)$/,
    );
  }));

test('root is told that it is the wrong user', () =>
  withChecked({}, async ({ pg, archive }) => {
    if (pg.owner.uid === undefined) return;
    const { stdout } = await runCli(['check', 'main'], { config: archive.config });
    expect(stdout).toMatch(
      /\tdirectories: FAILED \(walwarden runs as root, but .* belongs to user \d+: run it as that user\)/,
    );
  }));

/** The parts that monitoring takes from the first line of a plugin, and the failed checks of the lines below. */
function takeApart(stdout: string): { state: string; failed: string[]; details: string[] } {
  const [first = '', ...details] = stdout.trim().split('\n');
  const [text = ''] = first.split('|');
  // Base backups are no concern of ours.
  const isOurs = (check: string): boolean => !check.startsWith('pg_basebackup');
  const failed = / \* main FAILED: ([^*]*)/.exec(text)?.[1]?.split(', ') ?? [];
  return {
    state: /^(BARMAN [A-Z]+) - /.exec(text)?.[1] ?? text,
    failed: failed.filter(isOurs),
    details: details.map((line) => line.replace(/^main\.(.*): FAILED( \(.*\))?$/, '$1')).filter(isOurs),
  };
}

test('a plugin of Debian’s Barman on the same home prints the same structure, and fails for the same checks', () =>
  withPostgres({ start: false }, async (pg) => {
    const barman = debianBarman();
    const archive = await makeArchive(pg);
    const config = await writeConfig(archive.home, {
      global: {
        barman_user: await userNameOf(pg),
        log_file: join(archive.home, 'barman.log'),
        path_prefix: pg.programs.bin,
      },
      servers: {
        main: { conninfo: pg.conninfo, streaming_conninfo: pg.conninfo, backup_method: 'postgres', archiver: 'on' },
      },
    });
    const both = async (): Promise<{ ours: RunResult; theirs: RunResult }> => {
      const options = { ...pg.owner, cwd: archive.home, env: { ...process.env, HOME: archive.home } };
      return {
        ours: await archive.withConfig(config).walwarden(['check', '--nagios', 'main']),
        theirs: await barman.run(config, ['check', '--nagios', 'main'], options),
      };
    };
    await pg.configure({ archive_mode: 'on', archive_command: archive.copyCommand, max_wal_senders: '5' });
    await pg.start();
    await pg.archived(await pg.writeSegments(2));
    // Barman 3.4 keeps its catalogue where we only read it.
    const pass = await barman.run(config, ['archive-wal', 'main'], { ...pg.owner, cwd: archive.home });
    expect(pass.status, pass.stderr + pass.stdout).toBe(0);

    const good = await both();
    expect([good.ours.status, good.theirs.status], good.ours.stdout + good.theirs.stdout + good.theirs.stderr).toEqual([
      0, 0,
    ]);
    for (const { stdout } of [good.ours, good.theirs]) {
      expect(takeApart(stdout)).toEqual({ state: 'BARMAN OK', failed: [], details: [] });
      expect(stdout).toMatch(/\|(\S+=\d+B )*main_wals=\d+B\n$/);
    }

    await writeFile(join(archive.errors, '000000010000000000000001.20261003T110000Z.duplicate'), '');
    const streaming = join(archive.home, 'main', 'streaming');
    for (const name of ['1', '2']) await writeFile(join(streaming, `00000001000000000000000${name}`), '');
    await pg.configure({ archive_command: 'false' });
    await pg.switchWal();
    await until(
      'archive_command to fail',
      async () => (await pg.value('select failed_count from pg_stat_archiver')) !== '0',
    );
    const bad = await both();
    const ours = takeApart(bad.ours.stdout);
    expect([bad.ours.status, bad.theirs.status]).toEqual([2, 2]);
    expect(ours).toEqual(takeApart(bad.theirs.stdout));
    expect(ours).toEqual({
      state: 'BARMAN CRITICAL',
      failed: ['empty streaming directory', 'continuous archiving', 'archiver errors'],
      details: ['empty streaming directory', 'continuous archiving', 'archiver errors'],
    });

    await pg.stop();
    const down = await both();
    expect(takeApart(down.ours.stdout).failed).toEqual(takeApart(down.theirs.stdout).failed);
  }));

async function userNameOf(pg: TestPostgres): Promise<string> {
  const { stdout } = await run('id', ['-un', ...(pg.owner.uid === undefined ? [] : [String(pg.owner.uid)])], {});
  return stdout.trim();
}

/** While `walwarden receive-wal main` runs as a process of its own. */
async function withReceiver<T>(pg: TestPostgres, archive: Archive, body: () => Promise<T>): Promise<T> {
  const child = spawn('sh', ['-c', `exec ${archive.command('receive-wal', 'main')}`], {
    ...pg.owner,
    cwd: archive.home,
    stdio: 'ignore',
  });
  const ended = once(child, 'close');
  try {
    return await body();
  } finally {
    child.kill('SIGTERM');
    await ended;
  }
}
