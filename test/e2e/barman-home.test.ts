import { readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { CompressionName } from '../../src/compression/codec.ts';
import { walDirectory, walName } from '../../src/wal/wal-name.ts';
import {
  catalogueLines,
  configured,
  digestsOf,
  json,
  namesIn,
  withServer,
  type ServerOptions,
  type TestServer,
} from '../commands/with-server.ts';
import { withBarmanFixture } from '../support/fixture.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import {
  BARMAN_GLOBAL,
  BARMAN_SERVER,
  checkedOutBarman,
  debianBarman,
  READ_CATALOGUE,
  type Barman,
} from './barman-programs.ts';

/** What Barman 3.17 wrote into the home's catalogue. */
const CATALOGUE = [
  '00000001000000000000000B\t1048576\t1795246913.8997986\tNone\tNone',
  '00000001000000000000000C\t33668\t1795246913.9108744\tgzip\tNone',
  '00000001000000000000000D\t20724\t1795246913.920497\tbzip2\tNone',
  '00000001000000000000000E\t14016\t1795246913.9310095\txz\tNone',
  '00000001000000000000000F\t29649\t1795246913.9412677\tzstd\tNone',
  '000000010000000000000010\t199353\t1795246913.9993174\tlz4\tNone',
  '000000010000000000000011\t192219\t1795246914.0134394\tpigz\tNone',
  '000000010000000000000014.00000028.backup\t194\t1795246915.1650088\tzstd\tNone',
  '00000002.history\t50\t1795246918.4289415\tzstd\tNone',
];
const WAITING = '000000020000000000000015';
const DUPLICATE = '00000001000000000000000B.20261121T090022Z.duplicate';
const UNKNOWN = 'not-a-wal.20261121T090022Z.unknown';
const CODECS: readonly CompressionName[] = [
  'gzip',
  'pygzip',
  'pigz',
  'bzip2',
  'pybzip2',
  'xz',
  'zstd',
  'lz4',
  'snappy',
];

interface Home extends TestServer {
  readonly originals: string;
}

/** The home that Barman 3.17 left, with a configuration that both understand. */
function withBarmanHome<T>(options: ServerOptions, body: (home: Home) => Promise<T>): Promise<T> {
  return withBarmanFixture(async ({ home, originals }) => {
    const at = (directory: string): string => join(home, 'main', directory);
    const directories = {
      incoming: at('incoming'),
      streaming: at('streaming'),
      wals: at('wals'),
      errors: at('errors'),
    };
    const server = await configured(
      { home, server: 'main', ...directories },
      { ...BARMAN_SERVER, ...options },
      BARMAN_GLOBAL,
    );
    return body({ ...server, originals });
  });
}

const storedPath = (server: TestServer, name: string): string => join(server.wals, walDirectory(walName(name)), name);

const nameOf = (line: string): string => line.split(/\s/)[0] ?? '';

/** The file system of a tar archive keeps whole seconds only, so that a rebuilt catalogue can't have the fraction. */
const wholeSeconds = (line: string): string => line.replace(/\.\d+(?=\t)/, '.0');

/** Neither the name of the compressor nor its library is in the bytes: pigz writes what gzip writes. */
const byFormat = (line: string): string =>
  line.replace(/\t(pigz|pygzip)\t/, '\tgzip\t').replace('\tpybzip2\t', '\tbzip2\t');

