import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { BROKEN_PAGE, brokenWal } from '../support/broken-wal.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import type { RunResult } from '../support/run.ts';
import { deliveryOf, makeTar, sumsOf, type TarEntry } from './tar-stream.ts';
import { json, namesIn, withServer, type TestServer } from './with-server.ts';

const wal = makeWal({ segment: 1 });
const next = makeWal({ segment: 2 });
const other = makeWal({ segment: 1, seed: 99 });
const file: TarEntry = { name: wal.name, bytes: wal.bytes };

const put = (server: TestServer, input: Uint8Array): Promise<RunResult> =>
  server.cli(['put-wal', server.server], { input });

async function expectNothingKept(server: TestServer): Promise<void> {
  expect(await namesIn(server.incoming)).toEqual([]);
  expect(await namesIn(server.errors)).toEqual([]);
}

test.each<[string, (bytes: Buffer) => Buffer]>([
  ['as it is', (bytes) => bytes],
  ['compressed', (bytes) => gzipSync(bytes)],
])('a segment whose later page is not its own is refused, %s, and the real one is taken then', async (_how, pack) =>
  withServer({}, async (server) => {
    const { name, bytes } = brokenWal({ segment: 1 });
    const refused = await put(server, await deliveryOf([{ name, bytes: pack(bytes) }]));
    expect(refused.status).toBe(1);
    expect(refused.stderr).toContain(`refused ${name} for server main: it is no whole segment: ${BROKEN_PAGE}`);
    await expectNothingKept(server);
    expect(await put(server, await deliveryOf([file]))).toMatchObject({ status: 0, stderr: '' });
  }),
);

