import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { rootCertificates, type ConnectionOptions } from 'node:tls';
import { errnoOf, messageOf } from '../errors.ts';
import { PostgresError } from './failure.ts';
import type { NamedFile, TlsSettings } from './tls-settings.ts';

/** What TLS is begun with; `verify` says how far the server's certificate has to convince. */
export interface TlsMaterial {
  readonly options: ConnectionOptions;
  readonly verify: 'nothing' | 'authority' | 'authority-and-name';
}

/**
 * Reads the certificates and the key (initialize_SSL in fe-secure-openssl.c).
 * Where there are root certificates, the server's certificate is verified
 * whatever sslmode says. Throws `tls`.
 */
export async function loadTls(settings: TlsSettings): Promise<TlsMaterial> {
  const { mode, minVersion, maxVersion } = settings;
  const ca = await loadRoots(settings);
  const options: ConnectionOptions = {
    minVersion,
    ...(maxVersion === null ? {} : { maxVersion }),
    ...(await loadClientCertificate(settings)),
  };
  if (ca === null) return { options: { ...options, rejectUnauthorized: false }, verify: 'nothing' };
  const crl = await loadRevocations(settings);
  return {
    options: { ...options, ca, ...(crl.length === 0 ? {} : { crl }), rejectUnauthorized: true },
    verify: mode === 'verify-full' ? 'authority-and-name' : 'authority',
  };
}

async function loadRoots({
  rootCertificates: roots,
  systemCertificates,
  mode,
}: TlsSettings): Promise<string | string[] | null> {
  if (roots === 'system') return systemRoots(systemCertificates);
  const text = roots === null ? null : await readIfThere('root certificate', roots.path);
  if (text !== null) {
    checkCertificate(text, 'root certificate', roots?.path ?? '');
    return text;
  }
  if (mode !== 'verify-ca' && mode !== 'verify-full') return null;
  const where = roots === null ? 'there is no home directory for it to be in' : `${roots.path} does not exist`;
  throw new PostgresError(
    'tls',
    `sslmode=${mode} needs a root certificate, and ${where}: set sslrootcert, to "system" (with pg_receivewal 16 or later) for those that this machine trusts`,
  );
}

/** Where distributions keep what OpenSSL trusts by default. */
const SYSTEM_BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/ssl/cert.pem',
];

async function systemRoots({ file, directory }: TlsSettings['systemCertificates']): Promise<string | string[]> {
  for (const path of file === undefined ? SYSTEM_BUNDLES : [file]) {
    const text = await readIfThere('certificates of the system', path);
    if (text !== null) return text;
  }
  // Node brings Mozilla's list along.
  return directory === undefined ? [...rootCertificates] : readDirectory(directory, 'sslrootcert');
}

async function loadRevocations({ revocations, revocationDirectory }: TlsSettings): Promise<string[]> {
  const texts: string[] = [];
  if (revocations !== null) {
    const text = await readIfThere('revocation list', revocations.path);
    if (text !== null) texts.push(text);
    // Unlike libpq, which then checks nothing.
    else if (revocations.named) throw unreadable('sslcrl', `${revocations.path} does not exist`);
  }
  if (revocationDirectory !== null) texts.push(...(await readDirectory(revocationDirectory, 'sslcrldir')));
  // One at a time is all that Node takes.
  const lists = texts.flatMap((text) => text.match(/-----BEGIN X509 CRL-----[^-]+-----END X509 CRL-----/g) ?? []);
  if (lists.length === 0 && (revocationDirectory !== null || revocations?.named === true)) {
    throw unreadable(revocationDirectory === null ? 'sslcrl' : 'sslcrldir', 'it holds no revocation list (PEM)');
  }
  return lists;
}

async function readDirectory(directory: string, keyword: string): Promise<string[]> {
  const texts: string[] = [];
  try {
    for (const entry of await readdir(directory, { withFileTypes: true })) {
      if (!entry.isDirectory()) texts.push(await readFile(join(directory, entry.name), 'latin1'));
    }
  } catch (cause) {
    if (errnoOf(cause) === undefined) throw cause;
    throw unreadable(keyword, messageOf(cause), cause);
  }
  return texts;
}

