import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { claimPath } from '../../src/storage/claim.ts';
import { segmentName, walName, type WalName } from '../../src/wal/wal-name.ts';
import { CLI, ensureBuilt } from '../support/cli.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { run, type RunResult } from '../support/run.ts';
import { json, namesIn, placeStored, withServer, type TestServer } from './with-server.ts';

const wal = makeWal({ segment: 1 });
const other = makeWal({ segment: 1, seed: 7 });
const partialName = walName(`${wal.name}.partial`);

const get = (server: TestServer, ...args: string[]): Promise<RunResult> => server.cli(['get-wal', ...args]);

describe.concurrent('finds a file', () => {
  const places: Record<string, (server: TestServer) => Promise<unknown>> = {
    'in the archive': (server) => placeStored(server, wal.name, wal.bytes),
    'in the archive, compressed': (server) => placeStored(server, wal.name, gzipSync(wal.bytes)),
    'in incoming': (server) => writeFile(join(server.incoming, wal.name), wal.bytes),
    'in incoming, claimed by a pass that crashed': (server) =>
      writeFile(claimPath(join(server.incoming, wal.name), wal.name), wal.bytes),
    'in streaming': (server) => writeFile(join(server.streaming, wal.name), wal.bytes),
  };
  test.each(Object.keys(places))('%s', async (place) =>
    withServer({}, async (server) => {
      await places[place]?.(server);
      const { status, bytes, stderr } = await get(server, 'main', wal.name);
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      expect(bytes.equals(wal.bytes)).toBe(true);
    }),
  );

  const partialPlaces: Record<string, (server: TestServer) => Promise<unknown>> = {
    streaming: (server) => writeFile(join(server.streaming, partialName), wal.bytes),
    'the archive': (server) => placeStored(server, partialName, gzipSync(wal.bytes)),
    incoming: (server) => writeFile(join(server.incoming, partialName), wal.bytes),
  };
  test.each(Object.keys(partialPlaces))('that is partial in %s, only with -P', async (place) =>
    withServer({}, async (server) => {
      await partialPlaces[place]?.(server);
      expect(await get(server, 'main', wal.name)).toMatchObject({ status: 1, stdout: '' });
      for (const flag of ['-P', '--partial']) {
        const { status, bytes } = await get(server, flag, 'main', wal.name);
        expect(status).toBe(0);
        expect(bytes.equals(wal.bytes)).toBe(true);
      }
      // By its own name it is a file like any other.
      expect((await get(server, 'main', partialName)).status).toBe(0);
    }),
  );

  test('in the archive rather than in incoming, in incoming rather than in streaming, and a whole one first', () =>
    withServer({}, async (server) => {
      const first = makeWal({ segment: 1, seed: 11 });
      await writeFile(join(server.streaming, partialName), makeWal({ segment: 1, seed: 14 }).bytes);
      await writeFile(join(server.streaming, wal.name), wal.bytes);
      expect((await get(server, '-P', 'main', wal.name)).bytes.equals(wal.bytes)).toBe(true);
      await writeFile(join(server.incoming, wal.name), other.bytes);
      expect((await get(server, 'main', wal.name)).bytes.equals(other.bytes)).toBe(true);
      await placeStored(server, wal.name, first.bytes);
      expect((await get(server, 'main', wal.name)).bytes.equals(first.bytes)).toBe(true);
    }));

  test('elsewhere when the archived copy is damaged', () =>
    withServer({}, async (server) => {
      await placeStored(server, wal.name, gzipSync(wal.bytes).subarray(0, 1000));
      await writeFile(join(server.incoming, wal.name), wal.bytes);
      const { status, bytes } = await get(server, 'main', wal.name);
      expect(status).toBe(0);
      expect(bytes.equals(wal.bytes)).toBe(true);
    }));

  test('that is moved from incoming to the archive meanwhile', () =>
    withServer({ compression: 'gzip' }, async (server) => {
      const names: WalName[] = [];
      for (let segment = 1; segment <= 6; segment += 1) names.push((await writeWal(server.incoming, { segment })).name);
      const [pass, ...results] = await Promise.all([
        server.cli(['archive-wal', 'main']),
        ...names.map((name) => get(server, 'main', name)),
      ]);
      expect(pass.status).toBe(0);
      expect(results.map(({ status }) => status)).toEqual(names.map(() => 0));
      for (const [index, { bytes }] of results.entries()) {
        expect(bytes.equals(makeWal({ segment: index + 1 }).bytes)).toBe(true);
      }
    }));

  test('of history and backup labels too', () =>
    withServer({}, async (server) => {
      const history = '1\t0/3000000\tno recovery target specified\n';
      await placeStored(server, walName('00000002.history'), Buffer.from(history));
      expect(await get(server, 'main', '00000002.history')).toMatchObject({ status: 0, stdout: history });
      expect(await get(server, 'main', '00000003.history')).toMatchObject({ status: 1, stdout: '' });
    }));
});

