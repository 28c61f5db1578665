import { join } from 'node:path';
import type { SecureVersion } from 'node:tls';
import { cantHonour, wrongValue, type Settings } from './conninfo-settings.ts';
import { PostgresError } from './failure.ts';

export type SslMode = 'disable' | 'allow' | 'prefer' | 'require' | 'verify-ca' | 'verify-full';

/** A file that a parameter names must be there; the one at the default place need not. */
export interface NamedFile {
  readonly path: string;
  readonly named: boolean;
}

/** What a connection string says about TLS; nothing is read yet. */
export interface TlsSettings {
  readonly mode: SslMode;
  /** `direct`: TLS from the first byte on, without asking. */
  readonly negotiation: 'postgres' | 'direct';
  /** `system`: the certificates that this machine trusts. Null: nowhere to look. */
  readonly rootCertificates: NamedFile | 'system' | null;
  /** Where OpenSSL is told that `system` is: SSL_CERT_FILE, SSL_CERT_DIR. */
  readonly systemCertificates: { readonly file: string | undefined; readonly directory: string | undefined };
  /** Null: none is shown. */
  readonly certificate: NamedFile | null;
  readonly key: NamedFile | null;
  readonly passphrase: string | null;
  readonly revocations: NamedFile | null;
  readonly revocationDirectory: string | null;
  readonly serverNameIndication: boolean;
  readonly minVersion: SecureVersion;
  readonly maxVersion: SecureVersion | null;
}

const MODES: readonly SslMode[] = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'];
const VERSIONS: readonly SecureVersion[] = ['TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3'];

/** Throws `misconfigured`. */
export function parseTlsSettings(settings: Settings, home: string | null, environment: NodeJS.ProcessEnv): TlsSettings {
  const system = settings.text('sslrootcert') === 'system';
  const mode = settings.oneOf('sslmode', MODES, system ? 'verify-full' : 'prefer');
  if (system && mode !== 'verify-full') throw wrongValue('sslmode', 'verify-full, since sslrootcert is system');
  const negotiation = settings.oneOf('sslnegotiation', ['postgres', 'direct'], 'postgres');
  if (negotiation === 'direct' && (mode === 'disable' || mode === 'allow' || mode === 'prefer')) {
    throw wrongValue('sslmode', 'require, verify-ca or verify-full, since sslnegotiation is direct');
  }
  const certMode = settings.oneOf('sslcertmode', ['disable', 'allow', 'require'], 'allow');
  if (certMode === 'require') {
    throw cantHonour('sslcertmode', 'walwarden is not told whether the server looked at a certificate');
  }
  const file = (keyword: Parameters<Settings['text']>[0], name: string): NamedFile | null => {
    const path = settings.text(keyword);
    if (path !== null) return { path, named: true };
    return home === null ? null : { path: join(home, '.postgresql', name), named: false };
  };
  const revocationDirectory = settings.text('sslcrldir');
  return {
    mode,
    negotiation,
    rootCertificates: system ? 'system' : file('sslrootcert', 'root.crt'),
    systemCertificates: { file: environment['SSL_CERT_FILE'], directory: environment['SSL_CERT_DIR'] },
    certificate: certMode === 'disable' ? null : file('sslcert', 'postgresql.crt'),
    key: file('sslkey', 'postgresql.key'),
    passphrase: settings.text('sslpassword'),
    revocations: revocationDirectory !== null && settings.text('sslcrl') === null ? null : file('sslcrl', 'root.crl'),
    revocationDirectory,
    serverNameIndication: settings.text('sslsni') !== '0',
    ...parseVersions(settings),
  };
}

function parseVersions(settings: Settings): Pick<TlsSettings, 'minVersion' | 'maxVersion'> {
  const find = (keyword: 'ssl_min_protocol_version' | 'ssl_max_protocol_version'): SecureVersion | null => {
    const text = settings.text(keyword);
    if (text === null) return null;
    const version = VERSIONS.find((candidate) => candidate.toLowerCase() === text.toLowerCase());
    if (version === undefined) throw wrongValue(keyword, `one of ${VERSIONS.join(', ')}`);
    return version;
  };
  const minVersion = find('ssl_min_protocol_version') ?? 'TLSv1.2';
  const maxVersion = find('ssl_max_protocol_version');
  if (maxVersion !== null && VERSIONS.indexOf(maxVersion) < VERSIONS.indexOf(minVersion)) {
    throw new PostgresError(
      'misconfigured',
      `ssl_max_protocol_version is below ${minVersion}, the lowest version that is allowed`,
    );
  }
  return { minVersion, maxVersion };
}
