import { WalwardenError } from '../errors.ts';
import type { Lsn } from './lsn.ts';

declare const walNameBrand: unique symbol;

/**
 * The name of a WAL file, checked. The bytes are kept as they came: Barman
 * accepts lower-case digits, and so do we.
 */
export type WalName = string & { readonly [walNameBrand]: true };

export type WalKind = 'segment' | 'partial' | 'backup' | 'history';

/** Smallest and largest segment size that PostgreSQL supports (access/xlog_internal.h). */
export const MIN_SEGMENT_SIZE = 1024 * 1024;
export const MAX_SEGMENT_SIZE = 1024 * 1024 * 1024;

// Formats: access/xlog_internal.h (XLogFileName, StatusFilePath, BackupHistoryFileName, TLHistoryFileName).
const WAL_NAME =
  /^([0-9A-Fa-f]{8})(?:\.history|([0-9A-Fa-f]{8})([0-9A-Fa-f]{8})(\.partial|\.([0-9A-Fa-f]{8})\.backup)?)$/;

export interface ParsedWalName {
  readonly name: WalName;
  readonly kind: WalKind;
  readonly timeline: number;
  /** Upper 32 bits of the segment's address; 0 for history files. */
  readonly log: number;
  /** Number of the segment inside its log; 0 for history files. */
  readonly segment: number;
}

/** Takes a name apart; undefined when it is not the name of a WAL file. */
export function parseWalName(text: string): ParsedWalName | undefined {
  const match = WAL_NAME.exec(text);
  if (match === null || !isWalName(text)) return undefined;
  const [, timeline = '', log, segment, suffix] = match;
  const kind =
    log === undefined ? 'history' : suffix === undefined ? 'segment' : suffix === '.partial' ? 'partial' : 'backup';
  return {
    name: text,
    kind,
    timeline: Number.parseInt(timeline, 16),
    log: Number.parseInt(log ?? '0', 16),
    segment: Number.parseInt(segment ?? '0', 16),
  };
}

/** The name as a {@link WalName}; throws `invalid-wal-name` when it is none. `where` tells the user where the name came from. */
export function walName(text: string, where = 'the command line'): WalName {
  const parsed = parseWalName(text);
  if (parsed === undefined) {
    throw new WalwardenError(
      'invalid-wal-name',
      `not the name of a WAL file: ${JSON.stringify(text)} (from ${where})`,
      {
        hint: 'expected 24 hexadecimal digits, optionally with .partial or .XXXXXXXX.backup, or 8 digits with .history',
      },
    );
  }
  return parsed.name;
}

/**
 * Whether something by its name is of a timeline or a later one: WAL in any form, also as pg_receivewal compresses it.
 * The history file of the timeline itself is none of its WAL.
 */
export function isOfTimelineOrLater(entry: string, timeline: number): boolean {
  const [, digits, rest] = /^([0-9A-Fa-f]{8})([0-9A-Fa-f]{8}|\.history$)/.exec(entry) ?? [];
  if (digits === undefined) return false;
  const its = Number.parseInt(digits, 16);
  return its > timeline || (its === timeline && rest !== '.history');
}

export function isWalName(text: string): text is WalName {
  return WAL_NAME.test(text);
}

export function walKind(name: WalName): WalKind {
  if (name.length === 24) return 'segment';
  if (name.endsWith('.partial')) return 'partial';
  return name.endsWith('.backup') ? 'backup' : 'history';
}

/** The directory below `wals/` that holds a file: the first 16 digits, none for history files (Barman's layout). */
export function walDirectory(name: WalName): string {
  return walKind(name) === 'history' ? '' : name.slice(0, 16);
}

/** Throws `invalid-wal` unless the size is a power of two from 1 MiB to 1 GiB. */
export function checkSegmentSize(size: number): void {
  if (!isSegmentSize(size)) {
    throw new WalwardenError(
      'invalid-wal',
      `not a WAL segment size: expected a power of two from 1 MiB to 1 GiB, found ${size} bytes`,
    );
  }
}

export function isSegmentSize(size: number): boolean {
  return size >= MIN_SEGMENT_SIZE && size <= MAX_SEGMENT_SIZE && Number.isInteger(Math.log2(size));
}

/** Segments in one log (4 GiB of WAL) at a segment size in bytes. */
export function segmentsPerLog(segmentSize: number): number {
  checkSegmentSize(segmentSize);
  return 0x1_0000_0000 / segmentSize;
}

/** The running number of a segment, counted from the beginning of the WAL. */
export function segmentNumber(parsed: ParsedWalName, segmentSize: number): bigint {
  const perLog = segmentsPerLog(segmentSize);
  if (parsed.segment >= perLog) {
    throw new WalwardenError(
      'invalid-wal',
      `no such segment: ${parsed.name} has segment number ${parsed.segment}, but with segments of ${segmentSize} bytes a log has ${perLog}`,
    );
  }
  return BigInt(parsed.log) * BigInt(perLog) + BigInt(parsed.segment);
}

/** The LSN of a segment's first byte. */
export function segmentStart(parsed: ParsedWalName, segmentSize: number): Lsn {
  return segmentNumber(parsed, segmentSize) * BigInt(segmentSize);
}

const hex8 = (value: bigint | number): string => value.toString(16).toUpperCase().padStart(8, '0');

/** The name of the segment with a running number. */
export function segmentName(timeline: number, number: bigint, segmentSize: number): WalName {
  const perLog = BigInt(segmentsPerLog(segmentSize));
  return walName(`${hex8(timeline)}${hex8(number / perLog)}${hex8(number % perLog)}`, 'arithmetic');
}

/** The name of the segment that holds an LSN. */
export function segmentOfLsn(timeline: number, lsn: Lsn, segmentSize: number): WalName {
  return segmentName(timeline, lsn / BigInt(segmentSize), segmentSize);
}

/** The name of what is received of a segment, or was of its beginning. */
export function partialName(segment: WalName): WalName {
  return walName(`${segment}.partial`, 'arithmetic');
}

export function historyName(timeline: number): WalName {
  return walName(`${hex8(timeline)}.history`, 'arithmetic');
}
