import { describe, expect, test } from 'vitest';
import { reset, silence, withApi, type FakeApi, type Play, type Plays } from './fake-api.ts';
import { lastLine, messages, runRecover } from './run-recover.ts';

// The request that begins a restore: two restores would write into one directory.

const UNSURE = 'it can’t be told whether a restore was begun';

/** Begins a restore, as pg-backup-api does, and then answers as told, or not. */
function begins(api: () => FakeApi | undefined, then: Play, id = 'NEW'): Play {
  return (...args) => {
    api()?.operations.push({ id, type: 'recovery' });
    return then(...args);
  };
}

/** Runs `body` with an API whose POST begins a restore and then does `then`. */
async function withBegun<T>(then: Play, body: (api: FakeApi) => Promise<T>, plays: Plays = {}): Promise<T> {
  let known: FakeApi | undefined;
  return withApi({ create: begins(() => known, then), ...plays }, (api) => {
    known = api;
    return body(api);
  });
}

const AMBIGUOUS: readonly (readonly [what: string, play: Play, said: string])[] = [
  ['the connection is reset', reset, 'ECONNRESET'],
  ['no answer comes in time', silence, 'no complete answer within 3 s'],
  ['the answer breaks off', breakOff, 'aborted'],
  [
    'the answer has no operation id',
    () => ({ status: 202, body: { id: 'x' } }),
    'HTTP 202 without an "operation_id": {"id":"x"}',
  ],
  [
    'the operation id is empty',
    () => ({ status: 202, body: { operation_id: '' } }),
    'HTTP 202 without an "operation_id"',
  ],
  ['the answer is no JSON', () => ({ status: 202, body: 'yes' }), 'HTTP 202 without an "operation_id": "yes"'],
  ['the answer is empty', () => ({ status: 204 }), 'HTTP 204 without an "operation_id": an empty body'],
  [
    'a gateway lost the answer',
    () => ({ status: 502, body: '<html><h1>502 Bad Gateway</h1></html>' }),
    'HTTP 502 Bad Gateway: 502 Bad Gateway',
  ],
  ['a gateway waited in vain', () => ({ status: 504, body: '' }), 'HTTP 504 Gateway Timeout'],
];

function breakOff(_request: unknown, socket: Parameters<Play>[1], response: Parameters<Play>[2]): undefined {
  response.writeHead(202, { 'content-type': 'application/json', 'content-length': 100 });
  response.write('{"operation_id"');
  setImmediate(() => socket.destroy());
}

/** Only what never answers is given up soon: a busy machine may be slow. */
const optionsFor = (play: Play): { globals: string[] } => ({
  globals: ['--retry-wait=0', '--max-retries=3', ...(play === silence ? ['--request-timeout=3'] : [])],
});

describe.concurrent(
  'the request for a restore is sent once, and the only new operation is taken for ours, when',
  () => {
    test.each(AMBIGUOUS)('%s', async (_what, play, said) =>
      withBegun(play, async (api) => {
        const { status, stderr } = await runRecover(api.url, optionsFor(play));
        expect(status).toBe(0);
        expect(api.count('create')).toBe(1);
        expect(api.received.at(-1)?.path).toBe('/servers/main/operations/NEW');
        const log = messages(stderr);
        const looking = log.find((line) => line.includes('looking whether a restore was begun nevertheless'));
        expect(looking).toContain(`POST ${api.url}/servers/main/operations: `);
        expect(looking).toContain(said);
        const taken = 'recovery operation NEW is new since our request, and the only one: taking it for ours';
        expect(log).toContain(taken);
        expect(stderr).toContain(`"operation_id":"NEW","msg":"${taken}"`);
      }),
    );

    test('it shows up a little later', async () => {
      let known: FakeApi | undefined;
      const list: Play = ({ nth }) => {
        if (nth === 3) known?.operations.push({ id: 'LATE', type: ['recovery'] });
        return { body: { operations: known?.operations } };
      };
      await withApi({ create: reset, list }, async (api) => {
        known = api;
        expect((await runRecover(api.url)).status).toBe(0);
        expect(api.received.at(-1)?.path).toBe('/servers/main/operations/LATE');
        expect(api.count('create')).toBe(1);
      });
    });

    test('what was there before took two looks', () =>
      withBegun(
        reset,
        async (api) => {
          expect((await runRecover(api.url)).status).toBe(0);
          expect(api.count('create')).toBe(1);
          expect(api.received.at(-1)?.path).toBe('/servers/main/operations/NEW');
        },
        {
          list: ({ nth }) =>
            nth === 1
              ? { status: 500, body: '' }
              : {
                  body: { operations: ['OLD', ...(nth === 2 ? [] : ['NEW'])].map((id) => ({ id, type: 'recovery' })) },
                },
        },
      ));

    test('another new one is of another type', () =>
      withBegun(
        reset,
        async (api) => {
          const { status } = await runRecover(api.url);
          expect(status).toBe(0);
        },
        {
          list: ({ nth }) => ({
            body: {
              operations:
                nth === 1
                  ? []
                  : [
                      { id: 'SWITCH', type: 'config_switch' },
                      { id: 'NEW', type: 'recovery' },
                    ],
            },
          }),
        },
      ));
  },
);

