import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, lstat, mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { createCompressor } from '../../src/compression/codecs.ts';
import type { CompressionName } from '../../src/compression/codec.ts';
import { deliveryOf } from '../commands/tar-stream.ts';
import {
  catalogueLines,
  digestsOf,
  namesIn,
  placeStored,
  withServer,
  type ServerOptions,
  type TestServer,
} from '../commands/with-server.ts';
import { CLI, ensureBuilt } from '../support/cli.ts';
import { makeWal, writeWal, type MadeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { run, type RunResult } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';

const NOBODY = { uid: 65_534, gid: 65_534 } as const;
const wal = makeWal({ segment: 1 });
const next = makeWal({ segment: 2 });
const archiveWal = (server: TestServer): Promise<RunResult> => server.cli(['archive-wal', 'main']);

/** A refusal is told on stderr, and names the place; nothing is on stdout. */
function expectRefusal(result: RunResult, ...said: readonly (string | RegExp)[]): void {
  for (const text of said) expect(result.stderr).toMatch(typeof text === 'string' ? escaped(text) : text);
  expect(result.stderr).toMatch(/^ERROR: |\nERROR: /);
  expect({ status: result.status, stdout: result.stdout }).toEqual({ status: 1, stdout: '' });
}

const escaped = (text: string): RegExp => new RegExp(text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&'));

/** No temporary, no half file: in the archive is what this says, byte for byte, and nothing else but the catalogue. */
async function expectArchive(server: TestServer, wals: readonly { name: string; bytes: Buffer }[]): Promise<void> {
  const paths = [...(await digestsOf(server.wals)).keys()].filter((path) => !path.includes('xlog.db'));
  expect(paths).toEqual(wals.map(({ name }) => `${name.slice(0, 16)}/${name}`));
  expect((await catalogueLines(server)).map((line) => line.split('\t')[0])).toEqual(wals.map(({ name }) => name));
  const found = await Promise.all(wals.map(({ name }) => server.cli(['get-wal', 'main', name])));
  expect(found.map(({ bytes }, index) => bytes.equals(wals[index]?.bytes ?? bytes.subarray(1)))).toEqual(
    wals.map(() => true),
  );
}

/** The only file in errors, and what is said of it. */
async function inErrors(server: TestServer): Promise<{ entry: string; list: string }> {
  const entries = await namesIn(server.errors);
  expect(entries).toHaveLength(1);
  return { entry: entries[0] ?? '', list: (await server.cli(['errors', 'list', 'main'])).stdout };
}

describe.concurrent('the configuration', () => {
  test.each<[string, string | Buffer | null, string]>([
    ['is missing', null, ": can't read the configuration: no such file"],
    ['is binary', Buffer.from('\0\xff\xfe', 'latin1'), ':1: expected UTF-8 text'],
    ['has no [barman]', '[main]\narchiver = on\n', ': expected a [barman] section, found none'],
    ['has a line that is none', '[barman]\nbarman_home = /tmp\noops\n', ':3: expected `option = value`'],
    ['has a relative home', '[barman]\nbarman_home = here\n', ':2: barman_home = "here": expected an absolute path'],
    ['has an unknown level', '[barman]\nbarman_home = /tmp\nlog_level = LOUD\n', ':3: log_level = "LOUD": expected'],
  ])('that %s', async (_what, text, said) =>
    withServer({}, async (server) => {
      if (text === null) await rm(server.config);
      else await writeFile(server.config, text);
      expectRefusal(await archiveWal(server), `${server.config}${said}`);
    }),
  );

  test('that is a directory, or may not be read', () =>
    withServer({}, async (server) => {
      expectRefusal(await server.cli(['archive-wal', 'main'], { config: server.home }), `${server.home}: can't read`);
      await chmod(server.config, 0o600);
      const result = await server.cli(['archive-wal', 'main'], NOBODY);
      expectRefusal(
        result,
        `${server.config}: can't read the configuration: EACCES`,
        'HINT: run as the user that owns',
      );
    }));

  test.each<[string, ServerOptions, string]>([
    ['a bad value', { compression: 'zip' }, 'compression = "zip": expected gzip, pygzip, '],
    ['encryption without a key', { encryption: 'gpg' }, 'encryption = gpg needs encryption_key_id'],
    ['custom without filters', { compression: 'custom' }, 'compression = custom needs custom_compression_filter'],
    ['a number below its range', { archiver_batch_size: -1 }, 'archiver_batch_size = "-1": expected a whole number'],
    [
      'two uses of a directory',
      { wals_directory: '%(backup_directory)s/incoming' },
      'is the same directory as incoming',
    ],
    ['a relative directory', { wals_directory: 'wals' }, 'wals_directory = "wals": expected an absolute path'],
    ['an option that is not there', { wals_directory: '%(wal)s/x' }, 'wals_directory: %(wal)s is not set'],
  ])(
    'that contradicts itself, %s: this server is disabled, file and line told, nothing touched',
    async (_w, options, said) =>
      withServer(options, async (server) => {
        await writeWal(server.incoming, { segment: 1 });
        expectRefusal(
          await archiveWal(server),
          'ERROR: server main is disabled: ',
          new RegExp(`${escaped(server.config).source}:\\d+: `),
          said,
          'HINT: correct the configuration; the other servers are not affected',
        );
        expect(await namesIn(server.incoming)).toEqual([wal.name]);
        expect((await server.cli(['put-wal', 'main'], { input: await deliveryOf([next]) })).status).toBe(1);
        expect((await server.cli(['get-wal', 'main', wal.name])).status).toBe(200);
      }),
  );
});

describe.concurrent('no permission', () => {
  /** The home belongs to nobody, and so the pass runs. */
  async function giveAway(server: TestServer, ...not: readonly string[]): Promise<void> {
    execFileSync('chown', ['-R', `${NOBODY.uid}:${NOBODY.gid}`, server.home]);
    for (const path of not) await chown(path, 0, 0);
  }
  const asNobody = (server: TestServer): Promise<RunResult> => server.cli(['archive-wal', 'main'], NOBODY);

  test('for the home at all', () =>
    withServer({}, async (server) => {
      await writeWal(server.incoming, { segment: 1 });
      expectRefusal(
        await asNobody(server),
        `${server.home}/main/.active-model.auto: `,
        'EACCES',
        'run as the user that owns',
      );
      await chmod(join(server.home, 'main'), 0o755);
      for (const name of ['incoming', 'streaming', 'errors', 'wals'])
        await chmod(join(server.home, 'main', name), 0o755);
      expectRefusal(await asNobody(server), `${server.home}/.main-archive-wal.lock`, 'HINT: ', 'user that owns it');
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
    }));

  test('to read one file: it is told and left, the others are archived', () =>
    withServer({}, async (server) => {
      const { path } = await writeWal(server.incoming, { segment: 1 });
      await writeWal(server.incoming, { segment: 2 });
      await giveAway(server, path);
      const { status, stdout } = await asNobody(server);
      expect(status).toBe(1);
      expect(stdout).toContain(`"${wal.name}" NOT archived: EACCES: permission denied, open '${path}'`);
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
      await expectArchive(server, [next]);
    }));

  test.each(['None', 'gzip'])('to write the archive, with compression = %s', async (compression) =>
    withServer({ compression }, async (server) => {
      await writeWal(server.incoming, { segment: 1 });
      await giveAway(server, server.wals);
      await chmod(server.wals, 0o755);
      expectRefusal(
        await asNobody(server),
        `can't use ${server.wals}/${wal.name.slice(0, 16)}: EACCES`,
        'HINT: walwarden must run as the user that owns the archive',
      );
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
      await chown(server.wals, NOBODY.uid, NOBODY.gid);
      expect((await asNobody(server)).status).toBe(0);
      await expectArchive(server, [wal]);
    }),
  );

  test('to write errors: the odd file stays where it is', () =>
    withServer({}, async (server) => {
      await writeFile(join(server.incoming, 'readme'), 'x');
      await giveAway(server, server.errors);
      const { status, stdout } = await asNobody(server);
      expect(status).toBe(1);
      expect(stdout).toContain(
        `"readme" NOT archived: it has not the name of a WAL file, and it can't be moved to errors: EACCES`,
      );
      expect(await namesIn(server.incoming)).toEqual(['readme']);
    }));

  test('to write incoming, for put-wal', () =>
    withServer({}, async (server) => {
      await giveAway(server, server.incoming);
      await chmod(server.incoming, 0o755);
      const result = await server.cli(['put-wal', 'main'], { ...NOBODY, input: await deliveryOf([wal]) });
      expectRefusal(result, `can't store what arrives in ${server.incoming}: EACCES`, 'HINT: nothing was stored');
      expect(await namesIn(server.incoming)).toEqual([]);
    }));
});

describe.concurrent('a disk that is full', () => {
  test.each(['None', 'gzip', 'zstd'])(
    'is told, with compression = %s; nothing is lost, and the next pass goes on',
    async (compression) =>
      withServer({ compression }, async (server) => {
        const wals: MadeWal[] = [];
        for (let segment = 1; segment <= 6; segment += 1) {
          wals.push(await writeWal(server.incoming, { segment, content: 'random' }));
        }
        await withSmallDisk(server.wals, '3m', async (grow) => {
          expectRefusal(
            await archiveWal(server),
            /ERROR: can't store 0000000100000000000000\d\d: ENOSPC: no space left on device/,
            'HINT: nothing is lost: what is not archived stays where it is, and the next pass tries again',
          );
          // Whole files only, and each of the six is there or here.
          const stored = [...(await digestsOf(server.wals)).keys()].filter((path) => !path.includes('xlog.db'));
          expect(stored.every((path) => /\/[0-9A-F]{24}$/.test(path))).toBe(true);
          const waiting = await namesIn(server.incoming);
          expect(waiting.every((name) => !name.startsWith('.'))).toBe(true);
          const found = await Promise.all(wals.map(({ name }) => server.cli(['get-wal', 'main', name])));
          for (const [index, { bytes }] of found.entries())
            expect(bytes.equals(wals[index]?.bytes ?? wal.bytes)).toBe(true);
          grow('30m');
          expect((await archiveWal(server)).status).toBe(0);
          expect(await namesIn(server.incoming)).toEqual([]);
          await expectArchive(server, wals);
        });
      }),
  );

  test('under the catalogue: what is archived keeps its source until it has its line', () =>
    withServer({ xlogdb_directory: '%(barman_home)s/catalogue', archiver_batch_size: 0 }, async (server) => {
      const directory = join(server.home, 'catalogue');
      await mkdir(directory);
      await withSmallDisk(directory, '16k', async (grow) => {
        await writeFile(join(directory, 'filler'), Buffer.alloc(3 * 4096));
        // A line has about 60 bytes: the one page that is left is soon full.
        const wals: MadeWal[] = [];
        for (let segment = 1; segment <= 90; segment += 1) {
          wals.push(await writeWal(server.incoming, { segment, content: 'zeros' }));
        }
        expectRefusal(await archiveWal(server), `${directory}/main-xlog.db`, 'ENOSPC');
        const lines = (await readFile(join(directory, 'main-xlog.db'), 'utf8')).split('\n');
        expect(lines.pop()).toBe('');
        const claims = join(server.home, 'main', '.claimed', 'incoming');
        const waiting = new Set([...(await namesIn(server.incoming)), ...(await namesIn(claims))]);
        const known = new Set(lines.map((line) => line.split('\t')[0]));
        for (const { name } of wals) expect(waiting.has(name) || known.has(name)).toBe(true);
        grow('1m');
        await rm(join(directory, 'filler'));
        expect((await archiveWal(server)).status).toBe(0);
        const all = (await readFile(join(directory, 'main-xlog.db'), 'utf8')).trimEnd().split('\n');
        expect(all.map((line) => line.split('\t')[0])).toEqual(wals.map(({ name }) => name));
      });
    }));

  test('under incoming, for put-wal: nothing is kept, and the stream is not blamed', () =>
    withServer({}, async (server) =>
      withSmallDisk(server.incoming, '512k', async (grow) => {
        const input = await deliveryOf([wal]);
        expectRefusal(
          await server.cli(['put-wal', 'main'], { input }),
          `can't store what arrives in ${server.incoming}: ENOSPC: no space left on device`,
          'HINT: nothing was stored; PostgreSQL keeps the file and tries again',
        );
        expect(await namesIn(server.incoming)).toEqual([]);
        grow('4m');
        expect((await server.cli(['put-wal', 'main'], { input })).status).toBe(0);
      }),
    ));

  test('under the target of get-wal -o: 200, and no half file', () =>
    withServer({}, async (server) => {
      await placeStored(server, wal.name, wal.bytes);
      const target = join(server.home, 'target');
      await mkdir(target);
      await withSmallDisk(target, '512k', async () => {
        const { status, stderr } = await server.cli(['get-wal', '-o', target, 'main', wal.name]);
        expect(status).toBe(200);
        expect(stderr).toContain(`can't write ${join(target, wal.name)}: ENOSPC`);
        expect(await namesIn(target)).toEqual([]);
      });
    }));

  test('by a limit on the size of files (EFBIG)', () =>
    withServer({ compression: 'gzip' }, async (server) => {
      await writeWal(server.incoming, { segment: 1, content: 'random' });
      await ensureBuilt();
      const script = `trap '' XFSZ; ulimit -f 100; exec "$0" "$@"`;
      const args = ['-c', script, process.execPath, CLI, '-c', server.config, 'archive-wal', 'main'];
      expectRefusal(await run('bash', args, {}), `can't store ${wal.name}: EFBIG`, 'HINT: nothing is lost');
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
      expect(await digestsOf(server.wals)).toEqual(new Map());
    }));
});

/** A file system of a given size over a directory; needs root, as CI has it. */
async function withSmallDisk<T>(
  directory: string,
  size: string,
  body: (grow: (size: string) => void) => Promise<T>,
): Promise<T> {
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=0755`, 'tmpfs', directory]);
  try {
    return await body((larger) => execFileSync('mount', ['-o', `remount,size=${larger}`, directory]));
  } finally {
    execFileSync('umount', ['--lazy', directory]);
  }
}

describe.concurrent('a file in incoming', () => {
  const cut = wal.bytes.subarray(0, 700_000);
  const odd = (bytes: Buffer, change: (bytes: Buffer) => void): Buffer => {
    const copy = Buffer.from(bytes);
    change(copy);
    return copy;
  };
  test.each<[string, Buffer, string]>([
    ['garbage', Buffer.alloc(1 << 20, 'x'), 'page magic'],
    ['zeros', Buffer.alloc(1 << 20), 'page magic'],
    ['WAL of another place', next.bytes, 'address 0x200000, and its name means 0x100000'],
    [
      'WAL of a later timeline',
      makeWal({ segment: 1, pageTimeline: 5 }).bytes,
      'of timeline 5, and its name of timeline 1',
    ],
    ['longer than its header says', Buffer.concat([wal.bytes, wal.bytes]), '2097152 bytes, but its header declares'],
    [
      'of an impossible segment size',
      odd(wal.bytes, (bytes) => bytes.writeUInt32LE(12_345, 32)),
      'impossible segment size',
    ],
  ])('that is %s goes to errors with the reason', async (_what, bytes, reason) =>
    withServer({ compression: 'gzip' }, async (server) => {
      await writeWal(server.incoming, { segment: 2 });
      await writeFile(join(server.incoming, wal.name), bytes);
      const { status, stdout } = await archiveWal(server);
      expect(status).toBe(1);
      expect(stdout).toContain(`"${wal.name}" NOT archived: `);
      expect(stdout).toContain(reason);
      const { entry, list } = await inErrors(server);
      expect(entry).toMatch(/\.unknown$/);
      expect(list).toContain(reason);
      expect((await readFile(join(server.errors, entry))).equals(bytes)).toBe(true);
      await expectArchive(server, [next]);
    }),
  );

  test('that is cut short stays, and is told when it stays too long', () =>
    withServer({ incomplete_wal_timeout: '0 s' }, async (server) => {
      await writeFile(join(server.incoming, wal.name), cut);
      await writeWal(server.incoming, { segment: 2 });
      const { status, stdout, stderr } = await archiveWal(server);
      expect(status).toBe(1);
      expect(stdout).toMatch(/NOT archived: incomplete, and unchanged for \d+ s: 700000 of 1048576 bytes/);
      expect(stderr).toContain('it is left alone, see whether its archive_command was interrupted');
      expect((await readFile(join(server.incoming, wal.name))).equals(cut)).toBe(true);
      await expectArchive(server, [next]);
    }));

  test('of another cluster goes to errors; both identifiers are told', () =>
    withServer({}, async (server) => {
      const foreign = makeWal({ segment: 2, systemIdentifier: 42n });
      await writeWal(server.incoming, { segment: 1 });
      await archiveWal(server);
      await writeFile(join(server.incoming, foreign.name), foreign.bytes);
      const { status, stdout, stderr } = await archiveWal(server);
      expect(status).toBe(1);
      for (const text of [stdout, stderr, (await inErrors(server)).list]) {
        expect(text).toContain('its system identifier is 42, and this archive belongs to 7123456789012345678');
      }
      const { entry } = await inErrors(server);
      expect((await readFile(join(server.errors, entry))).equals(foreign.bytes)).toBe(true);
      await expectArchive(server, [wal]);
    }));

  const strange = [
    '..0000000100000000000000A1',
    'a..b',
    '000000010000000000000001\n000000010000000000000002',
    'Straße-€-файл',
    '\u001b[31mred',
    `${'0'.repeat(250)}.conf`,
    'x'.repeat(255),
    '000000010000000000000001.gz',
    '000000010000000000000001 ',
    '$(reboot)`id`"\'',
    '-rf',
  ];
  test('with a strange name never blocks the others, is never lost, and breaks no line', () =>
    withServer({}, async (server) => {
      for (const name of strange) await writeFile(join(server.incoming, name), name);
      await writeWal(server.incoming, { segment: 1 });
      const { status, stdout } = await archiveWal(server);
      expect(status).toBe(1);
      // Those with a dot in front are somebody's temporaries, as Barman sees it.
      const temporary = strange.filter((name) => name.startsWith('.'));
      expect(await namesIn(server.incoming)).toEqual(temporary);
      const moved = strange.filter((name) => !name.startsWith('.'));
      for (const name of moved) {
        expect(stdout).toContain(`\t${JSON.stringify(name)} NOT archived: it has not the name of a WAL file`);
      }
      const list = await server.cli(['errors', 'list', 'main']);
      expect(list.stdout.trimEnd().split('\n')).toHaveLength(1 + moved.length);
      await expectArchive(server, [wal]);
      const explained = await server.cli(['errors', 'explain', 'main']);
      for (const name of moved) {
        expect(explained.stdout).toContain(`${JSON.stringify(name)} is not the name of a WAL file`);
      }
      const kept = await Promise.all(
        (await namesIn(server.errors)).map((entry) => readFile(join(server.errors, entry), 'utf8')),
      );
      expect(kept.sort()).toEqual([...moved].sort());
      const pathological = (await namesIn(server.errors)).filter((entry) => /^(-rf|\$|x+|.*\n)/.test(entry));
      expect(pathological).toHaveLength(4);
      for (const entry of pathological) {
        expect((await server.cli(['errors', 'resolve', '--keep-aside', 'main', '--', entry])).status).toBe(0);
      }
      expect(await namesIn(`${server.errors}.kept`)).toEqual(pathological);
    }));

  test('whose name is no text at all, byte for byte', () =>
    withServer({}, async (server) => {
      const name = Buffer.from([0x61, 0xff, 0xfe, 0x62]);
      await writeFile(Buffer.concat([Buffer.from(`${server.incoming}/`), name]), 'odd');
      expect((await archiveWal(server)).status).toBe(1);
      const listing = execFileSync('ls', ['-b', server.errors], { encoding: 'utf8', env: { LC_ALL: 'C' } });
      expect(listing).toMatch(/^a\\377\\376b\.\d{8}T\d{6}Z\.unknown\n$/);
      expect(await namesIn(server.incoming)).toEqual([]);
    }));

  const kinds: Record<string, (path: string) => Promise<unknown>> = {
    'a directory': async (path) => {
      await mkdir(path);
      await writeFile(join(path, 'content'), 'kept');
    },
    'a symbolic link': (path) => symlink('/etc/passwd', path),
    'a dangling symbolic link': (path) => symlink('nowhere', path),
    'a fifo': async (path) => execFileSync('mkfifo', [path]),
    // Node removes the name with the listener; this process leaves it there.
    'a socket': async (path) =>
      execFileSync('python3', ['-c', 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])', path]),
  };
  test.each(Object.keys(kinds))('that is %s goes to errors as it is, and nobody follows or opens it', async (kind) =>
    withServer({ compression: 'gzip' }, async (server) => {
      const names = [wal.name, 'some.name'];
      const inodes = new Map<number, number>();
      for (const name of names) {
        await kinds[kind]?.(join(server.incoming, name));
        const { ino, mode } = await lstat(join(server.incoming, name));
        inodes.set(ino, mode);
      }
      await writeWal(server.incoming, { segment: 2 });
      const { status, stdout } = await archiveWal(server);
      expect(status).toBe(1);
      for (const name of names) expect(stdout).toContain(`${JSON.stringify(name)} NOT archived: `);
      for (const entry of await namesIn(server.errors)) {
        const { ino, mode } = await lstat(join(server.errors, entry));
        expect(mode).toBe(inodes.get(ino));
        if (kind === 'a directory') expect(await readFile(join(server.errors, entry, 'content'), 'utf8')).toBe('kept');
      }
      const explained = await server.cli(['errors', 'explain', 'main']);
      expect(explained.stdout).toContain(', not a regular file');
      expect(explained.stdout).toContain('"some.name" is not the name of a WAL file');
      await expectArchive(server, [next]);
      expect(await namesIn(server.incoming)).toEqual([]);
    }),
  );
});

describe.concurrent('a damaged compressed file', () => {
  const codecs: readonly CompressionName[] = ['gzip', 'bzip2', 'xz', 'zstd', 'lz4', 'snappy'];
  test.each(codecs)(
    'of %s: in incoming to errors or left as unfinished, in the archive told by get-wal',
    async (compression) =>
      withServer({ compression, incomplete_wal_timeout: '0 s' }, async (server) => {
        const whole = await createCompressor({ compression }).compress(wal.bytes);
        const flipped = Buffer.from(whole);
        const middle = Math.floor(whole.length / 2);
        flipped[middle] = (flipped[middle] ?? 0) ^ 0xff;

        await writeFile(join(server.incoming, wal.name), flipped);
        await writeWal(server.incoming, { segment: 2 });
        const pass = await archiveWal(server);
        expect(pass.status).toBe(1);
        expect(pass.stdout).toContain(`"${wal.name}" NOT archived: `);
        const [copy] = await namesIn(server.errors);
        const kept = copy === undefined ? join(server.incoming, wal.name) : join(server.errors, copy);
        expect((await readFile(kept)).equals(flipped)).toBe(true);
        await expectArchive(server, [next]);

        await rm(kept);
        for (const damaged of [flipped, whole.subarray(0, whole.length - 100)]) {
          const path = await placeStored(server, wal.name, damaged);
          const { status, stdout, stderr } = await server.cli(['get-wal', 'main', wal.name]);
          expect({ status, stdout }).toEqual({ status: 200, stdout: '' });
          expect(stderr).toContain(`ERROR: ${path} can't be used: `);
        }
        // Delivered once more, whole: the damaged copy is not replaced, the good one not lost.
        await writeFile(join(server.incoming, wal.name), wal.bytes);
        const again = await archiveWal(server);
        expect(again.status).toBe(1);
        expect(again.stdout).toContain('the archived copy is damaged');
        const { entry } = await inErrors(server);
        expect((await readFile(join(server.errors, entry))).equals(wal.bytes)).toBe(true);
      }),
  );
});

