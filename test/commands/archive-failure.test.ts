import { readFile, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { until } from '../support/poll.ts';
import { writeWal } from '../support/make-wal.ts';
import { commandsWith } from './cron-home.ts';
import { json, namesIn, withServer, type TestServer } from './with-server.ts';

// What becomes of a pass that fails, whatever the storage: here a hook script that says stop.

const STOP = { pre_archive_retry_script: 'test -e go || exit 63' };

async function logged(path: string): Promise<{ level: number; msg: string }[]> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text
    .split('\n')
    .slice(0, -1)
    .map((line): { level: number; msg: string } => JSON.parse(line));
}

const errorsIn = async (path: string): Promise<string[]> =>
  (await logged(path)).filter(({ level }) => level === 50).map(({ msg }) => msg);

const checked = async (server: TestServer): Promise<string> => (await server.cli(['check', 'main'])).stdout;

test('check and status tell why the last pass failed, as soon as it did, until one succeeds', () =>
  withServer(STOP, async (server) => {
    await writeWal(server.incoming, { segment: 1 });
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
    expect(await checked(server)).toMatch(
      /\tWAL archive: FAILED \(1 file in .*\/incoming waits, since .*; archive-wal failed at .* UTC \(.* ago\): pre_archive_retry_script of main failed with exit status 63, for 0{7}10{15}1/,
    );
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
    const status = await server.cli(['status', 'main']);
    expect(status.stdout).toMatch(/\tFiles waiting in incoming: 1: 1 file in .* exit status 63/);
    expect(status.stdout).toMatch(
      /\tArchiving fails: archive-wal fails since .* \(2 passes, the last at .*\): pre_archive/,
    );
    expect(json(await server.cli(['-f', 'json', 'status', 'main']))).toMatchObject([
      { status: { archive_failure: { passes: 2, message: expect.stringContaining('exit status 63') } } },
    ]);
    await writeFile(join(server.home, 'go'), '');
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
    expect(await checked(server)).not.toContain('WAL archive');
    expect((await server.cli(['status', 'main'])).stdout).not.toContain('Archiving fails');
    expect(await namesIn(join(server.home, 'main'))).not.toContain('.archive-wal.json');
  }));

test('a failure is a hint only once nothing waits any more, and none of a server that is not active', () =>
  withServer(STOP, async (server) => {
    await writeFile(join(server.home, 'go'), '');
    await writeWal(server.incoming, { segment: 1 });
    await server.cli(['archive-wal', 'main']);
    await unlink(join(server.home, 'go'));
    const second = await writeWal(server.incoming, { segment: 2 });
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
    await unlink(second.path);
    const { status, stdout } = await server.cli(['check', 'main']);
    expect(stdout).toMatch(/\tWAL archive: OK \(archive-wal failed at .* exit status 63/);
    expect(status).toBe(0);
    const text = await readFile(server.config, 'utf8');
    await writeFile(server.config, text.replace('[main]', '[main]\nactive = off'));
    expect(await checked(server)).not.toContain('archive-wal failed');
  }));

test('a log file is told a reason once; stderr and the exit status say it every time', () =>
  withServer(
    STOP,
    async (server) => {
      const log = join(server.home, 'log');
      await writeWal(server.incoming, { segment: 1 });
      for (let pass = 0; pass < 3; pass += 1) {
        const { status, stderr } = await server.cli(['archive-wal', 'main']);
        expect(status).toBe(1);
        expect(stderr).toMatch(/^ERROR: pre_archive_retry_script of main failed with exit status 63/);
      }
      expect((await errorsIn(log)).filter((text) => text.includes('exit status 63'))).toHaveLength(1);
      await writeFile(join(server.home, 'go'), '');
      await server.cli(['archive-wal', 'main']);
      expect((await logged(log)).map(({ msg }) => msg)).toContainEqual(
        expect.stringMatching(/^archiving of main works again, after 3 failed passes in /),
      );
      await unlink(join(server.home, 'go'));
      await writeWal(server.incoming, { segment: 2 });
      await server.cli(['archive-wal', 'main']);
      expect((await errorsIn(log)).filter((text) => text.includes('exit status 63'))).toHaveLength(2);
    },
    { log_file: '%(barman_home)s/log' },
  ));

test('what cron starts every minute logs a reason once', () =>
  withServer(STOP, async (server) => {
    await writeWal(server.incoming, { segment: 1 });
    for (let minute = 0; minute < 3; minute += 1) {
      try {
        expect((await server.cli(['cron'])).status).toBe(0);
      } finally {
        await until('archive-wal to end', async () => (await commandsWith(server.config)).size === 0);
      }
    }
    const told = await errorsIn(join(server.home, 'walwarden.log'));
    expect(told.filter((text) => text.includes('exit status 63'))).toHaveLength(1);
  }));
