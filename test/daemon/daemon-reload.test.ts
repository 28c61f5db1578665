import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { namesIn } from '../commands/with-server.ts';
import { ensureBuilt, writeConfig } from '../support/cli.ts';
import { makeWal } from '../support/make-wal.ts';
import { RunningDaemon, withDaemon } from '../support/running-daemon.ts';
import { withTempDir } from '../support/temp-dir.ts';

beforeAll(ensureBuilt);

async function deliver(home: string, server: string, segment: number): Promise<string> {
  const { name, bytes } = makeWal({ segment });
  const incoming = join(home, server, 'incoming');
  await mkdir(incoming, { recursive: true });
  await writeFile(join(incoming, `${name}.tmp`), bytes);
  await rename(join(incoming, `${name}.tmp`), join(incoming, name));
  return join(home, server, 'wals', name.slice(0, 16), name);
}

async function isArchived(daemon: RunningDaemon, path: string): Promise<Buffer> {
  const [directory, name] = [join(path, '..'), path.slice(-24)];
  await daemon.waitsFor(`${name} in ${directory}`, async () => (await namesIn(directory)).includes(name));
  return readFile(path);
}

/** What was said from now on. */
function fromNow(daemon: RunningDaemon): () => string {
  const before = daemon.stderr.length;
  return () => daemon.stderr.slice(before);
}

async function reload(daemon: RunningDaemon, answer: RegExp): Promise<string> {
  const said = fromNow(daemon);
  daemon.process.kill('SIGHUP');
  return daemon.waitsFor(String(answer), () => (answer.test(said()) ? said() : false));
}

/** Begins a download that waits to be read; resolves to its reading. */
function startSlowly(daemon: RunningDaemon, path: string): Promise<() => Promise<Buffer>> {
  return new Promise((resolve, reject) => {
    request({ socketPath: daemon.socket, path, agent: false }, (response) => {
      response.pause();
      resolve(async () => {
        const chunks: Buffer[] = [];
        for await (const chunk of response) chunks.push(Buffer.from(chunk));
        return Buffer.concat(chunks);
      });
    })
      .on('error', reject)
      .end();
  });
}

const ZSTD = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);

