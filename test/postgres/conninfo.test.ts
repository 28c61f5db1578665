import * as fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { conninfoForProgram, formatConninfo, overrideConninfo, parseConninfo } from '../../src/postgres/conninfo.ts';
import { KEYWORDS } from '../../src/postgres/conninfo-keywords.ts';
import { PostgresError } from '../../src/postgres/failure.ts';

describe('parseConninfo of keywords and values', () => {
  it.each([
    ['', {}],
    ['host=a', { host: 'a' }],
    [" host = a  port=5\tuser='it\\'s'\n", { host: 'a', port: '5', user: "it's" }],
    ['user=me\\ too dbname=a\\\\b', { user: 'me too', dbname: 'a\\b' }],
    ["user='' host=b", { user: '', host: 'b' }],
    ["user='a'host=b", { user: 'a', host: 'b' }],
    ["user=a'b", { user: "a'b" }],
    ['host=a host=b', { host: 'b' }],
    // The value may follow after blanks; so libpq takes the next word for it.
    ['user= host=a', { user: 'host=a' }],
    ['user=abc\\', { user: 'abc' }],
    ['requiressl=1', { sslmode: 'require' }],
    ['requiressl=0', { sslmode: 'prefer' }],
    ['host=a,b,,c port=1,2,3,4', { host: 'a,b,,c', port: '1,2,3,4' }],
  ])('understands %j', (text, expected) => {
    expect(parseConninfo(text)).toEqual(expected);
  });

  it.each([
    ['host', 'missing "=" after the word at position 1'],
    ['user=a host ', 'missing "=" after the word at position 8'],
    ['host=pg sslmod=require', 'unknown parameter (is sslmode meant?) at position 9'],
    ['host=pg colour=red', 'unknown parameter at position 9'],
    ["user='abc", 'the quoted value never ends that begins at position 6'],
    ["user='abc\\'", 'the quoted value never ends that begins at position 6'],
  ])('says what is wrong with %j, and where', (text, message) => {
    expect(() => parseConninfo(text)).toThrow(`the connection string can't be understood: ${message}`);
  });

  test('repeats nothing of a password that was not quoted', () => {
    for (const text of [
      'password=my secret host=x',
      'password=my sec=ret',
      "password='my secret",
      'password=x secret',
    ]) {
      const error = errorOf(() => parseConninfo(text));
      expect(error).toMatchObject({ code: 'postgres', failure: 'misconfigured' });
      expect(JSON.stringify(error) + error.message).not.toMatch(/sec|ret/);
    }
  });
});

