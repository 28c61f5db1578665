import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { parseApiUrl } from '../../src/patroni/api-url.ts';
import { readWords } from '../../src/patroni/arguments.ts';
import { checkOptions, OPTION_LIST } from '../../src/patroni/options.ts';
import { ensureBuilt, runCli } from '../support/cli.ts';
import { run } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { withApi } from './fake-api.ts';
import { lastLine, messages, PATRONI_CLI, runPatroniCli, runRecover } from './run-recover.ts';

const REQUIRED = ['--api-url=http://b:7480', 'recover', '--barman-server=main', '--ssh-command=ssh x', '--datadir=/d'];

const read = (...words: string[]): ReturnType<typeof checkOptions> => checkOptions(readWords(words, 'recover').given);

describe('the options', () => {
  test('have the defaults of patroni_barman', () => {
    expect(read(...REQUIRED)).toEqual({
      apiUrl: 'http://b:7480',
      certFile: null,
      keyFile: null,
      caFile: null,
      retryWait: 2,
      maxRetries: 5,
      requestTimeout: 30,
      logFile: null,
      logLevel: null,
      barmanServer: 'main',
      backupId: 'latest',
      sshCommand: 'ssh x',
      dataDirectory: '/d',
      loopWait: 10,
    });
  });

  test('are taken in both spellings, in any order, and the last one counts', () => {
    const words = [
      '--max-retries',
      '7',
      '--cert-file=c',
      '--key-file',
      'k',
      '--ca-file',
      'a',
      '--log-file=l',
      '--retry-wait=0',
    ];
    const more = [
      '--backup-id',
      'first',
      '--backup-id=20260101T000000',
      '--loop-wait=3',
      '--data-directory',
      '/e',
      '--log-level',
      'debug',
    ];
    expect(read(...words, ...REQUIRED, ...more, '--request-timeout', '9')).toMatchObject({
      maxRetries: 7,
      certFile: 'c',
      keyFile: 'k',
      caFile: 'a',
      logFile: 'l',
      logLevel: 'DEBUG',
      retryWait: 0,
      backupId: '20260101T000000',
      loopWait: 3,
      dataDirectory: '/e',
      requestTimeout: 9,
    });
  });

  test('that nobody knows are ignored in both spellings, and swallow none that is known', () => {
    const words = readWords(
      [
        '--first',
        'x',
        ...REQUIRED,
        '--role',
        'replica',
        '--scope',
        '--backup-id=B',
        '--connstring=host=x --loop-wait=9',
        '--no_leader=1',
        '-x',
      ],
      'recover',
    );
    expect(words.command).toBe('recover');
    expect(words.ignored).toEqual(['--first', '--role', '--scope', '--connstring', '--no_leader', '-x']);
    expect(checkOptions(words.given)).toMatchObject({ backupId: 'B', loopWait: 10 });
  });

  test('may be shortened as argparse allows: an ignored --backup would restore another one', () => {
    expect(read(...REQUIRED, '--backup', 'B', '--data=/e')).toMatchObject({ backupId: 'B', dataDirectory: '/e' });
    expect(() => read(...REQUIRED, '--ba=x')).toThrow('--ba is ambiguous: --barman-server, --backup-id');
    expect(readWords(['--ca', '--log-l=x'], 'recover').ignored).toEqual(['--ca', '--log-l']);
    // Behind it there are no options.
    expect(read(...REQUIRED, '--', '--ba', '--data=/e')).toMatchObject({ backupId: 'latest', dataDirectory: '/d' });
  });

  test('without a value have a short spelling', () => {
    const flags = (...words: string[]): object => readWords(words, 'recover');
    expect(flags('recover')).toMatchObject({ help: false, version: false, debug: false });
    expect(flags('-d', 'recover')).toMatchObject({ help: false, version: false, debug: true });
    expect(flags('-dh', 'recover')).toMatchObject({ help: true, version: false, debug: true });
    expect(flags('-v')).toMatchObject({ help: false, version: true, debug: false });
  });

  test('are all in the help of both executables, with their defaults', async () => {
    const texts = [
      await runPatroniCli(['--help']),
      await runPatroniCli(['recover', '-h']),
      await runCli(['recover', '--help']),
    ];
    for (const { status, stdout, stderr } of texts) {
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      for (const code of ['0', '1', '2', '130', '143', '254', '255']) expect(stdout).toMatch(new RegExp(`\\b${code} `));
      for (const [, { names, fallback }] of OPTION_LIST) {
        const line = stdout.split('\n').find((each) => each.includes(`--${names[0] ?? ''}`)) ?? '';
        expect(line).toContain(names.map((name) => `--${name}`).join(', '));
        if (fallback !== undefined) expect(line).toContain(`(default: ${fallback})`);
      }
    }
    expect((await runCli(['--help'])).stdout).toContain('  recover');
  });
});