describe('a catalogue with garbage lines', () => {
  const garbage = ['garbage', '\u0000\u0000\u0000', '', `${next.name}\tmany\tlong ago`];

  test('is told by list-wals, serves the others, and is made anew by rebuild-xlogdb', () =>
    withServer({}, async (server) => {
      await writeWal(server.incoming, { segment: 1 });
      await archiveWal(server);
      const catalogue = join(server.wals, 'main-xlog.db');
      await writeFile(catalogue, `${garbage.join('\n')}\n${await readFile(catalogue, 'utf8')}`);
      const { status, stdout, stderr } = await server.cli(['list-wals', 'main']);
      expect(status).toBe(1);
      expect(stdout).toContain(wal.name);
      expect(stderr).toContain('the catalogue has 4 damaged lines, the first is line 1');
      expect(stderr).toContain('walwarden rebuild-xlogdb main makes it anew');
      expect((await server.cli(['list-wals', '--gaps', 'main'])).status).toBe(1);

      await writeWal(server.incoming, { segment: 2 });
      expect((await archiveWal(server)).status).toBe(0);
      expect((await readFile(catalogue, 'utf8')).split('\n').map((line) => line.split('\t')[0])).toEqual(
        expect.arrayContaining([wal.name, next.name]),
      );
      expect((await server.cli(['rebuild-xlogdb', 'main'])).status).toBe(0);
      await expectArchive(server, [wal, next]);
      expect((await server.cli(['list-wals', 'main'])).status).toBe(0);
    }));

  test('at its end, torn by a crash: the next pass repairs it by itself', () =>
    withServer({}, async (server) => {
      await writeWal(server.incoming, { segment: 1 });
      await archiveWal(server);
      const catalogue = join(server.wals, 'main-xlog.db');
      const text = await readFile(catalogue, 'utf8');
      await writeFile(catalogue, `${text}${next.name}\t1048`);
      await placeStored(server, next.name, next.bytes);
      expect((await archiveWal(server)).status).toBe(0);
      await expectArchive(server, [wal, next]);
    }));

  test('that is a directory, or a link to nowhere', () =>
    withServer({}, async (server) => {
      const catalogue = join(server.wals, 'main-xlog.db');
      await writeWal(server.incoming, { segment: 1 });
      await mkdir(catalogue);
      for (const command of ['archive-wal', 'list-wals', 'rebuild-xlogdb']) {
        expectRefusal(await server.cli([command, 'main']), `can't open the catalogue ${catalogue}`, 'HINT: move ');
      }
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
      await rm(catalogue, { recursive: true });
      await symlink('nowhere/at/all', catalogue);
      expectRefusal(await archiveWal(server), catalogue);
    }));
});