describe.concurrent('takes', () => {
  test.each<[string, readonly TarEntry[]]>([
    ['a file with SHA256SUMS behind it', [file, sumsOf([file])]],
    ['a file with SHA256SUMS before it', [sumsOf([file]), file]],
    ['a file with MD5SUMS, as Barman before 3.15 sends it', [file, sumsOf([file], 'md5')]],
    ['both checksum files', [sumsOf([file], 'md5'), file, sumsOf([file])]],
    ['names with a leading ./', [{ ...file, name: `./${wal.name}` }, sumsOf([{ ...file, name: `./${wal.name}` }])]],
    [
      'names of which only the checksum file says ./',
      [file, { name: './SHA256SUMS', bytes: sumsOf([{ ...file, name: `./${wal.name}` }]).bytes ?? Buffer.alloc(0) }],
    ],
    [
      'checksums in capitals, text mode, with CRLF and an empty line',
      [
        file,
        {
          name: 'SHA256SUMS',
          bytes: Buffer.from(
            `\r\n${String(sumsOf([file]).bytes)
              .replace(/^[0-9a-f]+/, (digest) => digest.toUpperCase())
              .replace(' *', '  ')
              .replace('\n', '\r\n')}`,
          ),
        },
      ],
    ],
  ])('%s', async (_what, entries) =>
    withServer({}, async (server) => {
      const result = await put(server, await makeTar(entries));
      expect(result).toMatchObject({ status: 0, stdout: '', stderr: '' });
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
      expect((await readFile(join(server.incoming, wal.name))).equals(wal.bytes)).toBe(true);
    }),
  );

  test('several files of any kind in one stream, and keeps their times to the microsecond', () =>
    withServer({}, async (server) => {
      const history: TarEntry = {
        name: '00000002.history',
        bytes: Buffer.from('1\t0/3000000\tno recovery target specified\n'),
        mtime: 1_650_000_000,
      };
      const files = [{ ...file, mtime: 1_712_345_678.25 }, { name: next.name, bytes: next.bytes }, history];
      expect(await put(server, await deliveryOf(files))).toMatchObject({ status: 0, stderr: '' });
      expect(await namesIn(server.incoming)).toEqual([wal.name, next.name, history.name].sort());
      expect((await stat(join(server.incoming, wal.name))).mtimeMs).toBe(1_712_345_678_250);
      expect((await stat(join(server.incoming, history.name))).mtimeMs).toBe(1_650_000_000_000);
      expect((await stat(join(server.incoming, wal.name))).mode & 0o777).toBe(0o600);
      expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
    }));

  test('a file that the client compressed, and checks what is in it', () =>
    withServer({}, async (server) => {
      const good = await put(server, await deliveryOf([{ name: wal.name, bytes: gzipSync(wal.bytes) }]));
      expect(good).toMatchObject({ status: 0 });
      const bad = await put(server, await deliveryOf([{ name: next.name, bytes: gzipSync(wal.bytes) }]));
      expect(bad.status).toBe(1);
      expect(bad.stderr).toContain(`refused ${next.name}`);
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
    }));

  test('the same file again, from incoming as well as from the archive', () =>
    withServer({ compression: 'zstd' }, async (server) => {
      const delivery = await deliveryOf([file]);
      expect((await put(server, delivery)).status).toBe(0);
      expect((await put(server, delivery)).status).toBe(0);
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
      await server.cli(['archive-wal', 'main']);
      expect(await put(server, delivery)).toMatchObject({ status: 0, stderr: '' });
      await expectNothingKept(server);
      expect(json(await server.cli(['-f', 'json', 'put-wal', 'main'], { input: delivery }))).toEqual([
        { name: wal.name, outcome: 'already-there' },
      ]);
    }));

  test('one and the same file from eight clients at once: all hear 0, one file is there', () =>
    withServer({}, async (server) => {
      const delivery = await deliveryOf([file]);
      const results = await Promise.all(Array.from({ length: 8 }, () => put(server, delivery)));
      expect(results.map(({ status }) => status)).toEqual(Array(8).fill(0));
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
    }));

  test('one of two different contents that come at once; the other is told no and kept in errors', () =>
    withServer({}, async (server) => {
      const results = await Promise.all(
        [file, { name: wal.name, bytes: other.bytes }].map(async (entry) => put(server, await deliveryOf([entry]))),
      );
      expect(new Set(results.map(({ status }) => status))).toEqual(new Set([0, 1]));
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
      const [copy = ''] = await namesIn(server.errors);
      const kept = [await readFile(join(server.incoming, wal.name)), await readFile(join(server.errors, copy))];
      expect(kept.some((bytes) => bytes.equals(wal.bytes))).toBe(true);
      expect(kept.some((bytes) => bytes.equals(other.bytes))).toBe(true);
    }));
});