describe.concurrent('a mistake on the command line is 2, and named, in both executables:', () => {
  test.each([
    [['recover', '--datadir=/d'], 'required and not given: --api-url, --barman-server, --ssh-command'],
    [REQUIRED.slice(0, -1), 'required and not given: --data-directory/--datadir'],
    [[...REQUIRED, '--max-retries=0'], '--max-retries: expected a whole number from 1 to 1000000, found "0"'],
    [[...REQUIRED, '--retry-wait', '-1'], '--retry-wait: expected a whole number from 0 to 86400, found "-1"'],
    [[...REQUIRED, '--loop-wait=1.5'], '--loop-wait: expected a whole number from 0 to 86400, found "1.5"'],
    [[...REQUIRED, '--request-timeout=99999999999'], '--request-timeout: expected a whole number from 1 to 86400'],
    [[...REQUIRED, '--backup-id', '--loop-wait=3'], '--backup-id: expected a value, found --loop-wait'],
    [[...REQUIRED, '--backup-id='], '--backup-id: expected a value'],
    [[...REQUIRED, '--api-url=b:7480'], '--api-url: expected http:// or https://'],
    [[...REQUIRED, '--api-url=ftp://u:secret@b/'], '--api-url: expected http:// or https://, found ftp://'],
    [[...REQUIRED, '--api-url=http://u:secret@b:x/'], '--api-url is no URL'],
    [[...REQUIRED, '--api-url=http://b/?x=secret'], '--api-url has a query or a fragment behind its path'],
    [[...REQUIRED, '--api-url=http://b/#secret'], '--api-url has a query or a fragment behind its path'],
  ])('%j', async (words, said) => {
    const { status, stdout, stderr } = await runPatroniCli(words);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toContain(`ERROR: ${said}`);
    expect(stderr).toMatch(/\nHINT: \S/);
    expect(stderr).not.toContain('secret');
    const same = await runCli(['recover', ...words.filter((word) => word !== 'recover')]);
    expect({ status: same.status, stdout: same.stdout }).toEqual({ status: 2, stdout: '' });
    expect(same.stderr).toContain(`error: ${said}`);
  });

  test('is JSON where that is asked for', async () => {
    const { status, stderr } = await runCli(['-f', 'json', 'recover', '--api-url=http://b']);
    expect(status).toBe(2);
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'usage' } });
  });

  test('a directory whose name is not UTF-8: it would be another one', async () => {
    await ensureBuilt();
    const words = ['-c', 'exec "$@" "--datadir=$(printf "/d\\351")"', 'sh', process.execPath, PATRONI_CLI, ...REQUIRED];
    const { status, stderr } = await run('sh', words, {});
    expect(status).toBe(2);
    expect(stderr).toContain('ERROR: --data-directory/--datadir: expected UTF-8, found "/d\uFFFD"');
  });

  test('a log level', async () => {
    const { status, stderr } = await runPatroniCli([...REQUIRED, '--log-level=loud']);
    expect(status).toBe(2);
    expect(stderr).toContain('--log-level: expected one of');
  });
});

describe.concurrent('the log', () => {
  test('has no more than --log-level says, which is heard before --debug', () =>
    withApi({}, async (api) => {
      expect((await runRecover(api.url, { globals: ['--debug', '--log-level=error'] })).stderr).toBe('');
    }));

  test('warns of a relative data directory, which is not taken from where we are', () =>
    withApi({}, async (api) => {
      const words = [`--api-url=${api.url}`, ...REQUIRED.slice(1), '--datadir=data'];
      const { status, stderr } = await runPatroniCli(words);
      expect(status).toBe(0);
      expect(stderr).toContain('the data directory data is relative');
      expect(JSON.parse(api.received.find(({ method }) => method === 'POST')?.body ?? '')).toMatchObject({
        destination_directory: 'data',
      });
    }));

  test('tells ignored options as debug, without their values', () =>
    withApi({}, async (api) => {
      const { stderr } = await runRecover(api.url, { globals: ['--debug'] });
      for (const name of ['--no_leader', '--scope', '--role', '--connstring']) {
        expect(messages(stderr)).toContain(`ignored the option ${name}, which is Patroni’s own or nobody’s`);
      }
      expect(stderr).not.toContain('secret');
      expect((await runRecover(api.url)).stderr).not.toContain('ignored the option');
    }));

  test('warns of an ignored option that looks like one of ours', () =>
    withApi({}, async (api) => {
      const words = ['--barman-server=main', '--ssh-command=ssh x', '--backup_id=20260101T000000'];
      const { stderr } = await runRecover(api.url, { words });
      expect(messages(stderr)).toContain('ignored the option --backup_id: did you mean --backup-id?');
    }));

  test('goes to --log-file, and only errors to stderr as well', () =>
    withTempDir((directory) =>
      withApi({}, async (api) => {
        const file = join(directory, 'recover.log');
        const { status, stderr } = await runRecover(api.url, { globals: ['--log-file', file] });
        expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
        expect(messages(await readFile(file, 'utf8')).at(-1)).toBe('recovery operation OP1 is done');
        const failed = await runRecover(`${api.url}/nowhere`, {
          globals: ['--log-file', file, '--max-retries=1', '--retry-wait=86400'],
        });
        expect(failed.status).toBe(254);
        expect(messages(failed.stderr)).toHaveLength(1);
        const log = await readFile(file, 'utf8');
        expect(lastLine(log)['msg']).toBe(lastLine(failed.stderr)['msg']);
        // The next method or the next try writes behind what the one before left.
        expect(messages(log)).toContain('recovery operation OP1 is done');
        const globals = ['--log-file', file, '--max-retries=1', '--log-level=critical'];
        expect(await runRecover(`${api.url}/nowhere`, { globals })).toMatchObject({ status: 254, stderr: '' });
        expect(await readFile(file, 'utf8')).toBe(log);
      }),
    ));
});

