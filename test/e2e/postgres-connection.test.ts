import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { connect } from '../../src/postgres/connection.ts';
import { PostgresError } from '../../src/postgres/failure.ts';
import { until } from '../support/poll.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { ask, CLEAN, failureOf } from '../postgres/attempt.ts';
import { sharedPostgres } from '../postgres/shared-postgres.ts';

const PASSWORD = "tôp s3cret'\\";
const SECRETS = ['s3cret', encodeURIComponent(PASSWORD)];

const pg = sharedPostgres(
  {
    tcp: true,
    hba: [
      'local all alice scram-sha-256',
      'host all trusty 127.0.0.1/32 trust',
      'host all rejected 127.0.0.1/32 reject',
      'host all md5user 127.0.0.1/32 md5',
      'host all clear 127.0.0.1/32 password',
      'host all alice,nobody 127.0.0.1/32 scram-sha-256',
      'host all repl 127.0.0.1/32 scram-sha-256',
      'host replication alice,repl 127.0.0.1/32 scram-sha-256',
    ],
  },
  async (server) => {
    const literal = `E'${PASSWORD.replace(/['\\]/g, '\\$&')}'`;
    await server.sql(`create role alice login password ${literal}`);
    await server.sql(`create role repl login replication password ${literal}`);
    await server.sql(`create role clear login password ${literal}`);
    await server.sql(`set password_encryption = 'md5'; create role md5user login password ${literal}`);
    await server.sql('create role trusty login; create role rejected login; create role nologin nologin');
  },
);

function quoted(value: string): string {
  return `'${value.replace(/['\\]/g, '\\$&')}'`;
}

/** Of a role with a password. */
function as(user: string, password: string | null = PASSWORD): string {
  return `${pg().tcpConninfo} user=${user}${password === null ? '' : ` password=${quoted(password)}`}`;
}

const WHO = 'select current_user as name';

describe('a connection', () => {
  test('answers in text, with the names of the columns', async () => {
    await using connection = await connect(as('alice'), { environment: CLEAN });
    expect(Math.floor(connection.serverVersion / 10_000)).toBe(pg().programs.major);
    expect(connection.versionText).toMatch(/^\d+/);
    const sql = `select 1 + 1 as two, null::text as nothing, true as yes, '{1,2}'::int[] as list, 'é' as letter`;
    expect(await connection.query(sql)).toEqual([{ two: '2', nothing: null, yes: 't', list: '{1,2}', letter: 'é' }]);
    expect(await connection.query('select $1::text as a, $2::int as b', ["it's", null])).toEqual([
      { a: "it's", b: null },
    ]);
    expect(await connection.query('select 1 as n where false')).toEqual([]);
  });

  test('goes on after a statement that failed', async () => {
    await using connection = await connect(as('alice'), { environment: CLEAN });
    await expect(connection.query('select nonsense')).rejects.toMatchObject({ failure: 'other', sqlState: '42703' });
    await expect(connection.query('select pg_switch_wal()')).rejects.toMatchObject({
      failure: 'no-privilege',
      sqlState: '42501',
    });
    expect(await connection.query(WHO)).toEqual([{ name: 'alice' }]);
  });

  test('takes several questions at once, one after the other', async () => {
    await using connection = await connect(as('alice'), { environment: CLEAN });
    const answers = [1, 2, 3].map((n) => connection.query(`select ${n} as n`));
    expect(await Promise.all(answers)).toEqual([[{ n: '1' }], [{ n: '2' }], [{ n: '3' }]]);
  });

  test('of replication speaks its commands', async () => {
    await using connection = await connect(as('repl'), { replication: true, environment: CLEAN });
    expect(Math.floor(connection.serverVersion / 10_000)).toBe(pg().programs.major);
    const [system] = await connection.query('IDENTIFY_SYSTEM');
    expect(system).toMatchObject({ systemid: String(await pg().systemIdentifier()), timeline: '1' });
    expect(await connection.query('SHOW wal_segment_size')).toEqual([{ wal_segment_size: '1MB' }]);
    await expect(connection.query('select 1')).rejects.toMatchObject({ failure: 'other' });
  });

  test('is gone from the server once it is disposed', async () => {
    {
      await using connection = await connect(`${as('alice')} application_name=passing`, { environment: CLEAN });
      await connection.query('select 1');
    }
    const left = `select count(*) from pg_stat_activity where application_name = 'passing'`;
    await until('the session to end', async () => (await pg().value(left)) === '0');
  });

  test('has the name, the options and the database that it was given', async () => {
    const sql = `select current_setting('application_name') as name, current_setting('work_mem') as mem, current_database() as db`;
    expect(await ask(`${as('alice')} options='-c work_mem=77kB'`, sql)).toEqual({
      name: 'walwarden',
      mem: '77kB',
      db: 'postgres',
    });
    const name = async (more: string, options = {}) => (await ask(`${as('alice')} ${more}`, sql, options))['name'];
    expect(await name('', { applicationName: 'ours' })).toBe('ours');
    expect(await name('fallback_application_name=theirs', { applicationName: 'ours' })).toBe('theirs');
    expect(await name('', { environment: { ...CLEAN, PGAPPNAME: 'env' } })).toBe('env');
    expect(await name('application_name=said', { environment: { ...CLEAN, PGAPPNAME: 'env' } })).toBe('said');
  });
});

