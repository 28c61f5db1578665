import { execFileSync } from 'node:child_process';
import { mkdir, readdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { namesIn } from '../commands/with-server.ts';
import { ensureBuilt, writeConfig } from '../support/cli.ts';
import { makeWal } from '../support/make-wal.ts';
import { withSilentPort } from '../support/silent-port.ts';
import { withDaemon, type RunningDaemon } from '../support/running-daemon.ts';
import { withTempDir } from '../support/temp-dir.ts';

beforeAll(ensureBuilt);

interface Home {
  readonly home: string;
  deliver(server: string, segment: number, content?: 'random'): Promise<string>;
  archived(server: string): Promise<string[]>;
}

async function makeHome(home: string, servers: readonly string[]): Promise<Home> {
  for (const server of servers) await mkdir(join(home, server, 'incoming'), { recursive: true });
  return {
    home,
    async deliver(server, segment, content) {
      const { name, bytes } = makeWal({ segment, ...(content === undefined ? {} : { content }) });
      const path = join(home, server, 'incoming', name);
      await writeFile(`${path}.tmp`, bytes);
      await rename(`${path}.tmp`, path);
      return name;
    },
    async archived(server) {
      return (await namesIn(join(home, server, 'wals', '0000000100000000'))).filter((name) => !name.endsWith('.tmp'));
    },
  };
}

async function archivesAll(daemon: RunningDaemon, home: Home, server: string, from: number, to: number): Promise<void> {
  for (let segment = from; segment <= to; segment += 1) {
    const name = await home.deliver(server, segment);
    await daemon.waitsFor(`${name} of ${server}`, async () => (await home.archived(server)).includes(name));
  }
}

test('a server whose disk is full is told of, and goes on when there is space; the others never wait for it', () =>
  withTempDir(async (directory) => {
    const home = await makeHome(directory, ['full', 'good']);
    const config = await writeConfig(directory, { servers: { full: { compression: 'zstd' }, good: {} } });
    const wals = join(directory, 'full', 'wals');
    await mkdir(wals);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2500k,mode=0755', 'tmpfs', wals]);
    try {
      await withDaemon(config, directory, async (daemon) => {
        for (let segment = 1; segment <= 6; segment += 1) await home.deliver('full', segment, 'random');
        await daemon.says(/archiving of full failed: .*no space left/i);
        await archivesAll(daemon, home, 'good', 1, 5);
        const servers: unknown = (await daemon.ask('/servers')).json();
        expect(JSON.stringify(servers)).toMatch(/"failing"/);
        expect(await readdir(join(directory, 'full', 'incoming'))).not.toEqual([]);
        execFileSync('mount', ['-o', 'remount,size=20m', wals]);
        await daemon.waitsFor('all of them', async () => (await home.archived('full')).length === 6, 60_000);
        expect(daemon.log.filter(({ level, server }) => level >= 50 && server === 'good')).toEqual([]);
        // Once an outage, though it was tried again and again.
        expect(daemon.log.filter(({ msg }) => msg.startsWith('archiving of full failed'))).toHaveLength(1);
        expect(await daemon.stop()).toEqual({ status: 0, signal: null });
      });
    } finally {
      execFileSync('umount', ['--lazy', wals]);
    }
  }));

test('an endpoint of S3 that is silent, and a PostgreSQL that is down, delay nobody else', () =>
  withSilentPort((port) =>
    withTempDir(async (directory) => {
      const home = await makeHome(directory, ['s3', 'streamed', 'good']);
      const config = await writeConfig(directory, {
        servers: {
          s3: {
            wals_directory: 's3://bucket/prefix',
            aws_endpoint_url: `http://127.0.0.1:${port}`,
            aws_region: 'us-east-1',
            aws_read_timeout: '3',
          },
          streamed: { streaming_archiver: 'on', conninfo: 'host=127.0.0.1 port=1 user=nobody', slot_name: 'walwarden' },
          good: {},
        },
      });
      const env = { ...process.env, AWS_ACCESS_KEY_ID: 'x', AWS_SECRET_ACCESS_KEY: 'y' };
      await withDaemon(
        config,
        directory,
        async (daemon) => {
          await home.deliver('s3', 1);
          // What arrives in incoming does not wait for the receiver of the same server either.
          await archivesAll(daemon, home, 'streamed', 1, 3);
          await archivesAll(daemon, home, 'good', 1, 3);
          await daemon.says(/archiving of s3 failed/, 60_000);
          await archivesAll(daemon, home, 'good', 4, 6);
          await daemon.says(/receive-wal of streamed|started receive-wal of streamed/);
          const status = await daemon.ask('/servers/good/status');
          expect(status.status).toBe(200);
          expect(await daemon.stop()).toEqual({ status: 0, signal: null });
          expect(await readdir(join(directory, 's3', 'incoming'))).toHaveLength(1);
        },
        { env },
      );
    }),
  ));

test('inactive, passive and disabled servers are not archived, and a disabled one does not keep the others from it', () =>
  withTempDir(async (directory) => {
    const names = ['off', 'copy', 'wrong', 'good'];
    const home = await makeHome(directory, names);
    const config = await writeConfig(directory, {
      servers: {
        off: { active: 'off' },
        copy: { primary_ssh_command: 'ssh elsewhere' },
        wrong: { compression: 'no-such-thing' },
        good: {},
      },
    });
    await withDaemon(config, directory, async (daemon) => {
      for (const name of names) await home.deliver(name, 1);
      await daemon.waitsFor('the good one', async () => (await home.archived('good')).length === 1);
      await archivesAll(daemon, home, 'good', 2, 3);
      for (const name of ['off', 'copy', 'wrong']) {
        expect(await readdir(join(directory, name, 'incoming')), name).toHaveLength(1);
      }
      expect((await daemon.says(/server wrong is disabled/)).msg).toContain('no-such-thing');
    });
  }));
