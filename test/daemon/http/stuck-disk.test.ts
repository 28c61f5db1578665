import { spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { configured } from '../../commands/with-server.ts';
import { requireStrace } from '../../fault/strace.ts';
import { makeWal } from '../../support/make-wal.ts';
import { until } from '../../support/poll.ts';
import { withDaemon } from '../../support/running-daemon.ts';
import { withHome } from '../../support/temp-dir.ts';
import { jsonOf, withHttp } from './with-http.ts';

beforeAll(requireStrace);

const wal = makeWal({ segment: 1 });

/** Keeps every call of a process on this path from returning while `body` runs. */
async function whileStuck<T>(pid: number, path: string, body: () => Promise<T>): Promise<T> {
  const args = ['-f', '-o', '/dev/null', '-P', path, '-e', 'trace=openat', '-e', 'inject=openat:delay_enter=3600s'];
  const strace = spawn('strace', [...args, '-e', 'signal=none', '-p', String(pid)]);
  const ended = new Promise((resolve) => strace.once('close', resolve));
  let said = '';
  strace.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  try {
    await until('strace to attach', () => {
      if (strace.exitCode !== null) throw new Error(`strace: ${said}`);
      return /attached/.test(said);
    });
    return await body();
  } finally {
    strace.kill('SIGINT');
    await ended;
  }
}

test('/readyz is 503 while a disk does not answer, at once when it is asked again, and 200 when it does', () =>
  withHome(async (home) => {
    const { config } = await configured(home, { archiver: 'on' });
    await withDaemon(config, home.home, async (daemon) => {
      const ready = { status: 200, body: { phase: 'running', disks: 'answering', stuckDirectory: null } };
      const asked = async (): Promise<unknown> => {
        const { status, json } = await daemon.ask('/readyz');
        return { status, body: json() };
      };
      expect(await asked()).toMatchObject(ready);
      const backup = join(home.home, 'main');
      await whileStuck(daemon.pid, join(backup, `.walwarden-disk-${daemon.pid}`), async () => {
        const stuck = { status: 503, body: { phase: 'running', disks: 'stuck', stuckDirectory: backup } };
        await daemon.waitsFor('503', async () => (await daemon.ask('/readyz')).status === 503);
        expect(await asked()).toMatchObject(stuck);
        // One look at a time: however often it is asked, no other thread is lost.
        for (let times = 0; times < 10; times += 1) expect(await asked()).toMatchObject(stuck);
        expect((await daemon.ask('/livez')).status).toBe(200);
        expect((await daemon.ask(`/servers/main/wal/${wal.name}`, 'PUT', wal.bytes)).status).toBe(201);
      });
      await daemon.waitsFor('200', async () => (await daemon.ask('/readyz')).status === 200);
      expect(await asked()).toMatchObject(ready);
      expect(await readdir(backup)).not.toContainEqual(expect.stringContaining('.walwarden-disk'));
    });
  }));

test('a deposit that takes too long is 503 and not acknowledged; once it has ended, the same file is there already', () =>
  withHttp({ depositMs: 5_000 }, async (server) => {
    const { strategy } = server.opened();
    const compare = strategy.compare.bind(strategy);
    let open = (): void => {};
    const gate = new Promise<void>((resolve) => (open = resolve));
    strategy.compare = async (...args) => {
      await gate;
      return compare(...args);
    };
    const answer = await server.put(wal.name, wal.bytes);
    expect(answer.status).toBe(503);
    expect(jsonOf(answer)).toMatchObject({
      error: { code: 'storage', message: expect.stringContaining(`${wal.name} could not be stored within 5 s`) },
    });
    open();
    await until('the deposit', async () => (await readdir(server.incoming)).includes(wal.name));
    strategy.compare = compare;
    expect((await server.put(wal.name, wal.bytes)).status).toBe(200);
    expect(await readdir(server.incoming)).toEqual([wal.name]);
  }));
