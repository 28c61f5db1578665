import { readFile } from 'node:fs/promises';
import { messageOf, WalwardenError } from '../errors.ts';

/** What TLS is done with; nothing of it for http. */
export interface TlsMaterial {
  readonly cert?: Buffer;
  readonly key?: Buffer;
  readonly ca?: Buffer;
}

export interface TlsFiles {
  /** The client's certificate; may have the key in it. */
  readonly certFile: string | null;
  readonly keyFile: string | null;
  /** The authorities to trust, instead of those that come with Node. */
  readonly caFile: string | null;
}

/** Reads the files and looks whether they can be used; throws `usage`, naming the option. */
export async function loadTlsMaterial({ certFile, keyFile, caFile }: TlsFiles): Promise<TlsMaterial> {
  if (certFile === null && keyFile !== null) {
    throw new WalwardenError('usage', '--key-file without --cert-file', {
      hint: 'the key belongs to a certificate: name that as well',
    });
  }
  const cert = certFile === null ? null : await read('--cert-file', certFile);
  const key = keyFile === null ? cert : await read('--key-file', keyFile);
  const ca = caFile === null ? null : await read('--ca-file', caFile);
  const material: TlsMaterial = {
    ...(cert === null ? {} : { cert }),
    ...(key === null ? {} : { key }),
    ...(ca === null ? {} : { ca }),
  };
  await check(material, { certFile, keyFile, caFile });
  return material;
}

async function read(option: string, file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    throw new WalwardenError('usage', `${option}: can’t read ${file}: ${messageOf(error)}`, {
      hint: 'the user that Patroni runs as has to be able to read it',
      cause: error,
    });
  }
}

/** TLS itself would take authorities that are none without a word, and then trust nobody. */
async function check({ ca, ...identity }: TlsMaterial, { certFile, keyFile, caFile }: TlsFiles): Promise<void> {
  if (ca !== undefined) {
    const { X509Certificate } = await import('node:crypto');
    attempt(`--ca-file ${caFile ?? ''}`, 'certificates in PEM format', () => new X509Certificate(ca));
  }
  if (identity.cert !== undefined) {
    const { createSecureContext } = await import('node:tls');
    const what = `--cert-file ${certFile ?? ''}${keyFile === null ? '' : ` with --key-file ${keyFile}`}`;
    const expected = 'a certificate and its key, in PEM format, the key without passphrase';
    attempt(what, expected, () => createSecureContext(identity));
  }
}

function attempt(what: string, expected: string, use: () => unknown): void {
  try {
    use();
  } catch (error) {
    throw new WalwardenError('usage', `${what}: can’t be used: ${messageOf(error)}`, {
      hint: `expected ${expected}`,
      cause: error,
    });
  }
}
