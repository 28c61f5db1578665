import { WalwardenError } from '../errors.ts';
import { isWalName, type WalName } from './wal-name.ts';

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
  // Rounded down, as timespec is: before 1970 the nanoseconds still count forward.
  const nanoseconds = ((ns % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n;
  return Number((ns - nanoseconds) / 1_000_000_000n) + 1e-9 * Number(nanoseconds);
}

/** Python's repr() of a float: always a fraction or an exponent, and exponents from other sizes on than JavaScript. */
export function formatSeconds(seconds: number): string {
  const size = Math.abs(seconds);
  if (size !== 0 && (size < 1e-4 || size >= 1e16)) {
    return seconds.toExponential().replace(/e([-+])(\d)$/, 'e$10$2');
  }
  return Number.isInteger(seconds) ? `${seconds}.0` : String(seconds);
}

/** One line of the catalogue, with its newline (Barman: infofile.py, WalFileInfo.to_xlogdb_line). */
export function toXlogdbLine(info: WalFileInfo): string {
  return `${info.name}\t${info.size}\t${formatSeconds(info.mtime)}\t${info.compression ?? 'None'}\t${info.encryption ?? 'None'}\n`;
}

const NONE = 'None';
// Name, size, mtime, compression, encryption; one expression because catalogues have a million lines. Every algorithm
// that Barman knows begins with a letter: anything else is what two lines torn into one look like.
const LINE = /^\s*(\S+)\s+(\d+)\s+(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?:\s+([A-Za-z][\w-]*)(?:\s+([A-Za-z][\w-]*))?)?\s*$/;

/**
 * Parses one line of the catalogue, without its newline; undefined when it is
 * none. Lines of three or four fields come from older Barman and are valid.
 */
export function readXlogdbLine(line: string): WalFileInfo | undefined {
  const match = LINE.exec(line);
  if (match === null) return undefined;
  const [, name = '', sizeText, mtime, compression = NONE, encryption = NONE] = match;
  const size = Number(sizeText);
  if (!isWalName(name) || !Number.isSafeInteger(size)) return undefined;
  return {
    name,
    size,
    mtime: Number(mtime),
    compression: compression === NONE ? null : compression,
    encryption: encryption === NONE ? null : encryption,
  };
}

/** As {@link readXlogdbLine}, but throws `catalogue` when the line is none. */
export function parseXlogdbLine(line: string): WalFileInfo {
  const info = readXlogdbLine(line);
  if (info === undefined) {
    throw new WalwardenError(
      'catalogue',
      `not a catalogue line: expected name, size, mtime, compression and encryption, found ${JSON.stringify(line.slice(0, 120))}`,
    );
  }
  return info;
}
