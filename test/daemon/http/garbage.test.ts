import { randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { makeWal } from '../../support/make-wal.ts';
import { withHttp } from './with-http.ts';

const wal = makeWal({ segment: 1 });
const WAL = `/servers/main/wal/${wal.name}`;

/** Sends bytes as they are, and tells all that came back until the connection ended, or our end was closed and nothing more came. */
function exchange(path: string, bytes: Uint8Array | string, endsItself = true): Promise<string> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const socket: Socket = createConnection(path, () => {
      if (endsItself) socket.end(bytes);
      else socket.write(bytes);
    });
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('error', () => {});
    socket.once('close', () => resolve(Buffer.concat(chunks).toString('latin1')));
  });
}

const statusesOf = (answer: string): string[] =>
  [...answer.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, code = '']) => code);

const lines = (...all: string[]): string => `${all.join('\r\n')}\r\n\r\n`;

describe.concurrent('garbage is answered with 4xx, or the connection ends', () => {
  test.each<[string, string | Buffer, string[]]>([
    ['nothing', '', []],
    ['an empty line', '\r\n\r\n', []],
    ['random bytes', randomBytes(10_000), ['400']],
    ['a TLS handshake', Buffer.from('160301020001000100', 'hex'), ['400']],
    ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', ['400']],
    ['no host', lines('GET /livez HTTP/1.1'), ['400']],
    ['a strange method', lines('FETCH /livez HTTP/1.1', 'Host: x'), ['400']],
    ['a path with a control character', lines('GET /li\x01vez HTTP/1.1', 'Host: x'), ['400']],
    ['a NUL in a header', lines('GET /livez HTTP/1.1', 'Host: x', 'X: a\0b'), ['400']],
    ['headers of 64 KiB', lines('GET /livez HTTP/1.1', 'Host: x', `X: ${'a'.repeat(65_536)}`), ['431']],
    ['ten thousand headers', lines('GET /livez HTTP/1.1', 'Host: x', ...Array<string>(10_000).fill('X: y')), ['431']],
    ['a path of 64 KiB', lines(`GET /${'a'.repeat(65_536)} HTTP/1.1`, 'Host: x'), ['431']],
    [
      'two different lengths',
      lines(`PUT ${WAL} HTTP/1.1`, 'Host: x', 'Content-Length: 1', 'Content-Length: 2'),
      ['400'],
    ],
    ['a negative length', lines(`PUT ${WAL} HTTP/1.1`, 'Host: x', 'Content-Length: -1'), ['400']],
    ['a length that is no number', lines(`PUT ${WAL} HTTP/1.1`, 'Host: x', 'Content-Length: 1e3'), ['400']],
    [
      'length and chunks',
      lines(`PUT ${WAL} HTTP/1.1`, 'Host: x', 'Content-Length: 5', 'Transfer-Encoding: chunked'),
      ['400'],
    ],
    ['an unknown transfer encoding', lines(`PUT ${WAL} HTTP/1.1`, 'Host: x', 'Transfer-Encoding: gzip'), []],
    [
      'an expectation that nobody knows',
      lines(`PUT ${WAL} HTTP/1.1`, 'Host: x', 'Content-Length: 5', 'Expect: cake'),
      ['417', '400'],
    ],
    ['an absolute path elsewhere', lines('GET http://example.org/etc/passwd HTTP/1.1', 'Host: x'), ['400']],
    ['an upgrade', lines('GET /livez HTTP/1.1', 'Host: x', 'Connection: Upgrade', 'Upgrade: websocket'), ['200']],
    ['CONNECT', lines('CONNECT example.org:443 HTTP/1.1', 'Host: x'), []],
  ])('%s', (_what, bytes, statuses) =>
    withHttp({}, async (server) => {
      const answer = await exchange(server.socket, bytes);
      expect(statusesOf(answer)).toEqual(statuses);
      expect(answer).not.toContain('    at ');
      expect((await server.ask('/livez')).status).toBe(200);
      expect(await readdir(server.incoming)).toEqual([]);
    }),
  );

  test('names that climb, in any spelling, leave no trace', () =>
    withHttp({}, async (server) => {
      const spellings = [
        '../',
        '..%2f',
        '%2e%2e/',
        '%2e%2e%2f',
        '..%5c',
        '%252e%252e%252f',
        '..%c0%af',
        '/',
        '%2f',
        '%00',
        '.%00./',
      ];
      for (const spelling of spellings) {
        for (const target of [
          `/servers/main/wal/${spelling}${wal.name}`,
          `/servers/${spelling}main/wal/${wal.name}`,
          `/${spelling}livez`,
        ]) {
          const answer = await exchange(
            server.socket,
            `PUT ${target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${wal.bytes.length}\r\n\r\n${wal.bytes.toString('latin1')}`,
          );
          expect({ target, statuses: statusesOf(answer) }).toEqual({
            target,
            statuses: [expect.stringMatching(/^4(?!04)\d\d$/)],
          });
        }
      }
      expect(await readdir(server.incoming)).toEqual([]);
      expect((await readdir(server.home)).sort()).toEqual([
        'main',
        'walwarden.conf',
        'walwarden.log',
        'walwarden.sock',
      ]);
    }));

  test('requests in a row on one connection are answered in their order', () =>
    withHttp({}, async (server) => {
      const get = (path: string, last = false): string =>
        lines(`GET ${path} HTTP/1.1`, 'Host: x', ...(last ? ['Connection: close'] : []));
      const put = lines(`PUT ${WAL} HTTP/1.1`, 'Host: x', `Content-Length: ${wal.bytes.length}`);
      const requests = Buffer.concat([
        Buffer.from(get('/livez') + get('/nothing') + put),
        wal.bytes,
        Buffer.from(get(WAL) + get(`${WAL}.partial`) + get('/livez', true)),
      ]);
      const answer = await exchange(server.socket, requests, false);
      const statuses = statusesOf(answer);
      expect(statuses.slice(0, 3)).toEqual(['200', '400', '201']);
      expect(statuses.at(-1)).toBe('200');
      expect(statuses).toHaveLength(6);
    }));

  test('a refused body is read to its end, or the connection ends; the next request is not taken from it', () =>
    withHttp({}, async (server) => {
      const smuggled = lines('GET /servers HTTP/1.1', 'Host: x');
      const request = `PUT /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`;
      const answer = await exchange(server.socket, request);
      expect(statusesOf(answer)).toEqual(['400']);
    }));

  test("many connections that say nothing keep nobody out, and don't keep the server from closing", () =>
    withHttp({}, async (server) => {
      const silent = await Promise.all(
        Array.from({ length: 100 }, async () => {
          const socket = createConnection(server.socket);
          socket.on('error', () => {});
          await new Promise((resolve) => socket.once('connect', resolve));
          socket.write('GET /livez HTT');
          return socket;
        }),
      );
      expect((await server.ask('/livez')).status).toBe(200);
      await server.http.close(new AbortController().signal);
      silent.forEach((socket) => socket.destroy());
    }));

  test('headers that come drop by drop are answered with 408 in the end', () =>
    withHttp({}, async (server) => {
      const socket = createConnection(server.socket).on('error', () => {});
      let answer = '';
      socket.on('data', (chunk) => (answer += chunk.toString()));
      socket.write('GET /livez HTTP/1.1\r\n');
      const dripping = setInterval(() => socket.writable && socket.write('X: y\r\n'), 500);
      await new Promise((resolve) => socket.once('close', resolve));
      clearInterval(dripping);
      expect(statusesOf(answer)).toEqual(['408']);
    }));

  test('a body behind a GET changes nothing', () =>
    withHttp({}, async (server) => {
      const answer = await exchange(server.socket, `GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello`);
      expect(statusesOf(answer)).toEqual(['200']);
    }));
});

test('a thousand random requests later it serves as before', () =>
  withHttp({}, async (server) => {
    const pieces = [
      'GET ',
      'PUT ',
      WAL,
      '/servers/',
      '%',
      '..',
      ' HTTP/1.1\r\n',
      'Host: x\r\n',
      '\r\n',
      'Content-Length: 99\r\n',
      'Transfer-Encoding: chunked\r\n',
      'Expect: 100-continue\r\n',
      '\0',
      'ffff\r\n',
      '0\r\n\r\n',
    ];
    let state = 42;
    const next = (below: number): number => {
      state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
      return Math.floor((state / 2_147_483_648) * below);
    };
    for (let batch = 0; batch < 20; batch += 1) {
      await Promise.all(
        Array.from({ length: 50 }, () => {
          const request = Array.from({ length: 1 + next(12) }, () => pieces[next(pieces.length)]).join('');
          return exchange(server.socket, request);
        }),
      );
    }
    expect((await server.put(wal.name, wal.bytes)).status).toBe(201);
    expect(await readdir(server.incoming)).toEqual([wal.name]);
  }));
