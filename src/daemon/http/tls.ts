import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createSecureContext, type SecureContextOptions } from 'node:tls';
import { messageOf, WalwardenError } from '../../errors.ts';

/** Reads certificate and key, and sees whether they belong together; null without any. Throws `config`. */
export async function readTls(certFile: string | null, keyFile: string | null): Promise<SecureContextOptions | null> {
  if (certFile === null && keyFile === null) return null;
  if (certFile === null || keyFile === null) {
    throw new WalwardenError('config', 'http_tls_cert_file and http_tls_key_file must be set both, or none of them');
  }
  const cert = await read('http_tls_cert_file', certFile);
  const key = await read('http_tls_key_file', keyFile);
  const certificate = parse(
    'http_tls_cert_file',
    certFile,
    'a certificate in PEM form',
    () => new X509Certificate(cert),
  );
  const privateKey: KeyObject = parse(
    'http_tls_key_file',
    keyFile,
    'a private key in PEM form without a passphrase',
    () => createPrivateKey(key),
  );
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new WalwardenError(
      'config',
      `http_tls_key_file ${keyFile} is not the key of http_tls_cert_file ${certFile}`,
      {
        hint: "the server's own certificate has to be the first in its file",
      },
    );
  }
  const options: SecureContextOptions = { cert, key, minVersion: 'TLSv1.2' };
  // What OpenSSL thinks of them, before they take the place of others.
  parse('http_tls_cert_file', certFile, 'a certificate that can be used', () => createSecureContext(options));
  return options;
}

async function read(option: string, file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (cause) {
    throw new WalwardenError('config', `can't read ${option} ${file}: ${messageOf(cause)}`, {
      cause,
      hint: 'it must be readable by the user that walwarden runs as',
    });
  }
}

function parse<T>(option: string, file: string, what: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw new WalwardenError('config', `${option} ${file} is not ${what}: ${messageOf(cause)}`, { cause });
  }
}
