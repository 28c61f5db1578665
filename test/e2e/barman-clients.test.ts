import { chmod, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { beforeAll, describe, expect, test } from 'vitest';
import { CLI, ensureBuilt } from '../support/cli.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import type { RunResult } from '../support/run.ts';
import {
  catalogueLines,
  namesIn,
  placeStored,
  withServer,
  type ServerOptions,
  type TestServer,
} from '../commands/with-server.ts';
import { checkedOutBarman, debianBarman, type Barman } from './barman-programs.ts';

/** A database host with Barman's clients, whose ssh leads to a host where walwarden is called barman. */
interface Clients extends TestServer {
  /** Where the client keeps its files. */
  readonly data: string;
  /** Every command line that came through ssh. */
  commands(): Promise<string[]>;
  archive(...args: string[]): Promise<RunResult>;
  restore(...args: string[]): Promise<RunResult>;
}

const wal = makeWal({ segment: 1 });
const other = makeWal({ segment: 1, seed: 9 });

// ssh joins its words by spaces and lets the login shell of the other host take them apart.
const SSH = `#!/bin/sh
while :; do
  case "$1" in
    -p) shift 2 ;;
    -*) shift ;;
    *) break ;;
  esac
done
host=$1
shift
[ "$host" = barman@unreachable ] && exit 255
echo "$*" >> "$SSH_LOG"
PATH=$BARMAN_HOST_PATH exec sh -c "$*"
`;

function withClients<T>(barman: Barman, options: ServerOptions, body: (clients: Clients) => Promise<T>): Promise<T> {
  return withServer(options, async (server) => {
    const at = (name: string): string => join(server.home, name);
    for (const directory of ['client-bin', 'barman-bin', 'data']) await mkdir(at(directory));
    await writeFile(at('client-bin/ssh'), SSH);
    await chmod(at('client-bin/ssh'), 0o755);
    await symlink(CLI, at('barman-bin/barman'));
    // The configuration that the other host finds by itself.
    await writeFile(at('.walwarden.conf'), await readFile(server.config));
    const path = process.env['PATH'] ?? '';
    const env = {
      HOME: server.home,
      SSH_LOG: at('ssh.log'),
      PATH: `${at('client-bin')}${delimiter}${path}`,
      BARMAN_HOST_PATH: `${at('barman-bin')}${delimiter}${path}`,
    };
    const client = (module: string, args: readonly string[]): Promise<RunResult> =>
      barman.client(module, args, { cwd: at('data'), env });
    return body({
      ...server,
      data: at('data'),
      commands: async () => (await readFile(at('ssh.log'), 'utf8')).trimEnd().split('\n'),
      archive: (...args) => client('walarchive', args),
      restore: (...args) => client('walrestore', args),
    });
  });
}

beforeAll(async () => {
  await ensureBuilt();
  await chmod(CLI, 0o755);
});

const checkedOut = checkedOutBarman();
const generations: readonly (readonly [string, () => Barman])[] = [
  ['Debian’s barman-cli', debianBarman],
  ...(checkedOut === undefined ? [] : [['the clients of BARMAN_CHECKOUT', () => checkedOut] as const]),
];

describe.each(generations)('%s', (_label, barman) => {
  const withHost = <T>(options: ServerOptions, body: (clients: Clients) => Promise<T>): Promise<T> =>
    withClients(barman(), options, body);

  describe.concurrent('barman-wal-archive', () => {
    test('delivers a segment, with its time, and again', () =>
      withHost({ compression: 'gzip' }, async (host) => {
        const { path } = await writeWal(host.data, { segment: 1, mtime: 1_700_000_000.25 });
        for (let attempt = 1; attempt <= 2; attempt += 1) {
          expect(await host.archive('backup', 'main', path)).toMatchObject({ status: 0, stderr: '' });
        }
        expect(await namesIn(host.incoming)).toEqual([wal.name]);
        expect((await readFile(join(host.incoming, wal.name))).equals(wal.bytes)).toBe(true);
        expect((await host.cli(['archive-wal', 'main'])).status).toBe(0);
        expect(await catalogueLines(host)).toEqual([expect.stringMatching(/\t1700000000\.25\tgzip\tNone$/)]);
        expect(await host.archive('backup', 'main', path)).toMatchObject({ status: 0 });
        expect(await namesIn(host.incoming)).toEqual([]);
      }));

    test('with a configuration file and a port', () =>
      withHost({}, async (host) => {
        const { path } = await writeWal(host.data, { segment: 1 });
        const result = await host.archive('-U', 'someone', '--port', '2222', '-c', host.config, 'backup', 'main', path);
        expect(result).toMatchObject({ status: 0, stderr: '' });
        expect(await host.commands()).toEqual([`barman --config='${host.config}' put-wal main`]);
        expect(await namesIn(host.incoming)).toEqual([wal.name]);
      }));

    test('hands the refusal of another content on, and PostgreSQL keeps its file', () =>
      withHost({}, async (host) => {
        await writeFile(join(host.incoming, wal.name), other.bytes);
        const { path } = await writeWal(host.data, { segment: 1 });
        const { status, stderr } = await host.archive('backup', 'main', path);
        expect(status).toBe(1);
        expect(stderr).toContain(`ERROR: ${wal.name} is there already, for server main: its content is another`);
        expect(stderr).toContain("ERROR: Remote 'barman put-wal' command has failed!");
        expect(await namesIn(host.errors)).toHaveLength(1);
      }));

    test('of a wrong server, an unreachable host, a file that is no WAL', () =>
      withHost({}, async (host) => {
        const { path } = await writeWal(host.data, { segment: 1 });
        const wrong = await host.archive('backup', 'mian', path);
        // 2 when the client notices first that nobody reads what it sends.
        expect([1, 2]).toContain(wrong.status);
        expect(wrong.stderr).toContain('HINT: did you mean "main"?');
        expect([2, 3]).toContain((await host.archive('unreachable', 'main', path)).status);
        await writeFile(join(host.data, 'postgresql.conf'), 'x');
        const odd = await host.archive('backup', 'main', join(host.data, 'postgresql.conf'));
        expect(odd.status).toBe(1);
        expect(odd.stderr).toContain('"postgresql.conf" is not the name of a WAL file');
        expect(await namesIn(host.incoming)).toEqual([]);
      }));

    test('--test', () =>
      withHost({}, async (host) => {
        const good = await host.archive('--test', 'backup', 'main', 'dummy');
        expect(good.status).toBe(0);
        expect(good.stdout).toContain('Ready to accept WAL files for the server main');
        const wrong = await host.archive('--test', 'backup', 'mian', 'dummy');
        expect(wrong.status).toBe(1);
        expect(wrong.stdout).toContain('unknown server "mian"');
      }));
  });

  describe.concurrent('barman-wal-restore', () => {
    test('brings a segment, whatever the compression of the archive', () =>
      withHost({}, async (host) => {
        await placeStored(host, wal.name, gzipSync(wal.bytes));
        const target = join(host.data, 'RECOVERYXLOG');
        expect(await host.restore('backup', 'main', wal.name, target)).toMatchObject({ status: 0, stderr: '' });
        expect((await readFile(target)).equals(wal.bytes)).toBe(true);
        expect(await host.commands()).toEqual([`barman get-wal 'main' '${wal.name}'`]);
      }));

    test.each(['-z', '-j'])('compressed on the wire with %s', (flag) =>
      withHost({}, async (host) => {
        await placeStored(host, wal.name, wal.bytes);
        const target = join(host.data, 'RECOVERYXLOG');
        const result = await host.restore(flag, '-c', host.config, 'backup', 'main', wal.name, target);
        expect(result).toMatchObject({ status: 0, stderr: '' });
        expect((await readFile(target)).equals(wal.bytes)).toBe(true);
        expect((await host.commands())[0]).toContain(flag === '-z' ? '--gzip' : '--bzip2');
      }),
    );

    test('--partial', () =>
      withHost({}, async (host) => {
        await writeFile(join(host.streaming, `${wal.name}.partial`), wal.bytes);
        const target = join(host.data, 'RECOVERYXLOG');
        expect((await host.restore('backup', 'main', wal.name, target)).status).toBe(1);
        expect(await host.restore('--partial', 'backup', 'main', wal.name, target)).toMatchObject({ status: 0 });
        expect((await readFile(target)).equals(wal.bytes)).toBe(true);
      }));

    test('-p reads ahead into the spool, by --peek, and serves from there', () =>
      withHost({ compression: 'zstd' }, async (host) => {
        const segments = [1, 2, 3, 4, 5].map((segment) => makeWal({ segment }));
        for (const segment of [1, 2, 3, 4]) await writeWal(host.incoming, { segment });
        expect((await host.cli(['archive-wal', 'main'])).status).toBe(0);
        await writeWal(host.incoming, { segment: 5 });
        const spool = join(host.data, 'spool');
        const target = join(host.data, 'RECOVERYXLOG');
        const restore = (name: string): Promise<RunResult> =>
          host.restore('-p', '4', '--spool-dir', spool, 'backup', 'main', name, target);
        const [first, ...ahead] = segments;
        expect(await restore(first?.name ?? '')).toMatchObject({ status: 0, stderr: '' });
        expect((await readFile(target)).equals(first?.bytes ?? wal.bytes)).toBe(true);
        expect((await host.commands())[0]).toContain("--peek '4'");
        expect(await namesIn(spool)).toEqual(segments.slice(1, 4).map(({ name }) => name));
        const asked = (await host.commands()).length;
        for (const { name, bytes } of ahead) {
          expect((await restore(name)).status).toBe(0);
          expect((await readFile(target)).equals(bytes)).toBe(true);
        }
        // Three came from the spool; only the fifth was asked for, and its peek.
        expect((await host.commands()).length).toBe(asked + 2);
        const end = await restore(makeWal({ segment: 6 }).name);
        expect(end.status).toBe(2);
        expect(end.stderr).toContain('The required file is not available');
      }));

    test('is told apart: not there 1, no WAL name 3, damaged or a wrong server 200, no connection 2', () =>
      withHost({}, async (host) => {
        const restore = (...args: string[]): Promise<RunResult> => host.restore(...args, join(host.data, 'out'));
        const missing = await restore('backup', 'main', wal.name);
        expect(missing.status).toBe(1);
        expect(missing.stderr).toContain(`WAL file ${wal.name} is not in the archive of server main`);
        expect((await restore('backup', 'main', 'nonsense')).status).toBe(3);
        await placeStored(host, wal.name, gzipSync(wal.bytes).subarray(0, 999));
        expect((await restore('backup', 'main', wal.name)).status).toBe(200);
        expect((await restore('backup', 'mian', wal.name)).status).toBe(200);
        expect((await restore('unreachable', 'main', wal.name)).status).toBe(2);
      }));

    test('--test', () =>
      withHost({}, async (host) => {
        const good = await host.restore('--test', 'backup', 'main', 'dummy', 'dummy');
        expect(good.status).toBe(0);
        expect(good.stdout).toContain('Ready to retrieve WAL files from the server main');
        const wrong = await host.restore('--test', 'backup', 'mian', 'dummy', 'dummy');
        expect(wrong.status).not.toBe(0);
        expect(wrong.stdout).toContain('unknown server "mian"');
      }));
  });
});

test('a client that sends SHA256SUMS, as newer ones do, is taken as well', () =>
  withClients(debianBarman(), {}, async (host) => {
    const { path } = await writeWal(host.data, { segment: 1 });
    // The 3.4 client with the digest exchanged.
    const program = `
import hashlib, types
from barman.clients import walarchive
walarchive.hashlib = types.SimpleNamespace(md5=hashlib.sha256)
walarchive.ChecksumTarFile.MD5SUMS_FILE = 'SHA256SUMS'
with open('delivery.tar', 'wb') as out, walarchive.closing(walarchive.ChecksumTarFile.open(mode='w|', fileobj=out)) as tar:
    tar.add('${path}', '${wal.name}')
`;
    expect(await debianBarman().python(program, [], { cwd: host.data })).toMatchObject({ status: 0, stderr: '' });
    const input = await readFile(join(host.data, 'delivery.tar'));
    expect(input.includes('SHA256SUMS')).toBe(true);
    expect(await host.cli(['put-wal', 'main'], { input })).toMatchObject({ status: 0, stderr: '' });
    expect((await readFile(join(host.incoming, wal.name))).equals(wal.bytes)).toBe(true);
  }));
