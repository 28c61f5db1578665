import { COMPRESSION_NAMES, type CompressionName } from '../../compression/codec.ts';
import { formatSeconds } from '../../wal/wal-file-info.ts';

/** What we write beside a WAL file in S3, so that a HEAD is enough to compare it and to describe it. */
export interface WalObjectMetadata {
  /** Of the plain bytes: neither compressed nor encrypted. */
  readonly size: number;
  /** SHA-256 of the plain bytes, 64 lower-case hexadecimal digits. */
  readonly sha256: string;
  /** Of the original file, in seconds since the epoch, with a fraction. */
  readonly mtime: number;
  readonly compression: CompressionName | null;
  readonly encryption: 'gpg' | null;
  /** Of the program that wrote it. */
  readonly version: string;
}

/** The same of an object that anybody may have written: null is what it doesn't say, or says in another way than we do. */
export interface ReadWalObjectMetadata {
  readonly size: number | null;
  readonly sha256: string | null;
  readonly mtime: number | null;
  /** Undefined when nothing is said; null when it is said to have none. */
  readonly compression: CompressionName | null | undefined;
  readonly encryption: 'gpg' | null | undefined;
  readonly version: string | null;
}

/** User metadata of S3 is ASCII; its names come back in lower case, with `x-amz-meta-` in front on the wire. */
export const WAL_METADATA = {
  size: 'walwarden-size',
  sha256: 'walwarden-sha256',
  mtime: 'walwarden-mtime',
  compression: 'walwarden-compression',
  encryption: 'walwarden-encryption',
  version: 'walwarden-version',
} as const;

const NONE = 'none';

/** As user metadata of an object. */
export function formatWalObjectMetadata(metadata: WalObjectMetadata): Record<string, string> {
  return {
    [WAL_METADATA.size]: String(metadata.size),
    [WAL_METADATA.sha256]: metadata.sha256,
    // The catalogue's digits, so that one rebuilt from the bucket has the same lines.
    [WAL_METADATA.mtime]: formatSeconds(metadata.mtime),
    [WAL_METADATA.compression]: metadata.compression ?? NONE,
    [WAL_METADATA.encryption]: metadata.encryption ?? NONE,
    [WAL_METADATA.version]: metadata.version,
  };
}

/** Reads the user metadata of an object. Never throws: what others wrote is no error. */
export function parseWalObjectMetadata(metadata: Readonly<Record<string, string>>): ReadWalObjectMetadata {
  const byName = new Map(Object.entries(metadata).map(([name, value]) => [name.toLowerCase(), value.trim()]));
  const text = (name: string): string | undefined => byName.get(name);
  const version = text(WAL_METADATA.version);
  return {
    size: wholeNumber(text(WAL_METADATA.size)),
    sha256: digest(text(WAL_METADATA.sha256)),
    mtime: seconds(text(WAL_METADATA.mtime)),
    compression: compression(text(WAL_METADATA.compression)),
    encryption: encryption(text(WAL_METADATA.encryption)),
    version: version === undefined || version === '' ? null : version,
  };
}

function wholeNumber(text: string | undefined): number | null {
  if (text === undefined || !/^\d+$/.test(text)) return null;
  const number = Number(text);
  return Number.isSafeInteger(number) ? number : null;
}

function digest(text: string | undefined): string | null {
  return text !== undefined && /^[0-9a-f]{64}$/i.test(text) ? text.toLowerCase() : null;
}

function seconds(text: string | undefined): number | null {
  return text !== undefined && /^-?\d+(?:\.\d+)?(?:e[-+]?\d+)?$/.test(text) ? Number(text) : null;
}

function compression(text: string | undefined): CompressionName | null | undefined {
  return text === NONE ? null : COMPRESSION_NAMES.find((name) => name === text);
}

function encryption(text: string | undefined): 'gpg' | null | undefined {
  return text === 'gpg' ? 'gpg' : text === NONE ? null : undefined;
}
