import { chmod, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { walName } from '../../../src/wal/wal-name.ts';
import { placeStored } from '../../commands/with-server.ts';
import { makeWal, writeWal } from '../../support/make-wal.ts';
import { until } from '../../support/poll.ts';
import { jsonOf, withHttp, type TestHttp } from './with-http.ts';

/** Archives these segments with an archive-wal of its own. */
async function archive(server: TestHttp, ...segments: number[]): Promise<void> {
  for (const segment of segments) await writeWal(server.incoming, { segment });
  expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
}

const wal = makeWal({ segment: 1 });

describe.concurrent('GET of a WAL file', () => {
  test.each(['zstd', 'gzip', 'lz4', 'xz', ''])(
    'gives the plain bytes with their length (compression %j)',
    (compression) =>
      withHttp({ server: compression === '' ? {} : { compression } }, async (server) => {
        await archive(server, 1);
        const { status, headers, body } = await server.get(wal.name);
        expect(status).toBe(200);
        expect(headers).toMatchObject({
          'content-length': String(wal.bytes.length),
          'content-type': 'application/octet-stream',
        });
        expect(body.equals(wal.bytes)).toBe(true);
        const head = await server.ask(`/servers/main/wal/${wal.name}`, { method: 'HEAD' });
        expect(head).toMatchObject({ status: 200, headers: { 'content-length': String(wal.bytes.length) } });
        expect(head.body).toHaveLength(0);
      }),
  );

  test('finds a file that waits in incoming or streaming, too', () =>
    withHttp({}, async (server) => {
      await archive(server, 1);
      const waiting = await writeWal(server.incoming, { segment: 2 });
      const received = await writeWal(server.streaming, { segment: 3 });
      for (const { name, bytes } of [waiting, received]) expect((await server.get(name)).body.equals(bytes)).toBe(true);
    }));

  test('gives a partial segment where one is asked for', () =>
    withHttp({}, async (server) => {
      await archive(server, 1);
      const { name, bytes } = makeWal({ segment: 2 });
      await writeFile(join(server.streaming, `${name}.partial`), bytes);
      expect((await server.get(name)).status).toBe(404);
      expect((await server.get(`${name}?partial=false`)).status).toBe(404);
      expect((await server.get(`${name}?partial=true`)).body.equals(bytes)).toBe(true);
      for (const value of ['', 'yes', 'true&partial=true']) {
        expect((await server.get(`${name}?partial=${value}`)).status).toBe(400);
      }
    }));

  test('is 404 for what is certainly absent, and says so in JSON', () =>
    withHttp({}, async (server) => {
      await archive(server, 1);
      for (const name of ['000000010000000000000002', '00000002.history']) {
        const answer = await server.get(name);
        expect(answer.status).toBe(404);
        expect(jsonOf(answer)).toEqual({
          error: {
            code: 'wal-not-found',
            message: `WAL file ${name} is not in the archive of server main`,
            hint: null,
          },
        });
      }
      expect((await server.ask('/servers/main/wal/00000002.history', { method: 'HEAD' })).status).toBe(404);
    }));

  test.each<[string, (server: TestHttp) => Promise<unknown>]>([
    ['the archive is not mounted', ({ wals }) => rm(wals, { recursive: true })],
    [
      'the archive is empty, though it was not',
      async ({ wals }) => {
        await rename(wals, `${wals}.away`);
        await mkdir(wals);
      },
    ],
    ['the stored file is damaged', (server) => placeStored(server, wal.name, Buffer.from('garbage'))],
    [
      'the catalogue has it, and the disk has not',
      (server) => rm(join(server.wals, wal.name.slice(0, 16)), { recursive: true }),
    ],
    [
      'something stands in the way of its directory',
      async ({ wals }) => {
        await rm(join(wals, wal.name.slice(0, 16)), { recursive: true });
        await writeFile(join(wals, wal.name.slice(0, 16)), '');
      },
    ],
  ])('is 503, and never 404, when %s', async (_what, spoil) =>
    withHttp({}, async (server) => {
      await archive(server, 1);
      await spoil(server);
      const answer = await server.get(wal.name);
      expect(answer.status).toBe(503);
      expect(answer.headers['retry-after']).toBe('5');
      expect(jsonOf(answer)).toMatchObject({
        error: { code: expect.stringMatching(/^(storage|damaged|incomplete-wal)$/) },
      });
      expect(answer.body.toString()).not.toContain('    at ');
    }),
  );
});

describe('nothing but an absent WAL file is 404', () => {
  const name = wal.name;
  test.each([
    ['GET', '/', 400],
    ['GET', '/nothing', 400],
    ['GET', '/servers/main', 400],
    ['GET', '/servers/main/', 400],
    ['GET', '/servers/main/wal', 400],
    ['GET', '/servers/main/wal/', 400],
    ['GET', `/servers/main/wal/${name}/`, 400],
    ['GET', `/servers/main/wal/${name}/more`, 400],
    ['GET', `/servers/main/wals/${name}`, 400],
    ['GET', `/Servers/main/wal/${name}`, 400],
    ['GET', `/servers/mian/wal/${name}`, 400],
    ['GET', '/servers/mian/status', 400],
    ['GET', `/servers//wal/${name}`, 400],
    ['GET', `/servers/__proto__/wal/${name}`, 400],
    ['GET', '/servers/main/wal/postgresql.conf', 400],
    ['GET', `/servers/main/wal/${name}%00`, 400],
    ['GET', `/servers/main/wal/${name}%0a`, 400],
    ['GET', `/servers/main/wal/..%2f..%2f${name}`, 400],
    ['GET', `/servers/main/wal/../wal/${name}`, 400],
    ['GET', `/servers/..%2fmain/wal/${name}`, 400],
    ['GET', `/servers/main/wal/${name}%`, 400],
    ['GET', `/servers/main/wal/%ff%fe`, 400],
    ['GET', `/servers/main/wal/${'0'.repeat(1_500)}`, 400],
    ['GET', `/servers/main/wal/${'0'.repeat(4_000)}`, 400],
    ['GET', `//servers/main/wal/${name}`, 400],
    ['GET', `/servers/main/wal/${name.slice(1)}`, 400],
    ['DELETE', `/servers/main/wal/${name}`, 405],
    ['POST', `/servers/main/wal/${name}`, 405],
    ['PATCH', `/servers/main/wal/${name}`, 405],
    ['OPTIONS', `/servers/main/wal/${name}`, 405],
    ['PROPFIND', `/servers/main/wal/${name}`, 400],
    ['PUT', '/livez', 405],
    ['POST', '/servers', 405],
  ])('%s %.60s is %i', async (method, path, status) =>
    withHttp({}, async (server) => {
      await archive(server, 1);
      const answer = await server.ask(path, { method });
      expect(answer.status).toBe(status);
      expect(jsonOf(answer)).toMatchObject({ error: { code: expect.any(String), message: expect.any(String) } });
      expect(answer.headers['content-type']).toBe('application/json; charset=utf-8');
    }),
  );

  test('a disabled server is 503', () =>
    withHttp({ others: { broken: { compression: 'nonsense' } } }, async (server) => {
      const answer = await server.ask(`/servers/broken/wal/${name}`);
      expect(answer.status).toBe(503);
      expect(jsonOf(answer)).toMatchObject({ error: { code: 'config' } });
    }));

  test('a query changes nothing', () =>
    withHttp({}, async (server) => {
      await archive(server, 1);
      expect((await server.get(`${name}?x=../..`)).status).toBe(200);
    }));
});

test('a name with an unknown server is told which one was meant', () =>
  withHttp({}, async (server) => {
    const answer = await server.ask(`/servers/mian/wal/${wal.name}`);
    expect(jsonOf(answer)).toMatchObject({ error: { code: 'unknown-server', hint: 'did you mean "main"?' } });
  }));

test('a file that the archive may not read is 503', () =>
  withHttp({}, async (server) => {
    await archive(server, 1);
    const directory = join(server.wals, wal.name.slice(0, 16));
    // A directory under the name of a file can't be read by anybody, not even root.
    await rm(join(directory, wal.name));
    await mkdir(join(directory, wal.name));
    expect((await server.get(wal.name)).status).toBe(503);
    await chmod(directory, 0o700);
    expect(await readdir(directory)).toEqual([wal.name]);
  }));

test('a stopping daemon takes no more requests, but lives', () =>
  withHttp({}, async (server) => {
    await archive(server, 1);
    server.view.phase = 'stopping';
    expect(await server.get(wal.name)).toMatchObject({ status: 503, headers: { 'retry-after': '5' } });
    expect((await server.put(wal.name, wal.bytes)).status).toBe(503);
    expect((await server.ask('/readyz')).status).toBe(503);
    expect((await server.ask('/livez')).status).toBe(200);
  }));

/** Segments that were read ahead, in the order in which they came. */
async function readAhead(server: TestHttp): Promise<string[]> {
  return [...(await server.log()).matchAll(/"read (\w{24}) ahead"/g)].map(([, name = '']) => name);
}

const nameOf = (segment: number): string => makeWal({ segment }).name;

test('reads four ahead, across the end of a log, and serves them from memory when they have gone from the disk', () =>
  withHttp({ server: { compression: 'zstd' } }, async (server) => {
    const first = 4094; // of 4096 in a log
    const segments = [0, 1, 2, 3, 4, 5].map((offset) => first + offset);
    await archive(server, ...segments);
    expect((await server.get(nameOf(first))).status).toBe(200);
    const ahead = segments.slice(1, 5).map(nameOf);
    expect(ahead[0]).toBe('000000010000000000000FFF');
    expect(ahead[1]).toBe('000000010000000100000000');
    await until('four segments to be read ahead', async () => (await readAhead(server)).length >= 4);
    expect(await readAhead(server)).toEqual(ahead);
    const sixth = nameOf(first + 5);
    await rename(join(server.wals, sixth.slice(0, 16), sixth), join(server.home, sixth));
    for (const name of ahead) await rm(join(server.wals, name.slice(0, 16), name));
    for (const segment of segments.slice(1, 5)) {
      const { status, body } = await server.get(nameOf(segment));
      expect(status).toBe(200);
      expect(body.equals(makeWal({ segment }).bytes)).toBe(true);
    }
    // Not being there was not remembered, and what was served is not kept.
    expect((await server.get(sixth)).status).toBe(503);
    await rename(join(server.home, sixth), join(server.wals, sixth.slice(0, 16), sixth));
    expect((await server.get(sixth)).status).toBe(200);
    expect((await server.get(ahead[0] ?? '')).status).toBe(503);
  }));

test('get_wal_prefetch = 0 reads nothing ahead, and a HEAD does not either', () =>
  withHttp({ server: { get_wal_prefetch: 0 }, others: {} }, async (server) => {
    await archive(server, 1, 2);
    await server.get(nameOf(1));
    await rm(join(server.wals, nameOf(2).slice(0, 16), nameOf(2)));
    expect((await server.get(nameOf(2))).status).toBe(503);
    expect(await readAhead(server)).toEqual([]);
  }));

test('a damaged segment is not served from memory, and says what is wrong when its turn has come', () =>
  withHttp({}, async (server) => {
    await archive(server, 1, 2, 3);
    await placeStored(server, walName(nameOf(2)), makeWal({ segment: 9 }).bytes);
    await server.get(nameOf(1));
    await until('the next but one', async () => (await readAhead(server)).includes(nameOf(3)));
    expect((await server.get(nameOf(2))).status).toBe(503);
    await placeStored(server, walName(nameOf(2)), makeWal({ segment: 2 }).bytes);
    expect((await server.get(nameOf(2))).body.equals(makeWal({ segment: 2 }).bytes)).toBe(true);
  }));

const LARGE = { segment: 1, size: 16 * 1024 * 1024 };
const requestFor = (name: string, server = 'main'): string =>
  `GET /servers/${server}/wal/${name} HTTP/1.1\r\nHost: x\r\n\r\n`;

const connected = (path: string): Socket => createConnection(path).on('error', () => {});

/** They take the beginning of an answer, and then nothing more. */
function slowClients(path: string, count: number, request: string): Promise<Socket[]> {
  return Promise.all(
    Array.from({ length: count }, async () => {
      const socket = connected(path);
      socket.write(request);
      await new Promise((resolve) => socket.once('data', resolve));
      return socket.pause();
    }),
  );
}

test('clients that read slowly share the memory of their server, and whoever waits for it is served when they are gone', () =>
  withHttp({ others: { other: {} } }, async (server) => {
    const large = await writeWal(server.incoming, LARGE);
    await server.opened().makeDirectories();
    expect((await server.ask(`/servers/other/wal/${large.name}`, { method: 'PUT', body: large.bytes })).status).toBe(
      201,
    );
    const slow = await slowClients(server.socket, 8, requestFor(large.name));
    const impatient = connected(server.socket);
    impatient.write(requestFor(large.name));
    let served = false;
    const waiting = server.get(large.name).then((answer) => {
      served = true;
      return answer;
    });
    expect((await server.ask('/livez')).status).toBe(200);
    expect((await server.ask(`/servers/other/wal/${large.name}`)).body.equals(large.bytes)).toBe(true);
    expect(served).toBe(false);
    impatient.destroy();
    slow.forEach((socket) => socket.destroy());
    expect((await waiting).body.equals(large.bytes)).toBe(true);
  }));

test('slow clients of many servers keep no other server waiting', () =>
  withHttp({ others: { second: {}, third: {} } }, async (server) => {
    const large = makeWal(LARGE);
    for (const name of ['main', 'second', 'third']) {
      const path = `/servers/${name}/wal/${large.name}`;
      expect((await server.ask(path, { method: 'PUT', body: large.bytes })).status).toBe(201);
    }
    const slow = await slowClients(server.socket, 8, requestFor(large.name));
    slow.push(...(await slowClients(server.socket, 8, requestFor(large.name, 'second'))));
    expect((await server.ask(`/servers/third/wal/${large.name}`)).body.equals(large.bytes)).toBe(true);
    slow.forEach((socket) => socket.destroy());
  }));

test('requests in a row whose connection is cut off give their memory back', () =>
  withHttp({ server: { get_wal_prefetch: 0 } }, async (server) => {
    const large = await writeWal(server.incoming, LARGE);
    for (let round = 0; round < 4; round += 1) {
      const [socket] = await slowClients(server.socket, 1, requestFor(large.name).repeat(8));
      socket?.destroy();
    }
    expect((await server.get(large.name)).body.equals(large.bytes)).toBe(true);
  }));

test('a storage that does not answer has eight requests of its server at most, and keeps no other server waiting', () =>
  withHttp({ others: { other: {} } }, async (server) => {
    const { view } = server;
    const main = view.servers.get('main');
    const opened = server.opened();
    await opened.makeDirectories();
    await writeWal(server.incoming, { segment: 1 });
    let inside = 0;
    let most = 0;
    let release = (): void => {};
    const answering = new Promise<void>((resolve) => (release = resolve));
    const checkAbsent = async (): Promise<void> => {
      most = Math.max(most, (inside += 1));
      await answering;
      inside -= 1;
    };
    if (main === undefined) throw new Error('there is no server main');
    view.servers = new Map(view.servers).set('main', { ...main, use: () => ({ ...opened, checkAbsent }) });
    const hanging = Array.from({ length: 20 }, () => server.get('0000000A.history'));
    await until('eight to wait for the storage', () => inside === 8);
    expect((await server.ask(`/servers/other/wal/${wal.name}`, { method: 'PUT', body: wal.bytes })).status).toBe(201);
    expect((await server.ask(`/servers/other/wal/${wal.name}`)).status).toBe(200);
    expect(most).toBe(8);
    release();
    expect(new Set((await Promise.all(hanging)).map(({ status }) => status))).toEqual(new Set([404]));
    expect(most).toBe(8);
  }));
