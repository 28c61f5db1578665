import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { findPgReceivewal, parseVersion, receivewalEnvironment } from '../../src/receiver/pg-receivewal.ts';
import { withTempDir } from '../support/temp-dir.ts';

afterEach(() => vi.unstubAllEnvs());

/** A program of that name which does what the script says; for what the real one can't be brought to say. */
async function standIn(directory: string, script: string, mode = 0o755): Promise<string> {
  await mkdir(directory, { recursive: true });
  const path = join(directory, 'pg_receivewal');
  await writeFile(path, `#!/bin/sh\n${script}\n`);
  await chmod(path, mode);
  return path;
}

test.each([
  ['pg_receivewal (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)', '15.18', 15],
  ['pg_receivewal (PostgreSQL) 10.23', '10.23', 10],
  ['pg_receivewal (PostgreSQL) 17devel', '17devel', 17],
  ['pg_receivewal (PostgreSQL) 18beta2 (Debian 18~beta2-1.pgdg120+1)', '18beta2', 18],
  ['pg_receivewal (PostgreSQL) 16rc1', '16rc1', 16],
  ['pg_receivewal (EnterpriseDB) 15.4.0', '15.4.0', 15],
  ['Warning: something else comes first\npg_receivewal (PostgreSQL) 9.6\n', '9.6', 9],
])('the version of %j is %s', (output, version, major) => {
  expect(parseVersion('/x', output)).toEqual({ path: '/x', version, major });
});

test.each(['', 'pg_basebackup (PostgreSQL) 15.18', 'pg_receivewal (PostgreSQL) unknown'])(
  '%j is no version',
  (output) => {
    expect(parseVersion('/x', output)).toBeNull();
  },
);

test('path_prefix comes before PATH', () =>
  withTempDir(async (directory) => {
    await standIn(join(directory, 'in-path'), 'echo "pg_receivewal (PostgreSQL) 13.1"');
    const path = await standIn(join(directory, 'prefix'), 'echo "pg_receivewal (PostgreSQL) 14.2"');
    vi.stubEnv('PATH', `${join(directory, 'in-path')}:/usr/bin:/bin`);
    expect(await findPgReceivewal([join(directory, 'nothing'), join(directory, 'prefix')])).toEqual({
      path,
      version: '14.2',
      major: 14,
    });
    expect(await findPgReceivewal(null)).toMatchObject({ version: '13.1' });
  }));

test('one that does not work is passed over, as the wrapper of Debian without a client beneath it', () =>
  withTempDir(async (directory) => {
    await standIn(join(directory, 'a'), 'echo "Error: pg_wrapper: pg_receivewal was not found" >&2; exit 1');
    await standIn(join(directory, 'b'), 'echo "pg_receivewal (PostgreSQL) 15.1"', 0o644);
    await mkdir(join(directory, 'c', 'pg_receivewal'), { recursive: true });
    await standIn(join(directory, 'd'), 'echo "pg_receivewal (PostgreSQL) 15.1"');
    const directories = ['a', 'b', 'c', 'd'].map((name) => join(directory, name));
    expect(await findPgReceivewal(directories)).toMatchObject({ path: join(directory, 'd', 'pg_receivewal') });
  }));

test('when none works, each is named with what it said, and the option to change', () =>
  withTempDir(async (directory) => {
    await standIn(join(directory, 'a'), 'echo "Error: no client is installed" >&2; exit 1');
    await standIn(join(directory, 'b'), 'echo "I am something else"');
    vi.stubEnv('PATH', join(directory, 'b'));
    await expect(findPgReceivewal([join(directory, 'a')])).rejects.toMatchObject({
      code: 'program',
      message: expect.stringMatching(/a\/pg_receivewal: Error: no client is installed.*b\/pg_receivewal: it says/),
      hint: expect.stringContaining('path_prefix'),
    });
  }));

test('a missing one is said to be missing, and where it was looked for', () =>
  withTempDir(async (directory) => {
    vi.stubEnv('PATH', directory);
    await expect(findPgReceivewal(null)).rejects.toMatchObject({
      code: 'program',
      message: 'pg_receivewal is not found in PATH',
      hint: expect.stringContaining('postgresql-client'),
    });
    await expect(findPgReceivewal(['/no/where'])).rejects.toMatchObject({
      message: 'pg_receivewal is not found in path_prefix (/no/where) and PATH',
    });
  }));

test('it is asked in English, and not by what lives on this machine', () => {
  expect(receivewalEnvironment({ LANG: 'de_DE.UTF-8', PGPORT: '5433' })).toEqual({
    LANG: 'de_DE.UTF-8',
    PGPORT: '5433',
    PGHOST: '',
    LC_ALL: 'C',
    LC_MESSAGES: 'C',
    LANGUAGE: 'C',
  });
  expect(receivewalEnvironment({ PGHOST: 'db1' })).toMatchObject({ PGHOST: 'db1' });
});
