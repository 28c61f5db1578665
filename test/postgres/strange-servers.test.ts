import { describe, expect, test } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { CLEAN, failureOf } from './attempt.ts';
import { errorMessage, HANG_UP, message, withFakeServer } from './fake-server.ts';

const PLAIN = 'sslmode=disable';
const SECRETS = ['s3cret'];
/** AuthenticationOk, then ready. */
const WELCOME = Buffer.concat([message('R', 0), message('S', 'server_version', '15.2'), message('Z', 'I')]);

describe('a listener that never answers', () => {
  test('is given up after connect_timeout', () =>
    withFakeServer([], async ({ conninfo }) => {
      const error = await failureOf(`${conninfo} connect_timeout=1`, { timeoutMs: 60_000 }, SECRETS);
      expect(error).toMatchObject({ failure: 'unreachable' });
      // As libpq, which takes one second for too little.
      expect(error.message).toMatch(/^connection to 127.0.0.1:\d+ failed: no answer within 2 s \(connect_timeout\)$/);
    }));

  test('is given up after the time of the caller, and the next host is tried', () =>
    withFakeServer([], (silent) =>
      withFakeServer([WELCOME], async (friendly) => {
        expect(await failureOf(silent.conninfo, { timeoutMs: 200 })).toMatchObject({ failure: 'unreachable' });
        const port = (server: { readonly conninfo: string }): string | undefined =>
          /port=(\d+)/.exec(server.conninfo)?.[1];
        const both = `host=127.0.0.1,127.0.0.1 port=${port(silent)},${port(friendly)} user=me ${PLAIN}`;
        await using connection = await connect(both, { timeoutMs: 200, environment: CLEAN });
        expect(connection.serverVersion).toBe(150_002);
      }),
    ));

  test('is left at once when the caller is interrupted', () =>
    withFakeServer([], async ({ conninfo, bytes }) => {
      const abort = new AbortController();
      const attempt = connect(`${conninfo} connect_timeout=0`, { signal: abort.signal, environment: CLEAN });
      while (bytes().length === 0) await new Promise((resolve) => setImmediate(resolve));
      abort.abort();
      await expect(attempt).rejects.toMatchObject({ code: 'aborted' });
    }));
});

describe('something that is no PostgreSQL', () => {
  test.each([PLAIN, 'sslmode=prefer', 'sslmode=require'])('is recognised (%s)', (mode) =>
    withFakeServer(['HTTP/1.1 400 Bad Request\r\n\r\n'], async ({ conninfo }) => {
      const error = await failureOf(`${conninfo} ${mode}`, {}, SECRETS);
      expect(error).toMatchObject({ failure: 'misconfigured' });
      expect(error.message).toContain('what answers there is no PostgreSQL');
    }),
  );

  test.each([PLAIN, 'sslmode=prefer'])('may hang up (%s)', (mode) =>
    withFakeServer([HANG_UP], async ({ conninfo }) => {
      const error = await failureOf(`${conninfo} ${mode}`, {}, SECRETS);
      expect(error).toMatchObject({ failure: 'unreachable' });
    }),
  );
});

describe('somebody in between', () => {
  test('who sends data before TLS begins is not listened to', () =>
    withFakeServer([Buffer.concat([Buffer.from('S'), WELCOME])], async ({ conninfo }) => {
      const error = await failureOf(`${conninfo} sslmode=require`, {}, SECRETS);
      expect(error).toMatchObject({ failure: 'tls' });
      expect(error.message).toContain('data before TLS began');
    }));

  test('who answers the question for TLS with an error is not quoted', () =>
    withFakeServer([errorMessage('XX000', 'call this number')], async ({ conninfo }) => {
      const error = await failureOf(conninfo, {}, [...SECRETS, 'number']);
      expect(error).toMatchObject({ failure: 'unreachable' });
    }));

  test('who breaks off TLS does not get the password', () =>
    withFakeServer(['S', HANG_UP], async ({ conninfo, bytes }) => {
      const error = await failureOf(`${conninfo} sslmode=require`, {}, SECRETS);
      expect(error).toMatchObject({ failure: 'tls' });
      expect(bytes().includes('s3cret')).toBe(false);
    }));

  test('who does not know the password either is not believed', () =>
    withFakeServer(
      [message('R', 10, 'SCRAM-SHA-256', ''), Buffer.concat([message('R', 0), message('Z', 'I')])],
      async ({ conninfo }) => {
        const error = await failureOf(`${conninfo} ${PLAIN}`, {}, SECRETS);
        expect(error).toMatchObject({ failure: 'authentication' });
        expect(error.message).toContain('the server did not prove that it knows the password');
      },
    ));

  test.each([
    [3, 'require_auth=scram-sha-256'],
    [3, 'channel_binding=require'],
    [5, 'require_auth=!md5'],
  ])('who asks for it with request %i and %s does not get the password', (code, rule) =>
    withFakeServer([message('R', code, 0)], async ({ conninfo, bytes }) => {
      const error = await failureOf(`${conninfo} ${PLAIN} ${rule}`, {}, SECRETS);
      expect(error).toMatchObject({ failure: 'authentication' });
      expect(bytes().includes('s3cret')).toBe(false);
      // Only the startup message was sent.
      expect(bytes().readInt32BE(0)).toBe(bytes().length);
    }),
  );
});

describe('a server that wants what we have not', () => {
  test.each([
    [7, /by gss, which walwarden does not support/],
    [9, /by sspi, which walwarden does not support/],
    [2, /of an unknown kind \(2\)/],
  ])('authentication %i is said to be missing', (code, words) =>
    withFakeServer([message('R', code)], async ({ conninfo }) => {
      const error = await failureOf(`${conninfo} ${PLAIN}`, {}, SECRETS);
      expect(error).toMatchObject({ failure: 'authentication', message: expect.stringMatching(words) });
    }),
  );
});

describe('a server that can not serve now', () => {
  test('is recognised by its SQLSTATE, in any language', () =>
    withFakeServer([errorMessage('57P03', 'das Datenbanksystem startet')], async ({ conninfo }) => {
      expect(await failureOf(`${conninfo} ${PLAIN}`)).toMatchObject({ failure: 'starting-up', sqlState: '57P03' });
    }));

  test('gives way to the next host', () =>
    withFakeServer([errorMessage('57P03', 'the database system is starting up')], (starting) =>
      withFakeServer([WELCOME], async (friendly) => {
        const port = (server: { readonly conninfo: string }): string | undefined =>
          /port=(\d+)/.exec(server.conninfo)?.[1];
        const both = `host=127.0.0.1,127.0.0.1 port=${port(starting)},${port(friendly)} user=me ${PLAIN}`;
        await using connection = await connect(both, { environment: CLEAN });
        expect(connection.versionText).toBe('15.2');
      }),
    ));

  test('and says so in the way of old is understood', () =>
    withFakeServer(
      ['EFATAL: could not fork new process for connection: Resource temporarily unavailable\n\0'],
      async ({ conninfo }) => {
        const error = await failureOf(`${conninfo} ${PLAIN}`);
        expect(error).toMatchObject({ failure: 'unreachable' });
        expect(error.message).toContain('could not fork new process');
      },
    ));
});

test('the words of a server may come byte by byte', () =>
  withFakeServer([Array.from(WELCOME, (byte) => Buffer.from([byte]))], async ({ conninfo }) => {
    await using connection = await connect(`${conninfo} ${PLAIN}`, { environment: CLEAN });
    expect(connection.versionText).toBe('15.2');
  }));
