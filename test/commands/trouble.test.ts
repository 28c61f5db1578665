import { chmod, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { claimPath } from '../../src/storage/claim.ts';
import { walName } from '../../src/wal/wal-name.ts';
import { CLI, ensureBuilt, runCli, writeConfig } from '../support/cli.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { run } from '../support/run.ts';
import { withHome } from '../support/temp-dir.ts';
import { catalogueLines, json, namesIn, withServer, type TestServer } from './with-server.ts';

const first = makeWal({ segment: 1 });
const second = makeWal({ segment: 2 });

async function archived(server: TestServer): Promise<void> {
  await writeWal(server.incoming, { segment: 1 });
  expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
}

describe('an archive that is not mounted', () => {
  const gone: Record<string, (server: TestServer) => Promise<void>> = {
    'wals is gone': (server) => rename(server.wals, `${server.wals}.away`),
    'wals is an empty mount point': async (server) => {
      await rename(server.wals, `${server.wals}.away`);
      await mkdir(server.wals);
    },
    'the home is gone': (server) => rename(server.home, `${server.home}.away`),
  };
  test.each(Object.keys(gone))('is never taken for an empty one by get-wal: %s', async (name) =>
    withServer({}, async (server) => {
      await archived(server);
      const config = `${server.home}.conf`;
      await writeFile(config, `[barman]\nbarman_home = ${server.home}\n[main]\narchiver = on\n`);
      try {
        await gone[name]?.(server);
        const { status, stdout, stderr } = await runCli(['get-wal', 'main', second.name], { config, cwd: '/' });
        expect({ status, stdout }).toEqual({ status: 200, stdout: '' });
        expect(stderr).toMatch(/mounted/);
      } finally {
        await rm(`${server.home}.away`, { recursive: true, force: true });
        await rm(config);
      }
    }),
  );

  test('is not rebuilt into an empty catalogue', () =>
    withHome(async (home) => {
      const catalogue = join(home.home, 'catalogue');
      await mkdir(catalogue);
      const config = await writeConfig(home.home, { servers: { main: { xlogdb_directory: catalogue } } });
      await writeWal(home.incoming, { segment: 1 });
      expect((await runCli(['archive-wal', 'main'], { config })).status).toBe(0);
      await rename(home.wals, `${home.wals}.away`);
      const { status, stderr } = await runCli(['rebuild-xlogdb', 'main'], { config });
      expect(status).toBe(1);
      expect(stderr).toMatch(/mounted/);
      const listed = json(await runCli(['-f', 'json', 'list-wals', 'main'], { config }));
      expect(listed).toMatchObject({ timelines: [{ segments: 1 }] });
    }));
});

describe('a log that can not be written', () => {
  test('keeps nothing from being archived or handed out', () =>
    withServer(
      {},
      async (server) => {
        await writeWal(server.incoming, { segment: 1 });
        const pass = await server.cli(['archive-wal', 'main']);
        expect(pass.status).toBe(0);
        expect(pass.stderr).toMatch(/ENOSPC/);
        expect(await readdir(server.incoming)).toEqual([]);
        const { status, bytes } = await server.cli(['get-wal', 'main', first.name]);
        expect(status).toBe(0);
        expect(bytes.equals(first.bytes)).toBe(true);
      },
      { log_file: '/dev/full' },
    ));

  test('nor does a stderr that is full change what get-wal answers', () =>
    withServer({}, async (server) => {
      await ensureBuilt();
      const script = `"$0" "$@" 2>/dev/full`;
      const args = [CLI, '-c', server.config, 'get-wal', 'nobody', first.name];
      const { status } = await run('sh', ['-c', script, process.execPath, ...args], {});
      expect(status).toBe(200);
    }));
});

test('one server that can not be archived does not keep the others waiting', () =>
  withHome(async (home) => {
    const config = await writeConfig(home.home, {
      servers: { aaa: { compression: 'nonsense' }, main: {}, zzz: { pre_archive_retry_script: '/nowhere/script' } },
    });
    await writeWal(home.incoming, { segment: 1 });
    await mkdir(join(home.home, 'zzz', 'incoming'), { recursive: true });
    await writeWal(join(home.home, 'zzz', 'incoming'), { segment: 2 });
    const result = await runCli(['-f', 'json', 'archive-wal', 'all'], { config });
    expect(result.status).toBe(1);
    expect(json(result)).toMatchObject([
      { server: 'aaa', error: { code: 'config' } },
      { server: 'main', error: null, passes: [{ archived: [{ name: first.name }] }] },
      { server: 'zzz', error: { code: 'hook' } },
    ]);
    expect(await namesIn(join(home.home, 'zzz', 'incoming'))).toEqual([second.name]);
  }));

test('a conflict that can not be moved to errors stays, and the others are archived and told', () =>
  withServer({}, async (server) => {
    await archived(server);
    await writeWal(server.incoming, { segment: 1, seed: 99 });
    await writeWal(server.incoming, { segment: 2 });
    await rm(join(server.home, 'main', 'errors'), { recursive: true });
    await writeFile(join(server.home, 'main', 'errors.is-a-file'), '');
    const config = await writeConfig(server.home, {
      servers: { main: { errors_directory: join(server.home, 'main', 'errors.is-a-file', 'errors') } },
    });
    const result = await runCli(['-f', 'json', 'archive-wal', 'main'], { config });
    expect(result.status).toBe(1);
    const tried = JSON.stringify(result.stdout + result.stderr);
    expect(tried).toContain('errors.is-a-file');
    expect(await namesIn(server.incoming)).toContain(first.name);
  }));

test('a claim whose fsync fails is stored by copying, in the same pass', () =>
  withServer({ archiver_workers: 0 }, async (server) => {
    await writeWal(server.incoming, { segment: 1 });
    await ensureBuilt();
    const claim = join(server.home, 'main', '.claimed', 'incoming', first.name);
    const args = [
      '-f',
      '-qq',
      '-o',
      '/dev/null',
      '-P',
      claim,
      '-e',
      'trace=fsync',
      '-e',
      'inject=fsync:error=EIO:when=1',
    ];
    const { status, stderr } = await run(
      'strace',
      [...args, process.execPath, CLI, '-c', server.config, 'archive-wal', 'main'],
      { env: { ...process.env, UV_THREADPOOL_SIZE: '1' } },
    );
    expect({ status, stderr: stderr.includes('ERROR') }).toEqual({ status: 0, stderr: false });
    expect(await namesIn(server.incoming)).toEqual([]);
    const { bytes } = await server.cli(['get-wal', 'main', first.name]);
    expect(bytes.equals(first.bytes)).toBe(true);
    expect(await catalogueLines(server)).toHaveLength(1);
  }));

test('SIGTERM while post scripts run finishes what is in hand and is no error', () =>
  withServer({ post_archive_retry_script: 'kill -TERM $PPID; sleep 0.3' }, async (server) => {
    await writeWal(server.incoming, { segment: 1 });
    const { status, stderr } = await server.cli(['archive-wal', 'main']);
    expect({ status, error: /ERROR/.test(stderr) }).toEqual({ status: 0, error: false });
    expect(await namesIn(server.incoming)).toEqual([]);
    expect(await catalogueLines(server)).toHaveLength(1);
  }));

test('a claimed partial file is found by get-wal -P', () =>
  withServer({}, async (server) => {
    const partial = walName(`${first.name}.partial`);
    await writeFile(claimPath(join(server.incoming, partial), partial), first.bytes);
    expect((await server.cli(['get-wal', '-P', 'main', first.name])).status).toBe(0);
  }));

test('odd things in the archive keep neither a pass nor rebuild-xlogdb from working', () =>
  withServer({ compression: 'gzip' }, async (server) => {
    await archived(server);
    const directory = join(server.wals, first.name.slice(0, 16));
    await mkdir(join(directory, `${second.name}.tmp`));
    await mkdir(join(directory, makeWal({ segment: 9 }).name));
    await mkdir(join(server.incoming, `.1-ab-${second.name}`));
    await chmod(join(directory, `${second.name}.tmp`), 0o700);
    await writeWal(server.incoming, { segment: 3 });
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
    expect((await server.cli(['rebuild-xlogdb', 'main'])).status).toBe(0);
    expect(await catalogueLines(server)).toHaveLength(2);
  }));
