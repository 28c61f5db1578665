import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeCertificates, type Certificates } from '../../postgres/certificates.ts';
import { makeWal, writeWal } from '../../support/make-wal.ts';
import { run, type RunResult } from '../../support/run.ts';
import { tempParent, tempPrefix, withTempDir } from '../../support/temp-dir.ts';
import { withHttp, type TestHttp } from './with-http.ts';

const DOCUMENT = fileURLToPath(new URL('../../../docs/http.md', import.meta.url));
const wal = makeWal({ segment: 1 });
const next = makeWal({ segment: 2 });

/** The indented blocks of docs/http.md that begin with this. */
async function blocks(beginning: string): Promise<string[]> {
  const found = (await readFile(DOCUMENT, 'utf8')).match(/(?:^ {4}.*\n)+/gm) ?? [];
  return found.map((block) => block.replace(/^ {4}/gm, '')).filter((block) => block.startsWith(beginning));
}

/** A setting of postgresql.conf as PostgreSQL runs it: %p, %f and %% are replaced, nothing else. */
async function commandOf(option: string, index: number, places: Record<string, string>, file: string, path: string) {
  const [, value = ''] = /^\w+ = '(.*)'\n$/.exec((await blocks(`${option} =`))[index] ?? '') ?? [];
  expect(value).not.toBe('');
  expect(value).not.toContain("'");
  const adapted = Object.entries(places).reduce((text, [from, to]) => text.replaceAll(from, to), value);
  return adapted.replaceAll(/%(.)/g, (whole, letter: string) => ({ p: path, f: file, '%': '%' })[letter] ?? whole);
}

/** PostgreSQL's data directory, in which it runs its commands. */
class DataDirectory {
  readonly path: string;
  readonly #places: Record<string, string>;
  readonly #index: number;

  constructor(path: string, places: Record<string, string>, index: number) {
    this.path = path;
    this.#places = places;
    this.#index = index;
  }

  async archive({ name, bytes }: { name: string; bytes: Buffer }): Promise<RunResult> {
    await mkdir(join(this.path, 'pg_wal'), { recursive: true });
    await writeFile(join(this.path, 'pg_wal', name), bytes);
    return this.#run(await commandOf('archive_command', this.#index, this.#places, name, `pg_wal/${name}`));
  }

  /** The status, and what came. */
  async restore(name: string): Promise<{ status: number | null; bytes: Buffer | null }> {
    const target = join(this.path, 'pg_wal', 'RECOVERYXLOG');
    await mkdir(join(this.path, 'pg_wal'), { recursive: true });
    await rm(target, { force: true });
    const { status } = await this.#run(
      await commandOf('restore_command', this.#index, this.#places, name, 'pg_wal/RECOVERYXLOG'),
    );
    return { status, bytes: await readFile(target).catch(() => null) };
  }

  becomeStandby(): Promise<void> {
    return writeFile(join(this.path, 'standby.signal'), '');
  }

  #run(command: string): Promise<RunResult> {
    return run('/bin/sh', ['-c', command], { cwd: this.path });
  }
}

function withSocket<T>(body: (server: TestHttp, data: DataDirectory) => Promise<T>): Promise<T> {
  return withTempDir((data) =>
    withHttp({ server: { compression: 'zstd' } }, (server) =>
      body(server, new DataDirectory(data, { '/var/lib/barman/walwarden.sock': server.socket }, 0)),
    ),
  );
}

