import { mkdir, readFile, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { historyName } from '../../src/wal/wal-name.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { catalogueLines, json, namesIn, placeStored, withServer, type TestServer } from './with-server.ts';

const STAMP = '20261121T090022Z';
const wal = makeWal({ segment: 1 });
const later = makeWal({ segment: 2 });
const other = makeWal({ segment: 1, seed: 99 });
const foreign = makeWal({ segment: 3, systemIdentifier: 42n });

const entry = (name: string, kind = 'duplicate'): string => `${name}.${STAMP}.${kind}`;

/** As Barman leaves it: without a word why. */
async function inErrors(server: TestServer, name: string, bytes: Uint8Array, kind = 'duplicate'): Promise<string> {
  const file = entry(name, kind);
  await writeFile(join(server.errors, file), bytes);
  return file;
}

/** An archive of segment 1 by archive-wal, so that catalogue and identity are there. */
async function withArchive<T>(body: (server: TestServer) => Promise<T>): Promise<T> {
  return withServer({ compression: 'gzip' }, async (server) => {
    await writeWal(server.incoming, { segment: 1 });
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
    return body(server);
  });
}

describe('errors list', () => {
  test('counts as Barman does and names the reason of each file', () =>
    withArchive(async (server) => {
      await writeFile(join(server.incoming, wal.name), other.bytes);
      await writeFile(join(server.incoming, 'readme.txt'), 'x');
      await server.cli(['archive-wal', 'main']);
      const { status, stdout } = await server.cli(['errors', 'list', 'main']);
      expect(status).toBe(0);
      expect(stdout).toMatch(/^Server main: duplicates: 1, unknown: 1\n/);
      expect(stdout).toMatch(new RegExp(`\\t"${wal.name}\\.\\d{8}T\\d{6}Z\\.duplicate": its content is another`));
      expect(stdout).toMatch(/\t"readme\.txt\.\d{8}T\d{6}Z\.unknown": it has not the name of a WAL file\n$/);
    }));

  test('tells of what Barman moved there, as far as its name says', () =>
    withServer({}, async (server) => {
      await inErrors(server, wal.name, other.bytes);
      await inErrors(server, 'not-a-wal', Buffer.from('x'), 'unknown');
      await writeFile(join(server.errors, 'something else'), 'x');
      const { stdout } = await server.cli(['errors', 'list', 'main']);
      expect(stdout).toContain('duplicates: 1, unknown: 1, unknown failure: 1');
      expect(stdout).toContain(`"${entry(wal.name)}": no reason recorded; "walwarden errors explain main" compares it`);
      expect(json(await server.cli(['-f', 'json', 'errors', 'list', 'main']))).toEqual({
        server: 'main',
        directory: server.errors,
        summary: 'duplicates: 1, unknown: 1, unknown failure: 1',
        files: [
          { entry: entry(wal.name), name: wal.name, kind: 'duplicate', reason: null },
          { entry: entry('not-a-wal', 'unknown'), name: 'not-a-wal', kind: 'unknown', reason: null },
          { entry: 'something else', name: 'something else', kind: null, reason: null },
        ],
      });
    }));

  test('an empty or missing directory is no error', () =>
    withServer({ errors_directory: '/nowhere/errors' }, async (server) => {
      expect(await server.cli(['errors', 'list', 'main'])).toMatchObject({
        status: 0,
        stdout: 'Server main: no files in errors\n',
      });
      expect(await server.cli(['errors', 'explain', 'main'])).toMatchObject({ status: 0 });
      expect(await server.cli(['errors', 'resolve', 'main'])).toMatchObject({
        status: 0,
        stdout: 'Server main: 0 files resolved, 0 left\n',
      });
    }));
});

describe.concurrent('errors explain', () => {
  test('compares with the archive, byte by byte, and says what can be done', () =>
    withArchive(async (server) => {
      const changed = Buffer.from(wal.bytes);
      changed[70_000] = (changed[70_000] ?? 0) ^ 1;
      await inErrors(server, wal.name, changed);
      await inErrors(server, later.name, later.bytes, 'unknown');
      await inErrors(server, foreign.name, foreign.bytes, 'unknown');
      await inErrors(server, 'not-a-wal', Buffer.from('x'), 'unknown');
      const { status, stdout } = await server.cli(['errors', 'explain', 'main']);
      expect(status).toBe(0);
      expect(stdout).toContain(`"${entry(wal.name)}"\n\tnow: its content is another`);
      expect(stdout).toContain('the first difference is at byte 70000');
      expect(stdout).toContain(join(server.wals, wal.name.slice(0, 16), wal.name));
      expect(stdout).toContain(`it is valid, and ${later.name} is not archived\n\tadvice: it is valid`);
      expect(stdout).toContain('it is WAL of system identifier 42, and this archive belongs to 7123456789012345678');
      expect(stdout).toContain('"not-a-wal" is not the name of a WAL file');
      expect(stdout.match(/\tadvice: /g)).toHaveLength(4);
    }));

  test('of one file, in JSON that stays as it is', () =>
    withArchive(async (server) => {
      const file = await inErrors(server, wal.name, gzipSync(wal.bytes));
      expect(json(await server.cli(['-f', 'json', 'errors', 'explain', 'main', file]))).toEqual([
        {
          entry: file,
          name: wal.name,
          kind: 'duplicate',
          reason: null,
          state: 'identical',
          finding: `${wal.name} is archived with the same content`,
          advice: 'the archive has the same content: resolve drops this copy',
        },
      ]);
      const missing = await server.cli(['errors', 'explain', 'main', 'no-such-file']);
      expect(missing.status).toBe(2);
      expect(missing.stderr).toContain(`no file "no-such-file" in ${server.errors}`);
      expect(missing.stderr).toContain('HINT: see: walwarden errors list main');
    }));

  test('of what can not be a WAL file at all', () =>
    withArchive(async (server) => {
      await mkdir(join(server.errors, entry(later.name, 'unknown')));
      await symlink('/etc/passwd', join(server.errors, entry(foreign.name, 'unknown')));
      await inErrors(server, makeWal({ segment: 8 }).name, gzipSync(makeWal({ segment: 8 }).bytes).subarray(0, 999));
      const { status, stdout } = await server.cli(['errors', 'explain', 'main']);
      expect(status).toBe(0);
      expect(stdout).toContain('it is a directory, not a regular file');
      expect(stdout).toContain('it is a symbolic link, not a regular file');
      expect(stdout).toContain('it does not read back: ');
    }));
});

describe.concurrent('a partial segment in errors', () => {
  const partial = (name: string): string => `${name}.partial`;

  /** The first bytes of a segment, padded as pg_receivewal does. */
  function beginningOf(bytes: Buffer, length: number): Buffer {
    return Buffer.concat([bytes.subarray(0, length), Buffer.alloc(bytes.length - length)]);
  }

  test('is dropped when it holds nothing but zeros', () =>
    withArchive(async (server) => {
      await inErrors(server, partial(later.name), Buffer.alloc(0), 'reset');
      await inErrors(server, partial(makeWal({ segment: 7 }).name), Buffer.alloc(1024 * 1024), 'reset');
      const explained = json(await server.cli(['-f', 'json', 'errors', 'explain', 'main']));
      const superfluous = { kind: 'reset', state: 'superfluous', finding: 'it holds no WAL, only zeros or nothing' };
      expect(explained).toMatchObject([superfluous, superfluous]);
      expect((await server.cli(['errors', 'resolve', 'main'])).status).toBe(0);
      expect(await namesIn(server.errors)).toEqual([]);
    }));

  test('is dropped when the archived segment has every byte of it', () =>
    withArchive(async (server) => {
      const file = await inErrors(server, partial(wal.name), beginningOf(wal.bytes, 300_001), 'reset');
      const { status, stdout } = await server.cli(['errors', 'resolve', 'main', file]);
      expect(stdout).toContain(`"${file}": dropped: ${wal.name} is archived, and has every byte of it`);
      expect(status).toBe(0);
      expect(await namesIn(server.errors)).toEqual([]);
    }));

  test('is dropped when a later timeline begins with its bytes, and only then', () =>
    withArchive(async (server) => {
      const left = makeWal({ segment: 4 });
      const [same, longer] = [beginningOf(left.bytes, 8192 * 20), beginningOf(left.bytes, 8192 * 60)];
      const next = makeWal({ segment: 4, timeline: 2, pageTimeline: 1, seed: 9 });
      left.bytes.copy(next.bytes, 0, 0, 8192 * 40);
      await writeFile(join(server.incoming, next.name), next.bytes);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      const dropped = await inErrors(server, partial(left.name), same, 'reset');
      expect((await server.cli(['errors', 'resolve', 'main', dropped])).stdout).toContain(
        `${next.name} is archived, and has every byte of it`,
      );
      const kept = await inErrors(server, partial(left.name), longer, 'reset');
      expect((await server.cli(['errors', 'resolve', 'main', kept])).stdout).toContain('moved back to');
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      const stored = await server.cli(['get-wal', 'main', partial(left.name)]);
      expect(stored.bytes.equals(longer)).toBe(true);
    }));

  test('is archived under its partial name when the archive has not all of it', () =>
    withArchive(async (server) => {
      const file = await inErrors(server, partial(later.name), beginningOf(later.bytes, 500_000), 'reset');
      const { stdout } = await server.cli(['errors', 'resolve', 'main', file]);
      expect(stdout).toContain(`moved back to ${server.incoming}, to be archived by the next pass`);
      expect(await namesIn(server.incoming)).toEqual([partial(later.name)]);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      expect((await catalogueLines(server)).map((line) => line.split('\t')[0])).toEqual([
        wal.name,
        partial(later.name),
      ]);
    }));

  test('is dropped when an archived partial one has more, and left when that has something else', () =>
    withArchive(async (server) => {
      await writeFile(join(server.incoming, partial(later.name)), beginningOf(later.bytes, 500_000));
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      const shorter = await inErrors(server, partial(later.name), beginningOf(later.bytes, 400_000), 'duplicate');
      expect((await server.cli(['errors', 'resolve', 'main', shorter])).stdout).toContain(
        `${partial(later.name)} is archived, and has every byte of it`,
      );
      const longer = await inErrors(server, partial(later.name), beginningOf(later.bytes, 600_000), 'duplicate');
      const { status, stdout } = await server.cli(['errors', 'resolve', 'main', longer]);
      expect(status).toBe(1);
      expect(stdout).toContain('left: its content is another');
      expect(await namesIn(server.errors)).toEqual([longer]);
      const explained = (await server.cli(['errors', 'explain', 'main', longer])).stdout;
      expect(explained).toContain(
        'it begins with all the WAL of the archived one, up to byte 500000, and holds more, up to byte 600000',
      );
      expect(explained).toContain('advice: it is the better one of the two: ');
      const strange = beginningOf(makeWal({ segment: 2, seed: 8 }).bytes, 600_000);
      const unlike = await inErrors(server, partial(later.name), strange, 'reset');
      const told = (await server.cli(['errors', 'explain', 'main', unlike])).stdout;
      expect(told).toContain('neither begins with the other');
      expect(told).toContain('advice: another content under one name');
    }));

  test('that a reset set aside is archived by itself only when its timeline is known to end there', () =>
    withArchive(async (server) => {
      const file = await inErrors(server, partial(later.name), beginningOf(later.bytes, 500_000), 'reset');
      const advice = `walwarden errors resolve main ${file}`;
      const history = async (timeline: number, lsn: string): Promise<void> => {
        await writeFile(join(server.incoming, historyName(timeline)), `1\t${lsn}\tno recovery target specified\n`);
        expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      };
      const left = async (): Promise<void> => {
        const { status, stdout } = await server.cli(['errors', 'resolve', 'main']);
        expect({ status, stdout }).toMatchObject({ status: 1, stdout: expect.stringContaining(advice) });
        expect(await namesIn(server.errors)).toEqual([file]);
      };
      await left();
      expect((await server.cli(['errors', 'explain', 'main'])).stdout).toContain(advice);
      await history(2, '0/100028');
      await left();
      await history(3, '0/27B000');
      expect((await server.cli(['errors', 'resolve', 'main'])).stdout).toContain('moved back to');
      expect(await namesIn(server.incoming)).toEqual([partial(later.name)]);
    }));

  test('goes to streaming, out of pg_receivewal’s sight, where nothing takes what lies in incoming', () =>
    withServer(
      { archiver: 'off', streaming_archiver: 'on', conninfo: 'host=/nowhere', slot_name: 'walwarden' },
      async (server) => {
        const file = await inErrors(server, partial(later.name), beginningOf(later.bytes, 500_000), 'reset');
        const { status, stdout } = await server.cli(['errors', 'resolve', 'main', file]);
        expect({ status, stdout }).toMatchObject({ status: 0, stdout: expect.stringContaining(server.streaming) });
        expect(await namesIn(server.streaming)).toEqual([`.walwarden-${partial(later.name)}`]);
        expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
        expect(await namesIn(server.streaming)).toEqual([]);
        expect((await catalogueLines(server)).map((line) => line.split('\t')[0])).toEqual([partial(later.name)]);
      },
    ));
});

describe.concurrent('errors resolve', () => {
  test('drops what is archived with the same content, archives again what can be, leaves the rest', () =>
    withArchive(async (server) => {
      const identical = await inErrors(server, wal.name, wal.bytes);
      const archivable = await inErrors(server, later.name, later.bytes, 'unknown');
      const different = `${wal.name}.20261121T090023Z.duplicate`;
      await writeFile(join(server.errors, different), other.bytes);
      const strange = await inErrors(server, foreign.name, foreign.bytes, 'unknown');
      await utimes(join(server.errors, archivable), 1_700_000_000, 1_700_000_000);

      const { status, stdout } = await server.cli(['errors', 'resolve', 'main']);
      expect(status).toBe(1);
      expect(stdout).toContain(`\t"${identical}": dropped: ${wal.name} is archived with the same content\n`);
      expect(stdout).toContain(
        `\t"${archivable}": moved back to ${server.incoming}, to be archived by the next pass\n`,
      );
      expect(stdout).toMatch(new RegExp(`\\t"${different}": left: .* --keep-aside`));
      expect(stdout).toMatch(new RegExp(`\\t"${strange}": left: .* --accept-identity`));
      expect(stdout).toContain('Server main: 2 files resolved, 2 left\n');
      expect(await namesIn(server.errors)).toEqual([different, strange].sort());
      expect(await namesIn(server.incoming)).toEqual([later.name]);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      expect((await server.cli(['get-wal', 'main', later.name])).bytes.equals(later.bytes)).toBe(true);
      expect(await catalogueLines(server)).toEqual([
        expect.stringMatching(`^${wal.name}\t`),
        expect.stringMatching(`^${later.name}\t\\d+\t1700000000\\.0\tgzip\tNone$`),
      ]);
    }));

  test('makes sure of the catalogue line before it drops the last other copy', () =>
    withArchive(async (server) => {
      const file = await inErrors(server, later.name, later.bytes);
      await placeStored(server, later.name, later.bytes);
      expect((await server.cli(['errors', 'resolve', 'main', file])).status).toBe(0);
      expect(await catalogueLines(server)).toEqual([
        expect.stringMatching(`^${wal.name}\t`),
        expect.stringMatching(`^${later.name}\t1048576\t`),
      ]);
      expect(await namesIn(server.errors)).toEqual([]);
    }));

  test('never replaces what waits in incoming under that name', () =>
    withArchive(async (server) => {
      const file = await inErrors(server, later.name, later.bytes);
      await writeFile(join(server.incoming, later.name), 'something that just arrives');
      const { status, stdout } = await server.cli(['errors', 'resolve', 'main', file]);
      expect(status).toBe(1);
      expect(stdout).toContain(`there is a ${later.name} in ${server.incoming} already; archive that first`);
      expect(await readFile(join(server.incoming, later.name), 'utf8')).toBe('something that just arrives');
      expect(await namesIn(server.errors)).toEqual([file]);
    }));

  test('--keep-aside moves one file where nobody counts it, and never replaces one there', () =>
    withArchive(async (server) => {
      const file = await inErrors(server, wal.name, other.bytes);
      const aside = `${server.errors}.kept`;
      const result = await server.cli(['errors', 'resolve', '--keep-aside', 'main', file]);
      expect(result).toMatchObject({
        status: 0,
        stdout: `\t"${file}": kept aside as ${join(aside, file)}\nServer main: 1 file resolved, 0 left\n`,
      });
      expect(await namesIn(server.errors)).toEqual([]);
      expect((await readFile(join(aside, file))).equals(other.bytes)).toBe(true);
      await inErrors(server, wal.name, makeWal({ segment: 1, seed: 3 }).bytes);
      expect((await server.cli(['errors', 'resolve', '--keep-aside', 'main', file])).status).toBe(0);
      expect(await namesIn(aside)).toEqual([file, `${file}.1`]);
      expect((await readFile(join(aside, file))).equals(other.bytes)).toBe(true);
      expect((await stat(aside)).mode & 0o777).toBe(0o700);
    }));

  test('--accept-identity makes the cluster after pg_upgrade ours', () =>
    withArchive(async (server) => {
      const file = await inErrors(server, foreign.name, foreign.bytes, 'unknown');
      const { status, stdout } = await server.cli(['errors', 'resolve', '--accept-identity', 'main', file]);
      expect(status).toBe(0);
      expect(stdout).toContain('moved back to');
      expect(JSON.parse(await readFile(join(server.home, 'main/identity.json'), 'utf8'))).toEqual({
        systemid: '42',
        version: '15',
      });
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      expect((await server.cli(['get-wal', 'main', foreign.name])).bytes.equals(foreign.bytes)).toBe(true);
      // From now on the old cluster's WAL is the foreign one.
      await writeWal(server.incoming, { segment: 9 });
      expect((await server.cli(['archive-wal', 'main'])).stdout).toContain(
        'its system identifier is 7123456789012345678',
      );
    }));

  test('--keep-aside wants the name of one file', () =>
    withServer({}, async (server) => {
      const { status, stderr } = await server.cli(['errors', 'resolve', '--keep-aside', 'main']);
      expect({ status, stderr }).toEqual({
        status: 2,
        stderr: 'ERROR: --keep-aside needs the name of one file\n',
      });
    }));

  test('--accept-identity without a file asks the connected server, and changes nothing when nobody can be asked', () =>
    withArchive(async (server) => {
      const file = await inErrors(server, foreign.name, foreign.bytes, 'unknown');
      const identity = await readFile(join(server.home, 'main/identity.json'), 'utf8');
      const { status, stdout, stderr } = await server.cli(['errors', 'resolve', '--accept-identity', 'main']);
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      expect(stderr).toContain('ERROR: nobody to ask for the system identifier of main\nHINT: set conninfo');
      expect(await readFile(join(server.home, 'main/identity.json'), 'utf8')).toBe(identity);
      expect(await namesIn(server.errors)).toEqual([file]);
    }));

  test('has a JSON form that stays as it is', () =>
    withArchive(async (server) => {
      const file = await inErrors(server, wal.name, wal.bytes);
      expect(json(await server.cli(['-f', 'json', 'errors', 'resolve', 'main']))).toEqual({
        server: 'main',
        accepted: null,
        files: [{ entry: file, action: `dropped: ${wal.name} is archived with the same content`, resolved: true }],
      });
    }));
});
