import { describe, expect, test } from 'vitest';
import { runCli } from '../support/cli.ts';
import { withApi } from './fake-api.ts';
import { DATA_DIRECTORY, lastLine, messages, runPatroniCli, runRecover } from './run-recover.ts';

describe.concurrent('a restore', () => {
  test('that is done is 0, and was asked for once, as pg-backup-api wants it', () =>
    withApi({}, async (api) => {
      const { status, stdout, stderr } = await runRecover(api.url);
      expect({ status, stdout }).toEqual({ status: 0, stdout: '' });
      expect(messages(stderr)).toEqual([
        `restoring backup latest of main into ${DATA_DIRECTORY} through ${api.url}/servers/main/operations`,
        'created the recovery operation OP1',
        'recovery operation OP1 is done',
      ]);
      const [post, ...others] = api.received.filter(({ method }) => method === 'POST');
      expect(others).toEqual([]);
      expect(post?.path).toBe('/servers/main/operations');
      expect(post?.headers['content-type']).toBe('application/json');
      expect(JSON.parse(post?.body ?? '')).toEqual({
        type: 'recovery',
        backup_id: 'latest',
        remote_ssh_command: 'ssh postgres@patroni1',
        destination_directory: DATA_DIRECTORY,
      });
      expect(api.received.at(-1)?.path).toBe('/servers/main/operations/OP1');
    }));

  test('that failed is 1, and says where the output of barman is', () =>
    withApi({ operation: () => ({ body: { operation_id: 'OP1', status: 'FAILED' } }) }, async (api) => {
      const { status, stderr } = await runRecover(api.url);
      expect(status).toBe(1);
      const { msg, hint, operation_id } = lastLine(stderr);
      expect(operation_id).toBe('OP1');
      expect(msg).toBe(`recovery operation OP1 failed (${api.url}/servers/main/operations/OP1)`);
      expect(hint).toContain('<barman_home>/main/output/OP1.json');
    }));

  test('that takes long is looked at until it ends, and told once, the rest as debug', () =>
    withApi(
      { operation: ({ nth }) => ({ body: { recovery_id: 'OP1', status: nth < 20 ? 'IN_PROGRESS' : 'DONE' } }) },
      async (api) => {
        const { status, stderr } = await runRecover(api.url);
        expect(status).toBe(0);
        expect(api.count('operation')).toBe(20);
        const progress = 'recovery operation OP1 is still in progress';
        expect(messages(stderr).filter((line) => line === progress)).toHaveLength(1);
      },
    ));

  test('goes on through an outage that is shorter than the tries', () =>
    withApi(
      {
        operation: ({ nth }) =>
          nth === 1
            ? { body: { status: 'IN_PROGRESS' } }
            : nth < 4
              ? { status: 502, body: 'bad' }
              : { body: { status: 'DONE' } },
      },
      async (api) => {
        const { status, stderr } = await runRecover(api.url);
        expect(status).toBe(0);
        expect(stderr).toContain('/operations/OP1: HTTP 502 Bad Gateway: bad (try 2 of 3; again in 0 s)');
      },
    ));

  test('has its tries anew for every look: a long restore may live through many outages', () =>
    withApi(
      {
        operation: ({ nth }) =>
          nth % 3 === 0 ? { body: { status: nth < 12 ? 'IN_PROGRESS' : 'DONE' } } : { status: 502, body: '' },
      },
      async (api) => {
        expect((await runRecover(api.url)).status).toBe(0);
        expect(api.count('operation')).toBe(12);
      },
    ));

  test('whose outcome never becomes known is 2, with its id, and the word that it goes on', () =>
    withApi({ operation: () => ({ body: { recovery_id: 'OP1' } }) }, async (api) => {
      const { status, stderr } = await runRecover(api.url);
      expect(status).toBe(2);
      expect(api.count('operation')).toBe(3);
      expect(lastLine(stderr)['msg']).toBe(
        `GET ${api.url}/servers/main/operations/OP1: HTTP 200: expected a "status" that is known in JSON, found {"recovery_id":"OP1"} (try 3 of 3); ` +
          `the outcome is not known, and recovery operation OP1 goes on at the Barman host; see ${api.url}/servers/main/operations/OP1`,
      );
    }));

  test('with a status that nobody knows is not taken for one that ended', () =>
    withApi({ operation: () => ({ body: { status: 'PAUSED' } }) }, async (api) => {
      const { status, stderr } = await runRecover(api.url);
      expect(status).toBe(2);
      expect(stderr).toContain('PAUSED');
    }));

  test('takes the backup, the server and the directory that are named, percent-encoded in the path', () =>
    withApi({ create: () => ({ status: 202, body: { operation_id: 'a/b ?' } }) }, async (api) => {
      const words = [
        '--barman-server=ma in/1',
        '--backup-id',
        '20260101T000000',
        '--ssh-command=ssh -p 23 x',
        '--loop-wait=0',
      ];
      const { status } = await runRecover(api.url, { words });
      expect(status).toBe(0);
      const post = api.received.find(({ method }) => method === 'POST');
      expect(post?.path).toBe('/servers/ma%20in%2F1/operations');
      expect(JSON.parse(post?.body ?? '')).toMatchObject({
        backup_id: '20260101T000000',
        remote_ssh_command: 'ssh -p 23 x',
      });
      expect(api.received.at(-1)?.path).toBe('/servers/ma%20in%2F1/operations/a%2Fb%20%3F');
    }));

  test('takes names that are not ASCII, or that a URL would resolve', () =>
    withApi({}, async (api) => {
      const words = ['--barman-server=..', '--backup-id=Sicherung für 日本', '--ssh-command=ssh ä', '--loop-wait=0'];
      expect((await runRecover(api.url, { words })).status).toBe(0);
      const post = api.received.find(({ method }) => method === 'POST');
      expect(post?.path).toBe('/servers/../operations');
      expect(JSON.parse(post?.body ?? '')).toMatchObject({
        backup_id: 'Sicherung für 日本',
        remote_ssh_command: 'ssh ä',
      });
    }));

  test.each(['', '/'])('goes through a prefix in the path of the URL, with %j at its end', async (slash) =>
    withApi({ prefix: '/barman/api' }, async (api) => {
      expect((await runRecover(`${api.url}${slash}`)).status).toBe(0);
      expect(new Set(api.received.map(({ path }) => path))).toEqual(
        new Set([
          '/barman/api/status',
          '/barman/api/servers/main/operations',
          '/barman/api/servers/main/operations/OP1',
        ]),
      );
    }),
  );

  test('sends user and password of the URL, and logs neither', () =>
    withApi({ operation: () => ({ status: 401, body: '' }) }, async (api) => {
      const url = api.url.replace('//', '//barman:s%40cret@');
      const { status, stderr } = await runRecover(url, { globals: ['--retry-wait=0', '--max-retries=2', '--debug'] });
      expect(status).toBe(2);
      for (const { headers } of api.received) {
        expect(headers.authorization).toBe(`Basic ${Buffer.from('barman:s@cret').toString('base64')}`);
      }
      expect(stderr).toContain(`${api.url}/servers`);
      expect(stderr).not.toMatch(/s%40cret|s@cret|barman:/);
    }));

  test('as walwarden recover is the same, and needs no configuration file', () =>
    withApi({}, async (api) => {
      const words = ['--barman-server', 'main', '--ssh-command', 'ssh x', '--data-directory', '/d', '--scope=batman'];
      const env = { HOME: '/nonexistent', PATH: process.env['PATH'] };
      const { status, stderr } = await runCli(['recover', '--api-url', api.url, ...words], { env });
      expect(status).toBe(0);
      expect(messages(stderr).at(-1)).toBe('recovery operation OP1 is done');
      const failing = await runCli(
        ['-c', '/nonexistent', 'recover', '--api-url', `${api.url}/x`, ...words, '--max-retries=1'],
        {
          env,
        },
      );
      expect(failing.status).toBe(254);
    }));

  test.each([
    [['--debug'], 4, 'ignored the option'],
    [['--log-level', 'ERROR'], 0, ''],
    [['--quiet'], 0, ''],
  ])('as walwarden %j recover logs accordingly', async (globals, lines, first) =>
    withApi({}, async (api) => {
      const words = ['--api-url', api.url, '--barman-server=main', '--ssh-command=ssh x', '--datadir=/d', '--scope=b'];
      const { status, stderr } = await runCli([...globals, 'recover', ...words]);
      expect(status).toBe(0);
      expect(messages(stderr)).toHaveLength(lines);
      expect(messages(stderr)[0] ?? '').toContain(first);
    }),
  );
});