describe('gpg', () => {
  async function withKey<T>(body: (home: string) => Promise<T>): Promise<T> {
    return withTempDir(async (home) => {
      await chmod(home, 0o700);
      const gpg = (...args: string[]): void => {
        execFileSync('gpg', ['--homedir', home, '--batch', '--quiet', ...args], { stdio: 'ignore' });
      };
      try {
        const passphrase = ['--pinentry-mode', 'loopback', '--passphrase', 'right'];
        gpg(...passphrase, '--quick-gen-key', 'wal@example.com', 'future-default', 'default', 'never');
        return await body(home);
      } finally {
        execFileSync('gpgconf', ['--homedir', home, '--kill', 'all']);
      }
    });
  }
  test('without the key: the file stays, key and keyring are named', () =>
    withTempDir(async (keyring) =>
      withServer(
        { encryption: 'gpg', encryption_key_id: 'nobody@example.com', gnupg_home: keyring },
        async (server) => {
          await chmod(keyring, 0o700);
          await writeWal(server.incoming, { segment: 1 });
          expectRefusal(
            await archiveWal(server),
            `can't store ${wal.name}: encryption key "nobody@example.com" is not found in the keyring`,
            `HINT: look at "gpg --homedir ${keyring} --list-keys`,
            'nothing is lost: what is not archived stays where it is',
          );
          expect(await namesIn(server.incoming)).toEqual([wal.name]);
          expect(await digestsOf(server.wals)).toEqual(new Map());
          execFileSync('gpgconf', ['--homedir', keyring, '--kill', 'all']);
        },
      ),
    ));

  test('with a wrong passphrase, with none, without the secret key: get-wal is 200 and says which', () =>
    withKey(async (keyring) => {
      const encryption = { encryption: 'gpg', encryption_key_id: 'wal@example.com', gnupg_home: keyring };
      await withServer({ ...encryption, encryption_passphrase_command: 'cat passphrase' }, async (server) => {
        await writeWal(server.incoming, { segment: 1 });
        expect((await archiveWal(server)).status).toBe(0);
        const says = async (...said: readonly string[]): Promise<void> => {
          const { status, stdout, stderr } = await server.cli(['get-wal', 'main', wal.name]);
          for (const text of said) expect(stderr).toContain(text);
          expect({ status, stdout }).toEqual({ status: 200, stdout: '' });
        };
        const stored = join(server.wals, wal.name.slice(0, 16), wal.name);
        await says(`${stored} can't be used: encryption_passphrase_command fails`, 'HINT: run it as user');
        await writeFile(join(server.home, 'passphrase'), 'wrong\n');
        execFileSync('gpgconf', ['--homedir', keyring, '--kill', 'gpg-agent']);
        await says(
          'the passphrase does not open the secret key',
          'HINT: check what encryption_passphrase_command prints',
        );
        await writeFile(join(server.home, 'passphrase'), 'right\n');
        expect((await server.cli(['get-wal', 'main', wal.name])).bytes.equals(wal.bytes)).toBe(true);

        // A duplicate needs no passphrase: the journal of digests decides.
        await writeFile(join(server.home, 'passphrase'), 'wrong\n');
        execFileSync('gpgconf', ['--homedir', keyring, '--kill', 'gpg-agent']);
        await writeWal(server.incoming, { segment: 1 });
        expect((await archiveWal(server)).status).toBe(0);
        await writeWal(server.incoming, { segment: 1, seed: 5 });
        expect((await archiveWal(server)).status).toBe(1);
        expect(await namesIn(server.errors)).toHaveLength(1);

        execFileSync('gpgconf', ['--homedir', keyring, '--kill', 'all']);
        await rm(join(keyring, 'private-keys-v1.d'), { recursive: true });
        await says('no secret key for this file', 'HINT: look at "gpg --homedir');
      });
    }));
});

