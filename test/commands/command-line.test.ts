import { chmod, cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CLI, runCli, writeConfig } from '../support/cli.ts';
import { run } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { json, withServer } from './with-server.ts';

const COMMANDS = [
  ['archive-wal'],
  ['put-wal'],
  ['get-wal'],
  ['list-wals'],
  ['rebuild-xlogdb'],
  ['delete-wals'],
  ['cron'],
  ['switch-wal'],
  ['replication-status'],
  ['list-servers'],
  ['show-servers'],
  ['errors'],
  ['errors', 'list'],
  ['errors', 'explain'],
  ['errors', 'resolve'],
];

describe.concurrent('--help', () => {
  test.each(COMMANDS)('of %s %s says what it does, on stdout, and is 0', async (...command) => {
    const words = command.filter((word) => word !== undefined);
    const { status, stdout, stderr } = await runCli([...words, '--help']);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain(`Usage: walwarden ${words.join(' ')}`);
    // Two lines at least: what for, and how.
    expect(stdout.split('\n').length).toBeGreaterThan(4);
  });

  test('of the program lists every command', async () => {
    const { status, stdout } = await runCli(['--help']);
    expect(status).toBe(0);
    for (const [command = ''] of COMMANDS) expect(stdout).toContain(`  ${command}`);
    expect((await runCli(['-h'])).stdout).toBe(stdout);
  });

  test('needs no configuration', async () =>
    withTempDir(async (directory) => {
      const result = await runCli(['get-wal', '-h'], { env: { HOME: directory, PATH: process.env['PATH'] } });
      expect(result.status).toBe(0);
    }));
});

describe.concurrent('a mistyped', () => {
  test.each([
    ['archive-wall', 'archive-wal'],
    ['list-wal', 'list-wals'],
    ['rebuild-xlog', 'rebuild-xlogdb'],
  ])('command %s suggests %s', async (wrong, right) => {
    const { status, stdout, stderr } = await runCli([wrong, 'main']);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toContain(`unknown command '${wrong}'`);
    expect(stderr).toMatch(new RegExp(`Did you mean (one of )?.*${right}`));
  });

  test('option suggests the right one', async () => {
    const { status, stderr } = await runCli(['list-wals', '--gap', 'main']);
    expect(status).toBe(2);
    expect(stderr).toContain("unknown option '--gap'");
    expect(stderr).toContain('--gaps');
  });

  test('server suggests the right one, or names those there are', () =>
    withServer({}, async (server) => {
      for (const command of [
        ['list-wals'],
        ['rebuild-xlogdb'],
        ['archive-wal'],
        ['show-servers'],
        ['errors', 'list'],
      ]) {
        const { status, stdout, stderr } = await server.cli([...command, 'mian']);
        expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
        expect(stderr).toBe(`ERROR: unknown server "mian" in ${server.config}\nHINT: did you mean "main"?\n`);
      }
      expect((await server.cli(['list-wals', 'production'])).stderr).toContain('HINT: configured servers: main\n');
    }));

  test.each<[string, readonly string[]]>([
    ['no command', []],
    ['no server', ['list-wals']],
    ['too many words', ['list-wals', 'main', 'other']],
    ['an option that wants a value', ['-c']],
    ['a format that is none', ['-f', 'xml', 'list-servers']],
    ['a level that is none', ['--log-level', 'LOUD', 'list-servers']],
  ])('line, %s, is 2', async (_what, args) => {
    const { status, stdout, stderr } = await runCli(args);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).not.toBe('');
  });
});

