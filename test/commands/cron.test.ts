import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { isThere } from '../../src/durable/durable-file.ts';
import { acquireLock } from '../../src/durable/lock-file.ts';
import { CLI, ensureBuilt, runCli } from '../support/cli.ts';
import { makeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { run } from '../support/run.ts';
import { LOGGED, withCron } from './cron-home.ts';

const wal = makeWal({ segment: 1 });
const BUSY = 'Another archive-wal process is already running on server main. Skipping to the next server\n';
const STARTED = 'Starting WAL archiving for server main\n';

/** Starts a program that says a line and ends with its stdin. */
async function withReader<T>(args: readonly string[], body: (pid: number) => Promise<T>): Promise<T> {
  const [command, ...rest] = [...args, 'sh', '-c', 'echo ready; read -r line', 'sh', 'receive-wal'];
  const child = spawn(command, rest, { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(child, 'close');
  try {
    await once(child.stdout, 'data');
    return await body(child.pid ?? expect.unreachable());
  } finally {
    child.stdin.end();
    // Its input ended, and nobody else ended it.
    expect(await ended).toEqual([1, null]);
  }
}

test('a process that has the pid of an old receive-wal is never signalled, whatever its name', () =>
  withCron({ global: LOGGED, servers: { main: { pre_archive_script: 'true' } } }, async (cron) => {
    const lock = cron.at('.main-receive-wal.lock');
    await withReader([], async (pid) => {
      await writeFile(lock, `${pid}\n`);
      // The holder counts in another pid namespace, say.
      await withReader(['flock', '-x', lock], async () => {
        const { status, servers } = await cron.report();
        expect({ status, receiveWal: servers['main']?.receiveWal }).toEqual({
          status: 0,
          receiveWal: { state: 'running', pid },
        });
      });
    });
    expect(await cron.log()).not.toContain('asked receive-wal');
  }));

describe('cron', () => {
  test('returns while archive-wal works; the next one finds it at work, and leaves it alone', () =>
    withCron({ global: LOGGED }, async (cron) => {
      await cron.deliver();
      expect(await cron.cron()).toMatchObject({ status: 0, stdout: STARTED, stderr: '' });
      await cron.busy();
      const worker = await cron.worker();
      expect(worker).not.toBeNull();
      expect(await cron.cron()).toMatchObject({ status: 0, stdout: BUSY, stderr: '' });
      expect((await cron.report()).servers['main']?.archiveWal).toEqual({ state: 'running', pid: worker });
      expect(await cron.worker()).toBe(worker);
      await cron.go();
      await cron.archived();
    }));

  test('starts it for every active server, whatever becomes of the others', () =>
    withCron(
      {
        global: LOGGED,
        servers: {
          one: { pre_archive_script: 'true' },
          wrong: { compression: 'zip' },
          locked: {},
          off: { active: 'false' },
          passive: { primary_ssh_command: 'ssh primary' },
          two: { pre_archive_script: 'true' },
        },
      },
      async (cron) => {
        await cron.deliver('one');
        await cron.deliver('two');
        await mkdir(cron.at('.locked-archive-wal.lock'));
        const { status, servers } = await cron.report();
        expect(status).toBe(1);
        const nothing = { skipped: null, archiveWal: null, receiveWal: null, error: null };
        const started = { state: 'started', pid: expect.any(Number) };
        expect(servers).toEqual({
          one: { ...nothing, server: 'one', archiveWal: started },
          two: { ...nothing, server: 'two', archiveWal: started },
          wrong: {
            ...nothing,
            server: 'wrong',
            skipped: `Skipping temporarily disabled server 'wrong'`,
            error: expect.objectContaining({ code: 'config', message: expect.stringContaining('compression = "zip"') }),
          },
          locked: {
            ...nothing,
            server: 'locked',
            error: expect.objectContaining({
              code: 'storage',
              message: expect.stringContaining('.locked-archive-wal.lock'),
            }),
          },
          off: { ...nothing, server: 'off', skipped: `Skipping inactive server 'off'` },
          passive: { ...nothing, server: 'passive', skipped: `Skipping passive server 'passive'` },
        });
        await cron.archived('one');
        await cron.archived('two');
        expect(await isThere(cron.at('off'))).toBe(false);
        await rm(cron.at('.locked-archive-wal.lock'), { recursive: true });
      },
    ));

  test('starts dozens at once', () => {
    const names = Array.from({ length: 24 }, (_, index) => `s${index}`);
    const servers = Object.fromEntries(names.map((name) => [name, { pre_archive_script: 'true' }]));
    return withCron({ global: LOGGED, servers }, async (cron) => {
      for (const name of names) await cron.deliver(name);
      const { status, stdout } = await cron.cron();
      expect({ status, lines: stdout.split('\n').length - 1 }).toEqual({ status: 0, lines: names.length });
      for (const name of names) await cron.archived(name);
    });
  });

  test('lets a pipe go, and what it started survives it and its session', () =>
    withCron({ global: LOGGED }, async (cron) => {
      await ensureBuilt();
      await cron.deliver();
      const command = [process.execPath, CLI, '-c', cron.config, 'cron'];
      // A descriptor beside the usual ones is held by nobody either.
      expect(await run('sh', ['-c', '"$@" 7>&1 | cat', 'sh', ...command], {})).toMatchObject({
        status: 0,
        stdout: STARTED,
      });
      await cron.busy();
      await cron.go();
      await cron.archived();
      await cron.idle();
      await rm(cron.at('go'));
      await rm(cron.at('busy'));
      await cron.deliver('main', 2);
      // As at the end of a login: everything of the session is killed.
      const killed = await run('setsid', ['-w', 'sh', '-c', '"$@"; kill -9 0', 'sh', ...command], {});
      expect(killed).toMatchObject({ signal: 'SIGKILL', stdout: STARTED });
      await cron.busy();
      await cron.go();
      await cron.archived('main', 2);
    }));

  test('starts it under the name that it has itself, with the configuration file that it read', () =>
    withCron({ global: LOGGED }, async (cron) => {
      await ensureBuilt();
      await cron.deliver();
      const barman = cron.at('..', 'barman');
      await symlink(CLI, barman);
      const { stdout } = await run(process.execPath, ['../barman', '-c', '../walwarden.conf', '-f', 'json', 'cron'], {
        cwd: cron.home,
      });
      await cron.busy();
      const pid = await cron.worker();
      expect(JSON.parse(stdout)).toMatchObject({ servers: [{ archiveWal: { state: 'started', pid } }] });
      expect((await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0')).toEqual([
        process.execPath,
        barman,
        '-c',
        cron.config,
        '-q',
        '--detached',
        'archive-wal',
        'main',
        '',
      ]);
    }));

  test('does nothing while another one works, on all servers or on one', () =>
    withCron({ global: LOGGED }, async (cron) => {
      {
        await using _lock = await acquireLock(cron.at('.cron.lock'));
        const { status, stdout } = await cron.cron();
        expect({ status, stdout }).toEqual({
          status: 0,
          stdout: 'Another cron process is already running. Nothing to do\n',
        });
      }
      await using _lock = await acquireLock(cron.at('.main-cron.lock'));
      const { status, stdout } = await cron.cron();
      expect({ status, stdout }).toEqual({
        status: 0,
        stdout: 'Another cron process is already running on server main. Skipping to the next server\n',
      });
      expect(await isThere(cron.at('main'))).toBe(false);
    }));

  test('never makes a home that is missing', () =>
    withCron({ home: '/nowhere/at/all' }, async (cron) => {
      const { status, stderr } = await runCli(['cron'], { config: cron.config });
      expect(status).toBe(1);
      expect(stderr).toContain('ERROR: barman_home /nowhere/at/all does not exist\nHINT: mount or create it');
      expect(await isThere('/nowhere')).toBe(false);
    }));
});

describe('what cron says', () => {
  test('without log_file goes to a file in the home, which is told once, and -q keeps all else quiet', () =>
    withCron({ global: { no_such_option: '1' }, servers: { main: { pre_archive_script: 'true' } } }, async (cron) => {
      await cron.deliver();
      const first = await cron.cron(['-q']);
      expect(first).toMatchObject({ status: 0, stdout: '' });
      expect(first.stderr.trim().split('\n')).toHaveLength(1);
      expect(JSON.parse(first.stderr)).toMatchObject({
        msg: `log_file is not set: what cron starts in the background logs to ${cron.at('walwarden.log')}`,
      });
      await until('the log to tell of it', async () => (await cron.log()).includes(`"msg":"archived ${wal.name}"`));
      await cron.idle();
      expect(await cron.cron(['-q'])).toMatchObject({ status: 0, stdout: '', stderr: '' });
      await cron.archived();
    }));

  test('an error of archive-wal is one line in the log', () =>
    withCron({ global: LOGGED, servers: { main: { pre_archive_script: 'true' } } }, async (cron) => {
      await mkdir(cron.at('main'));
      await writeFile(cron.at('main', 'errors'), 'no directory');
      expect(await cron.cron()).toMatchObject({ status: 0, stdout: STARTED, stderr: '' });
      await until('the error to be logged', async () => (await cron.log()).includes('"level":50'));
      await cron.idle();
      const lines = (await cron.log()).trim().split('\n');
      expect(lines.map((line): unknown => JSON.parse(line))).toEqual([
        expect.objectContaining({
          level: 50,
          code: 'storage',
          msg: expect.stringContaining(cron.at('main', 'errors')),
        }),
      ]);
    }));

  test.each([
    ['in log_file', LOGGED],
    ['on stderr, where cron mails it,', {}],
  ])('a problem that stays is told once %s and so is its end', (_where, global) =>
    withCron({ global, servers: { main: { pre_archive_script: 'true' } } }, async (cron) => {
      let said = '';
      const again = async (expected: number): Promise<void> => {
        const { status, stderr } = await cron.cron(['-q']);
        said += stderr;
        expect(status).toBe(expected);
        await cron.idle();
      };
      const good = await readFile(cron.config, 'utf8');
      await again(0);
      await writeFile(cron.config, `${good}compression = zip\n`);
      for (let minute = 0; minute < 3; minute += 1) await again(1);
      await writeFile(cron.config, `${good}compression = zap\n`);
      await again(1);
      await writeFile(cron.config, good);
      await again(0);
      await again(0);
      const log = 'log_file' in global ? await cron.log() : said;
      const about = log.split('\n').filter((line) => line.includes('"about":"main"'));
      expect(about.map((line): unknown => JSON.parse(line))).toEqual([
        expect.objectContaining({ level: 50, msg: expect.stringContaining('compression = "zip"') }),
        expect.objectContaining({ level: 50, msg: expect.stringContaining('compression = "zap"') }),
        // Good news is no mail.
        ...('log_file' in global ? [expect.objectContaining({ level: 30, msg: 'main works again' })] : []),
      ]);
    }),
  );

  test('goes where cron itself writes with --keep-descriptors', () =>
    withCron({ servers: { main: { pre_archive_script: 'true' } } }, async (cron) => {
      await cron.deliver();
      const { status, stdout, stderr } = await runCli(['cron', '--keep-descriptors'], { config: cron.config });
      expect({ status, stdout }).toEqual({ status: 0, stdout: STARTED });
      expect(stderr).toContain(`"msg":"archived ${wal.name}"`);
      expect(await isThere(cron.at('walwarden.log'))).toBe(false);
    }));

  test('that no log can be written is said, and archiving goes on', () =>
    withCron({ servers: { main: { pre_archive_script: 'true' } } }, async (cron) => {
      await cron.deliver();
      await mkdir(cron.at('walwarden.log'));
      const { status, stderr } = await cron.cron();
      expect(status).toBe(1);
      expect(stderr).toContain(`can't open ${cron.at('walwarden.log')}: EISDIR`);
      expect(stderr).toContain('set log_file to a file that walwarden may write');
      await cron.archived();
    }));
});
