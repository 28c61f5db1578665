import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { acquireLock } from '../../src/durable/lock-file.ts';
import { CLI, ensureBuilt, runCli, writeConfig } from '../support/cli.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { reachableCli } from '../support/reachable-cli.ts';
import { run, type RunResult } from '../support/run.ts';
import { withHome } from '../support/temp-dir.ts';
import { catalogueLines, json, namesIn, withServer, type TestServer } from './with-server.ts';

const wal = makeWal({ segment: 1 });
const NOBODY = { uid: 65_534, gid: 65_534 };

test('archives what waits, in WAL order, says each name, and removes the sources', () =>
  withServer({ compression: 'gzip' }, async (server) => {
    for (const segment of [3, 1, 2]) await writeWal(server.incoming, { segment, mtime: 1_700_000_000 + segment });
    const { status, stdout } = await server.cli(['archive-wal', 'main']);
    expect(status).toBe(0);
    const names = [1, 2, 3].map((segment) => makeWal({ segment }).name);
    expect(stdout).toMatch(/^main, file archival: 3 files archived \(\d\.\d\d MiB stored\)\n/);
    expect(stdout).toContain(names.map((name) => `\t${name}\n`).join(''));
    expect(await namesIn(server.incoming)).toEqual([]);
    const stored = join(server.wals, wal.name.slice(0, 16));
    expect(await namesIn(stored)).toEqual(names);
    const facts = await stat(join(stored, wal.name));
    expect({ mode: facts.mode & 0o777, mtime: facts.mtimeMs }).toEqual({ mode: 0o600, mtime: 1_700_000_001_000 });
    expect((await stat(stored)).mode & 0o777).toBe(0o700);
    expect(await catalogueLines(server)).toEqual(
      await Promise.all(
        names.map(async (name, index) => {
          const { size } = await stat(join(stored, name));
          return `${name}\t${size}\t${1_700_000_001 + index}.0\tgzip\tNone`;
        }),
      ),
    );
    expect(await server.cli(['archive-wal', 'main'])).toMatchObject({
      status: 0,
      stdout: 'main, file archival: 0 files archived (0 B stored)\n',
    });
  }));

test('has a JSON form that stays as it is', () =>
  withServer({}, async (server) => {
    await writeWal(server.incoming, { segment: 1, mtime: 1_700_000_000 });
    await server.cli(['archive-wal', 'main']);
    await writeWal(server.incoming, { segment: 1 });
    await writeWal(server.incoming, { segment: 2, mtime: 1_700_000_001 });
    await writeFile(join(server.incoming, makeWal({ segment: 3 }).name), wal.bytes.subarray(0, 999_999));
    await writeFile(join(server.incoming, 'readme.txt'), 'x');
    const result = await server.cli(['-f', 'json', 'archive-wal', 'main']);
    expect(result.status).toBe(1);
    expect(json(result)).toEqual([
      {
        server: 'main',
        skipped: null,
        error: null,
        passes: [
          {
            archiver: 'file archival',
            archived: [
              {
                name: makeWal({ segment: 2 }).name,
                size: 1 << 20,
                mtime: 1_700_000_001,
                compression: null,
                encryption: null,
              },
            ],
            duplicates: [wal.name],
            conflicts: [],
            unknown: [
              {
                name: 'readme.txt',
                reason: 'it has not the name of a WAL file',
                movedTo: expect.stringMatching(/^readme\.txt\.\d{8}T\d{6}Z\.unknown$/),
              },
              // It is too short as well, but no more bytes would make its address right.
              expect.objectContaining({
                name: makeWal({ segment: 3 }).name,
                reason: 'its first page has the address 0x100000, and its name means 0x300000',
              }),
            ],
            failed: [],
            overdue: [],
            incomplete: 0,
            waiting: expect.any(Number),
          },
        ],
      },
    ]);
  }));

describe('an incomplete file', () => {
  test('is left alone, and told once it is old', () =>
    withServer({ incomplete_wal_timeout: '1 min' }, async (server) => {
      const half = join(server.incoming, wal.name);
      await writeFile(half, wal.bytes.subarray(0, 500_000));
      expect(await server.cli(['archive-wal', 'main'])).toMatchObject({
        status: 0,
        stdout: 'main, file archival: 0 files archived (0 B stored), 1 still waiting\n',
      });
      expect((await stat(half)).size).toBe(500_000);
    }));

  test('is no trouble to the others', () =>
    withServer({ incomplete_wal_timeout: '1 s' }, async (server) => {
      await writeFile(join(server.incoming, wal.name), wal.bytes.subarray(0, 500_000));
      await writeWal(server.incoming, { segment: 2 });
      await until('the file to be overdue', async () => {
        const { status, stdout } = await server.cli(['archive-wal', 'main']);
        if (status === 0) return false;
        expect(stdout).toMatch(
          new RegExp(`"${wal.name}" NOT archived: incomplete, and unchanged for \\d+ s: 500000 of`),
        );
        return true;
      });
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
      expect(await namesIn(join(server.wals, wal.name.slice(0, 16)))).toEqual([makeWal({ segment: 2 }).name]);
    }));
});

