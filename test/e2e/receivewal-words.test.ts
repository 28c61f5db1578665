import { mkdtemp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { conninfoForProgram } from '../../src/postgres/conninfo.ts';
import { failureOfMessage } from '../../src/postgres/failure.ts';
import { sharedPostgres } from '../postgres/shared-postgres.ts';
import { run } from '../support/run.ts';

const PASSWORD = 'top s3cret';

const pg = sharedPostgres(
  {
    tcp: true,
    hba: [
      'host replication rejected 127.0.0.1/32 reject',
      'hostssl replication secure 127.0.0.1/32 trust',
      'host replication alice,plain,nobody 127.0.0.1/32 scram-sha-256',
    ],
    settings: { max_wal_senders: '2', wal_keep_size: '0', max_wal_size: '4MB', min_wal_size: '2MB' },
  },
  async (server) => {
    await server.sql(`create role alice login replication password '${PASSWORD}'`);
    await server.sql(`create role plain login password '${PASSWORD}'`);
    await server.sql('create role rejected login replication; create role secure login replication');
  },
);

/** What a real pg_receivewal says when it can't receive. */
async function receivewal(conninfo: string, ...args: string[]): Promise<string> {
  const { programs } = pg();
  if (!programs.complete) throw new Error('these tests need pg_receivewal: install Debian package postgresql-client');
  const program = conninfoForProgram(conninfo, { connect_timeout: '5' });
  expect(program.conninfo).not.toContain('s3cret');
  const { stderr, status } = await run(
    join(programs.bin, 'pg_receivewal'),
    ['--no-loop', '--no-password', '--directory', await makeTarget(), '--dbname', program.conninfo, ...args],
    { env: { PATH: process.env['PATH'], HOME: '/nonexistent', LC_ALL: 'C', ...program.env }, timeoutMs: 20_000 },
  );
  expect(status).toBe(1);
  expect(stderr).not.toContain('s3cret');
  return stderr;
}

function makeTarget(): Promise<string> {
  return mkdtemp(join(pg().directory, 'received'));
}

function as(user: string, more = `password='${PASSWORD}'`): string {
  return `${pg().tcpConninfo} user=${user} ${more}`;
}

describe('the words of a real pg_receivewal', () => {
  test.each([
    ['authentication', () => receivewal(as('alice', 'password=wr0ng'))],
    ['authentication', () => receivewal(as('alice', ''))],
    ['authentication', () => receivewal(as('nobody'))],
    ['pg-hba', () => receivewal(as('rejected'))],
    ['pg-hba', () => receivewal(as('stranger'))],
    ['tls', () => receivewal(as('alice', `password='${PASSWORD}' sslmode=require`))],
    ['no-privilege', () => receivewal(as('plain'))],
    ['unreachable', () => receivewal('host=127.0.0.1 port=1 user=alice')],
    ['unreachable', () => receivewal('host=/nowhere user=alice')],
    ['unreachable', () => receivewal('host=nosuchhost.invalid user=alice')],
    ['misconfigured', () => receivewal('service=nix')],
    ['misconfigured', () => receivewal(as('alice', `password='${PASSWORD}' options='-c nonsense=1'`))],
    ['slot-missing', () => receivewal(as('alice'), '--slot', 'missing')],
  ] as const)('mean %s', async (failure, act) => {
    const said = await act();
    expect({ said, failure: failureOfMessage(said) }).toEqual({ said, failure });
  });

  test('mean too-many-walsenders', async () => {
    await pg().configure({ max_wal_senders: '0' });
    await pg().stop();
    await pg().start();
    const said = await receivewal(as('alice'));
    await pg().configure({ max_wal_senders: '2' });
    await pg().stop();
    await pg().start();
    expect(failureOfMessage(said)).toBe('too-many-walsenders');
  });

  test('mean wal-removed', async () => {
    for (let round = 0; round < 4; round += 1) {
      await pg().writeSegments(4);
      await pg().sql('checkpoint');
    }
    const target = await makeTarget();
    // Where it was when it ran last.
    await writeFile(join(target, '000000010000000000000001.partial'), Buffer.alloc(pg().segmentSize));
    const said = await receivewal(as('alice'), '--directory', target);
    expect({ said, failure: failureOfMessage(said) }).toEqual({ said, failure: 'wal-removed' });
  });
});
