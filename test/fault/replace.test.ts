import { cp, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pino } from 'pino';
import { beforeAll, describe, expect, test } from 'vitest';
import { resolveErrors } from '../../src/commands/errors.ts';
import { findServer } from '../../src/config/config.ts';
import { loadConfig } from '../../src/config/load.ts';
import { openServer } from '../../src/server.ts';
import { plainBytes } from '../../src/storage/stored-content.ts';
import { walName } from '../../src/wal/wal-name.ts';
import { catalogueLines, namesIn } from '../commands/with-server.ts';
import { runCli } from '../support/cli.ts';
import { realSegments } from '../support/fixture.ts';
import { CONFIGURATIONS, withConfiguration, withFaultHome, type Configuration, type FaultHome } from './fault-home.ts';
import { COUNTABLE, killAt, pointsOf, SYSCALLS } from './kill-points.ts';
import { readTrace, requireStrace, runTraced, type Call } from './strace.ts';

beforeAll(requireStrace);

const segments = await realSegments();
const names = [...segments.keys()].slice(0, 3).map((name) => walName(name));
const [, name = walName('000000010000000000000001')] = names;
const good = segments.get(name) ?? Buffer.alloc(0);
const entry = `${name}.20261121T090022Z.duplicate`;
const COMMAND = ['errors', 'resolve', '--replace', 'main', entry];

/** A server whose archive has a damaged segment, and the good one in errors. */
interface Scene extends FaultHome {
  readonly stored: string;
  readonly damaged: Buffer;
  /** Everything as it was. */
  readonly again: () => Promise<void>;
}

function withScene(configuration: Configuration, body: (scene: Scene) => Promise<void>): Promise<void> {
  return withConfiguration(configuration, (options) =>
    withFaultHome({ ...options, archiver_workers: 0 }, async (fault) => {
      const { home } = fault;
      for (const each of names) await writeFile(join(home.incoming, each), segments.get(each) ?? '');
      expect(await fault.archive()).toMatchObject({ status: 0 });
      const stored = join(home.wals, name.slice(0, 16), name);
      const damaged = (await readFile(stored)).subarray(0, 20_000);
      await writeFile(stored, damaged);
      await writeFile(join(home.errors, entry), good, { mode: 0o600 });
      const [template, own] = [join(home.home, 'template'), join(home.home, home.server)];
      await cp(own, template, { recursive: true, preserveTimestamps: true });
      const again = async (): Promise<void> => {
        await rm(own, { recursive: true });
        await cp(template, own, { recursive: true, preserveTimestamps: true });
      };
      await body({ ...fault, stored, damaged, again });
    }),
  );
}

/** What is broken of what must hold at any moment. */
async function broken({ home, keys, stored, damaged }: Scene): Promise<string[]> {
  const found: string[] = [];
  const final = await readFile(stored).catch(() => null);
  const isGood = final !== null && (await isWhole(final, keys));
  if (final === null) found.push('there is no copy under the final name');
  else if (!isGood && !final.equals(damaged))
    found.push('what lies under the final name is neither the old nor the new copy');
  const source = await readFile(join(home.errors, entry)).catch(() => null);
  if (!isGood && source?.equals(good) !== true) found.push('the good copy is lost');
  const kept = await keptCopies(home.errors);
  if (isGood && !kept.some((copy) => copy.equals(damaged))) found.push('the old copy is not kept');
  const line = (await catalogueLines(home)).filter((text) => text.startsWith(`${name}\t`));
  if (line.length !== 1) found.push(`it has ${line.length} lines`);
  if (source === null && line[0]?.split('\t')[1] !== String(final?.length))
    found.push('the source is gone, and the line is old');
  return found;
}

async function keptCopies(errors: string): Promise<Buffer[]> {
  const directory = `${errors}.kept`;
  return Promise.all((await namesIn(directory)).map((file) => readFile(join(directory, file))));
}

async function isWhole(bytes: Buffer, keys: Scene['keys']): Promise<boolean> {
  try {
    return (await plainBytes({ bytes }, name, keys)).equals(good);
  } catch {
    return false; // half of it, or the damaged one
  }
}

