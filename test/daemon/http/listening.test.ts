import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeCertificates, type Certificates } from '../../postgres/certificates.ts';
import { makeWal } from '../../support/make-wal.ts';
import { run } from '../../support/run.ts';
import { tempParent, tempPrefix, withTempDir } from '../../support/temp-dir.ts';
import { tokenLine, withHttp } from './with-http.ts';

let directory: string;
let made: Certificates;
let ca: Buffer;
const wal = makeWal({ segment: 1 });

beforeAll(async () => {
  directory = await mkdtemp(join(tempParent(), tempPrefix()));
  made = await makeCertificates(join(directory, 'certificates'));
  ca = await readFile(made.authority);
});
afterAll(() => rm(directory, { recursive: true }));

const key = (certificate: string): string => certificate.replace(/crt$/, 'key');

describe('on a unix socket', () => {
  test('owner and group may connect, others may not, and it goes with the server', () =>
    withHttp({}, async ({ http, socket, ask }) => {
      expect(http.address).toBe(`unix:${socket}`);
      expect((await stat(socket)).mode & 0o777).toBe(0o660);
      expect((await ask('/livez')).status).toBe(200);
      await http.close(new AbortController().signal);
      await expect(stat(socket)).rejects.toThrow('ENOENT');
    }));

  test('its directory is made, for nobody else', () =>
    withTempDir((parent) =>
      withHttp({ listen: `unix:${parent}/run/deep/walwarden.sock` }, async ({ ask }) => {
        expect((await ask('/livez')).status).toBe(200);
        expect((await stat(join(parent, 'run/deep'))).mode & 0o777).toBe(0o700);
      }),
    ));

  test('the socket of a daemon that was killed is replaced', () =>
    withTempDir(async (parent) => {
      const path = join(parent, 'walwarden.sock');
      const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
      await run(process.execPath, ['-e', script], {});
      expect((await stat(path)).isSocket()).toBe(true);
      await withHttp({ listen: `unix:${path}` }, async ({ ask }) => expect((await ask('/livez')).status).toBe(200));
    }));

  test('that of one that lives is not', () =>
    withTempDir(async (parent) => {
      const path = join(parent, 'walwarden.sock');
      await withHttp({ listen: `unix:${path}` }, async ({ ask }) => {
        await expect(withHttp({ listen: `unix:${path}` }, async () => {})).rejects.toMatchObject({
          code: 'locked',
          message: `another process listens on ${path}`,
        });
        expect((await ask('/livez')).status).toBe(200);
      });
    }));

  test('a path that the kernel would cut is refused, and one of 107 bytes is not', () =>
    withTempDir(async (parent) => {
      const fits = `${parent}/${'x'.repeat(107 - parent.length - 1)}`;
      await withHttp({ listen: `unix:${fits}` }, async ({ ask }) => expect((await ask('/livez')).status).toBe(200));
      expect(await readdir(parent)).toEqual([]);
      await expect(withHttp({ listen: `unix:${fits}x` }, async () => {})).rejects.toMatchObject({
        code: 'config',
        message: expect.stringMatching(/^http_listen = unix:.* has a path of 108 bytes, and .* 107 at most$/),
        hint: expect.stringContaining('unix:/run/walwarden/walwarden.sock'),
      });
      await expect(withHttp({ listen: `unix:${fits.slice(0, -1)}é` }, async () => {})).rejects.toMatchObject({
        message: expect.stringContaining('108 bytes'),
      });
      expect(await readdir(parent)).toEqual([]);
    }));

  test('what is no socket is left alone', () =>
    withTempDir(async (parent) => {
      const path = join(parent, 'walwarden.sock');
      await writeFile(path, 'precious');
      await expect(withHttp({ listen: `unix:${path}` }, async () => {})).rejects.toMatchObject({ code: 'config' });
      expect(await readFile(path, 'utf8')).toBe('precious');
      await expect(withHttp({ listen: `unix:${path}/x/walwarden.sock` }, async () => {})).rejects.toMatchObject({
        code: 'config',
        hint: expect.stringContaining('directory'),
      });
    }));
});