describe('the URL of the API', () => {
  test.each([
    ['http://h:7480', 'http://h:7480', '', null],
    ['https://h:443//', 'https://h', '', null],
    ['http://[::1]:7480/a/b/', 'http://[::1]:7480/a/b', '/a/b', null],
    ['http://u@h', 'http://h', '', 'u:'],
    ['http://u:100%25%@h', 'http://h', '', 'u:100%25%'],
    ['http://u:p%40@h/x', 'http://h/x', '/x', 'u:p@'],
  ])('%s', (text, base, prefix, user) => {
    const url = parseApiUrl(text);
    expect(url).toMatchObject({ base, prefix });
    expect(url.authorization).toBe(user === null ? null : `Basic ${Buffer.from(user).toString('base64')}`);
  });
});

// As Patroni makes a command line of it: the command split into words, the other keys behind it.
test('docs/patroni.md configures what can be run', async () => {
  const page = await readFile(new URL('../../docs/patroni.md', import.meta.url), 'utf8');
  const sections = [...page.matchAll(/^  barman:\n((?: {4}.*\n)+)/gm)].map(([, lines = '']) => lines);
  expect(sections).toHaveLength(2);
  for (const section of sections) {
    const keys = [...section.matchAll(/^ {4}([\w-]+): (.+)$/gm)].map(
      ([, key = '', value = '']) => [key, value] as const,
    );
    const [program, ...command] = keys.find(([key]) => key === 'command')?.[1].split(' ') ?? [];
    expect(program).toBe('walwarden-patroni');
    const others = keys.filter(([key]) => key !== 'command').map(([key, value]) => `--${key}=${value}`);
    const { given, command: subcommand, ignored } = readWords([...command, ...others, '--datadir=/d'], 'recover');
    expect(subcommand).toBe('recover');
    expect(checkOptions(given)).toMatchObject({
      barmanServer: 'main',
      maxRetries: 150,
      loopWait: 10,
      backupId: 'latest',
    });
    for (const name of ignored) expect(['--keep_existing_recovery_conf', '--no_params', '--no_leader']).toContain(name);
  }
  // And every option is explained, or in the help that it tells of.
  for (const [, { names, required }] of OPTION_LIST) {
    if (required === true) expect(page).toContain(names.at(-1));
  }
});

test('walwarden-patroni is what the package installs, and a program that tells its version', async () => {
  await ensureBuilt();
  const { bin, version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'));
  const program = fileURLToPath(new URL(`../../${bin['walwarden-patroni']}`, import.meta.url));
  expect(program).toBe(PATRONI_CLI);
  // As the link that npm makes is run.
  const expected = { status: 0, stdout: `walwarden-patroni ${version}\n`, stderr: '' };
  for (const word of ['--version', '-v']) expect(await run(program, [word], {})).toMatchObject(expected);
});

test('nothing that a restore does not use is loaded', () =>
  withTempDir(async (directory) => {
    await ensureBuilt();
    const trace = join(directory, 'trace');
    const words = ['--max-retries=1', ...REQUIRED, '--api-url=http://127.0.0.1:1'];
    const strace = ['-f', '-qq', '-e', 'trace=openat', '-e', 'signal=none', '-o', trace];
    const { status } = await run('strace', [...strace, process.execPath, PATRONI_CLI, ...words], {});
    expect(status).toBe(254);
    const opened = (await readFile(trace, 'latin1')).split('\n').filter((line) => !line.includes('ENOENT'));
    const packages = opened.flatMap((line) => /\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(line)?.[1] ?? []);
    // The log, and what it stands on.
    expect(packages).toContain('pino');
    for (const heavy of ['commander', 'pg', 'chokidar', '@aws-sdk/client-s3', 'tinypool', 'pino-pretty', 'zstd-napi']) {
      expect(packages).not.toContain(heavy);
    }
  }));