describe('--peek', () => {
  const place = (server: TestServer, ...segments: number[]): Promise<unknown> =>
    Promise.all(
      segments.map((segment) => placeStored(server, segmentName(1, BigInt(segment), 1 << 20), Buffer.from('x'))),
    );
  const names = (...segments: number[]): string =>
    segments.map((segment) => `${segmentName(1, BigInt(segment), 1 << 20)}\n`).join('');

  test('prints consecutive names up to the number, or to the first that is missing', () =>
    withServer({}, async (server) => {
      await place(server, 1, 2, 4);
      await writeWal(server.incoming, { segment: 3 });
      const peek = (count: string, from: number): Promise<RunResult> =>
        get(server, '--peek', count, 'main', segmentName(1, BigInt(from), 1 << 20));
      expect(await peek('2', 1)).toMatchObject({ status: 0, stdout: names(1, 2) });
      expect(await peek('10', 1)).toMatchObject({ status: 0, stdout: names(1, 2, 3, 4) });
      expect(await peek('10', 5)).toMatchObject({ status: 0, stdout: '' });
      expect(json(await server.cli(['-f', 'json', 'get-wal', '-p', '2', 'main', segmentName(1, 3n, 1 << 20)]))).toEqual(
        names(3, 4).trim().split('\n'),
      );
    }));

  test.each([
    ['1 MiB', 4096],
    ['16 MiB', 256],
    ['1 GiB', 4],
  ])('goes on in the next log, with segments of %s', (_size, perLog) =>
    withServer({}, async (server) => {
      const hex = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0');
      const name = (log: number, segment: number): WalName => walName(`00000001${hex(log)}${hex(segment)}`);
      const last = [name(0, perLog - 2), name(0, perLog - 1)];
      const following = [name(1, 0), name(1, 1)];
      for (const each of [...last, ...following]) await placeStored(server, each, Buffer.from('x'));
      const { stdout } = await get(server, '--peek', '10', 'main', name(0, perLog - 2));
      expect(stdout).toBe([...last, ...following].map((each) => `${each}\n`).join(''));
    }),
  );

  test('knows only itself of a history file', () =>
    withServer({}, async (server) => {
      await placeStored(server, walName('00000002.history'), Buffer.from('x'));
      expect(await get(server, '--peek', '5', 'main', '00000002.history')).toMatchObject({
        status: 0,
        stdout: '00000002.history\n',
      });
    }));
});

describe('-o', () => {
  test('writes the file whole, 0600, replaces an older one, and leaves nothing else', () =>
    withServer({}, async (server) => {
      await placeStored(server, wal.name, gzipSync(wal.bytes));
      const target = join(server.home, 'restored');
      await mkdir(target);
      await writeFile(join(target, wal.name), 'old');
      const result = await server.cli(['-f', 'json', 'get-wal', '-o', target, 'main', wal.name]);
      expect(result.status).toBe(0);
      expect(json(result)).toEqual({ server: 'main', wal: wal.name, path: join(target, wal.name) });
      expect(await namesIn(target)).toEqual([wal.name]);
      expect((await readFile(join(target, wal.name))).equals(wal.bytes)).toBe(true);
      expect((await stat(join(target, wal.name))).mode & 0o777).toBe(0o600);
    }));

  test('leaves no file behind when there is none, or a damaged one', () =>
    withServer({}, async (server) => {
      expect((await get(server, '-o', server.home, 'main', wal.name)).status).toBe(1);
      await placeStored(server, wal.name, gzipSync(wal.bytes).subarray(0, 1000));
      expect((await get(server, '-o', server.home, 'main', wal.name)).status).toBe(200);
      expect((await namesIn(server.home)).filter((name) => name.includes(wal.name))).toEqual([]);
    }));

  test('into a directory that is not there says so, and is no "not found"', () =>
    withServer({}, async (server) => {
      await placeStored(server, wal.name, wal.bytes);
      const { status, stderr } = await get(server, '-o', join(server.home, 'nowhere'), 'main', wal.name);
      expect(status).toBe(200);
      expect(stderr).toContain(`can't write ${join(server.home, 'nowhere', wal.name)}`);
      expect(stderr).toContain('HINT: the output directory must exist');
    }));

  test('that is killed leaves no half file under the final name', () =>
    withServer({}, async (server) => {
      const big = makeWal({ segment: 1, size: 16 << 20, content: 'random' });
      await placeStored(server, big.name, big.bytes);
      const target = join(server.home, 'restored');
      await mkdir(target);
      await ensureBuilt();
      for (const ms of [120, 150, 180, 210]) {
        const child = spawn(process.execPath, [CLI, '-c', server.config, 'get-wal', '-o', target, 'main', big.name]);
        const timer = setTimeout(() => child.kill('SIGKILL'), ms);
        await once(child, 'close');
        clearTimeout(timer);
        if ((await namesIn(target)).includes(big.name)) {
          expect((await readFile(join(target, big.name))).equals(big.bytes)).toBe(true);
          await rm(join(target, big.name));
        }
      }
    }));
});

