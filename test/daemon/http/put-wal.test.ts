import { execFileSync } from 'node:child_process';
import { closeSync, openSync, rmSync } from 'node:fs';
import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { sha256 } from '../../../src/storage/sha256.ts';
import { namesIn } from '../../commands/with-server.ts';
import { BROKEN_PAGE, brokenWal } from '../../support/broken-wal.ts';
import { makeWal, writeWal } from '../../support/make-wal.ts';
import { until } from '../../support/poll.ts';
import { jsonOf, withHttp, type TestHttp } from './with-http.ts';

const wal = makeWal({ segment: 1 });
const next = makeWal({ segment: 2 });
const other = makeWal({ segment: 1, seed: 99 });

/** Temporaries too. */
async function expectNothingKept(server: TestHttp): Promise<void> {
  expect(await readdir(server.incoming)).toEqual([]);
  expect(await namesIn(server.errors)).toEqual([]);
}

describe.concurrent('PUT of a WAL file', () => {
  test('is 201, and the file is in incoming as it came', () =>
    withHttp({}, async (server) => {
      const answer = await server.put(wal.name, wal.bytes, { 'x-content-sha256': sha256(wal.bytes).toUpperCase() });
      expect(answer.status).toBe(201);
      expect(answer.body).toHaveLength(0);
      expect(await readdir(server.incoming)).toEqual([wal.name]);
      expect((await readFile(join(server.incoming, wal.name))).equals(wal.bytes)).toBe(true);
      expect((await stat(join(server.incoming, wal.name))).mode & 0o777).toBe(0o600);
      expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
      expect((await server.get(wal.name)).body.equals(wal.bytes)).toBe(true);
    }));

  test('takes history files, backup labels, and what the client compressed', () =>
    withHttp({}, async (server) => {
      const history = Buffer.from('1\t0/3000000\tno recovery target specified\n');
      expect((await server.put('00000002.history', history)).status).toBe(201);
      expect((await server.put(wal.name, gzipSync(wal.bytes))).status).toBe(201);
      expect(await readdir(server.incoming)).toEqual([wal.name, '00000002.history'].sort());
    }));

  test('takes a body in chunks, without a length', () =>
    withHttp({}, async (server) => {
      const headers = { 'transfer-encoding': 'chunked', 'content-type': 'application/octet-stream' };
      const answer = await server.ask(`/servers/main/wal/${wal.name}`, { method: 'PUT', headers, body: wal.bytes });
      expect(answer.status).toBe(400); // both, which is a way to smuggle requests
      const { stdout } = await curl(server, ['-T', '-'], wal.bytes);
      expect(stdout).toContain('201');
      expect(await readdir(server.incoming)).toEqual([wal.name]);
    }));

  test('is 200 for the same file again, whether it waits, is claimed, or is archived', () =>
    withHttp({ server: { compression: 'zstd' } }, async (server) => {
      expect((await server.put(wal.name, wal.bytes)).status).toBe(201);
      expect(await server.put(wal.name, wal.bytes)).toMatchObject({ status: 200, body: Buffer.alloc(0) });
      await rm(join(server.incoming, wal.name));
      await writeFile(join(server.incoming, `.walwarden-${wal.name}`), wal.bytes, { mode: 0o600 });
      expect((await server.put(wal.name, wal.bytes)).status).toBe(200);
      await server.cli(['archive-wal', 'main']);
      expect((await server.put(wal.name, wal.bytes)).status).toBe(200);
      await expectNothingKept(server);
    }));

  test.each(['incoming', 'the archive'])('is 409 for another content than in %s, kept once in errors', (place) =>
    withHttp({}, async (server) => {
      await server.put(wal.name, wal.bytes);
      if (place !== 'incoming') await server.cli(['archive-wal', 'main']);
      for (const attempt of [1, 2, 3]) {
        const answer = await server.put(wal.name, other.bytes);
        expect({ attempt, status: answer.status }).toEqual({ attempt, status: 409 });
        expect(jsonOf(answer)).toMatchObject({
          error: { code: 'conflict', hint: expect.stringContaining('walwarden errors explain main') },
        });
      }
      expect(await namesIn(server.errors)).toHaveLength(1);
      expect((await server.get(wal.name)).body.equals(wal.bytes)).toBe(true);
    }),
  );

  test('is 200 for another content under put_wal_conflict = accept, which is in errors all the same', () =>
    withHttp({ server: { put_wal_conflict: 'accept' } }, async (server) => {
      await server.put(wal.name, wal.bytes);
      expect((await server.put(wal.name, other.bytes)).status).toBe(200);
      expect(await namesIn(server.errors)).toHaveLength(1);
    }));

  test.each<[string, Buffer, RegExp]>([
    ['garbage', Buffer.alloc(1 << 20, 'x'), /^refused .* for server main/],
    ['nothing', Buffer.alloc(0), /^refused/],
    ['a truncated segment', wal.bytes.subarray(0, 500_000), /^refused/],
    ['the bytes of another segment', next.bytes, /^refused/],
    ['a compressed file that is cut short', gzipSync(wal.bytes).subarray(0, 5_000), /gzip|cut|short|incomplete|end/i],
    ['a compressed file of another segment', gzipSync(next.bytes), /^refused/],
  ])('is 422 for %s, with the reason', (_what, bytes, said) =>
    withHttp({}, async (server) => {
      const answer = await server.put(wal.name, bytes);
      expect(answer.status).toBe(422);
      expect(jsonOf(answer)).toMatchObject({ error: { message: expect.stringMatching(said) } });
      await expectNothingKept(server);
    }),
  );

  test('is 422 for a segment with zeros in its middle, naming page and offset, and 201 for the real one then', () =>
    withHttp({}, async (server) => {
      for (const bytes of [brokenWal().bytes, gzipSync(brokenWal().bytes)]) {
        const answer = await server.put(wal.name, bytes);
        expect(answer.status).toBe(422);
        expect(jsonOf(answer)).toMatchObject({ error: { message: expect.stringContaining(BROKEN_PAGE) } });
      }
      await expectNothingKept(server);
      expect((await server.put(wal.name, wal.bytes)).status).toBe(201);
      expect((await server.put(`${wal.name}.partial`, brokenWal().bytes)).status).toBe(201);
    }));

  test('is 422 for WAL of another cluster, and for a wrong checksum', () =>
    withHttp({}, async (server) => {
      const wrong = await server.put(wal.name, wal.bytes, { 'x-content-sha256': sha256(next.bytes) });
      expect(wrong.status).toBe(422);
      expect(jsonOf(wrong)).toMatchObject({ error: { message: expect.stringContaining(sha256(wal.bytes)) } });
      await expectNothingKept(server);
      await server.put(wal.name, wal.bytes);
      const foreign = makeWal({ segment: 3, systemIdentifier: 42n });
      const answer = await server.put(foreign.name, foreign.bytes);
      expect(answer.status).toBe(422);
      expect(jsonOf(answer)).toMatchObject({ error: { message: expect.stringContaining('system identifier is 42') } });
      expect(await readdir(server.incoming)).toEqual([wal.name]);
    }));

  test('takes WAL of a new system identifier once another process has accepted it', () =>
    withHttp({}, async (server) => {
      await server.put(wal.name, wal.bytes);
      const upgraded = makeWal({ segment: 3, systemIdentifier: 42n });
      expect((await server.put(upgraded.name, upgraded.bytes)).status).toBe(422);
      await writeFile(join(server.home, 'main', 'identity.json'), '{"systemid": "42", "version": "15"}\n');
      expect((await server.put(upgraded.name, upgraded.bytes)).status).toBe(201);
      expect((await server.put(next.name, next.bytes)).status).toBe(422);
    }));

  test.each<[string, number, Record<string, string>]>([
    ['a checksum that is none', 400, { 'x-content-sha256': 'abc' }],
    ['an encoding that is not undone', 415, { 'content-encoding': 'gzip' }],
    ['more than the largest segment', 413, { 'content-length': String(2 ** 31) }],
  ])('refuses %s before it reads the body', (_what, status, headers) =>
    withHttp({}, async (server) => {
      const answer = await untilAnswered(server, [
        `PUT /servers/main/wal/${wal.name} HTTP/1.1`,
        'Host: x',
        'Expect: 100-continue',
        ...Object.entries({ 'content-length': '1048576', ...headers }).map(([key, value]) => `${key}: ${value}`),
      ]);
      expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
      await expectNothingKept(server);
    }),
  );

  test('refuses a bad name, an unknown and a passive server', () =>
    withHttp({ others: { copy: { primary_ssh_command: 'ssh barman@primary' } } }, async (server) => {
      expect((await server.put('postgresql.conf', wal.bytes)).status).toBe(400);
      expect((await server.put(`..%2f${wal.name}`, wal.bytes)).status).toBe(400);
      const put = (name: string) => server.ask(`/servers/${name}/wal/${wal.name}`, { method: 'PUT', body: wal.bytes });
      expect((await put('mian')).status).toBe(400);
      const passive = await put('copy');
      expect(passive.status).toBe(503);
      expect(passive.body.toString()).toContain('WAL goes to its primary node');
      await expectNothingKept(server);
    }));

  test('is 503 when incoming is not there and can not be made', () =>
    withHttp({}, async (server) => {
      await rm(server.incoming, { recursive: true });
      await writeFile(server.incoming, '');
      const answer = await server.put(wal.name, wal.bytes);
      expect(answer.status).toBe(503);
      expect(jsonOf(answer)).toMatchObject({ error: { code: 'storage' } });
    }));

  test('the same file from eight clients at once: one hears 201, the others 200', () =>
    withHttp({}, async (server) => {
      const answers = await Promise.all(Array.from({ length: 8 }, () => server.put(wal.name, wal.bytes)));
      expect(answers.map(({ status }) => status).sort((a, b) => a - b)).toEqual([...Array<number>(7).fill(200), 201]);
      expect(await readdir(server.incoming)).toEqual([wal.name]);
    }));

  test('many files at once are all there', () =>
    withHttp({}, async (server) => {
      const files = Array.from({ length: 20 }, (_, index) => makeWal({ segment: index + 1 }));
      const answers = await Promise.all(files.map(({ name, bytes }) => server.put(name, bytes)));
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([201]));
      expect((await readdir(server.incoming)).sort()).toEqual(files.map(({ name }) => name));
      expect(await readdir(join(server.home, 'main'))).toEqual(
        expect.not.arrayContaining([expect.stringMatching(/identity.*tmp/)]),
      );
    }));
});

