import { availableParallelism, homedir } from 'node:os';
import { isAbsolute, normalize } from 'node:path';
import { isSegmentSize } from '../wal/wal-name.ts';

/** How the text of an option becomes a value. */
export interface ValueType<T> {
  /** One or two words for the reference page. */
  readonly kind: string;
  /** What is allowed, to complete "expected …". */
  readonly expected: string;
  /** The value, or undefined when the text is not acceptable. The text is trimmed, not empty, and not `none`. */
  readonly parse: (text: string) => T | undefined;
}

const MAX_ARCHIVER_WORKERS = 64;

/** Any text. */
export const text: ValueType<string> = { kind: 'string', expected: 'text', parse: (value) => value };

/** A shell command line. */
export const command: ValueType<string> = { kind: 'command', expected: 'a shell command', parse: (value) => value };

/** A libpq connection string or URI; its password is masked wherever it is shown. */
export const conninfo: ValueType<string> = {
  kind: 'conninfo',
  expected: 'a libpq connection string',
  // Continuation lines come with newlines, which a process argument had better not carry.
  parse: (value) =>
    value
      .split('\n')
      .map((line) => line.trim())
      .join(' '),
};

/** Barman's words for true and false, whatever their case. */
export const boolean: ValueType<boolean> = {
  kind: 'boolean',
  expected: 'true, t, yes, 1 or on, or false, f, no, 0 or off',
  parse: (value) => {
    if (/^(?:true|t|yes|1|on)$/i.test(value)) return true;
    return /^(?:false|f|no|0|off)$/i.test(value) ? false : undefined;
  },
};

/** An absolute path, normalised. */
export const path: ValueType<string> = {
  kind: 'path',
  expected: 'an absolute path',
  parse: absolutePath,
};

/** A path that may begin with `~/`, the home directory. */
export const homePath: ValueType<string> = {
  kind: 'path',
  expected: 'an absolute path, or one that begins with ~/',
  parse: (value) => absolutePath(/^~(?:\/|$)/.test(value) ? `${homedir()}${value.slice(1)}` : value),
};

/** Absolute paths separated by colons, searched in that order. */
export const pathList: ValueType<readonly string[]> = {
  kind: 'paths',
  expected: 'absolute paths separated by colons',
  parse: (value) => {
    const paths = value.split(':').filter((part) => part.trim() !== '');
    const parsed = paths.map((part) => absolutePath(part.trim())).filter((part) => part !== undefined);
    return parsed.length === paths.length && parsed.length > 0 ? parsed : undefined;
  },
};

/** A directory, or a bucket with a prefix; without a slash at the end. */
export const location: ValueType<string> = {
  kind: 'path or s3:// URL',
  expected: 'an absolute path or s3://BUCKET/PREFIX, the prefix without ?, #, empty parts, . and ..',
  parse: (value) => (/^s3:/i.test(value) ? bucketLocation(value) : absolutePath(value)),
};

/** What is left of S3's 1024 bytes of a key for the prefix. */
const MAX_PREFIX_BYTES = 824;

