import { randomUUID } from 'node:crypto';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { pino, type Logger } from 'pino';
import { describe, expect, test } from 'vitest';
import {
  decideRetry,
  hookEnvironment,
  retryDelay,
  runPlainHook,
  runRetryHook,
  type HookCall,
  type HookOptions,
} from '../../src/hooks/hook-script.ts';
import { isThere } from '../../src/durable/durable-file.ts';
import { walName } from '../../src/wal/wal-name.ts';
import { until } from '../support/poll.ts';
import { processesWithEnv, type LiveProcess } from '../support/processes.ts';
import { withTempDir } from '../support/temp-dir.ts';

const call: HookCall = {
  operation: 'archive',
  phase: 'pre',
  version: '3.17.0',
  server: 'main',
  configuration: '/etc/barman.conf',
  wal: {
    name: walName('000000010000000000000007'),
    size: 16_777_216,
    mtime: 1_700_000_000.25,
    compression: null,
    encryption: null,
  },
  path: '/home/main/incoming/000000010000000000000007',
};

// Tests run in parallel: only these processes are ours.
const MARK = 'HOOK_TEST_MARK';
process.env[MARK] = randomUUID();
const myScripts = (): Promise<LiveProcess[]> => processesWithEnv(MARK, process.env[MARK] ?? '');

const QUICK = { short: 5, long: 20, killGrace: 300 };

interface LogLine {
  readonly level: number;
  readonly msg: string;
  readonly hook?: string;
  readonly stream?: string;
  readonly wal?: string;
}

function logInto(lines: LogLine[]): Logger {
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      lines.push(JSON.parse(chunk.toString()));
      done();
    },
  });
  return pino({ level: 'debug' }, sink);
}

function setup(options: Partial<HookOptions> = {}): { lines: LogLine[]; options: HookOptions } {
  const lines: LogLine[] = [];
  return { lines, options: { logger: logInto(lines), delays: QUICK, ...options } };
}

/** A script whose n-th run exits with the n-th status, and the last one ever after. */
function exitsInTurn(directory: string, statuses: number[]): string {
  const count = join(directory, 'count');
  const cases = statuses.map((status, index) => `${index + 1}) exit ${status};;`).join(' ');
  return `echo x >>${count}; case $(wc -l <${count}) in ${cases} *) exit ${statuses.at(-1)};; esac`;
}

describe('the environment of a hook script', () => {
  test('holds every value as Barman writes it', () => {
    expect(hookEnvironment(call, false, { HOME: '/h' })).toEqual({
      HOME: '/h',
      BARMAN_VERSION: '3.17.0',
      BARMAN_SERVER: 'main',
      BARMAN_CONFIGURATION: '/etc/barman.conf',
      BARMAN_HOOK: 'archive_script',
      BARMAN_RETRY: '0',
      BARMAN_PHASE: 'pre',
      BARMAN_ERROR: '',
      BARMAN_SEGMENT: '000000010000000000000007',
      BARMAN_FILE: '/home/main/incoming/000000010000000000000007',
      BARMAN_SIZE: '16777216',
      BARMAN_TIMESTAMP: '1700000000.25',
      BARMAN_COMPRESSION: '',
      BARMAN_ENCRYPTION: '',
    });
  });

  test('names a retry script of the other operation, the stored file and the failure', () => {
    const env = hookEnvironment(
      {
        ...call,
        operation: 'wal_delete',
        phase: 'post',
        error: 'disk full\0',
        wal: { ...call.wal, mtime: 1_700_000_000, compression: 'zstd', encryption: 'gpg' },
      },
      true,
      { PATH: '/bin' },
      '/opt/pg/bin',
    );
    expect(env).toMatchObject({
      PATH: '/opt/pg/bin:/bin',
      BARMAN_HOOK: 'wal_delete_retry_script',
      BARMAN_RETRY: '1',
      BARMAN_PHASE: 'post',
      BARMAN_ERROR: 'disk full?',
      BARMAN_TIMESTAMP: '1700000000.0',
      BARMAN_COMPRESSION: 'zstd',
      BARMAN_ENCRYPTION: 'gpg',
    });
  });

  test.each([
    [1e-7, '1e-07'],
    [1e16, '1e+16'],
    [0, '0.0'],
  ])('has the time %d as Python prints it', (mtime, printed) => {
    const env = hookEnvironment({ ...call, wal: { ...call.wal, mtime } }, false, {});
    expect(env['BARMAN_TIMESTAMP']).toBe(printed);
  });

  test('reaches the script, next to our own', () =>
    withTempDir(async (directory) => {
      const { options } = setup();
      const out = join(directory, 'env');
      process.env['HOOK_TEST_OWN'] = 'ours';
      await runRetryHook(`env >${out}`, call, options);
      delete process.env['HOOK_TEST_OWN'];
      const seen = (await readFile(out, 'utf8')).split('\n');
      for (const [name, value] of Object.entries(hookEnvironment(call, true, {}))) {
        expect(seen).toContain(`${name}=${value}`);
      }
      expect(seen).toContain('HOOK_TEST_OWN=ours');
    }));
});