test('a full disk is 507, nothing is left, and the same file is taken once there is space', () =>
  withHttp({}, async (server) => {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1536k,mode=0755', 'tmpfs', server.incoming]);
    try {
      await writeWal(server.incoming, { segment: 9 });
      const answer = await server.put(wal.name, wal.bytes);
      expect(answer.status).toBe(507);
      expect(jsonOf(answer)).toMatchObject({
        error: { code: 'storage', message: expect.stringContaining('ENOSPC'), hint: expect.stringContaining('space') },
      });
      expect(await readdir(server.incoming)).toEqual([makeWal({ segment: 9 }).name]);
      const { status, stdout } = await curl(server, ['-T', '-'], wal.bytes);
      expect({ status, stdout }).toMatchObject({ status: 0, stdout: expect.stringContaining('507') });
      execFileSync('mount', ['-o', 'remount,size=8m', server.incoming]);
      expect((await server.put(wal.name, wal.bytes)).status).toBe(201);
    } finally {
      execFileSync('umount', ['--lazy', server.incoming]);
    }
  }));

test('a server whose storage hangs keeps no other waiting, and who gives up there leaves nothing', () =>
  withHttp({ others: { other: {} } }, async (server) => {
    const identity = join(server.home, 'main', 'identity.json');
    const pathOf = (name: string): string => `/servers/${name}/wal/${wal.name}`;
    await server.opened().makeDirectories();
    execFileSync('mkfifo', [identity]);
    const temporaries = async (): Promise<number> => (await readdir(server.incoming)).length;
    const put = async (): Promise<Socket> => {
      const socket = await connect(server.socket);
      socket.write(`PUT ${pathOf('main')} HTTP/1.1\r\nHost: x\r\nContent-Length: ${wal.bytes.length}\r\n\r\n`);
      socket.write(wal.bytes);
      return socket;
    };
    const hanging = [await put(), await put()];
    await until('two files to be judged', async () => (await temporaries()) === 2);
    expect((await server.ask(pathOf('other'), { method: 'PUT', body: wal.bytes })).status).toBe(201);
    const impatient = await put();
    await until('a third one to wait', async () => (await temporaries()) === 3);
    impatient.destroy();
    await until('it to be gone', async () => (await temporaries()) === 2);
    // Whoever reads it sees its end; whoever comes next finds none.
    const fifo = openSync(identity, 'r+');
    rmSync(identity);
    closeSync(fifo);
    const answers = hanging.map((socket) => new Promise((resolve) => socket.once('data', resolve)));
    await Promise.all(answers);
    hanging.forEach((socket) => socket.destroy());
    expect(await readdir(server.incoming)).not.toContainEqual(expect.stringMatching(/^\./));
    expect(await server.log()).toContain('the client went away');
    expect((await server.put(next.name, next.bytes)).status).toBe(201);
  }));