/** Without a certificate the key doesn't matter. */
async function loadClientCertificate(settings: TlsSettings): Promise<ConnectionOptions> {
  const { certificate, key, passphrase } = settings;
  const cert = certificate === null ? null : await readIfThere('certificate', certificate.path);
  if (certificate === null || cert === null) return {};
  checkCertificate(cert, 'certificate', certificate.path);
  if (key === null) throw unreadable('sslkey', 'there is no home directory for the private key to be in');
  return { cert, key: await loadKey(key, passphrase, cert, certificate.path) };
}

async function loadKey(
  { path, named }: NamedFile,
  passphrase: string | null,
  cert: string,
  certPath: string,
): Promise<string> {
  let bytes: Buffer;
  try {
    const { mode, uid, isFile } = await statKey(path);
    if (!isFile) throw unreadable('sslkey', `private key ${path} is not a regular file`);
    // As libpq: root's key may be read by a group.
    if ((mode & (uid === 0 ? 0o037 : 0o077)) !== 0) {
      throw unreadable('sslkey', `others may read private key ${path}: chmod 0600 (0640 when root owns it)`);
    }
    bytes = await readFile(path);
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === undefined) throw cause;
    if (named && errno === 'ENOENT' && path.includes(':')) {
      throw unreadable('sslkey', 'keys in engines and tokens are not supported, only files', cause);
    }
    const why =
      errno === 'ENOENT' ? `certificate ${certPath} has no private key: ${path} does not exist` : messageOf(cause);
    throw unreadable('sslkey', why, cause);
  }
  const key = decodeKey(bytes, passphrase, path);
  if (!new X509Certificate(cert).checkPrivateKey(key)) {
    throw unreadable('sslkey', `private key ${path} does not belong to certificate ${certPath}`);
  }
  return key.export({ type: 'pkcs8', format: 'pem' }).toString();
}

async function statKey(
  path: string,
): Promise<{ readonly mode: number; readonly uid: number; readonly isFile: boolean }> {
  const found = await stat(path);
  return { mode: found.mode, uid: found.uid, isFile: found.isFile() };
}

/** PEM, or as libpq tries next DER. */
function decodeKey(bytes: Buffer, passphrase: string | null, path: string): ReturnType<typeof createPrivateKey> {
  const secret = passphrase === null ? {} : { passphrase };
  const tries = [
    { key: bytes, format: 'pem', ...secret },
    { key: bytes, format: 'der', type: 'pkcs8', ...secret },
    { key: bytes, format: 'der', type: 'pkcs1', ...secret },
    { key: bytes, format: 'der', type: 'sec1', ...secret },
  ] as const;
  let first: unknown;
  for (const attempt of tries) {
    try {
      return createPrivateKey(attempt);
    } catch (error) {
      first ??= error;
    }
  }
  const encrypted = bytes.includes('ENCRYPTED');
  const why = encrypted
    ? `private key ${path} is encrypted, and sslpassword is ${passphrase === null ? 'not set' : 'wrong'}`
    : `private key ${path} can't be read: ${messageOf(first)}`;
  throw unreadable('sslkey', why, first);
}

function checkCertificate(text: string, what: string, path: string): void {
  try {
    void new X509Certificate(text);
  } catch (cause) {
    throw new PostgresError('tls', `the ${what} ${path} can't be read: ${messageOf(cause)}`, { cause });
  }
}

async function readIfThere(what: string, path: string): Promise<string | null> {
  try {
    return await readFile(path, 'latin1');
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === undefined) throw cause;
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return null;
    throw new PostgresError('tls', `can't read the ${what}: ${messageOf(cause)}`, { cause });
  }
}

function unreadable(keyword: string, why: string, cause?: unknown): PostgresError {
  return new PostgresError('tls', `${keyword}: ${why}`, { cause });
}
