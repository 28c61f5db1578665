import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { Agent, get } from 'node:http';
import { join } from 'node:path';
import { connect as connectTls, type SecureVersion, type TLSSocket } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startHttpServer } from '../../../src/daemon/http/http-server.ts';
import { createLogger } from '../../../src/logging.ts';
import { makeCertificates, type Certificates } from '../../postgres/certificates.ts';
import { tempParent, tempPrefix, withTempDir } from '../../support/temp-dir.ts';
import { tokenLine, withHttp, type TestHttp } from './with-http.ts';

let directory: string;
let made: Certificates;
let ca: Buffer;

beforeAll(async () => {
  directory = await mkdtemp(join(tempParent(), tempPrefix()));
  made = await makeCertificates(join(directory, 'certificates'));
  ca = await readFile(made.authority);
});
afterAll(() => rm(directory, { recursive: true }));

const keyOf = (certificate: string): string => certificate.replace(/crt$/, 'key');
const MAIN: ReadonlySet<string> = new Set(['main']);
const TCP = '127.0.0.1:0';

async function writeTokens({ settings }: TestHttp, ...lines: string[]): Promise<void> {
  await writeFile(settings.tokensFile ?? '', `${lines.join('\n')}\n`);
}

describe('tokens are read again', () => {
  test('for the next request of every connection, and nothing is closed', () =>
    withHttp({ listen: TCP, tokens: [tokenLine('old')] }, async (server) => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      const kept = (token: string): Promise<{ status: number; reused: boolean }> =>
        new Promise((resolve, reject) => {
          const headers = { authorization: `Bearer ${token}` };
          const asked = get(`${server.http.address}/servers`, { agent, headers }, (response) => {
            response
              .resume()
              .once('end', () => resolve({ status: response.statusCode ?? 0, reused: asked.reusedSocket }));
          }).once('error', reject);
        });
      try {
        expect(await kept('old')).toEqual({ status: 200, reused: false });
        await writeTokens(server, tokenLine('new'));
        expect(await kept('old')).toMatchObject({ status: 200 });
        expect(await server.http.update(server.settings, MAIN)).toBe(true);
        expect(await kept('new')).toEqual({ status: 200, reused: true });
        expect(await kept('old')).toEqual({ status: 401, reused: true });
      } finally {
        agent.destroy();
      }
    }));

  test('not when a line of them is wrong, and the old ones stay', () =>
    withHttp({ listen: TCP, tokens: [tokenLine('old')] }, async (server) => {
      await writeTokens(server, tokenLine('new'), 'nonsense');
      await expect(server.http.update(server.settings, MAIN)).rejects.toMatchObject({
        code: 'config',
        message: expect.stringContaining(':2: '),
      });
      expect((await server.ask('/servers', { token: 'old' })).status).toBe(200);
      expect((await server.ask('/servers', { token: 'new' })).status).toBe(401);
    }));

  test('from another file, or from none any more', () =>
    withHttp({ listen: TCP, tokens: [tokenLine('old')] }, async (server) => {
      const tokensFile = join(server.home, 'other-tokens');
      await writeFile(tokensFile, tokenLine('new'), { mode: 0o600 });
      await server.http.update({ ...server.settings, tokensFile }, MAIN);
      expect((await server.ask('/servers', { token: 'new' })).status).toBe(200);
      await server.http.update({ ...server.settings, tokensFile: null }, MAIN);
      expect((await server.ask('/servers', { token: 'new' })).status).toBe(401);
      expect(await server.log()).toContain('only /livez answers');
    }));

  test('and those of servers that are not configured now are told of', () =>
    withHttp({ tokens: [tokenLine('x', 'main,other', 'read')], others: { other: {} } }, async (server) => {
      expect(await server.log()).not.toContain('is not configured');
      await server.http.update(server.settings, MAIN);
      expect(await server.log()).toContain('has a token of server other, which is not configured');
      expect(await server.log()).not.toContain('server main, which is not configured');
    }));
});

test('at the start, too, it is the configuration that tells which servers there are', () =>
  withTempDir(async (home) => {
    const log = join(home, 'log');
    const tokensFile = join(home, 'tokens');
    await writeFile(tokensFile, tokenLine('x', 'main,mian', 'read'), { mode: 0o600 });
    const settings = { listen: `unix:${home}/socket`, tlsCertFile: null, tlsKeyFile: null, tokensFile };
    const notYet = (): never => {
      throw new Error('there is nothing to see yet');
    };
    const http = await startHttpServer(settings, MAIN, notYet, createLogger({ file: log, level: 'INFO' }));
    await http.close(new AbortController().signal);
    const told = [...(await readFile(log, 'utf8')).matchAll(/has a token of server (\w+)/g)].map(([, name]) => name);
    expect(told).toEqual(['mian']);
  }));

