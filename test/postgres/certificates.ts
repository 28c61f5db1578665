import { execFile } from 'node:child_process';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

/** Made by openssl, for a day. */
export interface Certificates {
  readonly directory: string;
  /** An authority, and one that nobody knows. */
  readonly authority: string;
  readonly otherAuthority: string;
  /** Of the host `pg.test`; keys lie beside, as `.key`. */
  readonly server: string;
  /** Of user `certuser`. */
  readonly client: string;
  /** What the authority has taken back: the server's certificate, and nothing. */
  readonly revoked: string;
  readonly nothingRevoked: string;
}

const exec = promisify(execFile);

/** Makes an authority with certificates for a server and a client. */
export async function makeCertificates(directory: string): Promise<Certificates> {
  await mkdir(directory, { recursive: true });
  const at = (name: string): string => join(directory, name);
  const openssl = async (...args: string[]): Promise<void> => {
    await exec('openssl', args, { cwd: directory });
  };
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  const authority = (name: string): Promise<void> =>
    openssl(
      'req',
      '-x509',
      ...newKey,
      '-keyout',
      `${name}.key`,
      '-out',
      `${name}.crt`,
      '-subj',
      `/CN=${name}`,
      '-days',
      '1',
    );
  await authority('ca');
  await authority('other-ca');

  await writeFile(
    at('ca.cnf'),
    [
      '[ca]',
      'default_ca = main',
      '[main]',
      'database = index.txt',
      'serial = serial',
      'new_certs_dir = .',
      'certificate = ca.crt',
      'private_key = ca.key',
      'default_md = sha256',
      'default_days = 1',
      'default_crl_days = 1',
      'policy = any',
      'copy_extensions = copy',
      '[any]',
      'commonName = supplied',
      '',
    ].join('\n'),
  );
  await writeFile(at('index.txt'), '');
  await writeFile(at('serial'), '01\n');
  const issue = async (name: string, subject: string, ...extensions: string[]): Promise<void> => {
    await openssl('req', ...newKey, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', subject, ...extensions);
    await openssl('ca', '-batch', '-notext', '-config', 'ca.cnf', '-in', `${name}.csr`, '-out', `${name}.crt`);
  };
  await issue('server', '/CN=the server', '-addext', 'subjectAltName=DNS:pg.test,DNS:*.pg.test,IP:127.0.0.1');
  await issue('client', '/CN=certuser');
  await openssl('ca', '-gencrl', '-config', 'ca.cnf', '-out', 'nothing.crl');
  await copyFile(at('index.txt'), at('index.before'));
  await openssl('ca', '-revoke', 'server.crt', '-config', 'ca.cnf');
  await openssl('ca', '-gencrl', '-config', 'ca.cnf', '-out', 'revoked.crl');
  return {
    directory,
    authority: at('ca.crt'),
    otherAuthority: at('other-ca.crt'),
    server: at('server.crt'),
    client: at('client.crt'),
    revoked: at('revoked.crl'),
    nothingRevoked: at('nothing.crl'),
  };
}