describe('a password', () => {
  test('works for scram-sha-256, md5 and password', async () => {
    for (const user of ['alice', 'md5user', 'clear']) expect(await ask(as(user), WHO)).toEqual({ name: user });
  });

  test('comes from a URI', async () => {
    const { port } = pg();
    const uri = `postgresql://alice:${encodeURIComponent(PASSWORD)}@127.0.0.1:${port}/postgres`;
    expect(await ask(uri, WHO)).toEqual({ name: 'alice' });
    const socket = `postgresql://alice:${encodeURIComponent(PASSWORD)}@${encodeURIComponent(pg().socketDir)}:${port}/postgres`;
    expect(await ask(socket, WHO)).toEqual({ name: 'alice' });
  });

  test('comes from PGPASSWORD', async () => {
    expect(await ask(as('alice', null), WHO, { environment: { ...CLEAN, PGPASSWORD: PASSWORD } })).toEqual({
      name: 'alice',
    });
  });

  test('comes from the password file, if nobody else can read that', () =>
    withTempDir(async (HOME) => {
      const path = join(HOME, '.pgpass');
      const escaped = PASSWORD.replace(/[\\:]/g, '\\$&');
      await writeFile(path, `127.0.0.1:${pg().port}:*:alice:${escaped}\n`, { mode: 0o600 });
      expect(await ask(as('alice', null), WHO, { environment: { HOME } })).toEqual({ name: 'alice' });

      await writeFile(path, '*:*:*:*:wr0ng\n');
      const wrong = await failureOf(as('alice', null), { environment: { HOME } }, ['wr0ng']);
      expect(wrong).toMatchObject({ failure: 'authentication', sqlState: '28P01' });
      expect(wrong.message).toContain(`(the password is from ${path})`);
    }));

  test('in a file that others can read is not used, and the message says why', () =>
    withTempDir(async (HOME) => {
      const path = join(HOME, '.pgpass');
      await writeFile(path, `*:*:*:*:${PASSWORD}\n`, { mode: 0o644 });
      const error = await failureOf(as('alice', null), { environment: { HOME } }, SECRETS);
      expect(error.failure).toBe('authentication');
      expect(error.message).toContain(`the password file ${path} is ignored: others may read it: chmod 0600`);
    }));

  test('comes from a service', () =>
    withTempDir(async (HOME) => {
      const lines = [
        '[main]',
        'host=127.0.0.1',
        `port=${pg().port}`,
        'user=alice',
        'dbname=postgres',
        `password=${PASSWORD}`,
      ];
      await writeFile(join(HOME, '.pg_service.conf'), lines.join('\n'));
      expect(await ask('service=main', WHO, { environment: { HOME } })).toEqual({ name: 'alice' });
      expect(await ask('', WHO, { environment: { HOME, PGSERVICE: 'main' } })).toEqual({ name: 'alice' });
    }));

  test('that is wrong is an authentication failure, and stays unknown', async () => {
    const { port } = pg();
    for (const user of ['alice', 'md5user', 'clear', 'nobody']) {
      const error = await failureOf(as(user, 'wr0ng-s3cret'), {}, ['wr0ng', 's3cret']);
      expect(error).toMatchObject({ code: 'postgres', failure: 'authentication', sqlState: '28P01' });
      expect(error.message).toBe(
        `connection to 127.0.0.1:${port} failed: password authentication failed for user "${user}"`,
      );
      expect(error.hint).toBeUndefined();
    }
  });

  test('that is missing is said to be missing', async () => {
    const error = await failureOf(as('alice', null));
    expect(error.failure).toBe('authentication');
    expect(error.message).toContain('the server asks for a password, and none is given');
  });

  test('is not told to a server that asks for it in a way that require_auth excludes', async () => {
    const error = await failureOf(`${as('clear')} require_auth=scram-sha-256`, {}, SECRETS);
    expect(error.failure).toBe('authentication');
    expect(error.message).toContain('asks for authentication by password, which require_auth does not allow');
    expect((await failureOf(`${as('trusty', null)} require_auth=scram-sha-256`)).message).toContain(
      'no authentication',
    );
    expect(await ask(`${as('alice')} require_auth=scram-sha-256`, WHO)).toEqual({ name: 'alice' });
  });
});

