import { execFileSync } from 'node:child_process';
import { mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { acquireLock } from '../../src/durable/lock-file.ts';
import { catalogueLines, configured, namesIn, withServer, type TestServer } from '../commands/with-server.ts';
import { ensureBuilt, runCli } from '../support/cli.ts';
import { makeWal, type MadeWal } from '../support/make-wal.ts';
import { RunningDaemon, withDaemon } from '../support/running-daemon.ts';

beforeAll(ensureBuilt);

/** No look but the first, and those that arrivals ask for. */
const NO_POLL = { archiver_poll_interval: '1 h' };

/** As a careful archive_command does. */
async function deliver(server: TestServer, { name, bytes }: MadeWal): Promise<void> {
  await writeFile(join(server.incoming, `${name}.tmp`), bytes);
  await rename(join(server.incoming, `${name}.tmp`), join(server.incoming, name));
}

async function archived(server: TestServer): Promise<string[]> {
  return (await catalogueLines(server)).map((line) => line.slice(0, 24));
}

function arrives(daemon: RunningDaemon, server: TestServer, names: readonly string[]): Promise<unknown> {
  return daemon.waitsFor(`${names.join(', ')} in the archive`, async () => {
    const lines = await archived(server);
    return names.every((name) => lines.includes(name)) && (await namesIn(server.incoming)).length === 0;
  });
}

/** As long as a pass is under way, nothing is unmounted. */
async function isQuiet(daemon: RunningDaemon): Promise<void> {
  let last = '';
  await daemon.waitsFor('no pass to be under way', async () => {
    const now = (await daemon.ask('/servers')).body.toString();
    await delay(300);
    const same = now === last;
    last = now;
    return same;
  });
}

describe('the daemon', () => {
  test('archives what waits when it starts, and what arrives while it runs, without a look in between', () =>
    withServer({ ...NO_POLL, compression: 'zstd' }, async (server) => {
      const [first, second, third] = [1, 2, 3].map((segment) => makeWal({ segment }));
      if (first === undefined || second === undefined || third === undefined) throw new Error('three were made');
      await deliver(server, first);
      await withDaemon(server.config, server.home, async (daemon) => {
        await arrives(daemon, server, [first.name]);
        await deliver(server, second);
        await arrives(daemon, server, [second.name]);
        await deliver(server, third);
        await arrives(daemon, server, [third.name]);
        expect(await daemon.stop()).toEqual({ status: 0, signal: null });
        expect(daemon.log.filter(({ level }) => level > 30)).toEqual([]);
      });
      expect(await archived(server)).toEqual([first.name, second.name, third.name]);
    }));

  test('waits for a file that is copied slowly, and takes it once it is whole', () =>
    withServer(NO_POLL, async (server) => {
      const { name, bytes } = makeWal({});
      await withDaemon(server.config, server.home, async (daemon) => {
        await using handle = await open(join(server.incoming, name), 'wx', 0o600);
        for (let at = 0; at < bytes.length; at += 65_536) {
          await handle.write(bytes, at, 65_536, at);
          await delay(20);
        }
        await arrives(daemon, server, [name]);
      });
      expect((await readFile(join(server.wals, name.slice(0, 16), name))).equals(bytes)).toBe(true);
    }));

  test('looks again every archiver_poll_interval, where nobody tells of an arrival', () =>
    withServer({ archiver_poll_interval: '100 ms' }, async (server) => {
      const { name, bytes } = makeWal({});
      await withDaemon(server.config, server.home, async (daemon) => {
        // The directory is another one now, and nobody watches it.
        await rename(server.incoming, `${server.incoming}.old`);
        await mkdir(server.incoming, { mode: 0o700 });
        await writeFile(join(server.incoming, name), bytes);
        await arrives(daemon, server, [name]);
      });
    }));

  test('tells of a file that stays incomplete once, not with every look', () =>
    withServer({ archiver_poll_interval: '50 ms', incomplete_wal_timeout: '10 ms' }, async (server) => {
      const { name, bytes } = makeWal({});
      await writeFile(join(server.incoming, name), bytes.subarray(0, 100_000));
      await withDaemon(server.config, server.home, async (daemon) => {
        await daemon.says(/is incomplete/);
        // Each of these is archived by a pass that looks at the incomplete one again.
        for (let segment = 2; segment <= 5; segment += 1) {
          const next = makeWal({ segment });
          await writeFile(join(server.incoming, next.name), next.bytes);
          await daemon.waitsFor('the next one', async () => (await archived(server)).includes(next.name));
        }
        expect(daemon.log.filter(({ msg }) => msg.includes('is incomplete'))).toHaveLength(1);
        await writeFile(join(server.incoming, name), bytes);
        await arrives(daemon, server, [name]);
      });
    }));

  test('moves what is no WAL to errors and goes on', () =>
    withServer(NO_POLL, async (server) => {
      await withDaemon(server.config, server.home, async (daemon) => {
        await writeFile(join(server.incoming, 'nonsense'), 'x');
        await daemon.waitsFor('it in errors', async () =>
          (await namesIn(server.errors)).some((entry) => entry.startsWith('nonsense')),
        );
        const { name, bytes } = makeWal({});
        await writeFile(join(server.incoming, name), bytes);
        await arrives(daemon, server, [name]);
      });
    }));

  test('is alone with its configuration', () =>
    withServer({}, async (server) => {
      await withDaemon(server.config, server.home, async (daemon) => {
        const other = await runCli(['daemon'], { config: server.config });
        expect(other.status).toBe(1);
        expect(other.stderr).toContain(`another walwarden daemon runs with this configuration`);
        expect(other.stderr).toContain(`process ${daemon.pid}`);
        expect((await daemon.ask('/livez')).status).toBe(200);
      });
    }));

  test('lets another archive-wal finish, and goes on after it', () =>
    withServer(NO_POLL, async (server) => {
      const { name, bytes } = makeWal({});
      const lock = await acquireLock(join(server.home, '.main-archive-wal.lock'));
      await withDaemon(server.config, server.home, async (daemon) => {
        await writeFile(join(server.incoming, name), bytes);
        await daemon.waitsFor('it to give way', async () => {
          const answer = (await daemon.ask('/servers')).body.toString();
          return answer.includes('elsewhere');
        });
        expect(await archived(server)).toEqual([]);
        await lock[Symbol.asyncDispose]();
        await arrives(daemon, server, [name]);
        expect(daemon.log.filter(({ level }) => level > 30)).toEqual([]);
      });
    }));

  test('does not start without barman_home, nor make it', () =>
    withServer({}, async (server) => {
      const gone = await configured({ ...server, home: join(server.home, 'gone') }, {});
      await rm(join(server.home, 'gone'), { recursive: true });
      await writeFile(
        join(server.home, 'gone.conf'),
        `[barman]\nbarman_home = ${gone.home}\n[main]\ndescription = x\n`,
      );
      const { status, stderr } = await runCli(['daemon'], { config: join(server.home, 'gone.conf') });
      expect({ status, stderr }).toMatchObject({ status: 1, stderr: expect.stringContaining('barman_home') });
      expect(await namesIn(server.home)).not.toContain('gone');
    }));

  test('does not archive into the mount point of an archive that is not mounted', () =>
    withServer(NO_POLL, async (server) => {
      const [first, second] = [makeWal({ segment: 1 }), makeWal({ segment: 2 })];
      const path = (name: string): string => `/servers/main/wal/${name}`;
      await withDaemon(server.config, server.home, async (daemon) => {
        await deliver(server, first);
        await arrives(daemon, server, [first.name]);
        await isQuiet(daemon);
        await rename(server.wals, `${server.wals}.unmounted`);
        await mkdir(server.wals, { mode: 0o700 });
        await deliver(server, second);
        expect((await daemon.says(/archiving of main failed/)).msg).toContain('has no catalogue');
        expect(await namesIn(server.wals)).toEqual([]);
        expect(await namesIn(server.incoming)).toEqual([second.name]);
        expect((await daemon.ask(path(first.name))).status).toBe(503);
        expect((await server.cli(['get-wal', 'main', first.name])).status).toBe(200);
        await rm(server.wals, { recursive: true });
        await rename(`${server.wals}.unmounted`, server.wals);
        await daemon.waitsFor('the second', async () => (await archived(server)).includes(second.name), 90_000);
        expect((await daemon.ask(path(first.name))).body.equals(first.bytes)).toBe(true);
        expect((await daemon.ask(path(makeWal({ segment: 3 }).name))).status).toBe(404);
      });
    }));

  test('an archive whose catalogue was removed is catalogued anew, and goes on', () =>
    withServer({}, async (server) => {
      await deliver(server, makeWal({ segment: 1 }));
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      await rm(join(server.wals, 'main-xlog.db'));
      await deliver(server, makeWal({ segment: 2 }));
      const refused = await server.cli(['archive-wal', 'main']);
      expect(refused).toMatchObject({ status: 1, stderr: expect.stringContaining('walwarden rebuild-xlogdb main') });
      expect((await server.cli(['rebuild-xlogdb', 'main'])).status).toBe(0);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      expect(await archived(server)).toEqual([makeWal({ segment: 1 }).name, makeWal({ segment: 2 }).name]);
    }));

  test('notices that another process made the archive another cluster’s', () =>
    withServer(NO_POLL, async (server) => {
      const [first, second, other] = [
        makeWal({ segment: 1 }),
        makeWal({ segment: 2 }),
        makeWal({ segment: 3, systemIdentifier: 7_000_000_000_000_000_001n }),
      ];
      await withDaemon(server.config, server.home, async (daemon) => {
        await deliver(server, first);
        await arrives(daemon, server, [first.name]);
        const identity = join(server.home, 'main', 'identity.json');
        const text = (await readFile(identity, 'utf8')).replace(/\d{19}/, '7000000000000000001');
        await writeFile(`${identity}.new`, text);
        await rename(`${identity}.new`, identity);
        await deliver(server, second);
        await daemon.waitsFor('the old cluster’s in errors', async () => (await namesIn(server.errors)).length === 1);
        await deliver(server, other);
        await arrives(daemon, server, [other.name]);
        expect(await archived(server)).toEqual([first.name, other.name]);
      });
    }));

  test('lives on when nobody reads its stderr any more', () =>
    withServer(
      { streaming_archiver: 'on', conninfo: 'host=127.0.0.1 port=1 user=nobody', slot_name: 'walwarden' },
      async (server) => {
        const { name, bytes } = makeWal({});
        await withDaemon(server.config, server.home, async (daemon) => {
          await daemon.says(/started receive-wal of main/);
          daemon.process.stderr?.destroy();
          // Its receive-wal has something to say now and then.
          await daemon.waitsFor('the child to be heard', async () => (await daemon.ask('/servers')).status === 200);
          await writeFile(join(server.incoming, name), bytes);
          await arrives(daemon, server, [name]);
          for (let time = 0; time < 20; time += 1) {
            await delay(100);
            expect(daemon.hasEnded).toBe(false);
          }
        });
      },
    ));

  test('ends, though a file system does not answer a look at it', () =>
    withServer({}, async (server) => {
      await withDaemon(server.config, server.home, async (daemon) => {
        // Whoever opens it waits for a writer, for ever.
        execFileSync('mkfifo', [join(server.home, 'main', '.receive-wal.json')]);
        expect((await daemon.ask('/metrics')).status).toBe(200);
        const { status, signal } = await daemon.stop();
        // Killed by itself when a thread keeps it.
        expect([0, 'SIGKILL']).toContain(signal ?? status);
        await daemon.ended;
        expect(daemon.log.at(-1)?.msg).toBe('stopped');
      });
    }));

  test('goes on when its archive is gone, says so once, and archives when it is back', () =>
    withServer(NO_POLL, async (server) => {
      const [first, second] = [makeWal({ segment: 1 }), makeWal({ segment: 2 })];
      await withDaemon(server.config, server.home, async (daemon) => {
        await deliver(server, first);
        await arrives(daemon, server, [first.name]);
        await isQuiet(daemon);
        // A file where the directory was: nothing can be stored there.
        await rename(server.wals, `${server.wals}.away`);
        await writeFile(server.wals, '');
        await deliver(server, second);
        await daemon.says(/archiving of main failed/);
        const status = (await daemon.ask('/servers/main/status')).body.toString();
        expect(status).toContain('archive_failure');
        await rm(server.wals);
        await rename(`${server.wals}.away`, server.wals);
        await daemon.waitsFor('the second', async () => (await archived(server)).includes(second.name), 90_000);
        expect(await archived(server)).toEqual([first.name, second.name]);
        await daemon.says(/archiving of main works again/);
      });
    }));
});
