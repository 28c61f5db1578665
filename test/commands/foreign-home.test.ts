import { execFileSync } from 'node:child_process';
import { lstat, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { runCli } from '../support/cli.ts';
import { withServer, type TestServer } from './with-server.ts';

// Root may write everywhere: as another user than root, the kernel refuses what this is about.
const isRoot = process.geteuid?.() === 0;
const OWNER = 65_534;
const wal = makeWal({ segment: 1 });

/** Every command of the program with arguments that make it work, and what it does with the home. */
const COMMANDS: Readonly<Record<string, readonly (readonly [what: 'reads' | 'writes', ...args: string[]])[]>> = {
  'archive-wal': [['writes', 'main']],
  'put-wal': [
    ['writes', 'main'],
    ['reads', '--test', 'main'],
  ],
  'get-wal': [
    ['reads', 'main', wal.name],
    ['reads', 'main', makeWal({ segment: 2 }).name],
    ['reads', 'main', makeWal({ segment: 9 }).name],
    ['reads', '--peek', '5', 'main', wal.name],
  ],
  'list-wals': [
    ['reads', 'main'],
    ['reads', '--gaps', 'main'],
    ['writes', '--stored', 'main'],
  ],
  'rebuild-xlogdb': [['writes', 'main']],
  'delete-wals': [
    ['writes', '--before', makeWal({ segment: 5 }).name, 'main'],
    ['reads', '--dry-run', '--before', makeWal({ segment: 5 }).name, 'main'],
  ],
  check: [
    ['reads', 'main'],
    ['reads', '--nagios', 'main'],
  ],
  status: [['reads', 'main']],
  daemon: [['writes']],
  cron: [['writes']],
  'receive-wal': [
    ['writes', 'main'],
    ['writes', '--stop', 'main'],
    ['writes', '--reset', 'main'],
  ],
  'terminate-process': [['writes', 'main', 'receive-wal']],
  'switch-wal': [['writes', 'main']],
  'replication-status': [['reads', 'main']],
  'list-servers': [['reads']],
  'show-servers': [['reads', 'main']],
  'errors list': [['reads', 'main']],
  'errors explain': [['reads', 'main']],
  'errors resolve': [['writes', 'main']],
  'errors retry': [['writes', '--all', 'main']],
};

/** It has no home: it asks another machine. */
const WITHOUT_HOME = ['recover'];

/** Everything below the home, with what changes when it is written, renamed, given away or made again. */
async function everythingIn(home: string): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(home, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const { ino, uid, gid, mode, size, mtimeNs, ctimeNs } = await lstat(path, { bigint: true });
    found.push([path, ino, uid, gid, mode, size, mtimeNs, ctimeNs].join(' '));
  }
  return found.sort();
}

/** The home of another user, with WAL archived, waiting and in errors; what is remembered beside the archive is gone. */
async function withForeignHome(body: (server: TestServer) => Promise<void>): Promise<void> {
  await withServer(
    { compression: 'gzip' },
    async (server) => {
      await writeWal(server.incoming, { segment: 1 });
      expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
      await writeWal(server.incoming, { segment: 2 });
      const unknown = `${makeWal({ segment: 3 }).name}.20260101T000000Z.unknown`;
      await writeFile(join(server.errors, unknown), makeWal({ segment: 3 }).bytes);
      for (const entry of ['.main-catalogue.json', 'main/identity.json', 'main/streaming', 'walwarden.log']) {
        await rm(join(server.home, entry), { recursive: true, force: true });
      }
      execFileSync('chown', ['-R', `${OWNER}:${OWNER}`, server.home]);
      await body(server);
    },
    // Where it is not there yet, root would make it.
    { log_file: '/proc/self/cwd/walwarden.log' },
  );
}

async function commandsIn(...of: string[]): Promise<string[]> {
  const { stdout } = await runCli([...of, '--help'], {});
  const [, list = ''] = stdout.split(/^Commands:\n/m);
  return [...list.matchAll(/^ {2}([a-z][a-z-]*)/gm)].map(([, name = '']) => name);
}

test('every command says whether it reads or writes, and what it says is tried', async () => {
  const names = (await commandsIn()).filter((name) => name !== 'errors');
  const errors = (await commandsIn('errors')).map((name) => `errors ${name}`);
  expect(names.length).toBeGreaterThan(10);
  expect([...names, ...errors].sort()).toEqual([...Object.keys(COMMANDS), ...WITHOUT_HOME].sort());
});

describe.skipIf(!isRoot)('as root in the home of another user', () => {
  const cases = Object.entries(COMMANDS).flatMap(([command, uses]) =>
    uses.map(([what, ...args]) => ({ what, line: [...command.split(' '), ...args] })),
  );
  test.each(cases.filter(({ what }) => what === 'writes'))('$line is refused, and changes nothing', ({ line }) =>
    withForeignHome(async (server) => {
      const before = await everythingIn(server.home);
      const { status, stderr } = await server.cli(line, { cwd: server.home });
      expect({ line, status: status === 0 }).toEqual({ line, status: false });
      expect(stderr).toContain(`barman_home ${server.home} belongs to user ${OWNER}, and we run as root`);
      expect(stderr).toContain('HINT: run walwarden as that user');
      expect(await everythingIn(server.home)).toEqual(before);
    }),
  );

  test('commands that read write nothing: no log, no directory, nothing that is remembered', () =>
    withForeignHome(async (server) => {
      const before = await everythingIn(server.home);
      for (const { what, line } of cases) {
        if (what === 'writes') continue;
        const { stderr } = await server.cli(line, { cwd: server.home });
        expect({ line, stderr }).not.toMatchObject({ stderr: expect.stringContaining('and we run as root') });
        expect({ line, changed: await everythingIn(server.home) }).toEqual({ line, changed: before });
      }
      const { bytes } = await server.cli(['get-wal', 'main', wal.name]);
      expect(bytes.equals(wal.bytes)).toBe(true);
    }));
});