describe('a server says no', () => {
  test('by pg_hba.conf', async () => {
    const rejected = await failureOf(as('rejected'), {}, SECRETS);
    expect(rejected).toMatchObject({ failure: 'pg-hba', sqlState: '28000' });
    expect(rejected.message).toContain('pg_hba.conf rejects connection for host "127.0.0.1", user "rejected"');
    const unknown = await failureOf(`${pg().tcpConninfo} user=stranger`);
    expect(unknown).toMatchObject({ failure: 'pg-hba' });
    expect(unknown.message).toContain('no pg_hba.conf entry for host "127.0.0.1"');
    const replication = await failureOf(as('md5user'), { replication: true }, SECRETS);
    expect(replication).toMatchObject({ failure: 'pg-hba' });
    expect(replication.message).toContain('no pg_hba.conf entry for replication connection');
  });

  test('to a role without the REPLICATION attribute', async () => {
    const error = await failureOf(as('alice'), { replication: true }, SECRETS);
    expect(error).toMatchObject({ failure: 'no-privilege', sqlState: '42501' });
  });

  test('to a database that it does not have', async () => {
    expect(await failureOf(`${as('alice')} dbname=nix`, {}, SECRETS)).toMatchObject({
      failure: 'misconfigured',
      sqlState: '3D000',
    });
  });

  test('to settings that it does not know', async () => {
    expect(await failureOf(`${as('alice')} options='-c no.such=1 -c nonsense=1'`, {}, SECRETS)).toMatchObject({
      failure: 'misconfigured',
      sqlState: '42704',
    });
  });
});

describe('several hosts', () => {
  test('are tried in turn, until one is there', async () => {
    const { port, socketDir } = pg();
    const hosts = `host=127.0.0.1,/nowhere,127.0.0.1,${socketDir} port=1,${port},${port},1`;
    expect(await ask(`${hosts} user=trusty dbname=postgres`, WHO)).toEqual({ name: 'trusty' });
  });

  test('that are all not there are all named', async () => {
    const error = await failureOf('host=127.0.0.1,/nowhere,nosuchhost.invalid port=1');
    expect(error).toMatchObject({ failure: 'unreachable', sqlState: null });
    expect(error.message).toContain('connection to 127.0.0.1:1 failed: connection refused, nobody listens there');
    expect(error.message).toContain('connection to /nowhere/.s.PGSQL.1 failed: there is no such socket');
    expect(error.message).toMatch(/host "nosuchhost.invalid": (?:there is no such host|its address)/);
  });

  test('end with the first that does not let us in', async () => {
    const { port } = pg();
    const error = await failureOf(`host=127.0.0.1,127.0.0.1 port=1,${port} user=rejected`);
    expect(error).toMatchObject({ failure: 'pg-hba' });
    expect(error.message).toMatch(/^connection to 127.0.0.1:1 failed: .*; connection to 127.0.0.1:\d+ failed: pg_hba/);
  });

  test('are chosen by what they are', async () => {
    const standby = await pg().standby({ tcp: true });
    const ports = `${standby.port},${pg().port}`;
    const both = `host=127.0.0.1,127.0.0.1 port=${ports} user=trusty dbname=postgres`;
    const isStandby = async (target: string, hosts = both): Promise<string | null | undefined> =>
      (await ask(`${hosts} target_session_attrs=${target}`, 'select pg_is_in_recovery() as answer'))['answer'];
    expect(await isStandby('any')).toBe('t');
    expect(await isStandby('primary')).toBe('f');
    expect(await isStandby('read-write')).toBe('f');
    expect(await isStandby('standby')).toBe('t');
    expect(await isStandby('read-only')).toBe('t');
    expect(await isStandby('prefer-standby')).toBe('t');
    const primary = `${pg().tcpConninfo} user=trusty`;
    expect(await isStandby('prefer-standby', primary)).toBe('f');
    const error = await failureOf(`${primary} target_session_attrs=standby`);
    expect(error).toMatchObject({ failure: 'unreachable' });
    expect(error.message).toContain('the server is no standby, and target_session_attrs is standby');
    const both2 = `${both.replace('trusty', 'repl')} password=${quoted(PASSWORD)} target_session_attrs=primary`;
    await using replication = await connect(both2, { replication: true, environment: CLEAN });
    expect(await replication.query('SHOW in_hot_standby')).toEqual([{ in_hot_standby: 'off' }]);
  });
});

