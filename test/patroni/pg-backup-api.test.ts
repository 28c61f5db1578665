import { describe, expect, test } from 'vitest';
import { request } from 'node:http';
import { withApi, type FakeApi, type Play } from './fake-api.ts';
import { checkedOutApi, withRealApi, type RealApi } from './real-api.ts';
import { DATA_DIRECTORY, lastLine, messages, runRecover } from './run-recover.ts';

// What walwarden takes for pg-backup-api's ways, played by our own server, and, where PG_BACKUP_API_CHECKOUT names a
// checkout, done by the real one.

const serverOf = (path: string): string => path.split('/')[2] ?? '';

/** pg-backup-api as we know it. */
async function withPlayedApi<T>(body: (api: RealApi) => Promise<T>): Promise<T> {
  const restores = new Map<string, string[]>();
  const notFound = (what: string): { status: number; body: unknown } => ({
    status: 404,
    body: { error: `404 Not Found: ${what} does not exist` },
  });
  const create: Play = ({ path, body: text }) => {
    const server = serverOf(path);
    const wanted: Record<string, string> = JSON.parse(text);
    if (server === 'nowhere') return notFound(`Server '${server}'`);
    if (server === 'empty') return notFound(`Backup '${wanted['backup_id'] ?? ''}'`);
    const { backup_id = '', destination_directory = '', remote_ssh_command = '' } = wanted;
    restores.set(server, [
      'recover',
      server,
      backup_id,
      destination_directory,
      '--remote-ssh-command',
      remote_ssh_command,
    ]);
    return { status: 202, body: { operation_id: `OF-${server}` } };
  };
  const list: Play = ({ path }) => {
    const server = serverOf(path);
    if (server === 'nowhere') return notFound(`Server '${server}'`);
    const operations = restores.has(server) ? [{ id: `OF-${server}`, type: ['recovery'] }] : [];
    return { body: { operations } };
  };
  const operation: Play = ({ path, nth }) => {
    const status = nth === 1 ? 'IN_PROGRESS' : serverOf(path) === 'failing' ? 'FAILED' : 'DONE';
    return { body: { operation_id: path.split('/').at(-1), status } };
  };
  return withApi({ create, list, operation }, (api) =>
    body({ url: api.url, recovered: (server) => Promise.resolve(restores.get(server) ?? []) }),
  );
}

const checkout = checkedOutApi();
const APIS: readonly (readonly [string, <T>(body: (api: RealApi) => Promise<T>) => Promise<T>])[] = [
  ['as we know it', withPlayedApi],
  ...(checkout === undefined
    ? []
    : [['of PG_BACKUP_API_CHECKOUT', <T>(body: (api: RealApi) => Promise<T>) => withRealApi(checkout, body)] as const]),
];

const words = (server: string): string[] => [
  `--barman-server=${server}`,
  '--ssh-command',
  'ssh postgres@patroni1',
  '--loop-wait=1',
];
const HURRIED = ['--retry-wait=0', '--max-retries=2'];

describe.each(APIS)('the pg-backup-api %s', (_label, withThisApi) => {
  test('restores a backup, and tells that it is done', () =>
    withThisApi(async (api) => {
      const { status, stderr } = await runRecover(api.url, { words: words('done') });
      expect(status).toBe(0);
      expect(messages(stderr).at(-1)).toMatch(/^recovery operation \S+ is done$/);
      expect(await api.recovered('done')).toEqual([
        'recover',
        'done',
        'latest',
        DATA_DIRECTORY,
        '--remote-ssh-command',
        'ssh postgres@patroni1',
      ]);
    }));

  test('tells that a restore failed', () =>
    withThisApi(async (api) => {
      const { status, stderr } = await runRecover(api.url, { words: words('failing') });
      expect(status).toBe(1);
      expect(lastLine(stderr)['msg']).toMatch(/^recovery operation \S+ failed /);
    }));

  test.each([
    ['server', 'nowhere', "Server 'nowhere' does not exist"],
    ['backup', 'empty', "Backup '20250101T000000' does not exist"],
  ])('says that there is no such %s', async (_what, server, said) =>
    withThisApi(async (api) => {
      const options = { globals: HURRIED, words: [...words(server), '--backup-id=20250101T000000'] };
      const { status, stderr } = await runRecover(api.url, options);
      expect(status).toBe(2);
      const { msg } = lastLine(stderr);
      expect(msg).toContain(`POST ${api.url}/servers/${server}/operations: HTTP 404 `);
      expect(msg).toContain(`: 404 Not Found: ${said} (try 2 of 2); no restore was begun`);
    }),
  );

  test('lists the restore whose answer was lost', () =>
    withThisApi(async (api) => {
      await withLosingProxy(api.url, async (proxy) => {
        const { status, stderr } = await runRecover(proxy.url, { words: words('lost') });
        expect(status).toBe(0);
        expect(proxy.count('create')).toBe(1);
        expect(messages(stderr).join('\n')).toMatch(/recovery operation \S+ is new since our request/);
        expect(await api.recovered('lost')).toContain(DATA_DIRECTORY);
      });
    }));
});

/** Hands everything on, and drops the connection instead of the answer to a POST. */
async function withLosingProxy<T>(target: string, body: (proxy: FakeApi) => Promise<T>): Promise<T> {
  const pass: Play = async ({ method, path, headers, body: text }, socket) => {
    const [status, answer] = await forward(`${target}${path}`, method, headers['content-type'], text);
    if (method !== 'POST') return { status, body: answer };
    socket.destroy();
    return undefined;
  };
  return withApi({ status: pass, create: pass, operation: pass, list: pass }, body);
}

function forward(url: string, method: string, type: string | undefined, body: string): Promise<[number, string]> {
  return new Promise((resolve, reject) => {
    const headers = type === undefined ? {} : { 'content-type': type };
    request(url, { method, headers, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response
        .on('data', (chunk: Buffer) => chunks.push(chunk))
        .once('end', () => resolve([response.statusCode ?? 0, Buffer.concat(chunks).toString()]));
    })
      .once('error', reject)
      .end(body);
  });
}
