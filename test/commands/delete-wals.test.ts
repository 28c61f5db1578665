import { readFile, rm, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { segmentName, walName } from '../../src/wal/wal-name.ts';
import { ensureBuilt } from '../support/cli.ts';
import { makeWal } from '../support/make-wal.ts';
import {
  catalogueLines,
  digestsOf,
  json,
  placeStored,
  withServer,
  type ServerOptions,
  type TestServer,
} from './with-server.ts';

const HOUR = 3600;
const now = Math.floor(Date.now() / 1000);
const name = (segment: number, timeline = 1): string => segmentName(timeline, BigInt(segment), 1 << 20);
const label = `${name(4)}.00000028.backup`;

const LABEL_TEXT = `START WAL LOCATION: 0/400028 (file ${name(4)})
STOP WAL LOCATION: 0/400138 (file ${name(4)})
CHECKPOINT LOCATION: 0/400060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-21 08:55:13 UTC
LABEL: a backup
START TIMELINE: 1
STOP TIME: 2026-11-21 08:55:15 UTC
STOP TIMELINE: 1
`;

/** Segments 1 to 6 of timeline 1, an hour apart, 5 and 6 of timeline 2, a backup label of 4 and a history file. */
async function withArchive<T>(options: ServerOptions, body: (server: TestServer) => Promise<T>): Promise<T> {
  return withServer(options, async (server) => {
    const hoursAgo = (hours: number): number => now - hours * HOUR + 600;
    const place = async (wal: string, bytes: Uint8Array, hours: number): Promise<void> =>
      utimes(await placeStored(server, walName(wal), bytes), hoursAgo(hours), hoursAgo(hours));
    for (const segment of [1, 2, 3, 4, 5, 6]) await place(name(segment), makeWal({ segment }).bytes, 10 - segment);
    for (const segment of [5, 6]) await place(name(segment, 2), makeWal({ segment, timeline: 2 }).bytes, 3);
    await place(label, Buffer.from(LABEL_TEXT), 5);
    await place('00000002.history', Buffer.from('1\t0/500000\tno recovery target specified\n'), 100);
    expect((await server.cli(['rebuild-xlogdb', 'main'])).status).toBe(0);
    return body(server);
  });
}

const namesOf = async (server: TestServer): Promise<string[]> =>
  [...(await digestsOf(server.wals)).keys()]
    .map((path) => path.replace(/^.*\//, ''))
    .filter((file) => file !== 'main-xlog.db')
    .sort();

async function expectLeft(server: TestServer, left: readonly string[]): Promise<void> {
  expect(await namesOf(server)).toEqual([...left].sort());
  expect((await catalogueLines(server)).map((text) => text.split('\t')[0])).toEqual([...left].sort());
}

const later = [name(4), label, name(5), name(6), name(5, 2), name(6, 2), '00000002.history'];

beforeAll(ensureBuilt);

describe('delete-wals', () => {
  test('--dry-run only tells', () =>
    withArchive({}, async (server) => {
      const before = await digestsOf(server.wals);
      const { status, stdout } = await server.cli(['delete-wals', '--before', name(4), '-n', 'main']);
      expect({ status, stdout }).toEqual({
        status: 0,
        stdout: `Would delete 3 files of server main (3.00 MiB)\n\t${name(1)}\n\t${name(2)}\n\t${name(3)}\n`,
      });
      expect(await digestsOf(server.wals)).toEqual(before);
      expect(json(await server.cli(['-f', 'json', 'delete-wals', '--dry-run', '--before', name(2), 'main']))).toEqual({
        server: 'main',
        dryRun: true,
        deleted: [name(1)],
      });
    }));

  test('--before deletes what is older on this timeline and on those before it, and its lines', () =>
    withArchive({}, async (server) => {
      const { status, stdout } = await server.cli(['delete-wals', '--before', name(4), 'main']);
      expect(status).toBe(0);
      expect(stdout).toBe('Deleted 3 files of server main (3.00 MiB)\n');
      await expectLeft(server, later);
      // Of a later timeline nothing goes, though it may have begun earlier; nor the history file, ever.
      expect((await server.cli(['delete-wals', '--before', name(100), 'main'])).status).toBe(0);
      await expectLeft(server, [name(5, 2), name(6, 2), '00000002.history']);
      expect((await server.cli(['delete-wals', '--before', name(100, 3), 'main'])).status).toBe(0);
      await expectLeft(server, ['00000002.history']);
      // The empty directories are gone as well.
      expect((await digestsOf(server.wals)).size).toBe(2);
    }));

  test('--before-backup keeps what that backup needs, itself included', () =>
    withArchive({}, async (server) => {
      expect((await server.cli(['delete-wals', '--before-backup', label, 'main'])).status).toBe(0);
      await expectLeft(server, later);
    }));

  test('--older-than goes by the time when PostgreSQL wrote it', () =>
    withArchive({}, async (server) => {
      const { status, stdout } = await server.cli(['delete-wals', '--older-than', '6 HOURS', 'main']);
      expect({ status, stdout }).toEqual({ status: 0, stdout: 'Deleted 3 files of server main (3.00 MiB)\n' });
      await expectLeft(server, later);
      expect(await server.cli(['delete-wals', '--older-than', '4 WEEKS', 'main'])).toMatchObject({
        status: 0,
        stdout: 'Deleted 0 files of server main (0 B)\n',
      });
    }));

  test('runs the wal_delete hooks around every file, before and after', () => {
    // The shell's working directory is the home: runCli runs beside the configuration.
    const script = `echo "$BARMAN_PHASE $BARMAN_HOOK $BARMAN_SEGMENT $(test -e "$BARMAN_FILE" && echo there)" >> seen`;
    const hooks = Object.fromEntries(
      ['pre_wal_delete', 'pre_wal_delete_retry', 'post_wal_delete_retry', 'post_wal_delete'].map((hook) => [
        `${hook}_script`,
        script,
      ]),
    );
    return withArchive(hooks, async (server) => {
      expect((await server.cli(['delete-wals', '--before', name(3), 'main'])).status).toBe(0);
      const seen = (await readFile(join(server.home, 'seen'), 'utf8')).trimEnd().split('\n');
      expect(seen.map((text) => text.trimEnd())).toEqual(
        [1, 2].flatMap((segment) => [
          `pre wal_delete_script ${name(segment)} there`,
          `pre wal_delete_retry_script ${name(segment)} there`,
          `post wal_delete_retry_script ${name(segment)}`,
          `post wal_delete_script ${name(segment)}`,
        ]),
      );
    });
  });

  test('stops where a retry hook says stop (63); what is gone has no line, what is left has one', () =>
    withArchive({ pre_wal_delete_retry_script: `test "$BARMAN_SEGMENT" != ${name(2)} || exit 63` }, async (server) => {
      const { status, stderr } = await server.cli(['delete-wals', '--before', name(4), 'main']);
      expect(status).toBe(1);
      expect(stderr).toContain(`pre_wal_delete_retry_script of main failed with exit status 63, for ${name(2)}`);
      await expectLeft(server, [name(2), name(3), ...later]);
    }));

  test('a file that is gone already loses its line', () =>
    withArchive({}, async (server) => {
      await rm(join(server.wals, name(1).slice(0, 16), name(1)));
      expect((await server.cli(['delete-wals', '--before', name(2), 'main'])).status).toBe(0);
      await expectLeft(server, [name(2), name(3), ...later]);
    }));

  test.each<[string, readonly string[], number, string]>([
    ['no criterion', [], 2, 'exactly one of --before, --before-backup and --older-than'],
    ['two', ['--before', name(1), '--older-than', '1 DAY'], 2, 'exactly one of'],
    ['a label for --before', ['--before', label], 2, 'expected the name of a segment'],
    ['a segment for --before-backup', ['--before-backup', name(1)], 2, 'expected the name of a backup label file'],
    ['no WAL name', ['--before', '../x'], 3, 'not the name of a WAL file: "../x"'],
    ['no duration', ['--older-than', 'yesterday'], 2, 'expected a number and a unit'],
    ['a duration of nothing', ['--older-than', '1'], 2, 'found "1"'],
  ])('refuses %s, and deletes nothing', async (_what, args, code, said) =>
    withServer({}, async (server) => {
      const path = await placeStored(server, walName(name(1)), makeWal({ segment: 1 }).bytes);
      await utimes(path, now - 1000 * HOUR, now - 1000 * HOUR);
      await server.cli(['rebuild-xlogdb', 'main']);
      const { status, stderr } = await server.cli(['delete-wals', ...args, 'main']);
      expect(stderr).toContain(said);
      expect(status).toBe(code);
      expect(await namesOf(server)).toEqual([name(1)]);
    }),
  );
});