/** A pass of archive-wal, and the same command again. */
async function healed(scene: Scene): Promise<string[]> {
  const config = await loadConfig(scene.config);
  const logger = pino({ level: 'silent' });
  {
    await using server = openServer(config, findServer(config, 'main'), logger);
    await server.archive(true);
  }
  const never = new AbortController().signal;
  const context = {
    config,
    logger,
    logsToFile: false,
    detached: false,
    logLevel: null,
    say: () => {},
    drain: never,
    kill: never,
  };
  if ((await namesIn(scene.home.errors)).length > 0) {
    const { exitCode } = await resolveErrors(context, 'main', entry, { replace: true });
    if (exitCode !== 0) return ['the command does not succeed'];
  }
  const found = await broken(scene);
  const final = await readFile(scene.stored);
  if (!(await isWhole(final, scene.keys))) found.push('the good copy is not there');
  if ((await namesIn(scene.home.errors)).length > 0) found.push('something is left in errors');
  const left = await readdir(dirname(scene.stored));
  if (left.length !== names.length) found.push(`left in the archive: ${left.join(' ')}`);
  const [line = ''] = (await catalogueLines(scene.home)).filter((text) => text.startsWith(name));
  if (line.split('\t')[1] !== String((await stat(scene.stored)).size)) found.push(`its line is ${line}`);
  if ((await catalogueLines(scene.home)).length !== names.length) found.push('lines are missing');
  return found;
}

describe.concurrent('errors resolve --replace, killed after every call that changes a file', () => {
  test.each(['zstd', 'gpg'] as const)('there is always a copy, and the same command finishes it, %s', (configuration) =>
    withScene(configuration, async (scene) => {
      const output = join(scene.home.home, 'trace');
      const { config } = scene;
      expect(await runTraced({ config, args: COMMAND, syscalls: SYSCALLS, output })).toMatchObject({ status: 0 });
      const points = pointsOf(await readTrace(output), scene, configuration === 'gpg' ? [] : COUNTABLE);
      expect(await broken(scene)).toEqual([]);
      expect(points.length).toBeGreaterThan(15);
      for (const point of points) {
        await scene.again();
        const { signal } = await killAt(scene, ['-q', ...COMMAND], point);
        expect({ point, signal }).toEqual({ point, signal: 'SIGKILL' });
        expect({ point, broken: await broken(scene) }).toEqual({ point, broken: [] });
        expect({ point, broken: await healed(scene) }).toEqual({ point, broken: [] });
      }
    }),
  );
});

const isSync = ({ name: call, ok }: Call): boolean => ok && (call === 'fsync' || call === 'fdatasync');