test('archiver_batch_size takes so many a pass', () =>
  withServer({ archiver_batch_size: 2 }, async (server) => {
    for (let segment = 1; segment <= 5; segment += 1) await writeWal(server.incoming, { segment });
    for (const [archived, waiting] of [
      [2, ', 3 still waiting'],
      [2, ', 1 still waiting'],
      [1, ''],
    ] as const) {
      const { stdout } = await server.cli(['archive-wal', 'main']);
      expect(stdout).toMatch(new RegExp(`: ${archived} files? archived \\(.*\\)${waiting}\\n`));
    }
  }));

test('the same file once more is no trouble; another content goes to errors and is 1', () =>
  withServer({}, async (server) => {
    await writeWal(server.incoming, { segment: 1 });
    await server.cli(['archive-wal', 'main']);
    await writeWal(server.incoming, { segment: 1 });
    expect(await server.cli(['archive-wal', 'main'])).toMatchObject({
      status: 0,
      stdout: 'main, file archival: 0 files archived (0 B stored), 1 archived before\n',
    });
    await writeWal(server.incoming, { segment: 1, seed: 9 });
    const { status, stdout } = await server.cli(['archive-wal', 'main']);
    expect(status).toBe(1);
    const [copy = ''] = await namesIn(server.errors);
    expect(stdout).toContain(`"${wal.name}" NOT archived: its content is another`);
    expect(stdout).toContain(`see: walwarden errors explain main "${copy}"`);
    expect((await server.cli(['get-wal', 'main', wal.name])).bytes.equals(wal.bytes)).toBe(true);
  }));

test('all means every server; inactive and passive ones are told, one that another process works on too', () =>
  withHome(async ({ home }) => {
    const config = await writeConfig(home, {
      servers: { one: {}, two: { active: 'false' }, three: { primary_ssh_command: 'ssh primary' }, four: {} },
    });
    await runCli(['archive-wal', 'one'], { config });
    await writeWal(join(home, 'one/incoming'), { segment: 1 });
    await using _lock = await acquireLock(join(home, '.four-archive-wal.lock'));
    const { status, stdout } = await runCli(['archive-wal', 'all'], { config });
    expect(status).toBe(0);
    expect(stdout).toContain(`one, file archival: 1 file archived (1.00 MiB stored)\n\t${wal.name}\n`);
    expect(stdout).toContain('Skipping inactive server two\n');
    expect(stdout).toContain('Server three is passive: its WAL is archived by its primary node\n');
    expect(stdout).toContain(
      'Another archive-wal process is already running on server four. Skipping to the next server\n',
    );
  }));

test('SIGTERM finishes what is in hand and leaves the rest', () =>
  withServer({ pre_archive_script: 'touch began; until test -e go; do sleep 0.02; done' }, async (server) => {
    for (let segment = 1; segment <= 30; segment += 1) await writeWal(server.incoming, { segment });
    await ensureBuilt();
    const child = spawn(process.execPath, [CLI, '-c', server.config, '-f', 'json', 'archive-wal', 'main'], {
      cwd: server.home,
      stdio: 'ignore',
    });
    const ended = once(child, 'close');
    await until('a file to be taken in hand', () => existsSync(join(server.home, 'began')));
    child.kill('SIGTERM');
    // It hears of the signal before it hears of the end of its script.
    await writeFile(join(server.home, 'go'), '');
    const [status] = await ended;
    expect(status).toBe(0);
    const waiting = await namesIn(server.incoming);
    const archived = (await catalogueLines(server)).map((line) => line.slice(0, 24));
    expect(waiting.length).toBeGreaterThan(0);
    expect(waiting.every((name) => !name.startsWith('.'))).toBe(true);
    expect([...archived, ...waiting].sort()).toEqual(
      Array.from({ length: 30 }, (_, index) => makeWal({ segment: index + 1 }).name),
    );
  }));