describe.concurrent('hands it out compressed', () => {
  // [flag, the system's program that reads it]
  const tools: [string, string[] | null][] = [
    ['-z', ['gzip', '-dc']],
    ['-x', ['gzip', '-dc']],
    ['--gzip', ['gzip', '-dc']],
    ['-j', ['bzip2', '-dc']],
    ['--bzip2', ['bzip2', '-dc']],
    ['--xz', ['xz', '-dc']],
    ['--zstd', ['zstd', '-dcq']],
    ['--lz4', ['lz4', '-dcq']],
    ['--snappy', null],
  ];
  test.each(tools)('with %s, for the system’s own tool', async (flag, tool) =>
    withServer({}, async (server) => {
      await placeStored(server, wal.name, wal.bytes);
      const { status, bytes } = await get(server, flag, 'main', wal.name);
      expect(status).toBe(0);
      expect(bytes.length).toBeLessThan(wal.bytes.length);
      if (tool === null) {
        // No such tool in Debian; what get-wal reads back is held against python-snappy's format elsewhere.
        expect(bytes.subarray(0, 10).toString('latin1')).toBe('\u00ff\u0006\u0000\u0000sNaPpY');
        await placeStored(server, wal.name, bytes);
        expect((await get(server, 'main', wal.name)).bytes.equals(wal.bytes)).toBe(true);
        return;
      }
      const [program = '', ...args] = tool;
      const plain = await run(program, args, { input: bytes });
      expect(plain.status).toBe(0);
      expect(plain.bytes.equals(wal.bytes)).toBe(true);
    }),
  );

  test('and does not compress anew what is stored that way', () =>
    withServer({}, async (server) => {
      const stored = gzipSync(wal.bytes, { level: 1 });
      await placeStored(server, wal.name, stored);
      expect((await get(server, '-z', 'main', wal.name)).bytes.equals(stored)).toBe(true);
      const bzip2 = await run('bzip2', ['-dc'], { input: (await get(server, '-j', 'main', wal.name)).bytes });
      expect(bzip2.bytes.equals(wal.bytes)).toBe(true);
    }));

  test('as it is stored, with --keep-compression', () =>
    withServer({}, async (server) => {
      const stored = gzipSync(wal.bytes, { level: 1 });
      await placeStored(server, wal.name, stored);
      for (const flag of ['-k', '--keep-compression']) {
        const { status, bytes } = await get(server, flag, 'main', wal.name);
        expect(status).toBe(0);
        expect(bytes.equals(stored)).toBe(true);
      }
      expect(gunzipSync(stored).equals(wal.bytes)).toBe(true);
    }));
});