describe.concurrent('archive_command of docs/http.md', () => {
  test('is 0 for what is stored, silently, and once more', () =>
    withSocket(async (server, data) => {
      for (const _ of [1, 2]) {
        expect(await data.archive(wal)).toMatchObject({ status: 0, stdout: '', stderr: '' });
      }
      expect((await readFile(join(server.incoming, wal.name))).equals(wal.bytes)).toBe(true);
    }));

  test('takes a segment of 16 MiB, and a history file', () =>
    withSocket(async (server, data) => {
      const large = makeWal({ segment: 1, size: 16 << 20 });
      expect(await data.archive(large)).toMatchObject({ status: 0 });
      const history = { name: '00000002.history', bytes: Buffer.from('1\t0/3000000\treason\n') };
      expect(await data.archive(history)).toMatchObject({ status: 0 });
      expect(await readdir(server.incoming)).toEqual([large.name, history.name].sort());
    }));

  test('fails below 126 for what is not taken, and says why', () =>
    withSocket(async (server, data) => {
      const bad = await data.archive({ name: wal.name, bytes: next.bytes });
      expect(bad.status).toBe(22);
      expect(bad.stderr).toContain(`refused ${wal.name} for server main`);
      await data.archive(wal);
      const conflict = await data.archive({ name: wal.name, bytes: makeWal({ segment: 1, seed: 9 }).bytes });
      expect(conflict.status).toBe(22);
      expect(conflict.stderr).toContain('walwarden errors explain main');
      server.view.phase = 'stopping';
      expect((await data.archive(next)).status).toBe(22);
      server.view.phase = 'running';
      await server.http.close(AbortSignal.abort());
      const { status } = await data.archive(next);
      expect(status).toBeGreaterThan(0);
      expect(status).toBeLessThan(126);
    }));

  test.each([
    ['a redirection', 'HTTP/1.1 302 Found\r\nLocation: http://localhost/login\r\nContent-Length: 0\r\n\r\n', 47],
    ['silence', '', 52],
    ['half an answer', 'HTTP/1.1 20', 1],
  ])('fails for %s', async (_what, answer, status) =>
    withImpostor(answer, async (data) => {
      const { status: found } = await data.archive(wal);
      expect(found).toBeGreaterThan(0);
      expect(found).toBeLessThan(126);
      if (status > 1) expect(found).toBe(status);
    }),
  );
});