describe('a plain script', () => {
  test.each([0, 1, 62, 63, 126, 127])('lets the operation go on after exit status %i', async (status) => {
    const { lines, options } = setup();
    expect(await runPlainHook(`exit ${status}`, call, options)).toMatchObject({ outcome: 'continue' });
    expect(lines.some((line) => line.level === 40)).toBe(status !== 0);
  });

  test('that is not executable is told with the cause', () =>
    withTempDir(async (directory) => {
      const script = join(directory, 'hook.sh');
      await writeFile(script, '#!/bin/sh\nexit 0\n');
      await chmod(script, 0o644);
      const { lines, options } = setup();
      expect(await runPlainHook(script, call, options)).toMatchObject({ outcome: 'continue' });
      const warning = lines.find((line) => line.level === 40);
      expect(warning?.msg).toContain(`can't be executed`);
      expect(warning?.msg).toContain(script);
    }));

  test('has its output in the log, line by line', async () => {
    const { lines, options } = setup();
    await runPlainHook('echo one; echo two >&2; printf three', call, options);
    const told = lines.filter((line) => line.stream !== undefined);
    expect(told.map(({ msg, stream }) => `${stream} ${msg}`).sort()).toEqual([
      'stderr two',
      'stdout one',
      'stdout three',
    ]);
    expect(told[0]).toMatchObject({ hook: 'pre_archive_script', wal: call.wal.name });
  });

  test('may write a line without end', async () => {
    const { lines, options } = setup();
    await runPlainHook('head -c 3000000 /dev/zero | tr "\\0" x', call, options);
    const told = lines.filter((line) => line.stream === 'stdout');
    expect(told.length).toBeGreaterThan(1);
    expect(told.reduce((sum, line) => sum + line.msg.length, 0)).toBe(3_000_000);
  });

  test('that leaves a background job behind does not keep the pass waiting for it', async () => {
    const { options } = setup();
    // It would sleep for longer than a test may take.
    await runPlainHook('sleep 100000 & exit 0', call, options);
    const jobs = await myScripts();
    // It is the script's own business: alive, until the test ends it.
    expect(jobs.map(({ command }) => command)).toEqual(['sleep']);
    for (const { pid } of jobs) process.kill(pid);
  });

  test('is not run when there is none', async () => {
    const { options } = setup();
    expect(await runPlainHook(undefined, call, options)).toEqual({ outcome: 'continue', reason: 'no script' });
    expect(await runRetryHook('', call, options)).toEqual({ outcome: 'continue', reason: 'no script' });
  });

  test('that hangs is killed after the timeout, and the operation goes on', () =>
    withTempDir(async (directory) => {
      const { lines, options } = setup({ timeoutMs: 200 });
      // The child ignores SIGTERM, and the shell waits for it: only a SIGKILL to the group ends both.
      const script = `(trap '' TERM; touch ${directory}/up; sleep 60; sleep 60) & wait`;
      expect(await runPlainHook(script, call, options)).toMatchObject({ outcome: 'continue' });
      expect(lines.find((line) => line.level === 40)?.msg).toContain('hook_script_timeout (0.2 s)');
      expect(await isThere(join(directory, 'up'))).toBe(true);
      await until('no orphan', async () => (await myScripts()).length === 0);
    }));
});