/** Bucket names as old regions and services other than AWS allow them; a prefix that URLs and proxies leave as it is. */
function bucketLocation(value: string): string | undefined {
  const match = /^s3:\/\/([a-z0-9][a-z0-9._-]{1,253}[a-z0-9])((?:\/[^/?#\p{Cc}]+)*)\/*$/iu.exec(value);
  if (match === null || !value.startsWith('s3://')) return undefined;
  const [, bucket = '', prefix = ''] = match;
  if (Buffer.byteLength(prefix) > MAX_PREFIX_BYTES) return undefined;
  return prefix.split('/').some((part) => part === '.' || part === '..') ? undefined : `s3://${bucket}${prefix}`;
}

/** Whether a {@link location} is a bucket. */
export function isS3Location(value: string): boolean {
  return value.startsWith('s3://');
}

/** A whole number within limits, both included. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): ValueType<number> {
  return {
    kind: 'integer',
    expected: max === Number.MAX_SAFE_INTEGER ? `a whole number from ${min}` : `a whole number from ${min} to ${max}`,
    parse: (value) => wholeNumber(value, min, max),
  };
}

/** Requests at a time. Barman's 0 switches parallelism off, which is one at a time. */
export const parallel: ValueType<number> = {
  kind: 'integer',
  expected: 'a whole number from 0 to 64',
  parse: (value) => {
    const number = wholeNumber(value, 0, 64);
    return number === 0 ? 1 : number;
  },
};

/** Threads that compress; `auto` follows the machine. */
export const workers: ValueType<number> = {
  kind: 'integer or auto',
  expected: `auto or a whole number from 0 to ${MAX_ARCHIVER_WORKERS}`,
  parse: (value) =>
    value.toLowerCase() === 'auto' ? Math.min(4, availableParallelism()) : wholeNumber(value, 0, MAX_ARCHIVER_WORKERS),
};

/** One of some words, whatever their case. */
export function oneOf<const T extends string>(...words: readonly T[]): ValueType<T> {
  return {
    kind: 'enum',
    expected: words.join(', '),
    parse: (value) => words.find((word) => word.toLowerCase() === value.toLowerCase()),
  };
}

/** An algorithm's level: a number, clipped to its range where it is used, or Barman's words. */
export const compressionLevel: ValueType<number | 'low' | 'medium' | 'high'> = {
  kind: 'integer or word',
  expected: 'a whole number from -22 to 22, or low, medium or high',
  parse: (value) => oneOf('low', 'medium', 'high').parse(value) ?? wholeNumber(value, -22, 22),
};

/** Pino's name of the level that Barman's word (or Python's number for it) stands for. */
export const logLevel: ValueType<'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal'> = {
  kind: 'enum',
  expected: 'TRACE, DEBUG, INFO, WARNING, ERROR or CRITICAL',
  parse: (value) => LOG_LEVELS.find(([names]) => names.test(value))?.[1],
};

const LOG_LEVELS = [
  [/^(?:trace|notset)$/i, 'trace'],
  [/^debug$/i, 'debug'],
  [/^info$/i, 'info'],
  [/^warn(?:ing)?$/i, 'warn'],
  [/^error$/i, 'error'],
  [/^(?:critical|fatal)$/i, 'fatal'],
] as const;

const MILLISECONDS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  sec: 1000,
  second: 1000,
  min: 60_000,
  minute: 60_000,
  h: 3_600_000,
  hour: 3_600_000,
  d: 86_400_000,
  day: 86_400_000,
  week: 604_800_000,
  // Barman's month: 31 days.
  month: 2_678_400_000,
};

/** A span of time with its unit, in milliseconds: Barman's `4 WEEKS`, and shorter units of ours. */
export const interval: ValueType<number> = {
  kind: 'duration',
  expected: 'a number and a unit: s, min, HOURS, DAYS, WEEKS or MONTHS',
  parse: (value) => {
    const match = /^(\d+)\s*([a-z]+)$/i.exec(value);
    if (match === null) return undefined;
    const [, digits = '', word = ''] = match;
    const unit = word.toLowerCase();
    const factor = MILLISECONDS[unit] ?? MILLISECONDS[unit.replace(/s$/, '')];
    if (factor === undefined) return undefined;
    const product = Number(digits) * factor;
    return Number.isSafeInteger(product) ? product : undefined;
  },
};

/** 24.8 days; a timer that is set to more than this goes off at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** A span of time in milliseconds; a plain number counts seconds, as in Barman's options of this kind. */
export const seconds: ValueType<number> = {
  kind: 'duration',
  expected: 'a number of seconds, or a number and a unit: ms, s, min, HOURS, DAYS or WEEKS',
  parse: (value) => {
    const found = interval.parse(/^\d+$/.test(value) ? `${value} s` : value);
    return found === undefined ? undefined : Math.min(found, LONGEST_TIMER_MS);
  },
};

/** A time to wait: {@link seconds}, but more than none, which would be for ever. */
export const timeout: ValueType<number> = {
  kind: seconds.kind,
  expected: `${seconds.expected}, more than 0`,
  parse: (value) => seconds.parse(value) || undefined,
};

const SIZE_FACTORS: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  Ki: 2 ** 10,
  M: 1e6,
  Mi: 2 ** 20,
  G: 1e9,
  Gi: 2 ** 30,
  T: 1e12,
  Ti: 2 ** 40,
};

/** A rate in kilobytes per second; rsync's suffixes, because that is who reads it in Barman. */
export const bandwidth: ValueType<number> = {
  kind: 'kilobytes per second',
  expected: 'a number of kilobytes per second, optionally with k, m or g',
  parse: (value) => {
    const match = /^(\d+)\s*([kmg]?)$/i.exec(value);
    if (match === null) return undefined;
    const [, digits = '', suffix = ''] = match;
    const product = Number(digits) * 1024 ** Math.max(0, 'kmg'.indexOf(suffix.toLowerCase()));
    return Number.isSafeInteger(product) ? product : undefined;
  },
};

/** A number of bytes with Barman's SI or IEC suffix, whose case counts; a `B` may follow. */
export const size: ValueType<number> = {
  kind: 'size',
  expected: 'a number of bytes, optionally with k, Ki, M, Mi, G, Gi, T or Ti',
  parse: (value) => {
    const match = /^(\d+)\s*(|k|Ki|M|Mi|G|Gi|T|Ti)B?$/.exec(value);
    if (match === null) return undefined;
    const [, digits = '', suffix = ''] = match;
    const product = Number(digits) * (SIZE_FACTORS[suffix] ?? Number.NaN);
    return Number.isSafeInteger(product) ? product : undefined;
  },
};

/** A size of WAL segments, as PostgreSQL shows it: all of its units are powers of two. */
export const segmentSize: ValueType<number> = {
  kind: 'size',
  expected: 'a power of two from 1MB to 1GB',
  parse: (value) => {
    const [, digits = '', unit = ''] = /^(\d+)\s*(|kB|Mi?B?|Gi?B?)$/.exec(value) ?? [];
    const bytes = Number(digits) * ({ k: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[unit[0] ?? ''] ?? 1);
    return isSegmentSize(bytes) ? bytes : undefined;
  },
};

/** Bytes written as `0x` and pairs of hexadecimal digits. */
export const bytes: ValueType<Uint8Array> = {
  kind: 'bytes',
  expected: '0x and pairs of hexadecimal digits, at most 32 bytes',
  parse: (value) =>
    /^0x(?:[0-9a-f]{2}){1,32}$/i.test(value) ? Uint8Array.from(Buffer.from(value.slice(2), 'hex')) : undefined,
};

/** Permission bits; the owner must be able to read and write. */
export const fileMode: ValueType<number> = {
  kind: 'octal mode',
  expected: 'an octal file mode that lets the owner read and write and nobody execute, such as 0600 or 0640',
  parse: (value) => {
    if (!/^(?:0o?)?[0-7]{3}$/i.test(value)) return undefined;
    const mode = Number.parseInt(value.replace(/^0o/i, ''), 8);
    return (mode & 0o600) === 0o600 && (mode & 0o111) === 0 ? mode : undefined;
  },
};

/** A replication slot; PostgreSQL's rule for its name. */
export const slotName: ValueType<string> = {
  kind: 'slot name',
  expected: 'at most 63 lower-case letters, digits and underscores',
  parse: (value) => (/^[0-9a-z_]{1,63}$/.test(value.toLowerCase()) ? value.toLowerCase() : undefined),
};

/** An http:// or https:// address. */
export const url: ValueType<string> = {
  kind: 'URL',
  expected: 'an http:// or https:// address without user and password',
  parse: (value) => {
    if (!/^https?:\/\/[^/]/i.test(value) || !URL.canParse(value)) return undefined;
    const parsed = new URL(value);
    return parsed.username === '' && parsed.password === '' ? value : undefined;
  },
};

/** Where the daemon listens. */
export const listenAddress: ValueType<string> = {
  kind: 'address',
  expected: 'unix:/PATH, HOST:PORT, [IPV6]:PORT or off',
  parse: (value) => {
    if (value.toLowerCase() === 'off') return 'off';
    const socket = /^unix:(\/.*)$/.exec(value);
    // sun_path of Linux holds 107 bytes and a NUL.
    if (socket !== null) return Buffer.byteLength(socket[1] ?? '') <= 107 ? value : undefined;
    const tcp = /^(?:\[[0-9a-f:.]+\]|[^\s:/[\]]+):(\d{1,5})$/i.exec(value);
    return tcp !== null && Number(tcp[1]) <= 65_535 ? value : undefined;
  },
};

/** `key=value` pairs separated by commas; a key that comes twice is refused. */
export const tags: ValueType<Readonly<Record<string, string>>> = {
  kind: 'key=value list',
  expected: 'key=value pairs separated by commas, at most 10, every key once',
  parse: (value) => {
    const pairs = value.split(',').map((pair) => /^([^=]+)=([^]*)$/.exec(pair));
    const entries = pairs.flatMap((pair) => {
      const [key, content] = [pair?.[1]?.trim() ?? '', pair?.[2]?.trim() ?? ''];
      return key === '' ? [] : [[key, content] as const];
    });
    const unique = new Map(entries);
    // Ten is what S3 takes for one object.
    return entries.length === pairs.length && unique.size === entries.length && entries.length <= 10
      ? Object.fromEntries(unique)
      : undefined;
  },
};

function absolutePath(value: string): string | undefined {
  if (!isAbsolute(value) || value.includes('\n') || value.includes('\0')) return undefined;
  const normal = normalize(value);
  return normal.length > 1 && normal.endsWith('/') ? normal.slice(0, -1) : normal;
}

function wholeNumber(value: string, min: number, max: number): number | undefined {
  if (!/^[+-]?\d+$/.test(value)) return undefined;
  const number = Number(value);
  return Number.isSafeInteger(number) && number >= min && number <= max ? number : undefined;
}
