import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeCertificates, type Certificates } from '../../postgres/certificates.ts';
import { makeWal } from '../../support/make-wal.ts';
import { tempParent, tempPrefix } from '../../support/temp-dir.ts';
import { tokenLine, withHttp, type HttpTestOptions, type TestHttp } from './with-http.ts';

let directory: string;
let made: Certificates;

beforeAll(async () => {
  directory = await mkdtemp(join(tempParent(), tempPrefix()));
  made = await makeCertificates(join(directory, 'certificates'));
});
afterAll(() => rm(directory, { recursive: true }));

const large = makeWal({ segment: 1, size: 16 * 1024 * 1024 });
const PATH = `/servers/main/wal/${large.name}`;

const KINDS: [string, () => Promise<HttpTestOptions>][] = [
  ['a unix socket', async () => ({})],
  ['TCP', async () => ({ listen: '127.0.0.1:0' })],
  [
    'TLS',
    async () => ({
      listen: '127.0.0.1:0',
      tls: { cert: made.server, key: made.server.replace(/crt$/, 'key'), ca: await readFile(made.authority) },
    }),
  ],
];

test.each(KINDS)('close() lets a client that reads slowly have all of its file, over %s', async (_over, optionsOf) => {
  const options = { ...(await optionsOf()), tokens: [tokenLine('secret')] };
  await withHttp(options, async (server) => {
    const uploaded = await server.ask(PATH, { method: 'PUT', body: large.bytes, token: 'secret' });
    expect(uploaded.status).toBe(201);
    const socket = connect(server, options.tls?.ca);
    const closed = new Promise((resolve) => socket.once('close', resolve));
    const chunks: Buffer[] = [];
    // Kept alive, so that it is for the server to end the connection.
    socket.write(`GET ${PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n`);
    await new Promise<void>((resolve) => {
      socket.once('data', (chunk: Buffer) => {
        chunks.push(chunk);
        socket.pause();
        resolve();
      });
    });
    const closing = server.http.close(new AbortController().signal);
    // Enough for whatever would have cut it off.
    await expect(server.ask('/livez')).rejects.toThrow(/ECONNREFUSED|ENOENT/);
    socket.on('data', (chunk: Buffer) => chunks.push(chunk)).resume();
    await closed;
    await closing;
    const answer = Buffer.concat(chunks);
    const head = answer.indexOf('\r\n\r\n');
    expect(answer.subarray(0, head).toString()).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(answer.length - head - 4).toBe(large.bytes.length);
    expect(answer.subarray(head + 4).equals(large.bytes)).toBe(true);
  });
});

function connect({ http }: TestHttp, ca: Buffer | undefined): Socket {
  const [, path] = /^unix:(.*)$/.exec(http.address) ?? [];
  if (path !== undefined) return createConnection(path).on('error', () => {});
  const { hostname: host, port } = new URL(http.address);
  const socket =
    ca === undefined ? createConnection({ host, port: Number(port) }) : connectTls({ host, port: Number(port), ca });
  return socket.on('error', () => {});
}