describe('the order of system calls of errors resolve --replace', () => {
  test.each(CONFIGURATIONS)('keeps a copy at every moment, also when power fails, %s', (configuration) =>
    withScene(configuration, async ({ home, config, stored }) => {
      const output = join(home.home, 'trace');
      const args = COMMAND;
      expect(await runTraced({ config, args, syscalls: SYSCALLS, output })).toMatchObject({ status: 0 });
      const calls = await readTrace(output);
      const temporary = `${stored}.tmp`;
      const kept = `${home.errors}.kept`;
      const catalogue = join(home.wals, 'main-xlog.db');
      const journal = join(home.home, home.server, 'encrypted-wals.digests');
      const is =
        (call: string, ...paths: string[]) =>
        (made: Call): boolean =>
          made.ok && made.name === call && paths.every((path, at) => made.paths[at]?.startsWith(path) === true);
      const syncOf =
        (path: string) =>
        (made: Call): boolean =>
          isSync(made) && made.paths[0] === path;
      const steps: [string, (made: Call) => boolean][] = [
        ['the new copy is written', (made) => /^p?write/.test(made.name) && made.ok && made.paths[0] === temporary],
        ['the new copy is durable', syncOf(temporary)],
        ['the old copy is kept', is('link', stored, kept)],
        ['the old copy is kept durably', syncOf(kept)],
        ...(configuration === 'gpg'
          ? ([['the digests are durable', syncOf(journal)]] as [string, (made: Call) => boolean][])
          : []),
        ['the new copy takes its place', is('rename', temporary, stored)],
        ['its name is durable', syncOf(dirname(stored))],
        ['the line is written', is('write', `${catalogue}.tmp`)],
        ['the line is durable', syncOf(`${catalogue}.tmp`)],
        ['the catalogue is replaced', is('rename', `${catalogue}.tmp`, catalogue)],
        ['the catalogue is durable', syncOf(home.wals)],
        ['the source goes', is('unlink', join(home.errors, entry))],
        ['that it is gone is durable', syncOf(home.errors)],
      ];
      const done: string[] = [];
      let before = -1;
      for (const [step, fits] of steps) {
        const call = calls.find((made) => made.entered > before && fits(made));
        if (call === undefined) break;
        before = call.left;
        done.push(step);
      }
      expect(done).toEqual(steps.map(([step]) => step));
      // Nothing else ever touched the final name.
      const touching = calls.filter(
        (made) => made.ok && made.paths.includes(stored) && !(made.name === 'openat' && made.text.includes('O_RDONLY')),
      );
      expect(touching.map((made) => made.name)).toEqual(['link', 'rename']);
    }),
  );
});

describe('errors resolve --replace, when the disk does not give the archived copy back', () => {
  const inject = (scene: Scene): Parameters<typeof runTraced>[0] => ({
    config: scene.config,
    args: COMMAND,
    syscalls: ['read', 'pread64'],
    paths: [scene.stored],
    inject: ['read,pread64:error=EIO'],
    output: join(scene.home.home, 'trace'),
  });

  test('says that it can not be told, and replaces it with --force: its inode is kept as it is', () =>
    withScene('none', async (scene) => {
      const refused = await runTraced(inject(scene));
      expect(refused).toMatchObject({ status: 1, stdout: expect.stringContaining('if you know better: --force') });
      expect(await broken(scene)).toEqual([]);
      const { ino } = await stat(scene.stored);
      const forced = await runTraced({ ...inject(scene), args: [...COMMAND, '--force'] });
      expect(forced).toMatchObject({ status: 0 });
      expect(await healed(scene)).toEqual([]);
      const [kept = ''] = await namesIn(`${scene.home.errors}.kept`);
      expect((await stat(join(`${scene.home.errors}.kept`, kept))).ino).toBe(ino);
    }));
});

test('two that replace the same file at the same time: one does, the other says that it is busy or done', () =>
  withScene('zstd', async (scene) => {
    const runs = await Promise.all([1, 2, 3].map(() => runCli(COMMAND, { config: scene.config })));
    expect(runs.filter(({ stdout }) => stdout.includes(`replaced ${name}`))).toHaveLength(1);
    for (const { status, stderr, stdout } of runs) {
      if (!stdout.includes('replaced')) expect(`${status} ${stderr}`).toMatch(/is locked by process|no file/);
    }
    expect(await healed(scene)).toEqual([]);
    expect(await namesIn(`${scene.home.errors}.kept`)).toHaveLength(1);
  }));

test('archive-wal and rebuild-xlogdb at the same time lose no line and no file', () =>
  withScene('none', async (scene) => {
    const { config } = scene;
    await mkdir(scene.home.incoming, { recursive: true });
    const [replaced] = await Promise.all([
      (async () => {
        for (;;) {
          const run = await runCli(COMMAND, { config });
          // Another process may have the archive's lock for a moment.
          if (!/is locked by/.test(run.stderr)) return run;
        }
      })(),
      ...[1, 2, 3].map(() => runCli(['archive-wal', 'main'], { config })),
      ...[1, 2].map(() => runCli(['rebuild-xlogdb', 'main'], { config })),
    ]);
    expect(replaced).toMatchObject({ status: 0 });
    expect(await healed(scene)).toEqual([]);
  }));
