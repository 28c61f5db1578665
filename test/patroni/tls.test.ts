import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mkdtemp, rm } from 'node:fs/promises';
import { makeCertificates, type Certificates } from '../postgres/certificates.ts';
import { tempParent, tempPrefix } from '../support/temp-dir.ts';
import { withApi, type FakeApi } from './fake-api.ts';
import { lastLine, runRecover } from './run-recover.ts';

let directory: string;
let made: Certificates;

beforeAll(async () => {
  directory = await mkdtemp(join(tempParent(), tempPrefix()));
  made = await makeCertificates(directory);
  const both = [made.client, made.client.replace(/crt$/, 'key')].map((file) => readFile(file, 'utf8'));
  await writeFile(join(directory, 'both.pem'), (await Promise.all(both)).join(''));
});
afterAll(() => rm(directory, { recursive: true }));

const at = (name: string): string => join(directory, name);
const TWICE = ['--retry-wait=0', '--max-retries=2'];

/** An API that shows its certificate, and asks for one that its authority signed. */
async function withSecureApi<T>(body: (api: FakeApi) => Promise<T>): Promise<T> {
  const [cert, key, ca] = await Promise.all(['server.crt', 'server.key', 'ca.crt'].map((name) => readFile(at(name))));
  if (cert === undefined || key === undefined || ca === undefined) throw new Error('no certificates');
  return withApi({ tls: { cert, key, ca, requestCert: true, rejectUnauthorized: true } }, body);
}

describe.concurrent('https', () => {
  test('with the client certificate that is asked for restores', () =>
    withSecureApi(async (api) => {
      const files = ['--cert-file', at('client.crt'), '--key-file', at('client.key'), '--ca-file', at('ca.crt')];
      expect((await runRecover(api.url, { globals: [...TWICE, ...files] })).status).toBe(0);
      expect(api.count('create')).toBe(1);
    }));

  test('takes certificate and key from one file', () =>
    withSecureApi(async (api) => {
      const files = [`--cert-file=${at('both.pem')}`, `--ca-file=${at('ca.crt')}`];
      expect((await runRecover(api.url, { globals: [...TWICE, ...files] })).status).toBe(0);
    }));

  test.each([
    ['no client certificate', (): string[] => []],
    ['that of another authority', () => ['--cert-file', at('other-ca.crt'), '--key-file', at('other-ca.key')]],
  ])('with %s is 254, and says what to give', async (_what, files) =>
    withSecureApi(async (api) => {
      const { status, stderr } = await runRecover(api.url, {
        globals: [...TWICE, '--ca-file', at('ca.crt'), ...files()],
      });
      expect(status).toBe(254);
      expect(api.received).toEqual([]);
      const { msg, hint } = lastLine(stderr);
      expect(msg).toContain(`GET ${api.url}/status: `);
      expect(hint).toContain('it may ask for a client certificate: --cert-file and --key-file');
    }),
  );

  test.each([
    ['without --ca-file', (): string[] => []],
    ['with the wrong --ca-file', () => ['--ca-file', at('other-ca.crt')]],
  ])('%s does not trust a server of an authority of one’s own', async (_what, files) =>
    withSecureApi(async (api) => {
      const client = ['--cert-file', at('client.crt'), '--key-file', at('client.key')];
      const { status, stderr } = await runRecover(api.url, { globals: [...TWICE, ...client, ...files()] });
      expect(status).toBe(254);
      expect(api.received).toEqual([]);
      const { msg, hint } = lastLine(stderr);
      expect(msg).toContain('its certificate is not trusted');
      expect(hint).toContain('--ca-file');
    }),
  );

  test('does not trust a certificate of another host', () =>
    withSecureApi(async (api) => {
      const { status, stderr } = await runRecover(api.url.replace('127.0.0.1', 'localhost'), {
        globals: [...TWICE, '--ca-file', at('ca.crt')],
      });
      expect(status).toBe(254);
      expect(lastLine(stderr)['hint']).toContain('--api-url has to name the host as its certificate does');
    }));

  test('to a server of http says so', () =>
    withApi({}, async (api) => {
      const { status, stderr } = await runRecover(api.url.replace('http:', 'https:'), { globals: TWICE });
      expect(status).toBe(254);
      expect(lastLine(stderr)['hint']).toContain('--api-url has to begin with http://');
    }));
});

test('http to a server of https says so', () =>
  withSecureApi(async (api) => {
    const { status, stderr } = await runRecover(api.url.replace('https:', 'http:'), { globals: TWICE });
    expect(status).toBe(254);
    expect(lastLine(stderr)['hint']).toContain('--api-url has to begin with https://');
  }));

test('http with files for https is warned of', () =>
  withApi({}, async (api) => {
    const { status, stderr } = await runRecover(api.url, { globals: ['--ca-file', at('ca.crt')] });
    expect(status).toBe(0);
    expect(stderr).toContain('--cert-file, --key-file and --ca-file are for https://');
  }));

describe.concurrent('files that can’t be used are 2, and named, before anything is asked:', () => {
  test.each([
    ['a missing one', () => ['--ca-file', at('missing')], /^ERROR: --ca-file: can’t read .*missing: ENOENT/],
    [
      'a CA file without certificate',
      () => ['--ca-file', at('ca.cnf')],
      /^ERROR: --ca-file .*ca\.cnf: can’t be used: /,
    ],
    [
      'a certificate without key',
      () => ['--cert-file', at('client.crt')],
      /^ERROR: --cert-file .*client\.crt: can’t be used: /,
    ],
    [
      'the key of another',
      () => ['--cert-file', at('client.crt'), '--key-file', at('server.key')],
      /^ERROR: --cert-file .*client\.crt with --key-file .*server\.key: can’t be used: /,
    ],
    ['a key without certificate', () => ['--key-file', at('client.key')], /^ERROR: --key-file without --cert-file/],
  ])('%s', async (_what, files, said) =>
    withSecureApi(async (api) => {
      const { status, stderr } = await runRecover(api.url, { globals: files() });
      expect(status).toBe(2);
      expect(stderr).toMatch(said);
      expect(api.received).toEqual([]);
    }),
  );
});
