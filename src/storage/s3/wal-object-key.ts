import type { CompressionName } from '../../compression/codec.ts';
import { compressionOfExtension, extensionOf } from '../../compression/codecs.ts';
import { WalwardenError } from '../../errors.ts';
import { isWalName, walDirectory, type WalName } from '../../wal/wal-name.ts';

/** Where an archive lies in a bucket. */
export interface S3Location {
  readonly bucket: string;
  /** Without a leading slash and without the last one; empty for the bucket's root. */
  readonly prefix: string;
}

/** The archive of one server, as its keys see it. */
export interface WalRoot {
  readonly prefix: string;
  readonly server: string;
}

/** What a key says about its object. */
export interface ParsedWalKey {
  readonly name: WalName;
  /** By the extension: `gzip` also for what pygzip and pigz wrote. */
  readonly compression: CompressionName | null;
}

/** S3's limit for a key, in bytes; what a WAL file's key needs below the prefix is under 100. */
const MAX_KEY = 1024;
const KEY_BELOW_SERVER = 100;

// DNS names, which is all that AWS makes today, and what older regions and other services allow besides.
const BUCKET = /^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$/;

/**
 * Takes `s3://BUCKET/PREFIX` apart, so that keys come out as Barman's: leading
 * slashes of the prefix don't count, one trailing slash doesn't either.
 *
 * @throws WalwardenError `config` when it is none, or one that Barman, S3 or a
 * proxy on the way would understand differently
 */
export function parseS3Location(text: string, option = 'wals_directory'): S3Location {
  const match = /^s3:\/\/([^/]*)(?:\/+(.*))?$/s.exec(text);
  if (match === null) throw noLocation(text, option, 'expected s3://BUCKET or s3://BUCKET/PREFIX');
  const [, bucket = '', path = ''] = match;
  if (!BUCKET.test(bucket)) {
    throw noLocation(text, option, `expected a bucket name after s3://, found ${JSON.stringify(bucket)}`);
  }
  const prefix = path.replace(/\/$/, '');
  const odd = oddity(prefix);
  if (odd !== null) throw noLocation(text, option, odd);
  return { bucket, prefix };
}

/** `s3://BUCKET/KEY`, for messages, hooks and the catalogue's readers. */
export function formatS3Url(bucket: string, key: string): string {
  return `s3://${bucket}/${key}`;
}

function oddity(prefix: string): string | null {
  // Barman reads the location as a URL, which ends at these.
  if (/[?#]/.test(prefix)) return 'expected no ? and no # in it';
  // oxlint-disable-next-line no-control-regex -- S3's XML can't list such keys
  if (/[\u0000-\u001f\u007f]/.test(prefix)) return 'expected no control characters in it';
  // Clients and proxies resolve these, and sign or store something else.
  if (prefix.split('/').some((part) => part === '.' || part === '..')) return 'expected no . or .. between its slashes';
  const bytes = Buffer.byteLength(prefix);
  const most = MAX_KEY - 2 * KEY_BELOW_SERVER;
  return bytes > most ? `expected a prefix of at most ${most} bytes, found ${bytes}` : null;
}

function noLocation(text: string, option: string, problem: string): WalwardenError {
  return new WalwardenError('config', `${option} = ${JSON.stringify(text)} is not a place in S3: ${problem}`, {
    hint: `set ${option} = s3://BUCKET/PREFIX`,
  });
}

/** Everything of a server's archive lies below it; ends in a slash. */
export function walsPrefix({ prefix, server }: WalRoot): string {
  return `${prefix === '' ? '' : `${prefix}/`}${server}/wals/`;
}

/** Below it lie the files of one directory (Barman's hash directory); history files lie in {@link walsPrefix} itself. */
export function walGroupPrefix(root: WalRoot, name: WalName): string {
  const directory = walDirectory(name);
  return `${walsPrefix(root)}${directory === '' ? '' : `${directory}/`}`;
}

/** The key without an extension, with which every key of this file begins, however it was compressed. */
export function walKeyStem(root: WalRoot, name: WalName): string {
  return `${walGroupPrefix(root, name)}${name}`;
}

/**
 * The key of a WAL file stored with a compression (Barman:
 * clients/cloud_walarchive.py, CloudWalUploader.upload_wal).
 *
 * @throws WalwardenError `config` for a compression that has no extension
 */
export function buildWalObjectKey(root: WalRoot, name: WalName, compression: CompressionName | null): string {
  return `${walKeyStem(root, name)}${walKeyExtension(compression)}`;
}

/** The extension of keys, dot included; empty without compression. */
export function walKeyExtension(compression: CompressionName | null): string {
  if (compression === null) return '';
  const extension = extensionOf(compression);
  // pigz writes gzip, but as a program between two files.
  if (extension === null || compression === 'pigz') {
    throw new WalwardenError('config', `compression = ${compression} can't be used with S3`, {
      hint: 'choose gzip, bzip2, xz, zstd, lz4 or snappy, or none',
    });
  }
  return extension;
}

/** What a key holds; null when it is not where a WAL file of this server would be. */
export function parseWalObjectKey(root: WalRoot, key: string): ParsedWalKey | null {
  const base = walsPrefix(root);
  if (!key.startsWith(base)) return null;
  const path = key.slice(base.length);
  const slash = path.lastIndexOf('/');
  const file = path.slice(slash + 1);
  const dot = file.lastIndexOf('.');
  const compression = dot === -1 ? null : compressionOfExtension(file.slice(dot));
  const name = compression === null ? file : file.slice(0, dot);
  if (!isWalName(name) || walDirectory(name) !== path.slice(0, Math.max(0, slash))) return null;
  return { name, compression };
}
