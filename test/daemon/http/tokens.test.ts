import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readTokens } from '../../../src/daemon/http/tokens.ts';
import { makeWal } from '../../support/make-wal.ts';
import { withTempDir } from '../../support/temp-dir.ts';
import { jsonOf, tokenLine, withHttp, type HttpTestOptions } from './with-http.ts';

const wal = makeWal({ segment: 1 });
const WAL_OF_MAIN = `/servers/main/wal/${wal.name}`;
const TCP = '127.0.0.1:0';
const OTHERS = { others: { other: {} } };

describe.concurrent('over TCP', () => {
  test('nothing but /livez answers without a token, whatever is asked', () =>
    withHttp({ listen: TCP, tokens: [tokenLine('secret')] }, async ({ ask }) => {
      expect((await ask('/livez')).status).toBe(200);
      for (const path of [
        '/readyz',
        '/servers',
        '/servers/main/status',
        '/metrics',
        WAL_OF_MAIN,
        '/nothing',
        '/servers/mian/status',
      ]) {
        const answer = await ask(path);
        expect({ path, status: answer.status }).toEqual({ path, status: 401 });
        expect(answer.headers['www-authenticate']).toBe('Bearer realm="walwarden"');
        expect(jsonOf(answer)).toMatchObject({ error: { code: 'unauthorized' } });
      }
      expect((await ask(WAL_OF_MAIN, { method: 'PUT', body: wal.bytes })).status).toBe(401);
    }));

  test('without a tokens file there is no way in, and the log says so', () =>
    withHttp({ listen: TCP }, async ({ ask, log }) => {
      expect((await ask('/livez')).status).toBe(200);
      for (const token of ['', 'null', 'secret']) expect((await ask('/servers', { token })).status).toBe(401);
      expect(await log()).toContain('only /livez answers; see http_tokens_file');
    }));

  test.each([
    ['a wrong one', 'Bearer wrong'],
    ['the hash itself', `Bearer ${tokenLine('secret').slice(7, 71)}`],
    ['the beginning of it', 'Bearer secre'],
    ['another scheme', 'Basic c2VjcmV0'],
    ['none behind the scheme', 'Bearer'],
    ['two', 'Bearer secret secret'],
    ['one of 10,000 characters', `Bearer ${'x'.repeat(10_000)}`],
  ])('%s is 401', async (_what, authorization) =>
    withHttp({ listen: TCP, tokens: [tokenLine('secret')] }, async ({ ask }) => {
      const answer = await ask('/servers', { headers: { authorization } });
      expect(answer.status).toBe(401);
      expect(answer.headers['www-authenticate']).toContain('error="invalid_token"');
      expect(answer.body.toString()).not.toContain('secre');
      expect((await ask('/servers', { token: 'secret' })).status).toBe(200);
    }),
  );
});

