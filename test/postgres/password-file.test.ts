import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, test } from 'vitest';
import { passwordIn, readPasswordFile } from '../../src/postgres/password-file.ts';
import { withTempDir } from '../support/temp-dir.ts';

const KEY = { hosts: ['pg'], port: 5432, dbname: 'db', user: 'me' };

describe('passwordIn', () => {
  it.each([
    ['pg:5432:db:me:secret', 'secret'],
    ['pg:5432:db:me:secret\r\n', 'secret'],
    ['*:*:*:*:secret', 'secret'],
    ['# pg:5432:db:me:no\n\nother:5432:db:me:no\npg:*:db:me:secret\n*:*:*:*:no', 'secret'],
    ['pg:5432:db:me:a\\:b\\\\c', 'a:b\\c'],
    ['pg:5432:db:me:secret:more', 'secret'],
    ['pg:5433:db:me:no', null],
    ['pg:5432:db:you:no', null],
    // Not a wildcard, but a name.
    ['\\*:5432:db:me:no', null],
    ['p*:5432:db:me:no', null],
    ['pg:5432:db:me', null],
    ['PG:5432:db:me:no', null],
    ['', null],
  ])('in %j is %j', (text, expected) => {
    expect(passwordIn(text, KEY)).toBe(expected);
  });

  test('names may hold colons and backslashes', () => {
    const text = 'fe80\\:\\:1:5432:a\\\\b:m\\:e:secret';
    expect(passwordIn(text, { hosts: ['fe80::1'], port: 5432, dbname: 'a\\b', user: 'm:e' })).toBe('secret');
  });

  test('a socket is found under any of its names', () => {
    const key = { ...KEY, hosts: ['/var/run/postgresql', 'localhost'] };
    expect(passwordIn('localhost:5432:db:me:secret', key)).toBe('secret');
    expect(passwordIn('/var/run/postgresql:5432:db:me:secret', key)).toBe('secret');
  });
});

describe('readPasswordFile', () => {
  test('reads a file that nobody else may read', () =>
    withTempDir(async (directory) => {
      const path = join(directory, 'pgpass');
      expect(await readPasswordFile(path)).toEqual({ path, text: null, ignored: null });
      await writeFile(path, '*:*:*:*:secret\n', { mode: 0o600 });
      expect(await readPasswordFile(path)).toEqual({ path, text: '*:*:*:*:secret\n', ignored: null });
    }));

  test('ignores one that others may read, and says so', () =>
    withTempDir(async (directory) => {
      const path = join(directory, 'pgpass');
      await writeFile(path, '*:*:*:*:secret\n');
      for (const mode of [0o640, 0o604, 0o620]) {
        await chmod(path, mode);
        const read = await readPasswordFile(path);
        expect(read).toEqual({ path, text: null, ignored: 'others may read it: chmod 0600' });
      }
      await mkdir(join(directory, 'dir'));
      expect((await readPasswordFile(join(directory, 'dir'))).ignored).toBe('it is not a plain file');
    }));
});