describe('an abort', () => {
  test('ends a query, and the connection with it', async () => {
    await using connection = await connect(as('alice'), { environment: CLEAN });
    const abort = new AbortController();
    const slow = connection.query('select pg_sleep(600)', undefined, { signal: abort.signal });
    const running = `select count(*) from pg_stat_activity where query = 'select pg_sleep(600)'`;
    await until('the query to run', async () => (await pg().value(running)) !== '0');
    abort.abort();
    await expect(slow).rejects.toMatchObject({ code: 'aborted' });
    await expect(connection.query('select 1')).rejects.toMatchObject({ code: 'aborted' });
    await pg().sql(`select pg_terminate_backend(pid) from pg_stat_activity where query = 'select pg_sleep(600)'`);
  });

  test('before the connection means that there is none', async () => {
    await expect(connect(as('alice'), { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'aborted' });
  });
});

describe('time', () => {
  test('limits a query', async () => {
    await using connection = await connect(as('alice'), { timeoutMs: 30_000, environment: CLEAN });
    const error: unknown = await connection
      .query('select pg_sleep(600) as nap', undefined, { timeoutMs: 100 })
      .catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(PostgresError);
    expect(error).toMatchObject({ failure: 'unreachable', message: 'the server gave no answer within 0.1 s' });
    await pg().sql(`select pg_terminate_backend(pid) from pg_stat_activity where query like '%as nap'`);
  });
});

test('no socket and no timer is left behind, however it ends', async () => {
  const open = (): number =>
    process.getActiveResourcesInfo().filter((name) => /TCP|Pipe|Timeout|TLS/.test(name)).length;
  const before = open();
  await ask(as('alice'), WHO);
  await failureOf(as('alice', 'wr0ng'));
  await failureOf(as('trusty', null), { replication: true });
  await failureOf(`${as('alice')} sslmode=require`);
  await failureOf('host=127.0.0.1,/nowhere port=1');
  await expect(connect(as('alice'), { signal: AbortSignal.abort() })).rejects.toThrow();
  await until('everything to be closed', () => open() <= before);
});

describe('a lost connection', () => {
  test('is told by the query that meets it', async () => {
    await using connection = await connect(as('alice'), { environment: CLEAN });
    const [row] = await connection.query('select pg_backend_pid() as pid');
    await pg().sql(`select pg_terminate_backend(${row?.['pid']})`);
    const lost = async (): Promise<string | undefined> => {
      try {
        await connection.query('select 1');
        return undefined;
      } catch (error) {
        return error instanceof PostgresError ? error.failure : String(error);
      }
    };
    // Whether its last words arrive first is a matter of luck.
    const expected = ['unreachable', 'starting-up'];
    expect(expected).toContain(await until('the loss to be noticed', lost));
    expect(expected).toContain(await lost());
  });
});
