import { describe, expect, test } from 'vitest';
import type { Logger } from '../../src/logging.ts';
import { parseApiUrl } from '../../src/patroni/api-url.ts';
import { ExitCode } from '../../src/patroni/exit-code.ts';
import { PgBackupApi } from '../../src/patroni/pg-backup-api.ts';
import { restoreBackup } from '../../src/patroni/restore-backup.ts';
import { runBarmanRecover } from '../../src/patroni/run-barman-recover.ts';
import { withSilentPort } from '../support/silent-port.ts';
import { reset, withApi, type Play } from './fake-api.ts';

// What Patroni’s module has by name, called as a program of one’s own would.

const nothing = (): void => undefined;
const logger: Logger = { debug: nothing, info: nothing, warn: nothing, error: nothing };

interface Waits {
  readonly retryWait?: number;
  readonly requestTimeout?: number;
}

function apiAt(url: string, { retryWait = 0, requestTimeout = 30 }: Waits = {}): PgBackupApi {
  const { signal: stop } = new AbortController();
  return new PgBackupApi({ url: parseApiUrl(url), tls: {}, retryWait, maxRetries: 2, requestTimeout, logger, stop });
}

test('ExitCode has the names and numbers of patroni_barman', () => {
  expect(ExitCode).toEqual({ RECOVERY_DONE: 0, RECOVERY_FAILED: 1, HTTP_ERROR: 2 });
});

test('restoreBackup and runBarmanRecover resolve to an ExitCode', () =>
  withApi(
    { operation: ({ nth }) => ({ body: { recovery_id: 'OP1', status: nth === 1 ? 'DONE' : 'FAILED' } }) },
    async ({ url, received }) => {
      const api = apiAt(url);
      await api.ensureApiOk();
      expect(await restoreBackup(api, 'main', 'first', 'ssh x', '/d', 0)).toBe(ExitCode.RECOVERY_DONE);
      const args = { barmanServer: 'main', backupId: 'last', sshCommand: 'ssh y', dataDirectory: '/e', loopWait: 0 };
      expect(await runBarmanRecover(api, args)).toBe(ExitCode.RECOVERY_FAILED);
      const posts = received.filter(({ method }) => method === 'POST').map(({ body }) => JSON.parse(body));
      const of = (backup: string, ssh: string, directory: string): object => ({
        type: 'recovery',
        backup_id: backup,
        remote_ssh_command: ssh,
        destination_directory: directory,
      });
      expect(posts).toEqual([of('first', 'ssh x', '/d'), of('last', 'ssh y', '/e')]);
    },
  ));

test('the waits are seconds: between tries of one request, and between looks at the operation', async () => {
  const at: Record<string, number[]> = { status: [], create: [], operation: [] };
  const came = (kind: string): number => at[kind]?.push(performance.now()) ?? 0;
  await withApi(
    {
      status: () => (came('status') === 1 ? { status: 500, body: '' } : { body: '"OK"' }),
      create: () => (came('create') === 1 ? { status: 503, body: '' } : { status: 202, body: { operation_id: 'OP1' } }),
      operation: () => ({ body: { status: came('operation') === 1 ? 'IN_PROGRESS' : 'DONE' } }),
    },
    async ({ url }) => {
      const api = apiAt(url, { retryWait: 1 });
      await api.ensureApiOk();
      expect(await restoreBackup(api, 'main', 'latest', 'ssh x', '/d', 2)).toBe(ExitCode.RECOVERY_DONE);
    },
  );
  const gaps = Object.values(at).map(([first = 0, second = 0]) => second - first);
  // A timer may be a millisecond early.
  for (const [index, seconds] of [1, 1, 2].entries()) expect(gaps[index]).toBeGreaterThan(seconds * 1_000 - 10);
});

