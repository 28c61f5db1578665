import { execFile } from 'node:child_process';
import { chmod, copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { withTempDir } from '../support/temp-dir.ts';
import { ask, CLEAN, failureOf } from '../postgres/attempt.ts';
import { makeCertificates, type Certificates } from '../postgres/certificates.ts';
import { sharedPostgres } from '../postgres/shared-postgres.ts';

const PASSWORD = 'top-s3cret';
let certificates: Certificates;

const pg = sharedPostgres(
  {
    tcp: true,
    hba: [
      'hostssl all secure 127.0.0.1/32 scram-sha-256',
      'hostnossl all plain 127.0.0.1/32 trust',
      'hostssl all certuser 127.0.0.1/32 cert',
      'host all either 127.0.0.1/32 trust',
    ],
  },
  async (server) => {
    await server.sql(`create role secure login password '${PASSWORD}'`);
    await server.sql('create role plain login; create role certuser login; create role either login');
    certificates = await makeCertificates(join(server.directory, 'certificates'));
    const install = async (from: string, name: string): Promise<string> => {
      const to = join(server.dataDir, name);
      await copyFile(from, to);
      await chmod(to, 0o600);
      await server.giveToServer(to);
      return to;
    };
    await server.configure({
      ssl: 'on',
      ssl_cert_file: await install(certificates.server, 'server.crt'),
      ssl_key_file: await install(certificates.server.replace('.crt', '.key'), 'server.key'),
      ssl_ca_file: await install(certificates.authority, 'ca.crt'),
    });
    await server.stop();
    await server.start();
  },
);

/** By a name that the certificate of the server has. */
function as(user: string, more = ''): string {
  const password = user === 'secure' ? ` password=${PASSWORD}` : '';
  return `${pg().tcpConninfo.replace('host=', 'hostaddr=')} host=pg.test user=${user}${password} ${more}`;
}

async function isEncrypted(conninfo: string, environment = CLEAN): Promise<boolean> {
  const sql = 'select ssl from pg_stat_ssl where pid = pg_backend_pid()';
  return (await ask(conninfo, sql, { environment }))['ssl'] === 't';
}

/** A home directory with these files in .postgresql. */
async function withHome<T>(
  files: Readonly<Record<string, string>>,
  body: (environment: NodeJS.ProcessEnv) => Promise<T>,
): Promise<T> {
  return withTempDir(async (HOME) => {
    const directory = join(HOME, '.postgresql');
    await mkdir(directory);
    for (const [name, from] of Object.entries(files)) {
      await copyFile(from, join(directory, name));
      await chmod(join(directory, name), 0o600);
    }
    return body({ HOME });
  });
}

const tls = { failure: 'tls' };

describe('sslmode', () => {
  test('disable never encrypts', async () => {
    expect(await isEncrypted(as('either', 'sslmode=disable'))).toBe(false);
    const error = await failureOf(as('secure', 'sslmode=disable'), {}, [PASSWORD]);
    expect(error).toMatchObject({ failure: 'pg-hba' });
    expect(error.message).toContain('no encryption');
  });

  test('allow encrypts only where it has to', async () => {
    expect(await isEncrypted(as('either', 'sslmode=allow'))).toBe(false);
    expect(await isEncrypted(as('plain', 'sslmode=allow'))).toBe(false);
    expect(await isEncrypted(as('secure', 'sslmode=allow'))).toBe(true);
  });

  test('prefer, the default, encrypts where it can', async () => {
    expect(await isEncrypted(as('either'))).toBe(true);
    expect(await isEncrypted(as('secure', 'sslmode=prefer'))).toBe(true);
    expect(await isEncrypted(as('plain', 'sslmode=prefer'))).toBe(false);
  });

  test('prefer does without where the certificate is not trusted', () =>
    withHome({ 'root.crt': certificates.otherAuthority }, async (environment) => {
      expect(await isEncrypted(as('either'), environment)).toBe(false);
      const error = await failureOf(as('secure'), { environment }, [PASSWORD]);
      expect(error.message).toContain('the certificate of the server is not trusted');
      expect(error.message).toContain('no pg_hba.conf entry');
    }));

  test('require encrypts, and trusts any certificate while it knows no authority', async () => {
    expect(await isEncrypted(as('either', 'sslmode=require'))).toBe(true);
    const error = await failureOf(as('plain', 'sslmode=require'));
    expect(error).toMatchObject({ failure: 'pg-hba' });
  });

  test('require is as good as verify-ca once there is a root certificate', async () => {
    await withHome({ 'root.crt': certificates.otherAuthority }, async (environment) => {
      expect(await failureOf(as('secure', 'sslmode=require'), { environment }, [PASSWORD])).toMatchObject(tls);
    });
    await withHome({ 'root.crt': certificates.authority }, async (environment) => {
      expect(await isEncrypted(as('secure', 'sslmode=require host=another.name'), environment)).toBe(true);
    });
  });

  test('verify-ca wants a known authority, whatever the name of the host', async () => {
    const root = `sslrootcert=${certificates.authority}`;
    expect(await isEncrypted(as('secure', `sslmode=verify-ca ${root}`))).toBe(true);
    expect(await isEncrypted(as('secure', `sslmode=verify-ca ${root} host=another.name`))).toBe(true);
    const error = await failureOf(as('secure', `sslmode=verify-ca sslrootcert=${certificates.otherAuthority}`), {}, [
      PASSWORD,
    ]);
    expect(error).toMatchObject(tls);
    expect(error.message).toMatch(/the certificate of the server is not trusted: .* \(\w+\)$/);
  });

  test('verify-full wants the name, too', async () => {
    const root = `sslmode=verify-full sslrootcert=${certificates.authority}`;
    expect(await isEncrypted(as('secure', root))).toBe(true);
    expect(await isEncrypted(as('secure', `${root} host=a.pg.test`))).toBe(true);
    expect(await isEncrypted(as('secure', `${root} host=127.0.0.1`))).toBe(true);
    expect(await isEncrypted(as('secure', `${root} host=a.pg.test sslsni=0`))).toBe(true);
    const error = await failureOf(as('secure', `${root} host=another.name`), {}, [PASSWORD]);
    expect(error).toMatchObject(tls);
    expect(error.message).toContain(
      'the certificate of the server is for pg.test, *.pg.test, 127.0.0.1, the server, not for another.name',
    );
    const nameless = `${pg().tcpConninfo.replace('host=', 'hostaddr=')} user=secure ${root}`;
    expect((await failureOf(nameless)).message).toContain('host must be given');
  });

  test('verify-ca and verify-full say which file is missing', async () => {
    const error = await failureOf(as('secure', 'sslmode=verify-full'), {}, [PASSWORD]);
    expect(error).toMatchObject(tls);
    expect(error.message).toContain('/nonexistent/.postgresql/root.crt does not exist: set sslrootcert');
    const named = await failureOf(as('secure', 'sslmode=verify-ca sslrootcert=/nowhere.crt'), {}, [PASSWORD]);
    expect(named.message).toContain('/nowhere.crt does not exist');
  });

  test('is verify-full when the certificates of the system are asked for', async () => {
    const environment = { ...CLEAN, SSL_CERT_FILE: certificates.authority };
    expect(await isEncrypted(as('secure', 'sslrootcert=system'), environment)).toBe(true);
    expect(await failureOf(as('secure', 'sslrootcert=system host=another.name'), { environment })).toMatchObject(tls);
    expect(await failureOf(as('secure', 'sslrootcert=system'))).toMatchObject(tls);
  });

  test('require fails where the server has no TLS', async () => {
    await pg().configure({ ssl: 'off' });
    await pg().stop();
    await pg().start();
    try {
      const error = await failureOf(as('either', 'sslmode=require'));
      expect(error).toMatchObject(tls);
      expect(error.message).toContain('the server does not support TLS, and sslmode=require requires it');
      expect(await isEncrypted(as('either'))).toBe(false);
    } finally {
      await pg().configure({ ssl: 'on' });
      await pg().stop();
      await pg().start();
    }
  });

  test('does not matter for sockets', async () => {
    expect(await isEncrypted(`${pg().conninfo} sslmode=verify-full`)).toBe(false);
  });
});

describe('a certificate of the client', () => {
  test('is shown, from the files that are named or from their default place', async () => {
    const { client, authority } = certificates;
    const key = client.replace('.crt', '.key');
    expect(await isEncrypted(as('certuser', `sslcert=${client} sslkey=${key}`))).toBe(true);
    await withHome({ 'postgresql.crt': client, 'postgresql.key': key, 'root.crt': authority }, async (environment) => {
      expect(await isEncrypted(as('certuser', 'sslmode=verify-full'), environment)).toBe(true);
      expect(await failureOf(as('certuser', 'sslmode=require sslcertmode=disable'), { environment })).toMatchObject(
        tls,
      );
    });
  });

  test('that is missing is said to be required', async () => {
    const error = await failureOf(as('certuser', 'sslmode=require'));
    expect(error).toMatchObject({ failure: 'tls', sqlState: '28000' });
    expect(error.message).toContain('connection requires a valid client certificate');
  });

  test('needs a key that nobody else can read', () =>
    withTempDir(async (directory) => {
      const key = join(directory, 'client.key');
      await copyFile(certificates.client.replace('.crt', '.key'), key);
      await chmod(key, 0o644);
      const conninfo = as('certuser', `sslmode=require sslcert=${certificates.client} sslkey=${key}`);
      const error = await failureOf(conninfo);
      expect(error).toMatchObject(tls);
      expect(error.message).toContain(`others may read private key ${key}: chmod 0600`);
      await chmod(key, 0o600);
      expect(await isEncrypted(conninfo)).toBe(true);
    }));

  test('may have a key with a passphrase, or one in DER', () =>
    withTempDir(async (directory) => {
      const plain = certificates.client.replace('.crt', '.key');
      const key = join(directory, 'encrypted.key');
      const openssl = promisify(execFile);
      await openssl('openssl', ['pkcs8', '-topk8', '-in', plain, '-out', key, '-passout', `pass:${PASSWORD}`]);
      await chmod(key, 0o600);
      const conninfo = as('certuser', `sslmode=require sslcert=${certificates.client} sslkey=${key}`);
      expect(await isEncrypted(`${conninfo} sslpassword=${PASSWORD}`)).toBe(true);
      expect((await failureOf(conninfo)).message).toContain('is encrypted, and sslpassword is not set');
      const wrong = await failureOf(`${conninfo} sslpassword=wr0ng`, {}, ['wr0ng']);
      expect(wrong.message).toContain('is encrypted, and sslpassword is wrong');

      const der = join(directory, 'key.der');
      await openssl('openssl', ['pkcs8', '-topk8', '-nocrypt', '-in', plain, '-outform', 'DER', '-out', der]);
      await chmod(der, 0o600);
      expect(await isEncrypted(as('certuser', `sslcert=${certificates.client} sslkey=${der}`))).toBe(true);
    }));

  test.each([
    ['sslkey=/nowhere.key', /has no private key: \/nowhere.key does not exist/],
    ['sslkey=pkcs11:token', /keys in engines and tokens are not supported/],
    ['sslkey=SERVER_KEY', /does not belong to certificate/],
    ['sslkey=CLIENT_CRT', /can't be read/],
    ['sslcert=CLIENT_KEY sslkey=CLIENT_KEY', /the certificate .* can't be read/],
  ])('with %s says what is wrong with its files', async (more, words) => {
    const named = more
      .replaceAll('SERVER_KEY', certificates.server.replace('.crt', '.key'))
      .replaceAll('CLIENT_KEY', certificates.client.replace('.crt', '.key'))
      .replaceAll('CLIENT_CRT', certificates.client);
    await chmod(certificates.client, 0o600);
    const error = await failureOf(as('certuser', `sslmode=require sslcert=${certificates.client} ${named}`));
    expect(error).toMatchObject({ ...tls, message: expect.stringMatching(words) });
    expect(error.message).not.toContain(await readFile(certificates.client.replace('.crt', '.key'), 'utf8'));
  });
});

describe('a revocation list', () => {
  test('is obeyed, wherever it is', async () => {
    const verify = `sslmode=verify-full sslrootcert=${certificates.authority}`;
    expect(await isEncrypted(as('secure', `${verify} sslcrl=${certificates.nothingRevoked}`))).toBe(true);
    const error = await failureOf(as('secure', `${verify} sslcrl=${certificates.revoked}`), {}, [PASSWORD]);
    expect(error).toMatchObject(tls);
    expect(error.message).toContain('CERT_REVOKED');
    await withHome({ 'root.crt': certificates.authority, 'root.crl': certificates.revoked }, async (environment) => {
      expect(await failureOf(as('secure', 'sslmode=verify-full'), { environment })).toMatchObject(tls);
    });
    await withTempDir(async (directory) => {
      await copyFile(certificates.revoked, join(directory, 'abc.r0'));
      expect((await failureOf(as('secure', `${verify} sslcrldir=${directory}`))).message).toContain('CERT_REVOKED');
    });
  });

  test('that is named must be one', async () => {
    const verify = `sslmode=verify-full sslrootcert=${certificates.authority}`;
    expect((await failureOf(as('secure', `${verify} sslcrl=/nowhere.crl`))).message).toContain(
      '/nowhere.crl does not exist',
    );
    await withTempDir(async (directory) => {
      const empty = join(directory, 'empty.crl');
      await writeFile(empty, '');
      expect((await failureOf(as('secure', `${verify} sslcrl=${empty}`))).message).toContain(
        'holds no revocation list',
      );
      expect((await failureOf(as('secure', `${verify} sslcrldir=${directory}`))).message).toContain(
        'holds no revocation list',
      );
    });
  });
});

describe('channel_binding', () => {
  test('require works with TLS and scram, and with nothing less', async () => {
    expect(await isEncrypted(as('secure', 'sslmode=require channel_binding=require'))).toBe(true);
    expect(await isEncrypted(as('secure', 'sslmode=require channel_binding=disable'))).toBe(true);
    for (const conninfo of [as('either', 'sslmode=require'), as('plain', 'sslmode=disable')]) {
      const error = await failureOf(`${conninfo} channel_binding=require`);
      expect(error).toMatchObject({ failure: 'authentication' });
      expect(error.message).toContain('channel_binding=require, and the server asks for no authentication');
    }
  });
});

describe('protocol versions', () => {
  test('are limited as asked', async () => {
    const version = 'select version from pg_stat_ssl where pid = pg_backend_pid()';
    const limit = 'ssl_min_protocol_version=TLSv1.2 ssl_max_protocol_version=TLSv1.2';
    expect(await ask(as('secure', limit), version)).toEqual({ version: 'TLSv1.2' });
    expect(await ask(as('secure', 'ssl_min_protocol_version=TLSv1.3'), version)).toEqual({ version: 'TLSv1.3' });
  });

  test('that have nothing in common are a TLS failure', async () => {
    await pg().configure({ ssl_max_protocol_version: 'TLSv1.2' });
    await pg().stop();
    await pg().start();
    try {
      const error = await failureOf(as('secure', 'sslmode=require ssl_min_protocol_version=TLSv1.3'), {}, [PASSWORD]);
      expect(error).toMatchObject(tls);
    } finally {
      await pg().configure({ ssl_max_protocol_version: '' });
    }
  });
});

test('a server that can not begin with TLS at once makes sslnegotiation=direct fail', async () => {
  if (pg().programs.major >= 17) {
    expect(await isEncrypted(as('secure', 'sslmode=require sslnegotiation=direct'))).toBe(true);
    return;
  }
  const error = await failureOf(as('secure', 'sslmode=require sslnegotiation=direct'), {}, [PASSWORD]);
  expect(error).toMatchObject(tls);
});
