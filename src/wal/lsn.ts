import { WalwardenError } from '../errors.ts';

/** A position in the WAL stream, in bytes from its beginning (PostgreSQL's XLogRecPtr, access/xlogdefs.h). */
export type Lsn = bigint;

const LSN = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/;

/** Parses PostgreSQL's text form `high/low`, both hexadecimal. Throws `invalid-wal` on anything else. */
export function parseLsn(text: string): Lsn {
  const match = LSN.exec(text);
  if (match === null) {
    throw new WalwardenError(
      'invalid-wal',
      `not an LSN: expected HIGH/LOW in hexadecimal, found ${JSON.stringify(text)}`,
    );
  }
  return (BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`);
}

/** PostgreSQL's text form of an LSN, as pg_lsn prints it: upper case, without leading zeros. */
export function formatLsn(lsn: Lsn): string {
  const high = (lsn >> 32n).toString(16).toUpperCase();
  const low = (lsn & 0xffff_ffffn).toString(16).toUpperCase();
  return `${high}/${low}`;
}