describe.concurrent('exit status', () => {
  test('1 when the file is certainly not there, with nothing on stdout', () =>
    withServer({}, async (server) => {
      const { status, stdout, stderr } = await get(server, 'main', wal.name);
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      expect(stderr).toBe(`ERROR: WAL file ${wal.name} is not in the archive of server main\n`);
      // Even --on-error leaves that answer alone: it is no error.
      expect((await get(server, '--on-error', '7', 'main', wal.name)).status).toBe(1);
    }));

  test.each(['nonsense', '', `${wal.name}x`, '../../../etc/passwd', `${wal.name}.gz`, 'RECOVERYXLOG'])(
    '3 for %j, which is no WAL name',
    async (name) =>
      withServer({}, async (server) => {
        const { status, stdout, stderr } = await get(server, 'main', name);
        expect({ status, stdout }).toEqual({ status: 3, stdout: '' });
        expect(stderr).toContain(`not the name of a WAL file: ${JSON.stringify(name)}`);
      }),
  );

  const doubts: Record<string, (server: TestServer) => Promise<unknown>> = {
    'a damaged archived file': (server) => placeStored(server, wal.name, gzipSync(wal.bytes).subarray(0, 1000)),
    'garbage under its name': (server) => placeStored(server, wal.name, Buffer.alloc(1 << 20, 'x')),
    'an archived file cut short': (server) => placeStored(server, wal.name, wal.bytes.subarray(0, 70_000)),
    'a file in incoming that is not whole': (server) =>
      writeFile(join(server.incoming, wal.name), wal.bytes.subarray(0, 70_000)),
    'a directory under its name': (server) =>
      mkdir(join(server.wals, wal.name.slice(0, 16), wal.name), { recursive: true }),
    'a symbolic link that goes round in circles': async (server) => {
      await mkdir(join(server.wals, wal.name.slice(0, 16)));
      await symlink(wal.name, join(server.wals, wal.name.slice(0, 16), wal.name));
    },
    'an archive that is a file': async (server) => {
      await rename(server.wals, `${server.wals}.away`);
      await writeFile(server.wals, 'not mounted');
    },
  };
  test.each(Object.keys(doubts))('200 for %s, 1 beside standby.signal, else what --on-error says', async (doubt) =>
    withServer({}, async (server) => {
      await doubts[doubt]?.(server);
      for (const directory of ['primary', 'standby', 'recovery']) await mkdir(join(server.home, directory));
      await writeFile(join(server.home, 'standby', 'standby.signal'), '');
      await writeFile(join(server.home, 'recovery', 'recovery.signal'), '');
      const within = (directory: string, ...options: string[]): Promise<RunResult> =>
        server.cli(['get-wal', ...options, 'main', wal.name], { cwd: join(server.home, directory) });
      const [plain, told, standby, recovery] = await Promise.all([
        within('primary'),
        within('primary', '--on-error', '7'),
        within('standby'),
        within('recovery'),
      ]);
      expect([plain, told, standby, recovery].map(({ status }) => status)).toEqual([200, 7, 1, 200]);
      expect(plain.stdout).toBe('');
      expect(plain.stderr).toMatch(/^ERROR: .*(can't be used|can't use|can't read)/);
      expect(plain.stderr).toContain(server.home);
    }),
  );

  test('200 for an unknown server, no configuration, a wrong option: none of these means that the file is not there', () =>
    withServer({}, async (server) => {
      expect((await get(server, 'mian', wal.name)).status).toBe(200);
      expect((await get(server, 'main', '--no-such-option', wal.name)).status).toBe(200);
      await writeFile(server.config, 'no ini file');
      expect((await get(server, 'main', wal.name)).status).toBe(200);
      await rm(server.config);
      expect((await get(server, 'main', wal.name)).status).toBe(200);
    }));

  test('200 when it may not look, as an ordinary user', () =>
    withServer({}, async (server) => {
      await placeStored(server, wal.name, wal.bytes);
      await chmod(server.home, 0o755);
      const { status, stderr } = await server.cli(['get-wal', 'main', wal.name], { uid: 65_534, gid: 65_534 });
      expect(status).toBe(200);
      expect(stderr).toContain('EACCES');
    }));
});

test('--test says the words that barman-wal-restore --test shows', () =>
  withServer({}, async (server) => {
    expect(await get(server, '--test', 'main', 'dummy_wal_name')).toMatchObject({
      status: 0,
      stdout: 'Ready to retrieve WAL files from the server main\n',
      stderr: '',
    });
    expect(json(await server.cli(['-f', 'json', 'get-wal', '-t', 'main']))).toEqual({ server: 'main', ready: true });
  }));

test('a reader that goes away early ends it, and not in silence', () =>
  withServer({}, async (server) => {
    const big = makeWal({ segment: 1, size: 16 << 20 });
    await placeStored(server, big.name, big.bytes);
    await ensureBuilt();
    const script = `set -o pipefail; "${process.execPath}" "${CLI}" -c "${server.config}" get-wal main ${big.name} | head -c 10 >/dev/null`;
    const result = await run('bash', ['-c', script], {});
    expect(result.status).toBe(200);
    expect(result.stderr).toContain("ERROR: can't write to stdout");
  }));