describe('SIGHUP', () => {
  test('starts what is new, ends what is gone, and starts anew what has changed', () =>
    withTempDir(async (home) => {
      const config = await writeConfig(home, { servers: { same: {}, changed: {}, gone: {} } });
      await withDaemon(config, home, async (daemon) => {
        for (const name of ['same', 'changed', 'gone']) await isArchived(daemon, await deliver(home, name, 1));
        await writeConfig(home, { servers: { same: {}, changed: { compression: 'zstd' }, added: {} } });
        const said = await reload(daemon, /the configuration was reloaded/);
        expect(said).toContain('started with what is new: changed, added; gone: gone');
        await deliver(home, 'gone', 2);
        await isArchived(daemon, await deliver(home, 'same', 2));
        const compressed = await isArchived(daemon, await deliver(home, 'changed', 2));
        expect(compressed.subarray(0, 4)).toEqual(ZSTD);
        await isArchived(daemon, await deliver(home, 'added', 1));
        expect(await namesIn(join(home, 'gone', 'incoming'))).toHaveLength(1);
        expect((await daemon.ask('/servers/gone/status')).status).toBe(400);
        expect((await daemon.ask('/servers/added/status')).status).toBe(200);
        expect(await reload(daemon, /the configuration was reloaded/)).toContain('no server has changed');
        expect(await daemon.stop()).toEqual({ status: 0, signal: null });
      });
    }));

  test.each([
    ['a value that is none', { main: { compression: 'no-such-thing' } }, 'no-such-thing'],
    ['a new server with an error', { main: { compression: 'zstd' }, other: { archiver_batch_size: 'many' } }, 'many'],
  ])('keeps the old configuration as a whole for %s', (_what, servers, told) =>
    withTempDir(async (home) => {
      const config = await writeConfig(home, { servers: { main: {} } });
      await withDaemon(config, home, async (daemon) => {
        await isArchived(daemon, await deliver(home, 'main', 1));
        await writeConfig(home, { servers });
        const said = await reload(daemon, /was not reloaded/);
        expect(said).toContain(told);
        const stored = await isArchived(daemon, await deliver(home, 'main', 2));
        expect(stored).toHaveLength(1024 * 1024);
        expect((await daemon.ask('/servers/other/status')).status).toBe(400);
        await writeConfig(home, { servers: { main: { compression: 'zstd' } } });
        await reload(daemon, /the configuration was reloaded/);
        expect((await isArchived(daemon, await deliver(home, 'main', 3))).subarray(0, 4)).toEqual(ZSTD);
      });
    }),
  );

  test.each([
    ['that is gone', async (config: string) => rm(config), /can't read|no such file/i],
    ['that is no INI file', async (config: string) => writeFile(config, 'what is this'), /walwarden\.conf:1/],
    [
      'whose certificate is missing',
      async (config: string) =>
        writeFile(
          config,
          (await readFile(config, 'utf8')).replace(
            '[barman]',
            '[barman]\nhttp_tls_cert_file = /nowhere\nhttp_tls_key_file = /nowhere',
          ),
        ),
      /http_tls_cert_file|\/nowhere/,
    ],
  ])('keeps the old one for a file %s, HTTP included', (_what, spoil, reason) =>
    withTempDir(async (home) => {
      const config = await writeConfig(home, { servers: { main: {} } });
      await withDaemon(config, home, async (daemon) => {
        await isArchived(daemon, await deliver(home, 'main', 1));
        await spoil(config);
        expect(await reload(daemon, /was not reloaded/)).toMatch(reason);
        await isArchived(daemon, await deliver(home, 'main', 2));
        expect((await daemon.ask('/livez')).status).toBe(200);
        expect(await daemon.stop()).toEqual({ status: 0, signal: null });
      });
    }),
  );

  test('may come while the daemon starts', () =>
    withTempDir(async (home) => {
      const config = await writeConfig(home, { servers: { main: {} } });
      const daemon = new RunningDaemon(config, home);
      try {
        await daemon.waitsFor('its lock', async () => (await namesIn(home)).includes('.walwarden-daemon.lock'));
        daemon.process.kill('SIGHUP');
        await daemon.says(/the configuration was reloaded/);
        await daemon.ready();
        expect(await daemon.stop()).toEqual({ status: 0, signal: null });
      } finally {
        await daemon.dispose();
      }
    }));

  test('does not interrupt HTTP: a slow download goes on, and no request is refused', () =>
    withTempDir(async (home) => {
      const config = await writeConfig(home, { servers: { main: {} } });
      await withDaemon(config, home, async (daemon) => {
        const path = await deliver(home, 'main', 1);
        const bytes = await isArchived(daemon, path);
        const slow = await startSlowly(daemon, `/servers/main/wal/${path.slice(-24)}`);
        for (let time = 0; time < 5; time += 1) {
          const reloaded = reload(daemon, /the configuration was reloaded/);
          for (let asked = 0; asked < 20; asked += 1) expect((await daemon.ask('/livez')).status).toBe(200);
          await reloaded;
        }
        const stopped = daemon.stop();
        expect((await slow()).equals(bytes)).toBe(true);
        expect(await stopped).toEqual({ status: 0, signal: null });
      });
    }));

  test('that waits for a hook script of one server delays neither the others nor the end', () =>
    withTempDir(async (home) => {
      const servers = { slow: { post_archive_script: 'sleep 60' }, quick: {} };
      const config = await writeConfig(home, { global: { shutdown_timeout: '3 s' }, servers });
      await withDaemon(config, home, async (daemon) => {
        await isArchived(daemon, await deliver(home, 'slow', 1));
        await writeConfig(home, {
          global: { shutdown_timeout: '3 s' },
          servers: { ...servers, slow: { ...servers.slow, compression: 'zstd' } },
        });
        daemon.process.kill('SIGHUP');
        await isArchived(daemon, await deliver(home, 'quick', 1));
        expect(await daemon.stop()).toEqual({ status: 1, signal: null });
        expect(daemon.stderr).not.toContain('started with what is new');
      });
    }));

  test('may come many times in a row', () =>
    withTempDir(async (home) => {
      const config = await writeConfig(home, { servers: { main: {} } });
      await withDaemon(config, home, async (daemon) => {
        for (let time = 0; time < 10; time += 1) {
          await writeConfig(home, { servers: { main: time % 2 === 0 ? { compression: 'zstd' } : {} } });
          daemon.process.kill('SIGHUP');
          await deliver(home, 'main', time + 1);
        }
        const last = await deliver(home, 'main', 11);
        await isArchived(daemon, last);
        expect(await namesIn(join(last, '..'))).toHaveLength(11);
        daemon.process.kill('SIGHUP');
        expect(await daemon.stop()).toEqual({ status: 0, signal: null });
      });
    }));
});