describe('of what a request for a restore is answered', () => {
  const create = (url: string): Promise<string> => apiAt(url).createRecoveryOperation('main', 'latest', 'ssh x', '/d');

  test('4xx and 503 alone have it repeated, and 2xx alone names the restore', async () => {
    let answered = 200;
    await withApi({ create: () => ({ status: answered, body: { operation_id: 'OP1' } }) }, async ({ url, count }) => {
      for (; answered < 600; answered += 1) {
        const before = count('create');
        const id = await create(url).catch(() => null);
        const repeated = (answered >= 400 && answered < 500) || answered === 503;
        // 204 has no body.
        const named = answered < 300 && answered !== 204;
        const got = { answered, requests: count('create') - before, id };
        expect(got).toEqual({ answered, requests: repeated ? 2 : 1, id: named ? 'OP1' : null });
      }
    });
  });

  test.each([[7], [null], [['OP1']], ['\uD800']])('%j is no operation id, and the restore may be running', async (id) =>
    withApi({ create: () => ({ status: 202, body: { operation_id: id } }) }, async ({ url, count }) => {
      await expect(create(url)).rejects.toThrow(
        /HTTP 202 without an "operation_id": .*; it can’t be told whether a restore was begun; no new operation is there$/,
      );
      expect(count('create')).toBe(1);
      // It may take a moment until the operation is listed: once before, and five times after.
      expect(count('list')).toBe(6);
    }),
  );
});

test.each([
  [{}],
  [[]],
  [{ operations: {} }],
  [{ operations: ['NEW'] }],
  [{ operations: [{ id: 'NEW', type: 'recovery' }, { type: 'recovery' }] }],
  [{ operations: [{ id: 7, type: 'recovery' }] }],
])('%j is no list of operations, so that it can’t be told which one is new', async (body) =>
  withApi({ create: reset, list: ({ nth }) => ({ body: nth === 1 ? { operations: [] } : body }) }, async ({ url }) => {
    await expect(apiAt(url).createRecoveryOperation('main', 'latest', 'ssh x', '/d')).rejects.toThrow(
      'expected a list of "operations" in JSON',
    );
  }),
);

test('only what 2xx is answered with is believed: a gateway may keep an old answer for its error page', async () => {
  let answered = 200;
  const play: Play = ({ path }) => ({ status: answered, body: path === '/status' ? '"OK"' : { status: 'DONE' } });
  await withApi({ status: play, operation: play }, async ({ url, count }) => {
    const api = apiAt(url);
    for (; answered < 600; answered += 1) {
      const before = count('operation') + count('status');
      const done = await api.getOperationStatus('main', 'OP1').catch(() => null);
      const ok = await api.ensureApiOk().then(
        () => true,
        () => false,
      );
      // 204 has no body.
      const believed = answered < 300 && answered !== 204;
      const got = { answered, done, ok, requests: count('operation') + count('status') - before };
      expect(got).toEqual({ answered, done: believed ? 'DONE' : null, ok: believed, requests: believed ? 2 : 4 });
    }
  });
});

test.each([['done'], ['DONE '], [['DONE']], [true], [null]])('%j is no status of an operation', async (status) =>
  withApi({ operation: () => ({ body: { status } }) }, async ({ url, count }) => {
    await expect(apiAt(url).getOperationStatus('main', 'OP1')).rejects.toThrow('expected a "status" that is known');
    expect(count('operation')).toBe(2);
  }),
);

describe.concurrent(
  'a request for a restore that could not be sent is repeated, and certainly began nothing, when',
  () => {
    const create = (url: string, waits?: Waits): Promise<string> =>
      apiAt(url, waits).createRecoveryOperation('main', 'latest', 'ssh x', '/d');

    test('the name of the host is not resolved', async () => {
      await expect(create('http://nowhere.invalid:7480')).rejects.toThrow(
        /^POST .*can’t be resolved .* \(try 2 of 2\); no restore was begun$/,
      );
    });

    test('TLS can’t be agreed on', () =>
      withApi({}, async (api) => {
        await expect(create(api.url.replace('http:', 'https:'))).rejects.toThrow(
          /^POST .* \(try 2 of 2\); no restore was begun$/,
        );
        expect(api.received).toEqual([]);
      }));

    test('there is no connection in time', () =>
      withSilentPort(async (port) => {
        await expect(create(`https://127.0.0.1:${port}`, { requestTimeout: 1 })).rejects.toThrow(
          /^POST .*: no connection within 1 s \(try 2 of 2\); no restore was begun$/,
        );
      }));
  },
);
