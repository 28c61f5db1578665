import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { toXlogdbLine } from '../../src/wal/wal-file-info.ts';
import { withSilentPort } from '../support/silent-port.ts';
import { json, withServer, type TestServer } from './with-server.ts';

// Without a PostgreSQL that answers; with one in check-postgres.test.ts.

const wal = makeWal({ segment: 1 });

/** The lines of `status`, by label. */
async function status(server: TestServer): Promise<Map<string, string>> {
  const { stdout, stderr, status: exit } = await server.cli(['status', 'main']);
  expect(stderr).toBe('');
  expect(exit).toBe(0);
  expect(stdout).toMatch(/^Server main:\n(\t[^\t\n]+: .+\n)+$/);
  const lines = stdout.split('\n').slice(1, -1);
  return new Map(lines.map((line) => [line.slice(1, line.indexOf(': ')), line.slice(line.indexOf(': ') + 2)]));
}

test('a server without conninfo: its configuration and its archive', () =>
  withServer({}, async (server) => {
    await writeWal(server.incoming, { segment: 1, mtime: 1_700_000_000 });
    await server.cli(['archive-wal', 'main']);
    await writeWal(server.incoming, { segment: 2 });
    const lines = await status(server);
    expect(Object.fromEntries(lines)).toMatchObject({
      Description: 'main',
      Active: 'True',
      Disabled: 'False',
      'Active configuration model': 'None',
      'PostgreSQL version': 'not asked: conninfo is not set',
      'Passive node': 'False',
      'Archived WAL files': '1',
      'First WAL in the archive': expect.stringMatching(
        `^${wal.name}, written 2023-11-14 22:13:20 UTC \\(\\d+ days ago\\)$`,
      ),
      'Last WAL in the archive': expect.stringMatching(`^${wal.name}, written `),
      'Free space of the archive': expect.stringMatching(/^[\d.]+ [KMGT]iB of [\d.]+ [KMGT]iB, \/.*\/wals$/),
      'Files waiting in incoming': expect.stringMatching(/^1, the first is 000000010000000000000002, since .* UTC/),
      'Files waiting in streaming': '0',
      'Last archive-wal': expect.stringMatching(/ UTC \(.* ago\)$/),
      'Archiver errors': 'none',
    });
  }));

test('JSON has the same entries by their names', () =>
  withServer({}, async (server) => {
    await writeFile(join(server.errors, `${wal.name}.20261003T110000Z.duplicate`), 'x');
    await writeWal(server.streaming, { segment: 1 });
    await writeWal(server.streaming, { segment: 2 });
    const result = await server.cli(['-f', 'json', 'status', 'main']);
    expect(json(result)).toEqual([
      {
        server: 'main',
        active: true,
        disabled: false,
        passive: false,
        status: {
          description: 'main',
          active: true,
          disabled: false,
          active_model: null,
          pg_version: null,
          passive_node: false,
          archive_files: 0,
          archive_first_wal: null,
          archive_last_wal: null,
          archive_disk_free: { free: expect.any(Number), total: expect.any(Number), path: server.wals },
          incoming_queue: { files: 0, first: null, since: null, directory: server.incoming, problem: null },
          // The newest one marks the position of pg_receivewal.
          streaming_queue: {
            files: 1,
            first: wal.name,
            since: expect.any(Number),
            directory: server.streaming,
            problem: null,
          },
          last_archive_wal: null,
          archiver_errors: { files: 1, summary: 'duplicates: 1' },
        },
      },
    ]);
  }));

test('a PostgreSQL that is down is told, with the reason', () =>
  withServer({ conninfo: 'host=127.0.0.1 port=1 user=nobody dbname=postgres' }, async (server) => {
    expect((await status(server)).get('PostgreSQL version')).toMatch(/^FAILED \(.*127\.0\.0\.1/);
  }));

test('a PostgreSQL that never answers is given up after check_timeout, and the rest is told', () =>
  withSilentPort(async (port) =>
    withServer(
      {
        check_timeout: 1,
        conninfo: `host=127.0.0.1 port=${port} user=nobody dbname=postgres`,
        streaming_archiver: 'on',
        slot_name: 'walwarden',
      },
      async (server) => {
        const lines = await status(server);
        for (const name of ['PostgreSQL version', 'PostgreSQL streaming', 'Replication slot']) {
          expect(lines.get(name)).toBe('FAILED (no answer within 1 s)');
        }
        expect(lines.get('receive-wal running')).toMatch(/^False \(no receive-wal runs for this server/);
        expect(lines.get('Archived WAL files')).toBe('0');
      },
    ),
  ));

test('an archive that is not there is told', () =>
  withServer({}, async (server) => {
    await rm(server.wals, { recursive: true });
    expect((await status(server)).get('Archived WAL files')).toMatch(
      /^FAILED \(the archive .* can't be seen: ENOENT.*; is/,
    );
    await mkdir(server.wals);
  }));

test('a server whose configuration is wrong is told, with exit status 1', () =>
  withServer({ archiver: 'perhaps' }, async (server) => {
    const result = await server.cli(['status', 'main']);
    expect(result.status).toBe(1);
    expect(result.stdout).toMatch(/^Server main:\n.*\n\tActive: True\n\tDisabled: True\n\tProblems: .*archiver.*\n/);
  }));

test('a passive server is not asked', () =>
  withServer({ primary_ssh_command: 'ssh barman@primary', conninfo: 'host=nowhere.invalid' }, async (server) => {
    const lines = await status(server);
    expect(lines.get('Passive node')).toBe('True');
    expect(lines.has('PostgreSQL version')).toBe(false);
  }));

test('a large catalogue is not taken apart: damage in its middle is not even seen', () =>
  withServer({}, async (server) => {
    const line = (segment: number): string =>
      toXlogdbLine({ name: makeWal({ segment }).name, size: 1, mtime: segment, compression: null, encryption: null });
    await writeFile(join(server.wals, 'main-xlog.db'), `${line(1)}rubbish\n${line(2)}`);
    expect((await status(server)).get('Archived WAL files')).toBe('3');
  }));