describe('--version', () => {
  test.each(['--version', '-v'])('%s prints name and version', async (flag) => {
    const { version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'));
    expect(await runCli([flag])).toMatchObject({ status: 0, stdout: `walwarden ${version}\n`, stderr: '' });
  });

  test('does without the rest of the program, because scripts ask often', () =>
    withTempDir(async (directory) => {
      await runCli(['--version']);
      const dist = join(directory, 'dist');
      await cp(dirname(CLI), dist, { recursive: true });
      for (const name of await readdir(dist)) if (name.startsWith('command-line')) await rm(join(dist, name));
      await writeFile(join(directory, 'package.json'), '{ "version": "1.2.3", "type": "module" }');
      const { stdout, status } = await run(process.execPath, [join(dist, 'cli.js'), '--version'], {});
      expect({ status, stdout }).toEqual({ status: 0, stdout: 'walwarden 1.2.3\n' });
    }));
});

describe('list-servers and show-servers', () => {
  const servers = {
    main: { compression: 'zstd', description: 'The one that counts' },
    idle: { active: 'false' },
    copy: { primary_ssh_command: 'ssh primary' },
    broken: { compression: 'zip' },
  };

  test('list names, descriptions, and why one is not archived', () =>
    withTempDir(async (directory) => {
      const config = await writeConfig(directory, { servers });
      const { status, stdout } = await runCli(['list-servers'], { config });
      expect(status).toBe(0);
      expect(stdout).toMatch(
        /^main - The one that counts\nidle - idle \(inactive\)\ncopy - copy \(passive\)\nbroken - broken \(WARNING: disabled: .*walwarden\.conf:\d+: .*compression.*"zip".*\)\n$/,
      );
      expect((await runCli(['list-server'], { config })).stdout).toBe(stdout);
      expect(json(await runCli(['-f', 'json', 'list-servers'], { config }))).toEqual([
        {
          name: 'main',
          description: 'The one that counts',
          active: true,
          passive: false,
          disabled: false,
          problems: [],
        },
        { name: 'idle', description: 'idle', active: false, passive: false, disabled: false, problems: [] },
        { name: 'copy', description: 'copy', active: true, passive: true, disabled: false, problems: [] },
        {
          name: 'broken',
          description: 'broken',
          active: true,
          passive: false,
          disabled: true,
          problems: [expect.stringContaining('zip')],
        },
      ]);
    }));

  test('show every value in effect with its place, passwords hidden', () =>
    withTempDir(async (directory) => {
      const config = await writeConfig(directory, {
        global: { compression_level: 'low' },
        servers: { ...servers, main: { ...servers.main, conninfo: 'host=db user=u password=secret' } },
      });
      const { status, stdout } = await runCli(['show-servers', 'main'], { config });
      expect(status).toBe(0);
      expect(stdout).toMatch(/^Server main:\n/);
      expect(stdout).toMatch(/\tcompression +=? zstd {2}\(.*walwarden\.conf:\d+\)\n/);
      expect(stdout).toMatch(/\tcompression_level += low {2}\(.*walwarden\.conf:\d+\)\n/);
      expect(stdout).toMatch(/\tarchiver_batch_size += 0 {2}\(default\)\n/);
      expect(stdout).toContain(`= ${directory}/main/incoming  (default)`);
      expect(stdout).not.toContain('secret');
      const all = await runCli(['show-servers', 'all'], { config });
      for (const name of Object.keys(servers)) expect(all.stdout).toContain(`Server ${name}`);
      expect(all.stdout).toContain('Server broken (disabled):\n\tPROBLEM: ');
      expect((await runCli(['show-server', 'main'], { config })).stdout).toBe(stdout);
      const [shown] = [json(await runCli(['-f', 'json', 'show-servers', 'main', 'idle'], { config }))].flat();
      expect(shown).toMatchObject({ name: 'main', active: true, disabled: false, passive: false, model: null });
      expect(JSON.stringify(shown)).not.toContain('secret');
    }));
});

describe('output', () => {
  test('-f json is JSON for every command that reports, errors on stderr included', () =>
    withServer({}, async (server) => {
      const commands = [
        ['archive-wal', 'main'],
        ['list-wals', 'main'],
        ['list-wals', '--gaps', 'main'],
        ['rebuild-xlogdb', 'main'],
        ['delete-wals', '--older-than', '1 DAY', 'main'],
        ['list-servers'],
        ['show-servers', 'main'],
        ['errors', 'list', 'main'],
        ['errors', 'explain', 'main'],
        ['errors', 'resolve', 'main'],
        ['put-wal', '--test', 'main'],
        ['get-wal', '--test', 'main'],
      ];
      for (const command of commands) {
        const result = await server.cli(['-f', 'json', ...command]);
        expect({ command, status: result.status }).toEqual({ command, status: 0 });
        json(result);
      }
      const { status, stdout, stderr } = await server.cli(['--format=json', 'list-wals', 'mian']);
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      expect(JSON.parse(stderr)).toEqual({
        error: {
          code: 'unknown-server',
          message: `unknown server "mian" in ${server.config}`,
          hint: 'did you mean "main"?',
        },
      });
    }));

  test('-q prints nothing but errors', () =>
    withServer({}, async (server) => {
      for (const command of [
        ['list-servers'],
        ['list-wals', 'main'],
        ['archive-wal', 'main'],
        ['errors', 'list', 'main'],
      ]) {
        expect(await server.cli(['-q', ...command])).toMatchObject({ status: 0, stdout: '', stderr: '' });
      }
      expect((await server.cli(['-q', 'list-wals', 'mian'])).stderr).toContain('ERROR: unknown server');
    }));

  test('a reader that has seen enough is no failure', () =>
    withServer({}, async (server) => {
      const script = `set -o pipefail; "${process.execPath}" "${CLI}" -c "${server.config}" show-servers main | head -n 1`;
      const { status, stdout, stderr } = await run('bash', ['-c', script], {});
      expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: 'Server main:\n', stderr: '' });
    }));

  test('an option that nobody knows is a warning with its place, but never for PostgreSQL', () =>
    withServer({ compresion: 'zstd' }, async (server) => {
      const { status, stderr } = await server.cli(['list-wals', 'main']);
      expect(status).toBe(0);
      expect(stderr).toContain('unknown option');
      expect(stderr).toContain('did you mean compression?');
      expect(stderr).toMatch(/walwarden\.conf:\d+: /);
      expect((await server.cli(['put-wal', '--test', 'main'])).stderr).toBe('');
    }));

  test('a log file that can not be opened is told, and keeps nothing from being done', () =>
    withServer(
      {},
      async (server) => {
        await chmod(server.home, 0o755);
        const { status, stderr } = await server.cli(['list-wals', 'main']);
        expect(status).toBe(0);
        expect(stderr).toContain("can't open the log file /nowhere/walwarden.log");
      },
      { log_file: '/nowhere/walwarden.log' },
    ));
});