describe('a retry script', () => {
  test('runs again until it succeeds', () =>
    withTempDir(async (directory) => {
      const { lines, options } = setup();
      const outcome = await runRetryHook(exitsInTurn(directory, [1, 2, 0]), call, options);
      expect(outcome).toMatchObject({ outcome: 'continue' });
      expect(await readFile(join(directory, 'count'), 'utf8')).toBe('x\nx\nx\n');
      // The first failure is told, the second only to those who debug.
      expect(lines.filter((line) => line.level === 40)).toHaveLength(1);
      expect(lines.at(-1)?.msg).toContain('succeeded after 2 failures');
    }));

  test('waits 3 s between tries and 60 s after every sixth failure', () => {
    expect([1, 2, 3, 4, 5, 6, 7, 12].map((failures) => retryDelay(failures))).toEqual([
      3_000, 3_000, 3_000, 3_000, 3_000, 60_000, 3_000, 60_000,
    ]);
  });

  test('takes the long wait at the sixth failure', () =>
    withTempDir(async (directory) => {
      const drain = new AbortController();
      const { options } = setup({ delays: { short: 1, long: 3_600_000, killGrace: 100 }, drain: drain.signal });
      const running = runRetryHook(exitsInTurn(directory, [1, 1, 1, 1, 1, 1, 0]), call, options);
      const calls = async (): Promise<string> => readFile(join(directory, 'count'), 'utf8').catch(() => '');
      await until('six tries', async () => (await calls()) === 'x\n'.repeat(6));
      drain.abort();
      expect(await running).toMatchObject({ outcome: 'stop', error: { code: 'aborted' } });
      expect(await calls()).toBe('x\n'.repeat(6));
    }));

  test('goes on after 62', async () => {
    const { options } = setup();
    expect(await runRetryHook('exit 62', call, options)).toMatchObject({ outcome: 'continue' });
  });

  test('stops the pass with 63 before the file is archived', async () => {
    const { options } = setup();
    const outcome = await runRetryHook('exit 63', call, options);
    expect(outcome).toMatchObject({ outcome: 'stop', error: { code: 'hook' } });
  });

  test('can not stop what is done: 63 afterwards is a warning', async () => {
    const { lines, options } = setup();
    expect(await runRetryHook('exit 63', { ...call, phase: 'post' }, options)).toMatchObject({ outcome: 'continue' });
    expect(lines.some((line) => line.level === 40 && line.msg.includes('63'))).toBe(true);
  });

  test.each(['pre', 'post'] as const)('that does not exist stops at once, in %s', async (phase) => {
    const { options } = setup();
    const outcome = await runRetryHook('/nonexistent/hook.sh', { ...call, phase }, options);
    expect(outcome).toMatchObject({ outcome: 'stop', error: { code: 'hook' } });
    if (outcome.outcome === 'stop') {
      expect(outcome.error.message).toContain('/nonexistent/hook.sh');
      expect(outcome.error.hint).toContain('/etc/barman.conf');
    }
  });

  test('that is not executable stops at once', () =>
    withTempDir(async (directory) => {
      const script = join(directory, 'hook.sh');
      await writeFile(script, 'exit 0\n', { mode: 0o600 });
      const { options } = setup();
      expect(await runRetryHook(script, call, options)).toMatchObject({ outcome: 'stop', error: { code: 'hook' } });
    }));

  test('that is killed or times out has failed and is run again', () => {
    expect(decideRetry({ how: 'signalled', signal: 'SIGSEGV' }, 'pre')).toBe('retry');
    expect(decideRetry({ how: 'timed-out', afterMs: 1 }, 'post')).toBe('retry');
    expect(decideRetry({ how: 'not-started', why: 'EAGAIN' }, 'pre')).toBe('retry');
  });

  test('that hangs is run again after the timeout', () =>
    withTempDir(async (directory) => {
      const { options } = setup({ timeoutMs: 300 });
      const script = `test -e ${directory}/once || { touch ${directory}/once; exec sleep 60; }`;
      expect(await runRetryHook(script, call, options)).toMatchObject({ outcome: 'continue' });
    }));

  test('that hangs ends when we are killed, with all of its processes', () =>
    withTempDir(async (directory) => {
      const kill = new AbortController();
      const { options } = setup({ kill: kill.signal });
      const running = runRetryHook(`touch ${directory}/up; sleep 60 | sleep 60`, call, options);
      await until('the script to run', () => isThere(join(directory, 'up')));
      kill.abort();
      expect(await running).toMatchObject({ outcome: 'stop', error: { code: 'aborted' } });
      expect(await myScripts()).toEqual([]);
    }));

  test.each(['drain', 'kill'] as const)('%s cuts the wait for the next try short', (signal) =>
    withTempDir(async (directory) => {
      const controller = new AbortController();
      const { lines, options } = setup({
        [signal]: controller.signal,
        delays: { short: 60_000, long: 60_000, killGrace: 100 },
      });
      const running = runRetryHook(exitsInTurn(directory, [1]), call, options);
      await until('the first failure', () => lines.some((line) => line.level === 40));
      controller.abort();
      expect(await running).toMatchObject({ outcome: 'stop', error: { code: 'aborted' } });
      expect(await readFile(join(directory, 'count'), 'utf8')).toBe('x\n');
    }),
  );

  test.each([
    ['pre', ''],
    ['post', 'x\n'],
  ] as const)('that fails while we drain is not tried again; %s', (phase, tries) =>
    withTempDir(async (directory) => {
      const { lines, options } = setup({ drain: AbortSignal.abort() });
      const count = join(directory, 'count');
      await writeFile(count, '');
      const outcome = await runRetryHook(`echo x >>${count}; exit 1`, { ...call, phase }, options);
      expect(outcome).toMatchObject({ outcome: 'stop', error: { code: 'aborted' } });
      expect(await readFile(count, 'utf8')).toBe(tries);
      expect(lines.some((line) => line.level === 40)).toBe(phase === 'post');
      expect(lines.some((line) => line.msg.includes('next try'))).toBe(false);
    }),
  );

  test('is still told, after the fact, of a file that was archived while we drain', () =>
    withTempDir(async (directory) => {
      const { options } = setup({ drain: AbortSignal.abort() });
      const told = join(directory, 'told');
      expect(await runRetryHook(`touch ${told}`, { ...call, phase: 'post' }, options)).toMatchObject({
        outcome: 'continue',
      });
      expect(await isThere(told)).toBe(true);
    }));

  test('may finish while we drain', () =>
    withTempDir(async (directory) => {
      const drain = new AbortController();
      const { options } = setup({ drain: drain.signal });
      const script = `touch ${directory}/up; while test ! -e ${directory}/go; do sleep 0.02; done`;
      const running = runRetryHook(script, call, options);
      await until('the script to run', () => isThere(join(directory, 'up')));
      drain.abort();
      await writeFile(join(directory, 'go'), '');
      expect(await running).toMatchObject({ outcome: 'continue' });
    }));
});