let others: FakeApi | undefined;
let resets: FakeApi | undefined;

describe.concurrent(
  'an uncertain request for a restore is not repeated, and the end is 2 with the ids that are there, when',
  () => {
    test.each(AMBIGUOUS)('%s, and nothing is new', async (_what, play, said) =>
      withApi({ create: play }, async (api) => {
        const { status, stderr } = await runRecover(api.url, optionsFor(play));
        expect(status).toBe(2);
        expect(api.count('create')).toBe(1);
        const { msg, hint } = lastLine(stderr);
        expect(msg).toContain(`POST ${api.url}/servers/main/operations: `);
        expect(msg).toContain(said);
        expect(msg).toContain(`${UNSURE}; no new operation is there`);
        expect(hint).toContain('look at the Barman host whether a restore runs');
      }),
    );

    test('two operations are new', () =>
      withBegun(
        reset,
        async (api) => {
          const { status, stderr } = await runRecover(api.url);
          expect(status).toBe(2);
          expect(api.count('create')).toBe(1);
          expect(lastLine(stderr)['msg']).toContain(`${UNSURE}; new operations: NEW, OTHER`);
        },
        {
          list: ({ nth }) => ({
            body: {
              operations: ['OLD', ...(nth === 1 ? [] : ['NEW', 'OTHER'])].map((id) => ({ id, type: 'recovery' })),
            },
          }),
        },
      ));

    test('the new one came between two of our requests, so that it is another node’s', () =>
      withApi(
        {
          create: (request, socket) => {
            if (request.nth > 1) return reset(request, socket);
            others?.operations.push({ id: 'OTHERS', type: 'recovery' });
            return { status: 503, body: '' };
          },
        },
        async (api) => {
          others = api;
          const { status, stderr } = await runRecover(api.url);
          expect(status).toBe(2);
          expect(api.count('create')).toBe(2);
          expect(lastLine(stderr)['msg']).toContain(`${UNSURE}; no new operation is there`);
        },
      ));

    test('what was there right before it is not known, only what was there before an earlier one', () =>
      withBegun(
        (request, socket) => (request.nth === 1 ? { status: 503, body: '' } : reset(request, socket)),
        async (api) => {
          const { status, stderr } = await runRecover(api.url);
          expect(status).toBe(2);
          expect(api.count('create')).toBe(2);
          expect(api.count('operation')).toBe(0);
          expect(lastLine(stderr)['msg']).toContain(
            `${UNSURE}; operations that are there, and which of them are new is not known: OLD, OTHERS`,
          );
        },
        {
          list: ({ nth }) =>
            nth === 2
              ? { status: 500, body: '' }
              : {
                  body: {
                    operations: ['OLD', ...(nth === 1 ? [] : ['OTHERS'])].map((id) => ({ id, type: 'recovery' })),
                  },
                },
        },
      ));

    test('the connection is reset before it is read', () =>
      withApi(
        {
          list: ({ nth }, _socket, response) => {
            response.once('finish', () => resets?.resetConnections(nth === 1));
            return { body: { operations: [] } };
          },
        },
        async (api) => {
          resets = api;
          const { status, stderr } = await runRecover(api.url);
          expect(status).toBe(2);
          // None of them was read. Where the reset comes before the connection is known to stand, nothing was sent.
          expect(api.count('create')).toBe(0);
          const { msg } = lastLine(stderr);
          expect(msg).toContain(`POST ${api.url}/servers/main/operations: `);
          expect(msg).toContain('ECONNRESET');
        },
      ));

    test('it is not known which operations were there before', () =>
      withBegun(
        reset,
        async (api) => {
          const { status, stderr } = await runRecover(api.url);
          expect(status).toBe(2);
          expect(api.count('create')).toBe(1);
          expect(messages(stderr)).toContain(
            `the operations before ours are not known: GET ${api.url}/servers/main/operations: HTTP 404 Not Found: no such thing`,
          );
          expect(lastLine(stderr)['msg']).toContain(
            `${UNSURE}; operations that are there, and which of them are new is not known: OLD, NEW`,
          );
        },
        {
          list: ({ nth }) =>
            nth === 1
              ? { status: 404, body: { error: 'no such thing' } }
              : { body: { operations: ['OLD', 'NEW'].map((id) => ({ id, type: 'recovery' })) } },
        },
      ));

    test('it is not known which operations were there before, and there is only one', () =>
      withBegun(
        reset,
        async (api) => {
          const { status, stderr } = await runRecover(api.url);
          expect(status).toBe(2);
          expect(api.count('create')).toBe(1);
          expect(api.count('operation')).toBe(0);
          expect(lastLine(stderr)['msg']).toContain(
            `${UNSURE}; operations that are there, and which of them are new is not known: ONLY`,
          );
          // Another look would tell no more.
          expect(api.count('list')).toBe(2);
        },
        {
          list: ({ nth }) =>
            nth === 1 ? { status: 404, body: '' } : { body: { operations: [{ id: 'ONLY', type: 'recovery' }] } },
        },
      ));

    test('the list of operations is not to be had afterwards', () =>
      withBegun(
        reset,
        async (api) => {
          const { status, stderr } = await runRecover(api.url);
          expect(status).toBe(2);
          expect(api.count('create')).toBe(1);
          expect(lastLine(stderr)['msg']).toContain(
            `${UNSURE}: GET ${api.url}/servers/main/operations: HTTP 200: expected a list of "operations" in JSON, found {"operations":7} (try 3 of 3)`,
          );
          expect(lastLine(stderr)['hint']).toContain('look at the Barman host whether a restore runs');
        },
        { list: ({ nth }) => ({ body: { operations: nth === 1 ? [] : 7 } }) },
      ));

    // Two requests in one second get one id there: the second fails, and the new operation is the other's.
    test.each([
      [500, 'Internal Server Error'],
      [501, 'Not Implemented'],
      [508, 'Loop Detected'],
    ])('pg-backup-api itself failed with %i, although an operation is new', async (answered, reason) =>
      withBegun(
        () => ({ status: answered, body: `<!doctype html><title>${answered} ${reason}</title><h1>${reason}</h1>` }),
        async (api) => {
          const { status, stderr } = await runRecover(api.url);
          expect(status).toBe(2);
          expect(api.count('create')).toBe(1);
          expect(api.count('operation')).toBe(0);
          expect(lastLine(stderr)['msg']).toContain(
            `HTTP ${answered} ${reason}: ${reason}; ${UNSURE}; new operations: NEW`,
          );
        },
      ),
    );

    test('it is redirected, which a request that does something never follows', () =>
      withApi(
        { create: () => ({ status: 307, headers: { location: 'https://me:pw@elsewhere/servers/main/operations' } }) },
        async (api) => {
          const { status, stderr } = await runRecover(api.url);
          expect(status).toBe(2);
          expect(api.count('create')).toBe(1);
          const { msg, hint } = lastLine(stderr);
          expect(msg).toContain('HTTP 307 Temporary Redirect: redirects to https://elsewhere/servers/main/operations');
          expect(hint).toContain('give --api-url as it is redirected to');
          expect(stderr).not.toContain('pw@');
        },
      ));
  },
);