describe.concurrent('refuses, and keeps nothing of', () => {
  const sums = sumsOf([file]);
  test.each<[string, readonly TarEntry[], string]>([
    ['a symbolic link', [{ name: wal.name, type: 'symlink' }, sums], 'is no regular file'],
    ['a hard link', [{ name: wal.name, type: 'link' }, sums], 'is no regular file'],
    ['a directory', [file, { name: 'pg_wal', type: 'directory' }, sums], '"pg_wal" is no regular file'],
    ['a fifo', [{ name: wal.name, type: 'fifo' }, sums], 'is no regular file'],
    ['a device', [{ name: wal.name, type: 'character-device' }, sums], 'is no regular file'],
    ['a name with a slash', [{ ...file, name: `pg_wal/${wal.name}` }, sums], 'is not the name of a WAL file'],
    ['a name that climbs', [{ ...file, name: `../${wal.name}` }, sums], `"../${wal.name}" is not the name`],
    ['an absolute name', [{ ...file, name: `/tmp/${wal.name}` }, sums], 'is not the name of a WAL file'],
    ['no WAL name', [{ ...file, name: 'postgresql.conf' }, sums], '"postgresql.conf" is not the name of a WAL file'],
    ['a name with a newline', [{ ...file, name: `${wal.name}\n` }, sums], 'is not the name of a WAL file'],
    ['a checksum without its file', [file, sumsOf([file, { name: next.name }])], `of "${next.name}", which did not`],
    [
      'a file without its checksum',
      [file, { name: next.name, bytes: next.bytes }, sums],
      `no checksum of ${next.name}`,
    ],
    ['no checksums at all', [file], 'no SHA256SUMS and no MD5SUMS'],
    ['no file at all', [{ name: 'SHA256SUMS' }], 'there is no WAL file'],
    ['a stream without entries', [], 'no SHA256SUMS and no MD5SUMS'],
    ['a bad checksum', [file, sumsOf([{ name: wal.name, bytes: next.bytes }])], `the checksum of ${wal.name} is wrong`],
    [
      'a bad checksum of two',
      [file, sumsOf([file]), sumsOf([{ name: wal.name, bytes: next.bytes }], 'md5')],
      'MD5SUMS says',
    ],
    [
      'a checksum file that is none',
      [file, { name: 'MD5SUMS', bytes: Buffer.from('hello\n') }],
      'no checksum: "hello"',
    ],
    ['two checksum files of one name', [sums, file, sums], 'two files SHA256SUMS'],
    ['one file twice', [file, file, sums], `${wal.name} comes twice`],
    ['garbage under a WAL name', ...garbage(Buffer.alloc(1024 * 1024, 'x'))],
    ['a truncated segment', ...garbage(wal.bytes.subarray(0, 500_000))],
    ['an empty file', ...garbage(Buffer.alloc(0))],
    ['the bytes of another segment', ...garbage(next.bytes)],
  ])('%s', async (_what, entries, said) =>
    withServer({}, async (server) => {
      const { status, stdout, stderr } = await put(server, await makeTar(entries));
      expect(stderr).toContain(said);
      expect(stderr).toContain('HINT: nothing was stored');
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      await expectNothingKept(server);
    }),
  );

  function garbage(bytes: Buffer): [readonly TarEntry[], string] {
    const entry = { name: wal.name, bytes };
    return [[entry, sumsOf([entry])], `refused ${wal.name} for server main`];
  }

  test('a good file, when a bad one comes with it', () =>
    withServer({}, async (server) => {
      const result = await put(server, await deliveryOf([file, { name: next.name, bytes: wal.bytes }]));
      expect(result.status).toBe(1);
      expect(result.stderr).toContain(next.name);
      await expectNothingKept(server);
    }));

  test('WAL of another cluster, naming both system identifiers', () =>
    withServer({}, async (server) => {
      expect((await put(server, await deliveryOf([file]))).status).toBe(0);
      const foreign = makeWal({ segment: 3, systemIdentifier: 42n });
      const { status, stderr } = await put(server, await deliveryOf([{ name: foreign.name, bytes: foreign.bytes }]));
      expect(status).toBe(1);
      expect(stderr).toContain('system identifier is 42');
      expect(stderr).toContain('7123456789012345678');
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
    }));

  test('a stream that ends anywhere before its last entry', () =>
    withServer({}, async (server) => {
      const whole = await deliveryOf([file]);
      // Behind the checksum file comes nothing but zeros.
      const end = whole.length - 2 * 512;
      const offsets = [
        0,
        1,
        100,
        511,
        512,
        513,
        1_024,
        65_536,
        500_000,
        end - 1_024,
        end - 512 - 1,
        end - 512,
        end - 450,
      ];
      const results = await Promise.all(offsets.map((offset) => put(server, whole.subarray(0, offset))));
      for (const [index, { status, stderr }] of results.entries()) {
        expect({ offset: offsets[index], status }).toEqual({ offset: offsets[index], status: 1 });
        expect(stderr).toMatch(/^ERROR: put-wal refused its input: .+\nHINT: nothing was stored/);
      }
      await expectNothingKept(server);
    }));

  test('what is no tar stream', () =>
    withServer({}, async (server) => {
      const { status, stderr } = await put(server, wal.bytes);
      expect(status).toBe(1);
      expect(stderr).toContain("put-wal refused its input: the tar stream can't be read to its end");
      await expectNothingKept(server);
    }));
});