test('another http_listen needs another listener, and changes nothing', () =>
  withHttp({ listen: TCP, tokens: [tokenLine('old')] }, async (server) => {
    await writeTokens(server, tokenLine('new'));
    expect(await server.http.update({ ...server.settings, listen: '127.0.0.1:1' }, MAIN)).toBe(false);
    expect((await server.ask('/servers', { token: 'old' })).status).toBe(200);
  }));

describe('the certificate is read again', () => {
  /** A server with certificate and key in files of its own. */
  async function withFiles(
    body: (server: TestHttp, files: { cert: string; key: string }) => Promise<void>,
  ): Promise<void> {
    await withTempDir(async (parent) => {
      const files = { cert: join(parent, 'server.crt'), key: join(parent, 'server.key') };
      await copyFile(made.server, files.cert);
      await copyFile(keyOf(made.server), files.key);
      const tokens = [tokenLine('secret')];
      await withHttp({ listen: TCP, tls: { ...files, ca }, tokens }, (server) => body(server, files));
    });
  }

  /** A connection, and whose certificate was shown. */
  function connect(
    { http }: TestHttp,
    maxVersion: SecureVersion = 'TLSv1.3',
  ): Promise<{ socket: TLSSocket; who: string }> {
    const { port } = new URL(http.address);
    const versions = { minVersion: 'TLSv1.1', maxVersion, ciphers: 'DEFAULT@SECLEVEL=0' } as const;
    return new Promise((resolve, reject) => {
      const socket = connectTls({ host: '127.0.0.1', port: Number(port), rejectUnauthorized: false, ...versions }, () =>
        resolve({ socket, who: String(socket.getPeerCertificate().subject.CN) }),
      ).once('error', reject);
    });
  }

  async function shown(server: TestHttp): Promise<string> {
    const { socket, who } = await connect(server);
    socket.destroy();
    return who;
  }

  test('for the next connection; one that is there goes on', () =>
    withFiles(async (server, { cert, key }) => {
      const { socket, who } = await connect(server);
      expect(who).toBe('the server');
      await copyFile(made.client, cert);
      await copyFile(keyOf(made.client), key);
      expect(await server.http.update(server.settings, MAIN)).toBe(true);
      expect(await shown(server)).toBe('certuser');
      const answer = new Promise<Buffer>((resolve) => socket.once('data', resolve));
      socket.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n');
      expect((await answer).toString()).toMatch(/^HTTP\/1\.1 200 /);
      socket.destroy();
      // As old a protocol as before, and no older one.
      await expect(connect(server, 'TLSv1.1')).rejects.toThrow();
      (await connect(server, 'TLSv1.2')).socket.destroy();
    }));

  test.each<[string, (files: { cert: string; key: string }) => Promise<void>, string]>([
    [
      'is half-written',
      async ({ cert }) => writeFile(cert, (await readFile(cert)).subarray(0, 300)),
      'http_tls_cert_file',
    ],
    ['has the key of another', async ({ key }) => copyFile(keyOf(made.client), key), 'is not the key of'],
    ['is gone', async ({ cert }) => rm(cert), "can't read http_tls_cert_file"],
  ])('not when it %s, and the old one stays, with the tokens', async (_how, spoil, said) =>
    withFiles(async (server, files) => {
      await spoil(files);
      await writeTokens(server, tokenLine('new'));
      await expect(server.http.update(server.settings, MAIN)).rejects.toMatchObject({
        code: 'config',
        message: expect.stringContaining(said),
      });
      expect(await shown(server)).toBe('the server');
      expect((await server.ask('/servers', { token: 'secret' })).status).toBe(200);
    }),
  );

  test('nor is TLS switched off, or on, under the same address', () =>
    withFiles(async (server, { cert, key }) => {
      const refusal = { code: 'config', hint: 'restart the daemon, or set http_listen to another port' };
      const without = { ...server.settings, tlsCertFile: null, tlsKeyFile: null };
      await expect(server.http.update(without, MAIN)).rejects.toMatchObject(refusal);
      expect(await shown(server)).toBe('the server');
      await withHttp({ listen: TCP }, async (plain) => {
        const secured = { ...plain.settings, tlsCertFile: cert, tlsKeyFile: key };
        await expect(plain.http.update(secured, MAIN)).rejects.toMatchObject(refusal);
        expect((await plain.ask('/livez')).status).toBe(200);
      });
    }));
});