test('logs one line a file to log_file, and nothing of it to stderr', () =>
  withServer(
    {},
    async (server) => {
      await writeWal(server.incoming, { segment: 1 });
      const { stderr } = await server.cli(['archive-wal', 'main']);
      expect(stderr).toBe('');
      const log = (await readFile(join(server.home, 'walwarden.log'), 'utf8')).trim().split('\n');
      const lines = log.map((line): unknown => JSON.parse(line));
      expect(lines).toContainEqual(
        expect.objectContaining({ level: 30, server: 'main', wal: wal.name, msg: `archived ${wal.name}` }),
      );
    },
    { log_file: '%(barman_home)s/walwarden.log' },
  ));

test('ignores what basic_archive and others are still writing', () =>
  withServer({}, async (server) => {
    const names = ['archtemp.000000010000000000000001.4711.1234567', `${wal.name}.tmp`, `.${wal.name}.swp`];
    for (const name of names) {
      await writeFile(join(server.incoming, name), 'half');
      await utimes(join(server.incoming, name), 1, 1);
    }
    expect(await server.cli(['archive-wal', 'main'])).toMatchObject({
      status: 0,
      stdout: 'main, file archival: 0 files archived (0 B stored)\n',
    });
    expect(await namesIn(server.incoming)).toEqual(names.sort());
  }));

describe('a fault of incoming', () => {
  const BOTH = { streaming_archiver: 'on', streaming_conninfo: 'host=/nowhere user=nobody', slot_name: 'walwarden' };
  const faults: readonly [string, (server: TestServer) => Promise<void>, RegExp][] = [
    [
      'something else in its place',
      async ({ incoming }) => {
        await rm(incoming, { recursive: true });
        await writeFile(incoming, '');
      },
      /can't make directory .*\/incoming: there is something else of that name/,
    ],
    ['not readable', ({ incoming }) => chmod(incoming, 0), /can't read .*\/incoming: EACCES/],
    ['not writable', ({ incoming }) => chmod(incoming, 0o500), /can't rename .*\/incoming\/0{7}1.*: EACCES/],
  ];

  test.each(faults)('(%s) keeps nobody from archiving what was streamed, and is told', (_which, make, message) =>
    withServer(BOTH, async (server) => {
      await server.cli(['archive-wal', 'main']);
      await writeWal(server.incoming, { segment: 1 });
      for (const segment of [2, 3]) await writeWal(server.streaming, { segment });
      await make(server);
      const user = await asOwnerOf(server);
      try {
        const { status, stdout, stderr } = await user(['archive-wal', 'main']);
        expect({ status, stderr }).toMatchObject({ status: 1, stderr: expect.stringMatching(message) });
        expect(stdout).toMatch(/^main, streaming: 2 files archived/m);
        expect(stdout).toMatch(new RegExp(`^main: ERROR: ${message.source}`, 'm'));
        const again = await user(['-f', 'json', 'archive-wal', 'main']);
        expect(again.status).toBe(1);
        expect(json(again)).toMatchObject([
          {
            error: { code: expect.stringMatching('source'), message: expect.stringMatching(message) },
            passes: [{ archiver: 'streaming' }],
          },
        ]);
      } finally {
        await chmod(server.incoming, 0o700);
      }
    }),
  );

  test('is no fault of the archive: that one ends the pass', () =>
    withServer({ ...BOTH, pre_archive_retry_script: `sh -c 'exit 63'` }, async (server) => {
      await writeWal(server.incoming, { segment: 1 });
      for (const segment of [2, 3]) await writeWal(server.streaming, { segment });
      const { status, stdout, stderr } = await server.cli(['-f', 'json', 'archive-wal', 'main']);
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      expect(JSON.parse(stderr.trim().split('\n').at(-1) ?? '')).toMatchObject({ error: { code: 'hook' } });
      expect(await catalogueLines(server)).toEqual([]);
    }));
});

/** Who must ask before reading a file: root need not. */
async function asOwnerOf(server: TestServer): Promise<(args: readonly string[]) => Promise<RunResult>> {
  if (process.geteuid?.() !== 0) return (args) => server.cli(args);
  const { cli, node } = await reachableCli(dirname(dirname(CLI)), NOBODY, server.home);
  const { status } = await run('chown', ['-R', `${NOBODY.uid}:${NOBODY.gid}`, server.home], {});
  expect(status).toBe(0);
  return (args) => run(node, [cli, '-c', server.config, ...args], { cwd: server.home, ...NOBODY });
}