let closing: (() => Promise<void>) | undefined;

describe.concurrent('the request for a restore is repeated, since it certainly began nothing, when', () => {
  const refusals: readonly (readonly [status: number, body: unknown, said: string])[] = [
    [
      404,
      { error: "404 Not Found: Server 'main' does not exist" },
      "HTTP 404 Not Found: 404 Not Found: Server 'main' does not exist",
    ],
    [400, { error: 'Make sure all options are met' }, 'HTTP 400 Bad Request: Make sure all options are met'],
    [
      400,
      '<!doctype html>\n<title>400 Bad Request</title>\n<h1>Bad Request</h1>\n<p>Request body is missing &quot;x&quot;</p>',
      'HTTP 400 Bad Request: Bad Request; Request body is missing "x"',
    ],
    [409, { error: 'busy' }, 'HTTP 409 Conflict: busy'],
    [429, 'slowly', 'HTTP 429 Too Many Requests: slowly'],
    [503, 'no backend', 'HTTP 503 Service Unavailable: no backend'],
  ];

  test.each(refusals)('%i is answered (%j)', async (answered, body, said) =>
    withApi({ create: () => ({ status: answered, body }) }, async (api) => {
      const { status, stderr } = await runRecover(api.url);
      expect(status).toBe(2);
      expect(api.count('create')).toBe(3);
      const post = `POST ${api.url}/servers/main/operations: ${said}`;
      expect(messages(stderr)).toContain(`${post} (try 1 of 3; again in 0 s)`);
      const { msg, hint = '' } = lastLine(stderr);
      expect(msg).toBe(`${post} (try 3 of 3); no restore was begun`);
      expect(hint).toContain(answered === 404 ? 'check --barman-server and --backup-id' : '');
    }),
  );

  test('the connection is refused', () =>
    withApi(
      {
        list: async (_request, _socket, response) => {
          // From now on there is nobody.
          await closing?.();
          response.end('{"operations": []}');
          return undefined;
        },
      },
      async (api) => {
        closing = api.stopListening;
        const { status, stderr } = await runRecover(api.url);
        expect(status).toBe(2);
        expect(api.count('create')).toBe(0);
        expect(lastLine(stderr)['msg']).toMatch(
          /connection refused \(connect ECONNREFUSED .*\) \(try 3 of 3\); no restore was begun$/,
        );
        expect(lastLine(stderr)['hint']).toContain('is pg-backup-api running there');
      },
    ));

  test('and it can still succeed', () =>
    withApi(
      { create: ({ nth }) => (nth < 3 ? { status: 503, body: '' } : { status: 202, body: { operation_id: 'OP1' } }) },
      async (api) => {
        expect((await runRecover(api.url)).status).toBe(0);
        expect(api.count('create')).toBe(3);
      },
    ));
});