describe.concurrent('a token opens what its line says', () => {
  const tokens = [
    '# who may what',
    '',
    tokenLine('reader', 'main', 'read', 'the standby'),
    tokenLine('writer', 'main', 'write'),
    tokenLine('other', 'other', 'read,write'),
    tokenLine('both', 'main,other', 'read'),
    tokenLine('prometheus', '*', 'metrics'),
  ];
  const options: HttpTestOptions = { ...OTHERS, listen: TCP, tokens };
  const cases: [string, string, string, number][] = [
    ['reader', 'GET', WAL_OF_MAIN, 404],
    ['reader', 'PUT', WAL_OF_MAIN, 403],
    ['reader', 'GET', '/servers/main/status', 200],
    ['reader', 'GET', '/servers/other/status', 403],
    ['reader', 'GET', '/servers/unheard-of/status', 403],
    ['reader', 'GET', '/metrics', 403],
    ['reader', 'GET', '/readyz', 200],
    ['writer', 'GET', WAL_OF_MAIN, 403],
    ['writer', 'PUT', WAL_OF_MAIN, 422],
    ['writer', 'GET', '/servers/main/status', 403],
    ['other', 'GET', WAL_OF_MAIN, 403],
    ['both', 'GET', WAL_OF_MAIN, 404],
    ['prometheus', 'GET', '/metrics', 200],
    ['prometheus', 'GET', WAL_OF_MAIN, 403],
    ['prometheus', 'GET', '/servers/other/status', 200],
    ['prometheus', 'GET', '/servers/unheard-of/status', 400],
  ];
  test('and nothing else', () =>
    withHttp(options, async ({ ask }) => {
      const found: typeof cases = [];
      for (const [token, method, path] of cases) {
        const body = method === 'PUT' ? { body: Buffer.from('garbage') } : {};
        found.push([token, method, path, (await ask(path, { method, token, ...body })).status]);
      }
      expect(found).toEqual(cases);
    }));

  test('/servers and /readyz show those that it names', () =>
    withHttp(options, async ({ ask }) => {
      const names = async (path: string, token: string): Promise<string[]> =>
        [...(await ask(path, { token })).body.toString().matchAll(/"server":"(\w+)"/g)].map(([, name = '']) => name);
      for (const path of ['/servers', '/readyz']) {
        expect(await names(path, 'reader')).toEqual(['main']);
        expect(await names(path, 'prometheus')).toEqual(['main', 'other']);
      }
    }));

  test('a refusal is logged with the name that its line gives it, and never with the token', () =>
    withHttp(options, async ({ ask, log }) => {
      await ask(WAL_OF_MAIN, { method: 'PUT', token: 'reader', body: wal.bytes });
      await ask('/servers', { token: 'sesame-open' });
      expect(await log()).toContain('the standby does not allow this: write of server');
      expect(await log()).not.toContain('sesame-open');
    }));

  test('a client that is refused again and again is one warning in a while', () =>
    withHttp(options, async ({ ask, log }) => {
      for (let asked = 0; asked < 5; asked += 1) await ask('/servers', { token: `wrong${asked}` });
      const levels = [...(await log()).matchAll(/"level":(\d+),.*"this token is not known"/g)].map(
        ([, level]) => level,
      );
      expect(levels).toEqual(['40', '20', '20', '20', '20']);
    }));

  test('one for a server that is not configured is told of', () =>
    withHttp({ tokens: [tokenLine('x', 'mian', 'read')] }, async ({ log }) => {
      expect(await log()).toContain('has a token of server mian, which is not configured');
    }));
});

test('on the unix socket a token is not needed, but narrows what may be done', () =>
  withHttp({ tokens: [tokenLine('reader', 'main', 'read')] }, async ({ ask }) => {
    expect((await ask(WAL_OF_MAIN)).status).toBe(404);
    expect((await ask('/metrics')).status).toBe(200);
    expect((await ask(WAL_OF_MAIN, { token: 'reader' })).status).toBe(404);
    expect((await ask('/metrics', { token: 'reader' })).status).toBe(403);
    expect((await ask(WAL_OF_MAIN, { token: 'wrong' })).status).toBe(401);
  }));

describe('a tokens file is refused', () => {
  const good = tokenLine('secret');
  test.each<[string, string, string]>([
    ['with a token that is not hashed', 'sesame * read', 'its first word is no sha256:'],
    ['with a short hash', 'sha256:abc * read', 'its first word is no sha256:'],
    ['without servers', good.split(' ')[0] ?? '', 'it names no server'],
    ['without scopes', `${good.split(' ')[0]} main`, '"" is no scope'],
    ['with an unknown scope', `${good.split(' ')[0]} main read,admin`, '"admin" is no scope'],
    ['with an empty server', `${good.split(' ')[0]} main, read`, '"main," is no list of servers'],
    ['with a server beside all', `${good.split(' ')[0]} *,main read`, '"*,main" is no list of servers'],
    ['with one token twice', `${good}\n${good}`, ':2: this token stands in a line above'],
  ])('%s, with file and line', (_what, text, said) =>
    withTempDir(async (directory) => {
      const file = join(directory, 'tokens');
      await writeFile(file, text, { mode: 0o600 });
      const error = await readTokens(file).then(
        () => null,
        (thrown: unknown) => thrown,
      );
      expect(error).toMatchObject({ code: 'config', message: expect.stringContaining(said) });
      expect(error).toMatchObject({ message: expect.stringMatching(new RegExp(`^${file}:\\d: `)) });
      expect(String(error)).not.toContain('sesame');
    }),
  );

  test.each([0o640, 0o604, 0o620, 0o602, 0o666])('with mode %o', (mode) =>
    withTempDir(async (directory) => {
      const file = join(directory, 'tokens');
      await writeFile(file, good);
      await chmod(file, mode);
      await expect(readTokens(file)).rejects.toMatchObject({ code: 'config', hint: `chmod 600 ${file}` });
    }),
  );

  test('that is not there', async () => {
    await expect(readTokens('/no/such/file')).rejects.toMatchObject({
      code: 'config',
      message: expect.stringContaining("can't read http_tokens_file /no/such/file: ENOENT"),
    });
  });
});
