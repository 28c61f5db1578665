import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { reset, silence, withApi, type Play } from './fake-api.ts';
import { lastLine, messages, runRecover } from './run-recover.ts';

const TWICE = ['--retry-wait=0', '--max-retries=2'];

/** Always another byte, never the last. */
const trickle: Play = async (_request, socket, response) => {
  response.writeHead(200, { 'content-type': 'application/json' });
  while (!socket.destroyed) {
    response.write(' ');
    await delay(50);
  }
  return undefined;
};

const flood: Play = (_request, _socket, response) => {
  response.writeHead(200, { 'content-type': 'application/json' });
  const block = Buffer.alloc(1024 * 1024, ' ');
  for (let sent = 0; sent < 40; sent += 1) response.write(block);
  return undefined;
};

const PAGE = `<!DOCTYPE html><html><head><title>502</title><style>p { color: red }</style></head>
<body><h1>Bad gateway</h1><p>The backend&#39;s down.</p></body></html>`;

const WRONG: readonly (readonly [what: string, play: Play, said: string, hint?: string])[] = [
  ['nothing, ever', silence, 'no complete answer within 3 s', '--request-timeout'],
  ['a byte at a time, without end', trickle, 'no complete answer within 3 s', '--request-timeout'],
  ['more than anybody needs', flood, 'an answer of more than 16 MiB'],
  ['a reset', reset, 'ECONNRESET'],
  ['JSON that is none', () => ({ body: '{"status": "DO' }), 'in JSON, found "{"status": "DO"'],
  ['JSON without the key', () => ({ body: [] }), 'in JSON, found []'],
  ['nothing in it', () => ({ body: '' }), 'found an empty body'],
  [
    'an error in JSON',
    () => ({ status: 404, body: { error: '404 Not Found: gone' } }),
    'HTTP 404 Not Found: 404 Not Found: gone',
    '--barman-server',
  ],
  ['an error in other JSON', () => ({ status: 500, body: { code: 7 } }), 'HTTP 500 Internal Server Error: {"code":7}'],
  ['an error page', () => ({ status: 502, body: PAGE }), "HTTP 502 Bad Gateway: Bad gateway The backend's down."],
  [
    'an error with what a terminal obeys',
    () => ({ status: 400, body: 'a\u001B[31m\r\nb\u0007' }),
    'HTTP 400 Bad Request: a [31m; b',
  ],
  ['a very long error', () => ({ status: 400, body: 'x'.repeat(5_000) }), `HTTP 400 Bad Request: ${'x'.repeat(300)}…`],
  [
    'a redirect',
    () => ({ status: 302, headers: { location: 'https://a:b@c/operations' } }),
    'HTTP 302 Found: redirects to https://c/operations',
    'redirects are not followed',
  ],
  [
    'a question for a password',
    () => ({ status: 401, body: '' }),
    'HTTP 401 Unauthorized',
    'a user and password in --api-url',
  ],
];

const CASES = WRONG.map(([what, play, said, hint = '']) => ({ what, play, said, hint }));

describe.concurrent('what answers a look at the operation is tried again, and told in the end, when it is', () => {
  test.each(CASES)('$what', async ({ play, said, hint }) =>
    withApi({ operation: play }, async (api) => {
      const { status, stderr } = await runRecover(api.url, {
        globals: said.includes('within') ? [...TWICE, '--request-timeout=3'] : TWICE,
      });
      expect(status).toBe(2);
      expect(api.count('operation')).toBe(2);
      const about = `GET ${api.url}/servers/main/operations/OP1: `;
      const first = messages(stderr).find((line) => line.includes('(try 1 of 2; again in 0 s)')) ?? '';
      expect(first).toContain(about);
      expect(first).toContain(said);
      const { msg, hint: advice } = lastLine(stderr);
      expect(msg).toContain(about);
      expect(msg).toContain(said);
      expect(msg).toContain('recovery operation OP1 goes on at the Barman host');
      expect(String(advice)).toContain(hint);
    }),
  );
});

test('an answer that only takes its time is waited for', () =>
  withApi(
    {
      status: async (_request, _socket, response) => {
        for (const part of ['"O', 'K"']) {
          await delay(300);
          response.write(part);
        }
        response.end();
        return undefined;
      },
    },
    async (api) => {
      expect((await runRecover(api.url)).status).toBe(0);
      expect(api.count('status')).toBe(1);
    },
  ));

test('what does not speak HTTP is told from what is not there', async () => {
  const server = createServer((socket) =>
    socket
      .on('error', () => undefined)
      .resume()
      .end('SSH-2.0-OpenSSH_9.2\r\n'),
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    const { status, stderr } = await runRecover(`http://127.0.0.1:${address.port}`, { globals: TWICE });
    expect(status).toBe(254);
    const { msg, hint } = lastLine(stderr);
    expect(msg).toContain('what answers does not speak HTTP');
    expect(hint).toContain('https://');
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
});