describe.concurrent('a client that goes away in the middle leaves nothing', () => {
  const head = (length: number): string =>
    `PUT /servers/main/wal/${wal.name} HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}\r\n\r\n`;
  test.each<[string, string, Buffer, boolean]>([
    ['after the headers', head(wal.bytes.length), Buffer.alloc(0), false],
    ['after half of the body', head(wal.bytes.length), wal.bytes.subarray(0, 500_000), false],
    ['without a word', head(wal.bytes.length), wal.bytes.subarray(0, 500_000), true],
    ['one byte before the end', head(wal.bytes.length), wal.bytes.subarray(0, -1), false],
    ['with a body that is shorter than it said', head(wal.bytes.length + 1), wal.bytes, false],
    [
      'in the middle of a chunk',
      `PUT /servers/main/wal/${wal.name} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n`,
      wal.bytes.subarray(0, 500_000),
      false,
    ],
    [
      'before the last chunk',
      `PUT /servers/main/wal/${wal.name} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n`,
      Buffer.concat([wal.bytes, Buffer.from('\r\n')]),
      false,
    ],
    [
      'with a chunk that is no chunk',
      `PUT /servers/main/wal/${wal.name} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n`,
      Buffer.concat([wal.bytes, Buffer.from('\r\nzzz\r\n')]),
      false,
    ],
  ])('%s', (_when, first, body, abrupt) =>
    withHttp({}, async (server) => {
      const socket = await connect(server.socket);
      socket.write(first);
      socket.write(body);
      await until('the file to be begun', async () => (await readdir(server.incoming)).length > 0).catch(() => false);
      if (abrupt) socket.destroy();
      else socket.end();
      await until('it to be gone', async () => (await readdir(server.incoming)).length === 0);
      socket.destroy();
      await expectNothingKept(server);
      expect((await server.put(wal.name, wal.bytes)).status).toBe(201);
    }),
  );
});

