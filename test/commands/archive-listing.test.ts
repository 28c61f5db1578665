import { readFile, rename, rm, unlink, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { acquireLock } from '../../src/durable/lock-file.ts';
import { segmentName } from '../../src/wal/wal-name.ts';
import { ensureBuilt } from '../support/cli.ts';
import { writeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { RunningDaemon } from '../support/running-daemon.ts';
import { json, placeStored, withServer, type TestServer } from './with-server.ts';

const wal = (segment: number, timeline = 1) => segmentName(timeline, BigInt(segment), 1 << 20);
const statePath = (server: TestServer): string => join(server.home, 'main', '.archive-listing.json');
const pathOf = (server: TestServer, name: string): string => join(server.wals, name.slice(0, 16), name);
const state = async (server: TestServer): Promise<{ finishedAt: number; files: number; missing: { count: number } }> =>
  JSON.parse(await readFile(statePath(server), 'utf8'));

async function line(server: TestServer): Promise<string> {
  const { stdout } = await server.cli(['check', 'main']);
  return /\tarchived files: (.*)\n/.exec(stdout)?.[1] ?? `no such line: ${stdout}`;
}

/** Nine segments of timeline 1, and one of timeline 2, archived. */
async function withArchive(body: (server: TestServer) => Promise<void>): Promise<void> {
  await withServer({}, async (server) => {
    for (let segment = 1; segment < 10; segment += 1) await writeWal(server.incoming, { segment });
    await writeWal(server.incoming, { segment: 9, timeline: 2 });
    await writeFile(join(server.incoming, '00000002.history'), '1\t0/900028\tno recovery target specified\n');
    const old = Date.now() / 1000 - 60;
    await utimes(join(server.incoming, '00000002.history'), old, old);
    await until('all to be archived', async () => {
      await server.cli(['archive-wal', 'main']);
      return (await server.cli(['list-wals', 'main'])).stdout.includes('1 history file');
    });
    await body(server);
  });
}

async function setBack(server: TestServer, hours: number): Promise<void> {
  const known = await state(server);
  const set = { ...known, finishedAt: known.finishedAt - hours * 3_600_000 };
  await writeFile(statePath(server), JSON.stringify(set));
}

beforeAll(ensureBuilt);

test('check looks at the newest file and three others itself, and says that the archive was never listed', () =>
  withArchive(async (server) => {
    expect(await line(server)).toMatch(
      /^OK \(never listed: .*list-wals --stored main at once; .*, 4 files, looked at now\)$/,
    );
    await unlink(pathOf(server, wal(1)));
    expect(await line(server)).toMatch(new RegExp(`^FAILED \\(1 file of the catalogue is not stored: ${wal(1)} `));
    expect((await server.cli(['check', 'main'])).status).toBe(1);
    expect((await server.cli(['check', '--nagios', 'main'])).stdout).toMatch(/^BARMAN CRITICAL .* archived files/);
  }));

test('a removed file that check does not look at is found by the listing, remembered, and over once it is back', () =>
  withArchive(async (server) => {
    const path = pathOf(server, wal(3));
    await rename(path, `${server.home}/aside`);
    expect(await line(server)).toMatch(/^OK/);
    const listed = await server.cli(['list-wals', '--stored', 'main']);
    expect(listed.status).toBe(1);
    expect(listed.stdout).toContain(`\tMISSING, though the catalogue has it: ${wal(3)}\n`);
    expect(json(await server.cli(['-f', 'json', 'list-wals', '--stored', 'main']))).toMatchObject({
      server: 'main',
      files: 10,
      missing: { count: 1, first: [wal(3)] },
      unlisted: { count: 0, first: [] },
      oddSizes: { count: 0, first: [] },
    });
    expect(await line(server)).toMatch(new RegExp(`^FAILED \\(1 file .* not stored: ${wal(3)} \\(listed `));
    await rename(`${server.home}/aside`, path);
    expect(await line(server)).toMatch(/^OK \(.*; 1 file that was missing then no longer\)$/);
    expect(await server.cli(['list-wals', '--stored', 'main'])).toMatchObject({ status: 0 });
    expect(await line(server)).toMatch(/^OK \(11 files listed .* ago\), none missing; /);
  }));

test('a removed directory is not OK, and rebuild-xlogdb, as the advice says, ends the alarm', () =>
  withArchive(async (server) => {
    await rm(dirname(pathOf(server, wal(9, 2))), { recursive: true });
    await server.cli(['list-wals', '--stored', 'main']);
    expect(await line(server)).toMatch(/^FAILED .*walwarden rebuild-xlogdb main drops/);
    expect((await server.cli(['rebuild-xlogdb', 'main'])).status).toBe(0);
    expect(await line(server)).toMatch(/^OK \(10 files listed .* ago\), none missing/);
    expect((await server.cli(['check', 'main'])).status).toBe(0);
  }));

test('stored files without a line are counted, and get theirs by rebuild-xlogdb', () =>
  withArchive(async (server) => {
    await placeStored(server, wal(10), await readFile(pathOf(server, wal(9))));
    expect((await server.cli(['list-wals', '--stored', 'main'])).stdout).toContain(`NOT in the catalogue: ${wal(10)}`);
    expect(await line(server)).toMatch(/^OK \(.*; 1 stored file without a line: walwarden rebuild-xlogdb main\)$/);
    await server.cli(['rebuild-xlogdb', 'main']);
    expect(await line(server)).not.toContain('without a line');
  }));

test('while a deletion is under way nothing is called missing', () =>
  withArchive(async (server) => {
    await unlink(pathOf(server, wal(1)));
    await using _lock = await acquireLock(join(server.home, '.main-delete-wals.lock'));
    expect(await line(server)).toMatch(/^OK \(.* not stored, and a deletion is under way\)$/);
    const listed = await server.cli(['list-wals', '--stored', 'main']);
    expect(listed).toMatchObject({ status: 1, stderr: expect.stringContaining('.main-delete-wals.lock is locked') });
  }));

test('a listing that is older than two days is told, and no failure', () =>
  withArchive(async (server) => {
    await server.cli(['list-wals', '--stored', 'main']);
    await setBack(server, 47);
    expect(await line(server)).toMatch(/^OK \(11 files listed .*1 day 23 h ago/);
    await setBack(server, 2);
    expect(await line(server)).toMatch(/^OK \(listed .*2 days 1 h ago\): is walwarden cron, or its daemon, at work\?/);
    expect((await server.cli(['check', 'main'])).status).toBe(0);
  }));

test('cron lists the archive once a day, in the archive-wal that it starts', () =>
  withArchive(async (server) => {
    await unlink(pathOf(server, wal(3)));
    expect((await server.cli(['cron'])).status).toBe(0);
    await until('the archive to be listed', async () => (await state(server).catch(() => null))?.missing.count === 1);
    expect(await line(server)).toMatch(/^FAILED/);
    // What changes meanwhile is seen the day after.
    const { finishedAt } = await state(server);
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
    expect((await state(server)).finishedAt).toBe(finishedAt);
    await setBack(server, 24);
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
    expect((await state(server)).finishedAt).toBeGreaterThan(finishedAt);
  }));

test('the daemon lists the archive when it starts, unless that was done within a day', () =>
  withArchive(async (server) => {
    await unlink(pathOf(server, wal(3)));
    const daemon = new RunningDaemon(server.config, server.home);
    try {
      await until('the archive to be listed', async () => (await state(server).catch(() => null))?.missing.count === 1);
    } finally {
      daemon.process.kill('SIGTERM');
      await daemon.ended;
    }
    expect(await line(server)).toMatch(/^FAILED/);
  }));

test('archive-wal by hand lists an archive that was never listed once it is a day old', () =>
  withArchive(async (server) => {
    await server.cli(['archive-wal', 'main']);
    expect(await state(server).catch(() => null)).toBeNull();
    const yesterday = Date.now() / 1000 - 25 * 3600;
    await utimes(join(server.home, 'main', 'identity.json'), yesterday, yesterday);
    await server.cli(['archive-wal', 'main']);
    expect(await state(server)).toMatchObject({ files: 11, missing: { count: 0 } });
  }));