describe.concurrent('the home of Barman 3.17', () => {
  test('is listed', () =>
    withBarmanHome({}, async (server) => {
      expect(await catalogueLines(server)).toEqual(CATALOGUE);
      expect((await server.cli(['list-servers'])).stdout).toBe('main - main\n');
      const { status, stdout } = await server.cli(['list-wals', 'main']);
      expect(status).toBe(0);
      expect(stdout).toContain('Server main, segments of 1.00 MiB:');
      expect(stdout).toContain('\tTimeline 1: 7 segments, 1 backup label, ');
      for (const codec of ['none', 'gzip', 'bzip2', 'xz', 'zstd', 'lz4', 'pigz']) expect(stdout).toContain(`${codec} `);
      expect(stdout).toContain('00000001000000000000000B - 000000010000000000000011 (7 segments)');
      expect((await server.cli(['list-wals', '--gaps', 'main'])).status).toBe(0);
    }));

  test('is read: every file is what Barman was given, whatever it compressed it with', () =>
    withBarmanHome({ compression: 'zstd' }, async (server) => {
      const names = await namesIn(server.originals);
      expect(names).toHaveLength(CATALOGUE.length);
      for (const name of names) {
        const { status, bytes, stderr } = await server.cli(['get-wal', 'main', name]);
        expect({ name, status, stderr }).toEqual({ name, status: 0, stderr: '' });
        expect(bytes.equals(await readFile(join(server.originals, name)))).toBe(true);
      }
      // And what still waits.
      const { bytes } = await server.cli(['get-wal', 'main', WAITING]);
      expect(bytes.equals(await readFile(join(server.incoming, WAITING)))).toBe(true);
      const { stdout } = await server.cli(['get-wal', '--peek', '20', 'main', '00000001000000000000000B']);
      expect(stdout.trim().split('\n')).toEqual(CATALOGUE.slice(0, 7).map(nameOf));
    }));

  test.each<CompressionName | 'None'>(['None', ...CODECS])('is continued with compression = %s', async (compression) =>
    withBarmanHome({ compression }, async (server) => {
      const waiting = await readFile(join(server.incoming, WAITING));
      const before = await digestsOf(server.wals);
      const { status, stdout } = await server.cli(['archive-wal', 'main']);
      expect(status).toBe(0);
      expect(stdout).toMatch(new RegExp(`^main, file archival: 1 file archived .*\\n\\t${WAITING}\\n$`));
      expect(await namesIn(server.incoming)).toEqual([]);
      const { size, mtimeMs } = await stat(storedPath(server, WAITING));
      expect(await catalogueLines(server)).toEqual([
        ...CATALOGUE,
        `${WAITING}\t${size}\t${mtimeMs / 1000}.0\t${compression}\tNone`,
      ]);
      expect((await server.cli(['get-wal', 'main', WAITING])).bytes.equals(waiting)).toBe(true);
      // Nothing that was there has changed.
      const after = await digestsOf(server.wals);
      for (const [path, digest] of before) if (!path.endsWith('xlog.db')) expect(after.get(path)).toBe(digest);
      expect(JSON.parse(await readFile(join(server.home, 'main/identity.json'), 'utf8'))).toEqual({
        systemid: '7710526780232171264',
        version: '15',
      });
    }),
  );

  test('explains its errors, and keeps aside what can not be resolved', () =>
    withBarmanHome({}, async (server) => {
      const list = await server.cli(['errors', 'list', 'main']);
      expect(list.stdout).toMatch(/^Server main: duplicates: 1, unknown: 1\n/);
      const { stdout } = await server.cli(['errors', 'explain', 'main']);
      expect(stdout).toContain(`"${DUPLICATE}"\n\tnow: its content is another (SHA-256 `);
      expect(stdout).toContain(
        `; the first difference is at byte 70000 (1048576 bytes here, 1048576 archived in ${storedPath(server, '00000001000000000000000B')})`,
      );
      expect(stdout).toContain(`"${UNKNOWN}"\n\tnow: "not-a-wal" is not the name of a WAL file`);
      const conflicting = await readFile(join(server.errors, DUPLICATE));
      expect((await server.cli(['errors', 'resolve', 'main'])).status).toBe(1);
      expect(await namesIn(server.errors)).toEqual([DUPLICATE, UNKNOWN]);
      for (const file of [DUPLICATE, UNKNOWN]) {
        expect((await server.cli(['errors', 'resolve', '--keep-aside', 'main', file])).status).toBe(0);
      }
      expect((await readFile(join(`${server.errors}.kept`, DUPLICATE))).equals(conflicting)).toBe(true);
      expect((await server.cli(['errors', 'list', 'main'])).stdout).toBe('Server main: no files in errors\n');
    }));

  test('has its catalogue rebuilt as Barman wrote it, but that pigz is not told from gzip', () =>
    withBarmanHome({}, async (server) => {
      expect(await server.cli(['rebuild-xlogdb', 'main'])).toMatchObject({
        status: 0,
        stdout: 'Rebuilt the catalogue of server main: 9 files\n',
      });
      expect(await catalogueLines(server)).toEqual(CATALOGUE.map(wholeSeconds).map(byFormat));
      // With the times as Barman's own disk had them, digit by digit.
      for (const line of CATALOGUE) {
        const mtime = Number(line.split('\t')[2]);
        await utimes(storedPath(server, nameOf(line)), mtime, mtime);
      }
      await server.cli(['rebuild-xlogdb', 'main']);
      const rebuilt = await catalogueLines(server);
      for (const [index, line] of CATALOGUE.entries()) {
        const [name, size, mtime, ...formats] = rebuilt[index]?.split('\t') ?? [];
        const [wantedName, wantedSize, wantedMtime, ...wantedFormats] = byFormat(line).split('\t');
        expect([name, size, ...formats]).toEqual([wantedName, wantedSize, ...wantedFormats]);
        // utimes(2) is given microseconds by Node.
        expect(Number(mtime)).toBeCloseTo(Number(wantedMtime), 5);
      }
      expect((await namesIn(server.wals)).filter((name) => name.includes('xlog.db'))).toEqual(['main-xlog.db']);
    }));

  test('has its catalogue rebuilt with pigz where the configuration says pigz', () =>
    withBarmanHome({ compression: 'pigz' }, async (server) => {
      await server.cli(['rebuild-xlogdb', 'main']);
      expect(await catalogueLines(server)).toEqual(
        CATALOGUE.map(wholeSeconds).map((line) => line.replace('\tgzip\t', '\tpigz\t')),
      );
    }));

  test.each<[string, (line: string) => string]>([
    ['four fields, of Barman before 3.15', (line) => line.replace(/\tNone$/, '')],
    ['three fields, of Barman before 1.3', (line) => line.split('\t').slice(0, 3).join('\t')],
    ['spaces instead of tabs', (line) => line.replaceAll('\t', ' ')],
  ])('with the old wals/xlog.db and %s is listed, continued and migrated', async (_what, older) =>
    withBarmanHome({ compression: 'zstd' }, async (server) => {
      const legacy = join(server.wals, 'xlog.db');
      await rm(join(server.wals, 'main-xlog.db'));
      const text = CATALOGUE.map((line) => `${older(line)}\n`).join('');
      await writeFile(legacy, text);
      expect((await server.cli(['list-wals', 'main'])).stdout).toContain('(7 segments)');
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      const lines = await catalogueLines(server);
      expect(lines.map(nameOf)).toEqual([...CATALOGUE.map(nameOf), WAITING]);
      // An older Barman may share the home: it finds its own catalogue as it left it.
      expect(await readFile(legacy, 'utf8')).toBe(text);
      await writeFile(server.config, `${await readFile(server.config, 'utf8')}migrate_xlogdb = on\n`);
      await writeWal(server.incoming, { segment: 0x99, systemIdentifier: 7710526780232171264n });
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      expect(await namesIn(server.wals)).not.toContain('xlog.db');
      expect((await catalogueLines(server)).map(nameOf)).toEqual(
        [...CATALOGUE.map(nameOf), WAITING, makeWal({ segment: 0x99 }).name].sort(),
      );
    }),
  );
});

