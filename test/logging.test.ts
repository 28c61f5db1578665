import { mkdir, readdir, readFile, readlink, rename, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { createLogger } from '../src/logging.ts';
import { buildModule } from './durable/build-module.ts';
import { run, type RunResult } from './support/run.ts';
import { withTempDir } from './support/temp-dir.ts';

const SOURCE = fileURLToPath(new URL('../src/logging.ts', import.meta.url));
const PACKAGES = fileURLToPath(new URL('../node_modules', import.meta.url));

afterEach(() => {
  vi.useRealTimers();
});

/** How many descriptors of ours lead there. */
async function openFiles(directory: string): Promise<number> {
  const entries = await readdir('/proc/self/fd');
  const targets = await Promise.all(entries.map((entry) => readlink(`/proc/self/fd/${entry}`).catch(() => '')));
  return targets.filter((target) => target.startsWith(directory)).length;
}

const linesOf = (text: string): unknown[] =>
  text
    .split('\n')
    .slice(0, -1)
    .map((line): unknown => JSON.parse(line));

/** Runs code that finds the module under test in `logging`; `terminal`: its stdin, stdout and stderr are one. */
async function runLogging(code: string, { terminal = false } = {}): Promise<RunResult> {
  return withTempDir(async (directory) => {
    const module = await buildModule(SOURCE, directory);
    await writeFile(join(directory, 'program.mjs'), `import * as logging from ${JSON.stringify(module)};\n${code}`);
    const options = { env: { ...process.env, NODE_PATH: PACKAGES }, cwd: directory };
    return terminal
      ? run('script', ['-qec', `'${process.execPath}' program.mjs`, '/dev/null'], options)
      : run('sh', ['-c', 'ulimit -n 64; exec "$0" program.mjs', process.execPath], options);
  });
}

describe('a log file', () => {
  test('gets a line of JSON for every message, with its facts, time, level and process', () =>
    withTempDir(async (directory) => {
      const file = join(directory, 'log');
      const logger = createLogger({ file, level: 'DEBUG' });
      logger.debug('plain %s');
      logger.info({ wal: 'X', size: 2n }, 'with facts');
      logger.warn({}, 'careful');
      logger.error({ err: new Error('why') }, 'failed');
      const lines = linesOf(await readFile(file, 'utf8'));
      expect(lines).toMatchObject([
        { level: 20, pid: process.pid, msg: 'plain %s' },
        { level: 30, wal: 'X', size: 2, msg: 'with facts' },
        { level: 40, msg: 'careful' },
        { level: 50, msg: 'failed', err: { type: 'Error', message: 'why' } },
      ]);
      for (const line of lines) expect(line).toMatchObject({ time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/) });
    }));

  test.each([
    ['NOTSET', 4],
    ['DEBUG', 4],
    ['info', 3],
    ['WARNING', 2],
    ['warn', 2],
    ['ERROR', 1],
    ['CRITICAL', 0],
    ['nobody knows this one', 3],
  ])('at level %s gets %i of debug, info, warn and error', (level, count) =>
    withTempDir(async (directory) => {
      const file = join(directory, 'log');
      const logger = createLogger({ file, level });
      logger.debug('1');
      logger.info('2');
      logger.warn('3');
      logger.error('4');
      expect(linesOf(await readFile(file, 'utf8'))).toHaveLength(count);
    }),
  );

  test('that logrotate renamed gets no more lines than those of the same second: they go to the new one', () =>
    withTempDir(async (directory) => {
      vi.useFakeTimers({ toFake: ['Date'] });
      const file = join(directory, 'log');
      const messages = async (path: string): Promise<unknown[]> =>
        linesOf(await readFile(path, 'utf8')).map((line) =>
          line instanceof Object && 'msg' in line ? line.msg : line,
        );
      const logger = createLogger({ file, level: 'INFO' });
      const next = (message: string): void => {
        vi.setSystemTime(Date.now() + 1_000);
        logger.info(message);
      };
      const before = await openFiles(directory);
      next('first');
      // logrotate with nocreate, and with create.
      await rename(file, `${file}.1`);
      next('second');
      await rename(file, `${file}.2`);
      await writeFile(file, '', { mode: 0o600 });
      next('third');
      // No file can be made there: it is better to write to the old one than nowhere.
      await rename(file, `${file}.3`);
      await mkdir(file);
      next('fourth');
      await rmdir(file);
      next('fifth');
      expect(await messages(`${file}.1`)).toEqual(['first']);
      expect(await messages(`${file}.2`)).toEqual(['second']);
      expect(await messages(`${file}.3`)).toEqual(['third', 'fourth']);
      expect(await messages(file)).toEqual(['fifth']);
      expect(await openFiles(directory)).toBe(before);
    }));

  test('that can not be opened is told on stderr, where everything is logged instead', async () => {
    const { status, stderr } = await runLogging(
      `logging.createLogger({ file: '/no/such/directory/log', level: 'INFO' }).info({ wal: 'X' }, 'archived');`,
    );
    expect(status).toBe(0);
    expect(linesOf(stderr)).toMatchObject([
      { level: 40, msg: expect.stringMatching(/^can't open the log file \/no\/such\/directory\/log: ENOENT/) },
      { level: 30, wal: 'X', msg: 'archived' },
    ]);
  });

  test('on a disk that is full is told once on stderr, where everything is logged instead', async () => {
    const { status, stderr } = await runLogging(
      `const logger = logging.createLogger({ file: '/dev/full', level: 'INFO' });
       logger.info('first');
       logger.info('second');`,
    );
    expect(status).toBe(0);
    expect(linesOf(stderr)).toMatchObject([
      { level: 40, msg: expect.stringMatching(/^can't write to the log file \/dev\/full: ENOSPC/) },
      { msg: 'first' },
      { msg: 'second' },
    ]);
  });
});

describe('without a log file', () => {
  test('lines of JSON go to stderr, and nothing to stdout', async () => {
    const { stdout, stderr } = await runLogging(
      `logging.createLogger({ file: null, level: 'INFO' }).info({ wal: 'X' }, 'archived');`,
    );
    expect(stdout).toBe('');
    expect(linesOf(stderr)).toMatchObject([{ level: 30, wal: 'X', msg: 'archived' }]);
  });

  test('a terminal gets lines for people', async () => {
    const { stdout } = await runLogging(
      `logging.createLogger({ file: null, level: 'INFO' }).info({ wal: 'X' }, 'archived');`,
      { terminal: true },
    );
    expect(stdout).toMatch(/INFO/);
    expect(stdout).toMatch(/archived/);
    expect(stdout).not.toContain('"msg"');
  });
});

test('with no file descriptor left to load anything, a line is logged that says that it is not all', async () => {
  const { status, stderr } = await runLogging(
    `import { openSync } from 'node:fs';
     const logger = logging.createLogger({ file: null, level: 'INFO' });
     try { for (;;) openSync('/dev/null'); } catch {}
     logger.error({ size: 2n }, 'with facts');
     logger.info('plain');
     logger.debug('unwanted');`,
  );
  expect(status).toBe(0);
  expect(linesOf(stderr)).toMatchObject([
    { level: 50, msg: 'with facts', incomplete: expect.stringContaining('pino') },
    { level: 30, msg: 'plain' },
  ]);
});

test('pino is loaded by the first line that is logged, and not before', async () => {
  const { stdout } = await runLogging(
    `import { createRequire } from 'node:module';
     const loaded = () => Object.keys(createRequire(import.meta.url).cache).length;
     const logger = logging.createLogger({ file: '/dev/null', level: 'WARNING' });
     logger.info('unwanted');
     const before = loaded();
     logger.warn('wanted');
     console.log(JSON.stringify([before, loaded() > 0]));`,
  );
  expect(JSON.parse(stdout)).toEqual([0, true]);
});