describe('parseConninfo of URIs', () => {
  // From PostgreSQL's own tests (interfaces/libpq/t/001_uri.pl).
  it.each([
    [
      'postgresql://uri-user:secret@host:12345/db',
      { user: 'uri-user', password: 'secret', dbname: 'db', host: 'host', port: '12345' },
    ],
    ['postgresql://uri-user@host:12345/db', { user: 'uri-user', dbname: 'db', host: 'host', port: '12345' }],
    ['postgresql://uri-user@host/db', { user: 'uri-user', dbname: 'db', host: 'host' }],
    ['postgresql://host:12345/', { host: 'host', port: '12345' }],
    ['postgresql://host', { host: 'host' }],
    ['postgresql://', {}],
    ['postgres://', {}],
    ['postgres:///', {}],
    ['postgresql://?hostaddr=127.0.0.1', { hostaddr: '127.0.0.1' }],
    ['postgresql://example.com?hostaddr=63.1.2.4', { host: 'example.com', hostaddr: '63.1.2.4' }],
    ['postgresql://%68ost/', { host: 'host' }],
    ['postgresql://host/db?user=uri-user&port=12345', { user: 'uri-user', dbname: 'db', host: 'host', port: '12345' }],
    [
      'postgresql://host/db?u%73er=someotheruser&port=12345',
      { user: 'someotheruser', dbname: 'db', host: 'host', port: '12345' },
    ],
    ['postgresql://host?', { host: 'host' }],
    ['postgresql://[::1]:12345/db', { dbname: 'db', host: '::1', port: '12345' }],
    ['postgresql://[2001:db8::1234]/', { host: '2001:db8::1234' }],
    ['postgres://user:@host', { user: 'user', host: 'host' }],
    ['postgres://:12345/', { port: '12345' }],
    ['postgres://otheruser@/db?host=%2Fno%2Fdir', { user: 'otheruser', dbname: 'db', host: '/no/dir' }],
    ['postgres://%2Fvar%2Flib%2Fpostgresql:5433/db', { dbname: 'db', host: '/var/lib/postgresql', port: '5433' }],
    ['postgres://a,b:5433,[::1]/db', { host: 'a,b,::1', port: ',5433,', dbname: 'db' }],
    ['postgres://u:p%40%2F%25@h', { user: 'u', password: 'p@/%', host: 'h' }],
    ['postgres://u:p?#x@h', { user: 'u', password: 'p?#x', host: 'h' }],
    ['postgres://h?ssl=true', { host: 'h', sslmode: 'require' }],
    ['postgres://h/caf%C3%A9', { host: 'h', dbname: 'café' }],
  ])('understands %s', (text, expected) => {
    expect(parseConninfo(text)).toEqual(expected);
  });

  it.each([
    ['postgresql://host/db?u%7aer=x', 'unknown parameter (is user meant?) at position 22'],
    ['postgres://host?uzer', 'missing "=" in the parameter at position 17'],
    ['postgres://host?user=key=value', 'more than one "=" in the parameter at position 17'],
    ['postgres://[::1', 'the IPv6 address never ends that begins at position 12'],
    ['postgres://[]', 'the IPv6 address is empty at position 12'],
    ['postgres://[::1]z', 'expected ":" or "/" after the IPv6 address at position 17'],
    ['postgresql://%', '"%" without two hexadecimal digits (a percent sign is written %25) at position 14'],
    ['postgres://host/%00', 'a zero byte (%00) at position 17'],
    ['postgres://host/%E9', 'bytes that are not UTF-8, percent-encoded in the part at position 17'],
  ])('says what is wrong with %s, and where', (text, message) => {
    expect(() => parseConninfo(text)).toThrow(`the connection string can't be understood: ${message}`);
  });

  test.each([
    'postgresql://me:se@cret@pg/db',
    'postgresql://me:se/cret@pg/db',
    'postgresql://me:12/cret@pg/db',
    'postgresql://me:s%-cret@pg/db',
  ])('takes no part of the password in %s for a host or a database', (text) => {
    const error = errorOf(() => parseConninfo(text));
    expect(error).toMatchObject({ failure: 'misconfigured' });
    expect(error.message).not.toMatch(/cret/);
  });
});

describe('formatConninfo', () => {
  test('writes what is parsed as the same', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...KEYWORDS), fc.string({ unit: 'binary' })), (parameters) => {
        expect(parseConninfo(formatConninfo(parameters))).toEqual(parameters);
      }),
    );
  });
});

describe('overrideConninfo', () => {
  test('replaces, adds and removes, also in a URI', () => {
    const changes = { application_name: "it's me", port: null };
    expect(overrideConninfo('postgres://me@pg:5432/db?application_name=x', changes)).toBe(
      "user=me dbname=db host=pg application_name='it\\'s me'",
    );
    expect(overrideConninfo('host=pg', { user: 'me' })).toBe('user=me host=pg');
  });
});

describe('conninfoForProgram', () => {
  test('keeps the password out of the arguments', () => {
    expect(conninfoForProgram('postgres://me:my%20secret@pg/db', { application_name: 'walwarden' })).toEqual({
      conninfo: 'user=me dbname=db host=pg application_name=walwarden',
      env: { PGPASSWORD: 'my secret' },
    });
  });

  test('leaves the environment alone when there is no password', () => {
    expect(conninfoForProgram('host=pg service=main')).toEqual({ conninfo: 'service=main host=pg', env: {} });
  });

  test('refuses secrets that libpq takes from its arguments only', () => {
    const error = errorOf(() => conninfoForProgram('host=pg sslpassword=secret'));
    expect(error.message).toMatch(/^sslpassword can't be handed/);
    expect(error.hint).toContain('~/.pg_service.conf');
    expect(`${error.message} ${error.hint}`).not.toContain('=secret');
  });
});

function errorOf(act: () => unknown): PostgresError {
  try {
    act();
  } catch (error) {
    if (error instanceof PostgresError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}