describe('another content under a known name', () => {
  const conflicting = deliveryOf([{ name: wal.name, bytes: other.bytes }]);

  test.each(['incoming', 'archive'])('of the %s is 1 with one copy in errors, however often it comes', (place) =>
    withServer({}, async (server) => {
      await put(server, await deliveryOf([file]));
      if (place === 'archive') await server.cli(['archive-wal', 'main']);
      for (const attempt of [1, 2, 3]) {
        const { status, stderr } = await put(server, await conflicting);
        expect({ attempt, status }).toEqual({ attempt, status: 1 });
        expect(stderr).toContain(`ERROR: ${wal.name} is there already, for server main: its content is another`);
        const [copy = ''] = await namesIn(server.errors);
        expect(stderr).toContain(`nothing was overwritten; see: walwarden errors explain main ${copy}`);
      }
      const copies = await namesIn(server.errors);
      expect(copies).toEqual([expect.stringMatching(new RegExp(`^${wal.name}\\.\\d{8}T\\d{6}Z\\.duplicate$`))]);
      expect((await readFile(join(server.errors, copies[0] ?? ''))).equals(other.bytes)).toBe(true);
      const { bytes } = await server.cli(['get-wal', 'main', wal.name]);
      expect(bytes.equals(wal.bytes)).toBe(true);
    }),
  );

  test('is 0, as with Barman, under put_wal_conflict = accept; the copy is kept all the same', () =>
    withServer({ put_wal_conflict: 'accept' }, async (server) => {
      await put(server, await deliveryOf([file]));
      const { status } = await put(server, await conflicting);
      expect(status).toBe(0);
      expect(await namesIn(server.errors)).toHaveLength(1);
      expect((await readFile(join(server.incoming, wal.name))).equals(wal.bytes)).toBe(true);
    }));
});

test('--test says the words that barman-wal-archive --test shows, and reads nothing', () =>
  withServer({}, async (server) => {
    expect(await server.cli(['put-wal', 'main', '--test'])).toMatchObject({
      status: 0,
      stdout: 'Ready to accept WAL files for the server main\n',
      stderr: '',
    });
    expect(json(await server.cli(['-f', 'json', 'put-wal', '--test', 'main']))).toEqual({
      server: 'main',
      ready: true,
    });
    const unknown = await server.cli(['put-wal', '--test', 'mian']);
    expect(unknown.status).toBe(1);
    expect(unknown.stderr).toContain('did you mean "main"?');
  }));

test('makes the incoming directory of a new server, but never barman_home', () =>
  withServer({ incoming_wals_directory: '%(backup_directory)s/new/incoming' }, async (server) => {
    expect((await put(server, await deliveryOf([file]))).status).toBe(0);
    expect(await namesIn(join(server.home, 'main/new/incoming'))).toEqual([wal.name]);
    await writeFile(
      server.config,
      `[barman]\nbarman_home = ${server.home}/unmounted\n[main]\ndescription = main\narchiver = on\n`,
    );
    const { status, stderr } = await put(server, await deliveryOf([file]));
    expect(status).toBe(1);
    expect(stderr).toContain(`barman_home ${server.home}/unmounted does not exist`);
    expect(stderr).toContain('HINT: mount or create it');
  }));

test('a put-wal that died a day ago leaves a temporary that archive-wal removes; a younger one stays', () =>
  withServer({}, async (server) => {
    await mkdir(server.incoming, { recursive: true });
    const young = join(server.incoming, `.4711-abcdef-${wal.name}`);
    await writeFile(young, 'half');
    await writeWal(server.incoming, { segment: 5 });
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
    expect(await namesIn(server.incoming)).toEqual([`.4711-abcdef-${wal.name}`]);
  }));
