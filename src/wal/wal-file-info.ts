import { WalwardenError } from '../errors.ts';
import { parseWalName, type WalName } from './wal-name.ts';

/** A WAL file as the catalogue knows it (Barman's WalFileInfo). */
export interface WalFileInfo {
  readonly name: WalName;
  /** Bytes of the stored file: after compression and encryption. */
  readonly size: number;
  /** Modification time of the original file, in seconds since the epoch, with a fraction. */
  readonly mtime: number;
  /** As Barman spells it (`gzip`, `zstd`, …), null without compression. */
  readonly compression: string | null;
  /** `gpg`, or null. */
  readonly encryption: string | null;
}

/** Seconds with a fraction, computed as Python's os.stat does, so that both write the same digits. */
export function secondsOfNs(ns: bigint): number {
  return Number(ns / 1_000_000_000n) + 1e-9 * Number(ns % 1_000_000_000n);
}

/** Python's repr() of a float always has a fraction. */
function formatSeconds(seconds: number): string {
  return Number.isInteger(seconds) ? `${seconds}.0` : String(seconds);
}

/** One line of the catalogue, with its newline (Barman: infofile.py, WalFileInfo.to_xlogdb_line). */
export function toXlogdbLine(info: WalFileInfo): string {
  return `${info.name}\t${info.size}\t${formatSeconds(info.mtime)}\t${info.compression ?? 'None'}\t${info.encryption ?? 'None'}\n`;
}

const none = (field: string | undefined): string | null => (field === undefined || field === 'None' ? null : field);

/**
 * Parses one line of the catalogue, without its newline. Lines of three or
 * four fields come from older Barman and are valid. Throws `catalogue`.
 */
export function parseXlogdbLine(line: string): WalFileInfo {
  const fields = line.trim().split(/\s+/);
  const [name = '', size = '', mtime = '', compression, encryption] = fields;
  const parsed = parseWalName(name);
  const valid =
    parsed !== undefined &&
    fields.length >= 3 &&
    fields.length <= 5 &&
    /^\d+$/.test(size) &&
    /^-?\d+(\.\d+)?(e[-+]?\d+)?$/.test(mtime);
  if (!valid) {
    throw new WalwardenError(
      'catalogue',
      `not a catalogue line: expected name, size, mtime, compression and encryption, found ${JSON.stringify(line.slice(0, 120))}`,
    );
  }
  return { name: parsed.name, size: Number(size), mtime: Number(mtime), compression: none(compression), encryption: none(encryption) };
}