describe.concurrent('restore_command of docs/http.md', () => {
  test('is 0 with the whole file', () =>
    withSocket(async (server, data) => {
      await archived(server);
      expect(await data.restore(wal.name)).toEqual({ status: 0, bytes: wal.bytes });
    }));

  test.each(['recovery', 'standby'])('of a %s is 1 for what is absent, with no file', (kind) =>
    withSocket(async (server, data) => {
      if (kind === 'standby') await data.becomeStandby();
      await archived(server);
      for (const name of [next.name, '00000002.history']) {
        expect(await data.restore(name)).toEqual({ status: 1, bytes: null });
      }
    }),
  );

  const troubles: Record<string, (server: TestHttp) => Promise<unknown>> = {
    'the daemon is down': (server) => server.http.close(AbortSignal.abort()),
    'the daemon stops': async (server) => (server.view.phase = 'stopping'),
    'the archive is not mounted': (server) => rm(server.wals, { recursive: true }),
    'the file is damaged': (server) => appendFile(join(server.wals, wal.name.slice(0, 16), wal.name), 'more'),
  };
  for (const [what, trouble] of Object.entries(troubles)) {
    test(`is 200 when ${what}, and 1 on a standby`, () =>
      withSocket(async (server, data) => {
        await archived(server);
        await trouble(server);
        expect(await data.restore(wal.name)).toEqual({ status: 200, bytes: null });
        await data.becomeStandby();
        expect(await data.restore(wal.name)).toEqual({ status: 1, bytes: null });
      }));
  }

  const whole = `HTTP/1.1 200 OK\r\nContent-Length: ${wal.bytes.length}\r\n\r\n`;
  test.each([
    ['a connection that is cut in the middle', `${whole}half`],
    ['a connection that is cut before the body', whole],
    ['a chunk that never ends', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nhalf'],
    ['no answer', ''],
    ['no HTTP', 'SSH-2.0-OpenSSH_9.2\r\n'],
    ['a redirection', 'HTTP/1.1 302 Found\r\nLocation: http://localhost/login\r\nContent-Length: 0\r\n\r\n'],
    ['no content', 'HTTP/1.1 204 No Content\r\n\r\n'],
    ['a part', 'HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\n\r\nhalf'],
    ['a mistake of the server', 'HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops'],
  ])('is 200 for %s, and 1 on a standby', async (_what, answer) =>
    withImpostor(answer, async (data) => {
      expect((await data.restore(wal.name)).status).toBe(200);
      await data.becomeStandby();
      expect((await data.restore(wal.name)).status).toBe(1);
    }),
  );

  test('is 200 for a server that is misspelt', () =>
    withTempDir((data) =>
      withHttp({}, async (server) => {
        const places = { '/var/lib/barman/walwarden.sock': server.socket, '/servers/main/': '/servers/mian/' };
        expect(await new DataDirectory(data, places, 0).restore(wal.name)).toEqual({ status: 200, bytes: null });
      }),
    ));
});

describe('the commands for another machine', () => {
  let directory: string;
  let made: Certificates;
  beforeAll(async () => {
    directory = await mkdtemp(join(tempParent(), tempPrefix()));
    made = await makeCertificates(join(directory, 'certificates'));
  });
  afterAll(() => rm(directory, { recursive: true }));

  test('archive and restore with the token that the document makes, and with no other', async () => {
    const [script = ''] = await blocks('token=$(');
    expect(await run('/bin/sh', ['-ec', script], { cwd: directory })).toMatchObject({ status: 0, stderr: '' });
    const [line = ''] = (await readFile(join(directory, 'tokens'), 'utf8')).split('\n');
    const tls = { cert: made.server, key: made.server.replace(/crt$/, 'key'), ca: await readFile(made.authority) };
    await withHttp({ listen: '0.0.0.0:0', tls, tokens: [line] }, async (server) => {
      const places = {
        '/etc/postgresql/walwarden-ca.crt': made.authority,
        '/etc/postgresql/walwarden.token': join(directory, 'walwarden.token'),
        'backup:8432': `127.0.0.1:${new URL(server.http.address).port}`,
      };
      const data = new DataDirectory(directory, places, 1);
      expect(await data.archive(wal)).toMatchObject({ status: 0, stderr: '' });
      expect(await data.restore(wal.name)).toEqual({ status: 0, bytes: wal.bytes });
      expect(await data.restore(next.name)).toEqual({ status: 1, bytes: null });
      await writeFile(join(directory, 'walwarden.token'), 'Authorization: Bearer wrong\n');
      expect((await data.archive(next)).status).toBe(22);
      expect(await data.restore(wal.name)).toEqual({ status: 200, bytes: null });
    });
  });
});

test('the other commands of docs/http.md', () =>
  withHttp({}, async (server) => {
    const adapted = (text: string): string => text.replaceAll('/var/lib/barman/walwarden.sock', server.socket);
    const [ready = '', withChecksum = ''] = (await blocks('curl ')).map(adapted);
    const first = await run('/bin/sh', ['-c', ready], {});
    expect(JSON.parse(first.stdout)).toMatchObject({ phase: 'running' });
    await writeWal(server.home, { segment: 1 });
    expect(await run('/bin/sh', ['-c', withChecksum], { cwd: server.home })).toMatchObject({ status: 0, stdout: '' });
    expect(await readdir(server.incoming)).toEqual([wal.name]);
  }));

async function archived(server: TestHttp): Promise<void> {
  await writeWal(server.incoming, { segment: 1 });
  expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
}

/** Somebody else on the socket, who says one thing to everybody and hangs up. */
async function withImpostor(answer: string, body: (data: DataDirectory) => Promise<void>): Promise<void> {
  await withTempDir(async (directory) => {
    const path = join(directory, 'impostor.sock');
    const server = createServer((socket: Socket) => {
      socket.on('error', () => {});
      socket.once('data', () => {
        // What curl still sends is read, or it would not hear the answer.
        socket.resume().end(answer);
      });
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    try {
      await body(new DataDirectory(directory, { '/var/lib/barman/walwarden.sock': path }, 0));
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  });
}
