import { parseLsn, type Lsn } from '../wal/lsn.ts';

// Values of PostgreSQL's text form; null where there is none.

/** A row of pg_settings. */
export interface Setting {
  readonly setting: string | null;
  readonly unit: string | null;
}

export function numberOf(text: string | null | undefined): number | null {
  return text === null || text === undefined || text === '' ? null : Number(text);
}

export function bigintOf(text: string | null | undefined): bigint | null {
  return text === null || text === undefined || !/^\d+$/.test(text) ? null : BigInt(text);
}

export function lsnOf(text: string | null | undefined): Lsn | null {
  return text === null || text === undefined ? null : parseLsn(text);
}

const UNITS: ReadonlyMap<string, number> = new Map([
  ['', 1],
  ['B', 1],
  ['kB', 1024],
  ['8kB', 8192],
  ['16kB', 16_384],
  ['32kB', 32_768],
  ['MB', 1024 ** 2],
  ['GB', 1024 ** 3],
]);

/** Bytes; PostgreSQL 10 counts the segment size in blocks. */
export function sizeOf(setting: Setting | undefined): number | null {
  const unit = UNITS.get(setting?.unit ?? '');
  const number = numberOf(setting?.setting);
  return number === null || unit === undefined ? null : number * unit;
}

/** A size as SHOW prints it: `16MB`. */
export function shownSize(text: string | null | undefined): number | null {
  const [, setting = null, unit = ''] = /^(\d+)([a-zA-Z]*)$/.exec(text ?? '') ?? [];
  return sizeOf({ setting, unit });
}