/** Segments 1 to 3 that we archive, with a history file among them. */
async function archiveSome(server: TestServer): Promise<ReadonlyMap<string, Buffer>> {
  const files = new Map<string, Buffer>();
  for (const segment of [1, 2, 3]) {
    const { name, bytes } = await writeWal(server.incoming, { segment, mtime: 1_700_000_000 + segment / 4 });
    files.set(name, bytes);
  }
  files.set('00000002.history', Buffer.from('1\t0/3000000\tno recovery target specified\n'));
  await writeFile(join(server.incoming, '00000002.history'), files.get('00000002.history') ?? '');
  await utimes(join(server.incoming, '00000002.history'), 1_700_000_100, 1_700_000_100);
  expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
  return files;
}

/** What Barman reads, lists and rebuilds of what we archive; and that we go on from there. */
async function expectBarmanReads(
  barman: Barman,
  compression: string,
  catalogueFile: string,
  comparable: (line: string) => string,
): Promise<void> {
  const options = compression === 'None' ? {} : { compression };
  await withServer(
    { ...BARMAN_SERVER, ...options },
    async (server) => {
      const files = await archiveSome(server);
      for (const [name, bytes] of files) {
        const got = await barman.run(server.config, ['get-wal', 'main', name]);
        expect({ name, status: got.status, stderr: got.stderr }).toEqual({ name, status: 0, stderr: '' });
        expect(got.bytes.equals(bytes)).toBe(true);
      }
      const peek = await barman.run(server.config, ['get-wal', '--peek', '9', 'main', makeWal({ segment: 1 }).name]);
      expect(peek.stdout.trim().split('\n')).toEqual([...files.keys()].filter((name) => name.length === 24));

      const ours = await catalogueLines(server);
      const rebuilt = await barman.run(server.config, ['rebuild-xlogdb', 'main']);
      expect(rebuilt.stdout).toContain('(history: 1, backup_labels: 0, wal_file: 3)');
      const theirs = (await readFile(join(server.wals, catalogueFile), 'utf8')).trimEnd().split('\n');
      expect(theirs.map(comparable)).toEqual(ours.map(comparable));
      const read = await barman.python(READ_CATALOGUE, [server.config, 'main']);
      expect(read.stderr).toBe('');
      expect(json(read)).toEqual(
        theirs.map((line) => {
          const [name, size, mtime, codec] = line.split('\t');
          return [name, Number(size), Number(mtime), codec === 'None' ? null : codec];
        }),
      );

      // And back: what Barman archives, we read and catalogue.
      const next = await writeWal(server.incoming, { segment: 4 });
      const archived = await barman.run(server.config, ['archive-wal', 'main']);
      expect(archived.stdout).toContain(next.name);
      expect((await server.cli(['get-wal', 'main', next.name])).bytes.equals(next.bytes)).toBe(true);
      await writeWal(server.incoming, { segment: 5 });
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      const names = [...files.keys(), next.name, makeWal({ segment: 5 }).name].sort();
      expect((await catalogueLines(server)).map(nameOf)).toEqual(names);
      expect((await server.cli(['list-wals', '--gaps', 'main'])).stdout).toBe('Server main: no gaps\n');
    },
    BARMAN_GLOBAL,
  );
}