describe('on TCP', () => {
  const tokens = [tokenLine('secret')];

  test.each(['127.0.0.1:0', '[::1]:0', 'localhost:0'])('%s serves, and tells its port', (listen) =>
    withHttp({ listen, tokens }, async ({ http, ask }) => {
      expect(http.address).toMatch(/^http:\/\/(127\.0\.0\.1|\[::1\]|localhost):[1-9]\d+$/);
      expect((await ask('/servers', { token: 'secret' })).status).toBe(200);
    }),
  );

  test.each(['0.0.0.0:0', '[::]:0', '192.0.2.1:0'])('%s without TLS is refused, with what to do', async (listen) => {
    await expect(withHttp({ listen, tokens }, async () => {})).rejects.toMatchObject({
      code: 'config',
      message: expect.stringContaining('can be reached from other machines, and there is no TLS'),
      hint: expect.stringContaining('http_tls_cert_file'),
    });
  });

  test('a port in use, an address of another machine and a name that is none are config errors', async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const bound = taken.address();
    const port = typeof bound === 'object' && bound !== null ? bound.port : 0;
    try {
      await expect(withHttp({ listen: `127.0.0.1:${port}` }, async () => {})).rejects.toMatchObject({
        code: 'config',
        hint: expect.stringContaining('another port'),
      });
      const tls = { cert: made.server, key: key(made.server), ca };
      await expect(withHttp({ listen: '192.0.2.1:0', tls }, async () => {})).rejects.toMatchObject({ code: 'config' });
      await expect(withHttp({ listen: 'no-such-host.invalid:0' }, async () => {})).rejects.toMatchObject({
        code: 'config',
      });
    } finally {
      taken.close();
    }
  });
});

describe('with TLS', () => {
  const tls = () => ({ cert: made.server, key: key(made.server), ca });

  test('takes and gives WAL, to who trusts the authority', () =>
    withHttp({ listen: '127.0.0.1:0', tls: tls(), tokens: [tokenLine('secret')] }, async ({ http, ask }) => {
      expect(http.address).toMatch(/^https:/);
      const path = `/servers/main/wal/${wal.name}`;
      expect((await ask(path, { method: 'PUT', body: wal.bytes, token: 'secret' })).status).toBe(201);
      expect((await ask(path, { token: 'secret' })).body.equals(wal.bytes)).toBe(true);
      const stranger = await run('curl', ['-sS', '--cacert', made.otherAuthority, `${http.address}/livez`], {});
      expect(stranger.status).toBe(60);
    }));

  test('listens on all addresses, too', () =>
    withHttp({ listen: '0.0.0.0:0', tls: tls(), tokens: [tokenLine('secret')] }, async ({ http }) => {
      const { status, stdout } = await run(
        'curl',
        ['-sS', '--cacert', made.authority, `${http.address.replace('0.0.0.0', '127.0.0.1')}/livez`],
        {},
      );
      expect({ status, stdout }).toEqual({ status: 0, stdout: '{"status":"ok"}' });
    }));

  test.each([
    ['TLSv1.1', false],
    ['TLSv1.2', true],
    ['TLSv1.3', true],
  ] as const)('%s is spoken: %s', (version, spoken) =>
    withHttp({ listen: '127.0.0.1:0', tls: tls() }, async ({ http }) => {
      const port = Number(new URL(http.address).port);
      const socket = connectTls({
        host: '127.0.0.1',
        port,
        ca,
        minVersion: version,
        maxVersion: version,
        ciphers: 'DEFAULT@SECLEVEL=0',
      });
      const secured = await new Promise((resolve) => {
        socket.once('secureConnect', () => resolve(true)).once('error', () => resolve(false));
      });
      socket.destroy();
      expect(secured).toBe(spoken);
    }),
  );

  test.each<[string, () => { cert: string; key: string }, string]>([
    [
      'no certificate',
      () => ({ cert: '/no/such.crt', key: key(made.server) }),
      "can't read http_tls_cert_file /no/such.crt",
    ],
    ['no key', () => ({ cert: made.server, key: '/no/such.key' }), "can't read http_tls_key_file /no/such.key"],
    ['a certificate that is none', () => ({ cert: key(made.server), key: key(made.server) }), 'http_tls_cert_file'],
    ['a key that is none', () => ({ cert: made.server, key: made.server }), 'http_tls_key_file'],
    [
      'the key of another',
      () => ({ cert: made.server, key: key(made.client) }),
      'is not the key of http_tls_cert_file',
    ],
  ])('%s is a config error that names file and option', async (_what, files, said) => {
    await expect(withHttp({ listen: '127.0.0.1:0', tls: { ...files(), ca } }, async () => {})).rejects.toMatchObject({
      code: 'config',
      message: expect.stringContaining(said),
    });
  });

  test('the certificate without the key is a config error', async () => {
    const { readTls } = await import('../../../src/daemon/http/tls.ts');
    await expect(readTls(made.server, null)).rejects.toMatchObject({ code: 'config' });
  });
});
