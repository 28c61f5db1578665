import { readFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { createApp } from '../../../src/daemon/http/app.ts';
import { DiskWatch } from '../../../src/daemon/disk-watch.ts';
import { ReadAhead } from '../../../src/daemon/http/read-ahead.ts';
import { WalwardenError } from '../../../src/errors.ts';
import { createLogger } from '../../../src/logging.ts';
import { json } from '../../commands/with-server.ts';
import { makeWal } from '../../support/make-wal.ts';
import { jsonOf, withHttp } from './with-http.ts';

const document: unknown = JSON.parse(readFileSync(new URL('../../../docs/openapi.json', import.meta.url), 'utf8'));

const entriesOf = (value: unknown): [string, unknown][] =>
  typeof value === 'object' && value !== null ? Object.entries(value) : [];
const at = (value: unknown, ...keys: string[]): unknown =>
  keys.reduce((found, key) => entriesOf(found).find(([name]) => name === key)?.[1], value);

/** `GET /path: 200 400` */
function documented(): string[] {
  return entriesOf(at(document, 'paths')).flatMap(([path, operations]) =>
    entriesOf(operations).map(([method, operation]) => {
      const answers = entriesOf(at(operation, 'responses')).map(([status]) => status);
      return `${method.toUpperCase()} ${path}: ${answers.join(' ')}`;
    }),
  );
}

test('docs/openapi.json has every route with every answer, and no other', async () => {
  const unused = (): never => {
    throw new Error('nobody asks');
  };
  const context = {
    view: unused,
    logger: createLogger({ file: null, level: 'ERROR' }),
    readAhead: new ReadAhead(),
    disks: new DiskWatch(1_000),
    depositMs: 1_000,
  };
  const { routes, server } = await createApp({ tokens: () => null, isSocket: true, tls: null }, context);
  server.close();
  const registered = routes.map(({ method, url, answers }) => {
    const path = url.replaceAll(/:(\w+)/g, '{$1}');
    return `${method} ${path}: ${answers.toSorted((a, b) => a - b).join(' ')}`;
  });
  expect(registered.sort()).toEqual(documented().sort());
});

test('every reference in docs/openapi.json leads somewhere', () => {
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/([^"]+)"/g)].map(([, path = '']) => path);
  expect(references.length).toBeGreaterThan(20);
  for (const path of references)
    expect({ path, found: at(document, ...path.split('/')) !== undefined }).toEqual({ path, found: true });
});

describe('what the daemon tells of itself', () => {
  const others = {
    asleep: { active: 'off' },
    copy: { primary_ssh_command: 'ssh barman@primary' },
    broken: { compression: 'no' },
  };

  test('/readyz is 200 while it runs, and 503 before and after', () =>
    withHttp({ others }, async ({ ask, view }) => {
      for (const [phase, status] of [
        ['starting', 503],
        ['running', 200],
        ['stopping', 503],
      ] as const) {
        view.phase = phase;
        const answer = await ask('/readyz');
        expect(answer.status).toBe(status);
        expect(jsonOf(answer)).toMatchObject({
          phase,
          disks: 'answering',
          stuckDirectory: null,
          servers: [
            { server: 'main', archiving: { state: 'idle' } },
            { server: 'asleep', archiving: null },
            { server: 'copy' },
            { server: 'broken' },
          ],
        });
      }
    }));

  test('/servers has all of them', () =>
    withHttp({ others }, async ({ ask }) => {
      const answer = await ask('/servers');
      expect(answer).toMatchObject({ status: 200, headers: { 'content-type': 'application/json; charset=utf-8' } });
      expect(jsonOf(answer)).toMatchObject([
        {
          server: 'main',
          active: true,
          passive: false,
          disabled: false,
          archiving: { state: 'idle' },
          receiving: null,
        },
        { server: 'asleep', active: false },
        { server: 'copy', passive: true },
        { server: 'broken', disabled: true },
      ]);
    }));

  test.each(['main', 'asleep', 'copy', 'broken'])('/servers/%s/status is what status -f json prints', (name) =>
    withHttp({ others }, async (server) => {
      const printed = json(await server.cli(['-f', 'json', 'status', name]));
      const { status, body } = await server.ask(`/servers/${name}/status`);
      expect(status).toBe(200);
      // Free space of the disk may have changed in between.
      const steady = (text: string): string => text.replaceAll(/"free":\d+/g, '"free":0');
      expect([JSON.parse(steady(body.toString()))]).toEqual(JSON.parse(steady(JSON.stringify(printed))));
    }),
  );

  test('who asks for the status of a server while it is looked at shares that', () =>
    withListener(async (port, connections) => {
      const conninfo = `host=127.0.0.1 port=${port} user=x dbname=x sslmode=disable`;
      const server = { conninfo, streaming_conninfo: conninfo, check_timeout: 2 };
      await withHttp({ server }, async ({ ask }) => {
        const one = await ask('/servers/main/status');
        const alone = connections();
        const answers = await Promise.all(Array.from({ length: 20 }, () => ask('/servers/main/status')));
        expect([one, ...answers].map(({ status }) => status)).toEqual(Array<number>(21).fill(200));
        expect({ alone, together: connections() - alone }).toEqual({ alone, together: alone });
        expect(alone).toBeGreaterThan(0);
      });
    }));

  test('a server that a reload is closing is 503, whatever is asked of it', () =>
    withHttp({}, async (server) => {
      const main = server.view.servers.get('main');
      if (main === undefined) throw new Error('there is no server main');
      const use = (): never => {
        throw new WalwardenError('aborted', 'server main was closed');
      };
      server.view.servers = new Map([['main', { ...main, use }]]);
      const { name, bytes } = makeWal({ segment: 1 });
      for (const answer of [await server.get(name), await server.put(name, bytes)]) {
        expect(answer).toMatchObject({ status: 503, headers: { 'retry-after': '5' } });
        expect(jsonOf(answer)).toMatchObject({
          error: { code: 'stopping', message: 'server main is being configured' },
        });
      }
    }));

  test('/metrics is text for Prometheus', () =>
    withHttp({}, async (server) => {
      await server.put(makeWal({ segment: 1 }).name, makeWal({ segment: 1 }).bytes);
      const { status, headers } = await server.ask('/metrics');
      expect({ status, type: headers['content-type'] }).toEqual({
        status: 200,
        type: 'text/plain; version=0.0.4; charset=utf-8',
      });
    }));
});

/** Somebody who is taken for PostgreSQL, says nothing, and counts who comes. */
async function withListener(body: (port: number, connections: () => number) => Promise<void>): Promise<void> {
  const sockets: Socket[] = [];
  const listener = createServer((socket) => sockets.push(socket.on('error', () => {})));
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const address = listener.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  try {
    await body(address.port, () => sockets.length);
  } finally {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => listener.close(resolve));
  }
}