/** Barman 3.4 knows four fields. */
const fourFields = (line: string): string => byFormat(`${line.split('\t').slice(0, 4).join('\t')}\t`).trimEnd();

describe.concurrent('Debian’s Barman reads, lists and rebuilds what we archive, and we what it archives', () => {
  test.each(['None', 'gzip', 'pygzip', 'pigz', 'bzip2', 'pybzip2'])('with compression = %s', (compression) =>
    expectBarmanReads(debianBarman(), compression, 'xlog.db', fourFields),
  );

  test('its lines in the old catalogue become ours, and its deletions too', () =>
    withServer(
      { ...BARMAN_SERVER, compression: 'gzip' },
      async (server) => {
        const barman = debianBarman();
        for (const segment of [1, 2]) await writeWal(server.incoming, { segment });
        expect((await barman.run(server.config, ['archive-wal', 'main'])).status).toBe(0);
        expect(await namesIn(server.wals)).toContain('xlog.db');
        expect((await server.cli(['list-wals', 'main'])).stdout).toContain('(2 segments)');
        await writeWal(server.incoming, { segment: 3 });
        expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
        expect((await catalogueLines(server)).map(nameOf)).toEqual(
          [1, 2, 3].map((segment) => makeWal({ segment }).name),
        );
      },
      BARMAN_GLOBAL,
    ));

  test('and its locks exclude ours, and ours exclude its', () => locksExclude(debianBarman()));
});

const checkedOut = checkedOutBarman();
if (checkedOut !== undefined) {
  describe.concurrent(
    'the Barman of BARMAN_CHECKOUT reads, lists and rebuilds what we archive, and we what it archives',
    () => {
      test.each(['None', ...CODECS])('with compression = %s', (compression) =>
        expectBarmanReads(checkedOut, compression, 'main-xlog.db', byFormat),
      );

      test('and rebuilds the home of Barman 3.17 line by line as we do', () =>
        withBarmanHome({}, async (server) => {
          const catalogue = join(server.wals, 'main-xlog.db');
          await server.cli(['rebuild-xlogdb', 'main']);
          const ours = await readFile(catalogue, 'utf8');
          await rm(catalogue);
          expect((await checkedOut.run(server.config, ['rebuild-xlogdb', 'main'])).status).toBe(0);
          expect(await readFile(catalogue, 'utf8')).toBe(ours);
        }));

      test('and its locks exclude ours, and ours exclude its', () => locksExclude(checkedOut));
    },
  );
}

async function locksExclude(barman: Barman): Promise<void> {
  await withServer(
    // The server's section: Barman runs it too, but only after it has the lock.
    { ...BARMAN_SERVER, pre_archive_script: 'touch began; until test -e go-on; do sleep 0.05; done' },
    async (server) => {
      const another = 'Another archive-wal process is already running on server main. Skipping to the next server';
      await writeWal(server.incoming, { segment: 1 });

      await barman.withLock('ServerWalArchiveLock', server.home, 'main', async () => {
        expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0, stdout: `${another}\n` });
        expect(await namesIn(server.incoming)).toHaveLength(1);
        expect((await server.cli(['errors', 'resolve', 'main'])).stderr).toContain('is locked by process');
      });

      const pass = server.cli(['archive-wal', 'main']);
      await until('our pass to hold its lock', async () => (await namesIn(server.home)).includes('began'));
      const theirs = await barman.run(server.config, ['archive-wal', 'main'], { cwd: server.home });
      expect(theirs.status).toBe(0);
      expect(`${theirs.stdout}${theirs.stderr}${await readFile(join(server.home, 'barman.log'), 'utf8')}`).toContain(
        another,
      );

      // The catalogue's lock is waited for: the pass ends as soon as Barman lets go.
      await barman.withLock('ServerXLOGDBLock', server.home, 'main', async () => {
        await writeFile(join(server.home, 'go-on'), '');
        expect(await Promise.race([pass.then(() => 'ended'), delay(1_000, 'waits')])).toBe('waits');
        expect(await catalogueLines(server)).toEqual([]);
      });
      expect((await pass).status).toBe(0);
      expect(await catalogueLines(server)).toHaveLength(1);
    },
    BARMAN_GLOBAL,
  );
}
