import { isIP } from 'node:net';

/** The names of a certificate, as Node's `getPeerCertificate()` shows them. */
export interface CertificateNames {
  readonly subject?: { readonly CN?: string | readonly string[] | undefined } | undefined;
  /** `DNS:pg, IP Address:10.0.0.1`; a name with odd characters is in JSON's quotes. */
  readonly subjectaltname?: string | undefined;
}

/**
 * Whether a certificate belongs to a host, as libpq decides it for
 * `sslmode=verify-full` (fe-secure-openssl.c, fe-secure-common.c). The common
 * name counts only where no alternative name is of the host's kind: a DNS name,
 * or an IP address.
 */
export function certificateMatchesHost(host: string, certificate: CertificateNames): boolean {
  const byAddress = isIP(host) !== 0;
  const names = alternativeNames(certificate.subjectaltname ?? '');
  if (names.some(({ kind, value }) => (kind === 'DNS' ? matchesName(host, value) : sameAddress(host, value))))
    return true;
  if (names.some(({ kind }) => (kind === 'IP Address') === byAddress)) return false;
  return commonNames(certificate).some((name) => matchesName(host, name));
}

/** All names, for a message. */
export function namesOfCertificate(certificate: CertificateNames): string[] {
  const names = alternativeNames(certificate.subjectaltname ?? '').map(({ value }) => value);
  return [...new Set([...names, ...commonNames(certificate)])];
}

interface AlternativeName {
  readonly kind: 'DNS' | 'IP Address';
  readonly value: string;
}

function alternativeNames(text: string): AlternativeName[] {
  const found: AlternativeName[] = [];
  for (const [, kind, quoted, plain] of text.matchAll(/(?<=^|, )([\w ]+):(?:"((?:\\.|[^"\\])*)"|([^,]*))/g)) {
    if (kind !== 'DNS' && kind !== 'IP Address') continue;
    const value = quoted === undefined ? (plain ?? '') : unquote(quoted);
    found.push({ kind, value });
  }
  return found;
}

function unquote(text: string): string {
  const value: unknown = JSON.parse(`"${text}"`);
  return typeof value === 'string' ? value : text;
}

function commonNames({ subject }: CertificateNames): readonly string[] {
  const name = subject?.CN;
  return name === undefined ? [] : typeof name === 'string' ? [name] : name.slice(0, 1);
}

/** `*.` stands for exactly one label; a name with a zero byte inside is none. */
function matchesName(host: string, name: string): boolean {
  if (name.includes('\0')) return false;
  const [wanted, pattern] = [host.toLowerCase(), name.toLowerCase()];
  if (wanted === pattern) return true;
  if (!pattern.startsWith('*.') || pattern.length < 3) return false;
  const dot = wanted.indexOf('.');
  return dot > 0 && wanted.slice(dot) === pattern.slice(1);
}

function sameAddress(host: string, address: string): boolean {
  if (isIP(host) === 0 || isIP(address) !== isIP(host)) return false;
  return isIP(host) === 4 ? host === address : canonicalIPv6(host) === canonicalIPv6(address);
}

function canonicalIPv6(address: string): string {
  return new URL(`http://[${address.replace(/%.*$/, '')}]/`).hostname;
}