describe.concurrent('a hook', () => {
  test('that hangs is killed after hook_script_timeout; a plain one is only told', () =>
    withServer({ pre_archive_script: 'sleep 1000', hook_script_timeout: '1 s' }, async (server) => {
      await writeWal(server.incoming, { segment: 1 });
      const { status, stderr } = await archiveWal(server);
      expect(status).toBe(0);
      expect(stderr).toContain(
        'pre_archive_script took longer than hook_script_timeout (1 s) and was killed: sleep 1000',
      );
      await expectArchive(server, [wal]);
    }));

  test('that hangs and is a retry script is run again, and SIGTERM ends the waiting', () =>
    withServer({ pre_archive_retry_script: 'sleep 1000', hook_script_timeout: '1 s' }, async (server) => {
      await writeWal(server.incoming, { segment: 1 });
      const child = spawn(process.execPath, [CLI, '-c', server.config, 'archive-wal', 'main'], {
        cwd: server.home,
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let said = '';
      child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
      const ended = once(child, 'close');
      await until('the first failure', () =>
        said.includes('took longer than hook_script_timeout (1 s) and was killed (failure 1); next try in 3 s'),
      );
      child.kill('SIGTERM');
      const [status] = await ended;
      expect(status).not.toBeNull();
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
      expect(await digestsOf(server.wals)).toEqual(new Map());
    }));

  test.each<[string, string, string]>([
    ['that may not be executed', 'script', "can't be executed (exit status 126 of the shell)"],
    ['that is not there', 'nowhere', 'was not found (exit status 127 of the shell)'],
    ['that says stop', 'sh -c "exit 63"', 'failed with exit status 63'],
  ])('%s: the retry script stops the pass, the file waits', async (_what, script, said) =>
    withServer({ pre_archive_retry_script: script.replace('script', '%(barman_home)s/script') }, async (server) => {
      await writeFile(join(server.home, 'script'), '#!/bin/sh\n', { mode: 0o644 });
      await writeWal(server.incoming, { segment: 1 });
      expectRefusal(await archiveWal(server), 'ERROR: pre_archive_retry_script of main ', said, wal.name, 'HINT: ');
      expect(await namesIn(server.incoming)).toEqual([wal.name]);
      expect(await digestsOf(server.wals)).toEqual(new Map());
    }),
  );

  test('after the fact that can not be run: the source stays, and the next pass makes up for it', () =>
    withServer({ post_archive_retry_script: './later' }, async (server) => {
      await writeWal(server.incoming, { segment: 1 });
      const { status, stderr } = await archiveWal(server);
      expect(status).toBe(1);
      expect(stderr).toContain('post_archive_retry_script of main');
      expect(await namesIn(join(server.home, 'main', '.claimed', 'incoming'))).toEqual([wal.name]);
      await writeFile(join(server.home, 'later'), '#!/bin/sh\necho "$BARMAN_SEGMENT $BARMAN_ERROR" >> called\n', {
        mode: 0o755,
      });
      expect((await archiveWal(server)).status).toBe(0);
      expect(await readFile(join(server.home, 'called'), 'utf8')).toBe(`${wal.name} \n`);
      expect(await namesIn(server.incoming)).toEqual([]);
      expect(await namesIn(join(server.home, 'main', '.claimed', 'incoming'))).toEqual([]);
      await expectArchive(server, [wal]);
    }));
});

describe('what else may be in the way', () => {
  test('a file where a directory should be', () =>
    withServer({}, async (server) => {
      await rm(server.incoming, { recursive: true });
      await writeFile(server.incoming, '');
      expectRefusal(
        await archiveWal(server),
        `can't make directory ${server.incoming}: there is something else of that name`,
        'HINT: move that away',
      );
    }));

  test('a damaged identity.json', () =>
    withServer({}, async (server) => {
      await writeFile(join(server.home, 'main/identity.json'), '{');
      await writeWal(server.incoming, { segment: 1 });
      expectRefusal(await archiveWal(server), 'main/identity.json is damaged', 'HINT: put the right system identifier');
      expect((await server.cli(['get-wal', 'main', wal.name])).bytes.equals(wal.bytes)).toBe(true);
    }));

  test('a filter of compression = custom that is not there', () =>
    withServer(
      {
        compression: 'custom',
        custom_compression_filter: '/nowhere/squeeze',
        custom_decompression_filter: 'cat',
      },
      async (server) => {
        await writeWal(server.incoming, { segment: 1 });
        expectRefusal(await archiveWal(server), `can't store ${wal.name}: the filter "/nowhere/squeeze"`, 'not found');
        expect(await namesIn(server.incoming)).toEqual([wal.name]);
      },
    ));

  test('an archived file of another content: never replaced, both kept', () =>
    withServer({}, async (server) => {
      await placeStored(server, wal.name, gzipSync(makeWal({ segment: 1, seed: 4 }).bytes));
      await writeWal(server.incoming, { segment: 1 });
      expect((await archiveWal(server)).status).toBe(1);
      const { entry } = await inErrors(server);
      expect((await readFile(join(server.errors, entry))).equals(wal.bytes)).toBe(true);
    }));
});