test('close() waits for an upload that is under way, and is cut short by its signal', () =>
  withHttp({}, async (server) => {
    const socket = await connect(server.socket);
    socket.write(
      `PUT /servers/main/wal/${wal.name} HTTP/1.1\r\nHost: x\r\nContent-Length: ${wal.bytes.length}\r\n\r\n`,
    );
    socket.write(wal.bytes.subarray(0, 500_000));
    await until('the file to be begun', async () => (await readdir(server.incoming)).length > 0);
    const idle = await connect(server.socket);
    const idleClosed = new Promise((resolve) => idle.once('close', resolve));
    const closing = server.http.close(new AbortController().signal);
    await idleClosed;
    await expect(connect(server.socket)).rejects.toThrow(/ENOENT|ECONNREFUSED/);
    const answer = collect(socket);
    socket.write(wal.bytes.subarray(500_000));
    expect(await answer).toMatch(/^HTTP\/1\.1 201 /);
    await closing;
    expect(await readdir(server.incoming)).toEqual([wal.name]);
  }));

test('close() with a signal that has fired cuts everything off and leaves nothing', () =>
  withHttp({}, async (server) => {
    const socket = await connect(server.socket);
    socket.write(
      `PUT /servers/main/wal/${wal.name} HTTP/1.1\r\nHost: x\r\nContent-Length: ${wal.bytes.length}\r\n\r\n`,
    );
    socket.write(wal.bytes.subarray(0, 500_000));
    await until('the file to be begun', async () => (await readdir(server.incoming)).length > 0);
    await server.http.close(AbortSignal.abort());
    await until('it to be gone', async () => (await readdir(server.incoming)).length === 0);
    socket.destroy();
  }));

function connect(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path, () => {
      socket.removeAllListeners('error').on('error', () => {});
      resolve(socket);
    }).once('error', reject);
  });
}

function collect(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    socket.on('data', (chunk) => (text += chunk.toString('latin1'))).once('close', () => resolve(text));
  });
}

/** The first bytes of the answer to a request whose body is not sent. */
async function untilAnswered(server: TestHttp, lines: readonly string[]): Promise<string> {
  const socket = await connect(server.socket);
  socket.write(`${lines.join('\r\n')}\r\n\r\n`);
  const answer = await new Promise<string>((resolve) => socket.once('data', (chunk) => resolve(chunk.toString())));
  socket.destroy();
  return answer;
}

async function curl(server: TestHttp, args: readonly string[], input: Buffer) {
  const { run } = await import('../../support/run.ts');
  const url = `http://localhost/servers/main/wal/${wal.name}`;
  return run('curl', ['-sS', '-w', '%{http_code}', '--unix-socket', server.socket, ...args, url], { input });
}
