import { mkdir, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, test } from 'vitest';
import { planConnection, type ConnectionPlan } from '../../src/postgres/connection-plan.ts';
import { withTempDir } from '../support/temp-dir.ts';

/** Without anything of this machine's. */
async function plan(text: string, environment: NodeJS.ProcessEnv = {}): Promise<ConnectionPlan> {
  return planConnection(text, { HOME: '/nonexistent', ...environment });
}

describe('planConnection', () => {
  test('takes from the environment what the string does not say, and defaults for the rest', async () => {
    const environment = { PGHOST: 'pg', PGPORT: '5433', PGUSER: 'me', PGAPPNAME: 'x', PGCONNECT_TIMEOUT: '7' };
    expect(await plan('user=you', environment)).toMatchObject({
      hosts: [{ kind: 'tcp', name: 'pg', address: 'pg', port: 5433, password: null }],
      user: 'you',
      dbname: 'you',
      applicationName: 'x',
      connectTimeoutMs: 7_000,
      target: 'any',
      keepAliveIdleMs: 0,
      tls: { mode: 'prefer', minVersion: 'TLSv1.2' },
    });
    const { hosts, user } = await plan('');
    expect(hosts).toMatchObject([{ kind: 'socket', port: 5432 }]);
    expect(user).toBe(userInfo().username);
    expect(['/var/run/postgresql', '/tmp']).toContain(hosts[0]?.address);
  });

  it.each([
    [
      'host=a,b',
      [
        { name: 'a', port: 5432 },
        { name: 'b', port: 5432 },
      ],
    ],
    ['host=a,b port=1', [{ port: 1 }, { port: 1 }]],
    ['host=a,b port=1,2', [{ port: 1 }, { port: 2 }]],
    ['host=a,b port=1,', [{ port: 1 }, { port: 5432 }]],
    [
      'host=a,b hostaddr=,10.0.0.1',
      [
        { name: 'a', address: 'a' },
        { name: 'b', address: '10.0.0.1' },
      ],
    ],
    ['hostaddr=::1', [{ kind: 'tcp', name: '', address: '::1' }]],
    ['host=/run/pg,c', [{ kind: 'socket', address: '/run/pg' }, { kind: 'tcp' }]],
  ])('finds the hosts of %j', async (text, expected) => {
    expect((await plan(text)).hosts).toMatchObject(expected);
  });

  it.each([
    ['connect_timeout=0', 0],
    ['connect_timeout=-1', 0],
    ['connect_timeout=1', 2_000],
    ['connect_timeout=10', 10_000],
    ['', null],
  ])('counts %j as %s ms', async (text, expected) => {
    expect((await plan(`host=a ${text}`)).connectTimeoutMs).toBe(expected);
  });

  it.each([
    [
      'port=secret',
      /^the value of port \(or of PGPORT in the environment\) is wrong: expected numbers from 1 to 65535$/,
    ],
    ['port=0', /the value of port/],
    ['host=a,b,c port=1,2', /expected one port, or one for each of 3 hosts: found 2/],
    ['host=a hostaddr=10.0.0.1,10.0.0.2', /found 1 hosts and 2 addresses/],
    ['hostaddr=secret', /the value of hostaddr .* expected IP addresses/],
    ['host=@abstract', /abstract socket/],
    [`host=/${'x'.repeat(110)}`, /at most 107 bytes/],
    [
      'sslmode=secret',
      /the value of sslmode .* expected one of disable, allow, prefer, require, verify-ca, verify-full/,
    ],
    ['sslmode=require sslrootcert=system', /expected verify-full, since sslrootcert is system/],
    ['sslnegotiation=direct', /expected require, verify-ca or verify-full/],
    ['ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2', /ssl_max_protocol_version is below TLSv1.3/],
    ['connect_timeout=secret', /the value of connect_timeout/],
    ['target_session_attrs=secret', /the value of target_session_attrs/],
    ['gssencmode=require', /gssencmode can't be honoured/],
    ['min_protocol_version=3.2', /min_protocol_version can't be honoured/],
    ['sslcertmode=require', /sslcertmode can't be honoured/],
    ['host=/tmp requirepeer=postgres', /requirepeer can't be honoured/],
  ])('refuses %j without repeating the value', async (text, words) => {
    const error: unknown = await plan(text).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ failure: 'misconfigured', message: expect.stringMatching(words) });
    expect(String(error)).not.toContain('secret');
  });

  test('what asks for no safety that is missing is taken', async () => {
    const { tls } = await plan('host=a requirepeer=x gssencmode=prefer sslrootcert=system tcp_user_timeout=5');
    expect(tls).toMatchObject({ mode: 'verify-full', rootCertificates: 'system' });
  });
});

describe('passwords', () => {
  test('come from the string, then from the environment, then from the file', () =>
    withTempDir(async (HOME) => {
      await writeFile(join(HOME, '.pgpass'), 'a:*:*:*:of-a\nb:*:*:*:of-b\n', { mode: 0o600 });
      const passwords = async (text: string, environment: NodeJS.ProcessEnv = {}) =>
        (await plan(text, { HOME, ...environment })).hosts.map(({ password }) => password);
      expect(await passwords('host=a,b,c user=me')).toEqual(['of-a', 'of-b', null]);
      expect(await passwords('host=a,b', { PGPASSWORD: 'env' })).toEqual(['env', 'env']);
      expect(await passwords('host=a password=mine', { PGPASSWORD: 'env' })).toEqual(['mine']);
      expect(await passwords('host=a', { PGPASSFILE: '/nowhere' })).toEqual([null]);
      expect(await passwords(`host=a passfile=${HOME}/.pgpass`, { PGPASSFILE: '/nowhere' })).toEqual(['of-a']);
      // Both name the host: the one that was given counts.
      expect(await passwords('host=a hostaddr=10.0.0.1')).toEqual(['of-a']);
    }));

  test('of replication are those of the database "replication", whatever dbname says', () =>
    withTempDir(async (HOME) => {
      await writeFile(join(HOME, '.pgpass'), 'a:*:replication:*:streaming\na:*:db:*:sql\n', { mode: 0o600 });
      const password = async (replication: boolean) =>
        (await planConnection('host=a user=me dbname=db', { HOME }, { replication })).hosts[0]?.password;
      expect(await password(true)).toBe('streaming');
      expect(await password(false)).toBe('sql');
    }));

  test('of the default socket are those of localhost', () =>
    withTempDir(async (HOME) => {
      await writeFile(join(HOME, '.pgpass'), 'localhost:*:*:*:local\n', { mode: 0o600 });
      const { hosts } = await plan('host=/var/run/postgresql,/elsewhere', { HOME });
      expect(hosts.map(({ password }) => password)).toEqual(['local', null]);
    }));
});

describe('services', () => {
  const FILE = `
# of the user
[other]
host=other

[main]
 host=pg
port=5433
host=second
password=from the file
`;

  test('stand between the string and the environment', () =>
    withTempDir(async (HOME) => {
      await writeFile(join(HOME, '.pg_service.conf'), FILE);
      const environment = { HOME, PGSERVICE: 'main', PGPORT: '1', PGUSER: 'me' };
      expect(await plan('service=main', { HOME })).toMatchObject({ hosts: [{ name: 'pg', port: 5433 }] });
      expect(await plan('port=2', environment)).toMatchObject({
        hosts: [{ name: 'pg', port: 2, password: 'from the file' }],
        user: 'me',
      });
    }));

  test('are found in PGSERVICEFILE, in servicefile and in PGSYSCONFDIR', () =>
    withTempDir(async (directory) => {
      const file = join(directory, 'pg_service.conf');
      await writeFile(file, FILE);
      const hosts = [{ name: 'other' }];
      expect(await plan('service=other', { PGSERVICEFILE: file })).toMatchObject({ hosts });
      expect(await plan(`service=other servicefile=${file}`)).toMatchObject({ hosts });
      expect(await plan('service=other', { PGSYSCONFDIR: directory })).toMatchObject({ hosts });
      const own = join(directory, 'home');
      await mkdir(own);
      await writeFile(join(own, '.pg_service.conf'), '[mine]\nhost=mine\n');
      // The user's file has another one.
      expect(await plan('service=other', { HOME: own, PGSYSCONFDIR: directory })).toMatchObject({ hosts });
    }));

  it.each([
    ['[x]\nhost=a', 'main', /the service "main" is not defined in .*pg_service.conf/],
    ['[main]\nhost', 'main', /has no "=" in line 2$/],
    ['[main]\n\nsecret = x', 'main', /has an unknown parameter in line 3$/],
    ['[main]\nservice=x', 'main', /has a service within a service in line 2$/],
    ['[main]\nldap://x/y', 'main', /has an LDAP address/],
  ])('with %j say what is wrong', (text, service, words) =>
    withTempDir(async (HOME) => {
      await writeFile(join(HOME, '.pg_service.conf'), text);
      const error: unknown = await plan(`service=${service}`, { HOME, PGSYSCONFDIR: HOME }).catch(
        (reason: unknown) => reason,
      );
      expect(error).toMatchObject({ failure: 'misconfigured', message: expect.stringMatching(words) });
      expect(String(error)).not.toContain('secret');
    }),
  );

  test('must be in the file that was named', async () => {
    await expect(plan('service=x', { PGSERVICEFILE: '/nowhere/file' })).rejects.toThrow(
      'the service file /nowhere/file does not exist',
    );
  });
});
