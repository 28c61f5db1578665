import * as fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { formatConninfo } from '../../src/postgres/conninfo.ts';
import { maskConninfo } from '../../src/postgres/mask-conninfo.ts';

describe('maskConninfo', () => {
  it.each([
    ['host=pg user=me', 'host=pg user=me'],
    ["host=pg password='se cr\\'et' user=me", 'host=pg password=******** user=me'],
    ['password = se\\ cret user=me', 'password = ******** user=me'],
    ["password='unclosed secret", 'password=********'],
    ['sslpassword=secret PASSWORD=secret', 'sslpassword=******** PASSWORD=********'],
    ['password=sec&ret host=pg', 'password=******** host=pg'],
    ['password=my secret host=pg', 'password=******** ********'],
    ['password=my sec=ret host=pg', 'password=******** ********'],
    ['host=pg passwort=secret', 'host=pg passwort=********'],
    ["host=pg Password='my secret'", 'host=pg Password=********'],
    ['host=pg secret', 'host=pg ********'],
    ['host=pg,password=secret', 'host=pg,password=********'],
    ['host=pg oauth_client_secret=secret', 'host=pg oauth_client_secret=********'],
    ['postgresql://me:secret@pg:5432/db?sslmode=require', 'postgresql://me:********@pg:5432/db?sslmode=require'],
    ['postgres://me:se@cret@pg/db', 'postgres://me:********@pg/db'],
    ['postgres://me:sec/ret@pg/db', 'postgres://me:********@pg/db'],
    ['postgres://me:my secret@pg/db', 'postgres://me:********@pg/db'],
    ['postgresq://me:secret@pg/db', 'postgresq://me:********@pg/db'],
    ['postgresql://pg/db?user=me&password=secret&x=1', 'postgresql://pg/db?user=me&password=********&x=1'],
    ['postgresql://pg/db?pass%77ord=secret', 'postgresql://pg/db?pass%77ord=********'],
    ['postgresql://me@pg/db', 'postgresql://me@pg/db'],
    ['postgresql://me:cut%off', 'postgresql://me:********'],
    ['postgresql://pg:5432/db', 'postgresql://pg:5432/db'],
    ['postgresql://a:5432,b:5433/db', 'postgresql://a:5432,b:5433/db'],
    ['postgresql://[::1]:5432/db', 'postgresql://[::1]:5432/db'],
  ])('of %j', (text, masked) => {
    expect(maskConninfo(text)).toBe(masked);
  });

  test('never shows a secret, whatever its letters', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1 }), (password) => {
        const marked = `«${password}»`;
        const masked = maskConninfo(formatConninfo({ host: 'pg', password: marked, sslpassword: marked, user: 'me' }));
        expect(masked).toBe('user=me password=******** host=pg sslpassword=********');
        const encoded = encodeURIComponent(marked);
        expect(maskConninfo(`postgresql://me:${encoded}@pg/db`)).toBe('postgresql://me:********@pg/db');
      }),
    );
  });
});