describe.concurrent('a pg-backup-api that is not OK is 254, and nothing is asked for', () => {
  test.each([
    ['another word', { body: '"NOT OK"' }, 'expected "OK", found "NOT OK"', 1],
    ['other JSON', { body: { status: 'OK' } }, 'expected "OK", found {"status":"OK"}', 1],
    ['null', { body: 'null' }, 'expected "OK", found null', 1],
    ['no JSON', { body: 'OK' }, 'HTTP 200: expected a status in JSON, found "OK" (try 3 of 3)', 3],
    ['nothing', { status: 204 }, 'HTTP 204: expected a status in JSON, found an empty body (try 3 of 3)', 3],
    [
      'an error page',
      { status: 503, body: '<html><title>503</title><h1>Down</h1>' },
      'HTTP 503 Service Unavailable: Down (try 3 of 3)',
      3,
    ],
  ] as const)('with %s', async (_what, reply, message, tries) =>
    withApi({ status: () => reply }, async (api) => {
      const { status, stderr } = await runRecover(api.url);
      expect(status).toBe(254);
      expect(lastLine(stderr)['msg']).toBe(
        `pg-backup-api is not OK, so no restore was asked for: GET ${api.url}/status: ${message}`,
      );
      expect(api.received).toHaveLength(tries);
    }),
  );

  test('when nobody listens', async () => {
    const url = await withApi({}, ({ url: gone }) => Promise.resolve(gone));
    const { status, stderr } = await runRecover(url);
    expect(status).toBe(254);
    const { msg, hint } = lastLine(stderr);
    expect(msg).toContain(`GET ${url}/status: connection refused (connect ECONNREFUSED`);
    expect(msg).toContain('(try 3 of 3)');
    expect(hint).toContain('is pg-backup-api running there');
  });

  test('when nobody listens at any address of the host, all of which are told', async () => {
    const port = await withApi({}, (gone) => Promise.resolve(gone.port));
    // As a name with an A and an AAAA record, wherever the test runs.
    const resolver = `import dns from 'node:dns';
      const addresses = ['127.0.0.1', '127.0.0.2'].map((address) => ({ address, family: 4 }));
      dns.lookup = (name, options, found) => found(null, addresses);`;
    const env = { ...process.env, NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(resolver)}` };
    const { status, stderr } = await runRecover(`http://both.invalid:${port}`, { env });
    expect(status).toBe(254);
    const { msg, hint } = lastLine(stderr);
    const each = (address: string): string => `connect ECONNREFUSED ${address}:${port}`;
    expect(msg).toContain(`connection refused (${each('127.0.0.1')}, ${each('127.0.0.2')})`);
    expect(hint).toContain('is pg-backup-api running there');
  });

  test('when there is no such host', async () => {
    const { status, stderr } = await runRecover('http://nowhere.invalid:7480');
    expect(status).toBe(254);
    expect(lastLine(stderr)['msg']).toContain('the name of the host can’t be resolved');
  });

  test('but one that recovers within the tries is', () =>
    withApi({ status: ({ nth }) => (nth < 3 ? { status: 500, body: '' } : { body: '"OK"' }) }, async (api) => {
      expect((await runRecover(api.url)).status).toBe(0);
    }));
});

describe.concurrent('without a subcommand', () => {
  test('it is 255, with the help on stderr', async () => {
    for (const words of [[], ['--api-url', 'http://127.0.0.1:1']]) {
      const { status, stdout, stderr } = await runPatroniCli(words);
      expect({ status, stdout }).toEqual({ status: 255, stdout: '' });
      expect(stderr).toContain('no subcommand given');
      expect(stderr).toContain('Usage: walwarden-patroni [global options] recover [options]');
    }
  });

  test('and with an unknown one it is 2, and says which is there', async () => {
    const { status, stderr } = await runPatroniCli(['--api-url=http://127.0.0.1:1', 'config-switch', 'on_role_change']);
    expect(status).toBe(2);
    expect(stderr).toContain('unknown subcommand "config-switch": expected recover');
  });
});
