import { constants, type Stats } from 'node:fs';
import { access, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { openDelivered } from '../durable/delivered-file.ts';
import { writeNewFile, fsyncDirectory } from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import type { Lsn } from '../wal/lsn.ts';
import { decodeLongPageHeader, LONG_PAGE_HEADER_SIZE, type LongPageHeader } from '../wal/page-header.ts';
import { segmentOfLsn, segmentsPerLog } from '../wal/wal-name.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import type { TimelinePosition } from './server-history.ts';

/** What pg_receivewal orders files by. */
export interface SegmentPlace {
  readonly timeline: number;
  /** Running number, as `segmentNumber` counts. */
  readonly segment: bigint;
  readonly partial: boolean;
}

/** A file that pg_receivewal takes into account when it looks where to go on. */
export interface StreamingFile extends SegmentPlace {
  readonly entry: string;
  /** Written with --compress, which neither we nor Barman use: its size says nothing. */
  readonly compressed: boolean;
  /** Bytes. */
  readonly size: number;
}

/** Where pg_receivewal will go on from, and the file that tells it. */
export interface StreamingStart extends TimelinePosition {
  readonly file: StreamingFile;
}

// pg_receivewal.c, is_xlogfilename: upper case only.
const ENTRY = /^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(\.gz|\.lz4)?(\.partial)?$/;

/** Throws `storage` unless pg_receivewal could write into the directory. */
export async function checkStreamingDirectory(directory: string): Promise<void> {
  try {
    if (!(await stat(directory)).isDirectory()) {
      throw new WalwardenError('storage', `${directory} is not a directory`, { hint: directoryHint() });
    }
    await access(directory, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw cause instanceof WalwardenError ? cause : directoryError(directory, 'write', cause);
  }
}

function directoryHint(): string {
  return 'it is streaming_wals_directory: mount or create it, owned by the user that walwarden runs as';
}

function directoryError(directory: string, verb: string, cause: unknown): WalwardenError {
  const missing = errnoOf(cause) === 'ENOENT';
  const what = missing ? `there is no directory ${directory}` : `can't ${verb} ${directory}: ${messageOf(cause)}`;
  return new WalwardenError('storage', what, { cause, hint: directoryHint() });
}

/** What lies there, as far as pg_receivewal looks at it. */
export async function listStreamingFiles(directory: string, segmentSize: number): Promise<StreamingFile[]> {
  let entries: string[];
  try {
    entries = (await readdir(directory)).sort();
  } catch (cause) {
    throw directoryError(directory, 'read', cause);
  }
  const files: StreamingFile[] = [];
  for (const entry of entries) {
    const place = placeOf(entry, segmentSize);
    if (place === null) continue;
    const found = await statIfThere(join(directory, entry));
    // An archive pass may have taken it meanwhile.
    if (found === null || !found.isFile()) continue;
    files.push({ ...place, size: found.size });
  }
  return files;
}

/** What a name says; null when pg_receivewal doesn't look at it. */
function placeOf(entry: string, segmentSize: number): Omit<StreamingFile, 'size'> | null {
  const match = ENTRY.exec(entry);
  if (match === null) return null;
  const [timeline = 0, log = 0, segment = 0] = match.slice(1, 4).map((digits) => Number.parseInt(digits, 16));
  return {
    entry,
    timeline,
    segment: BigInt(log) * BigInt(segmentsPerLog(segmentSize)) + BigInt(segment),
    compressed: match[4] !== undefined,
    partial: match[5] !== undefined,
  };
}

/** What was received last, by the file that pg_receivewal writes: whatever it receives, this is another text. */
export interface LastReceived {
  readonly text: string;
  /** Where the segment of that file ends; null when there is none. */
  readonly below: Lsn | null;
}

/** One directory read and one look at a file, however many wait there to be archived. */
export async function lastReceived(directory: string, segmentSize: number): Promise<LastReceived> {
  let newest: Omit<StreamingFile, 'size'> | null = null;
  for (const entry of await readdir(directory)) {
    const place = placeOf(entry, segmentSize);
    if (place !== null && (newest === null || comesAfter(place, newest))) newest = place;
  }
  if (newest === null) return { text: 'nothing', below: null };
  const { mtimeNs, size } = await stat(join(directory, newest.entry), { bigint: true });
  const below = (newest.segment + 1n) * BigInt(segmentSize);
  return { text: `${newest.entry} ${size} ${mtimeNs}`, below };
}

async function statIfThere(path: string): Promise<Stats | null> {
  try {
    return await stat(path);
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return null;
    throw new WalwardenError('storage', `can't look at ${path}: ${messageOf(cause)}`, { cause });
  }
}

/**
 * Whether pg_receivewal prefers one file to another: the greater segment, then
 * the later timeline, then the complete one (pg_receivewal.c,
 * FindStreamingStart). Names sort timelines first, so the newest name is not
 * always the one that it goes on from.
 */
export function comesAfter(a: SegmentPlace, b: SegmentPlace): boolean {
  if (a.segment !== b.segment) return a.segment > b.segment;
  if (a.timeline !== b.timeline) return a.timeline > b.timeline;
  return b.partial && !a.partial;
}

/** Where pg_receivewal would start, by these files; null: where the slot is, or the server. */
export function findStreamingStart(files: readonly StreamingFile[], segmentSize: number): StreamingStart | null {
  let newest: StreamingFile | null = null;
  for (const file of files) {
    // It warns of a complete segment of a wrong size, and skips it. Segment 0 it takes for "none".
    if (file.segment === 0n || (!file.partial && !file.compressed && file.size !== segmentSize)) continue;
    if (newest === null || comesAfter(file, newest)) newest = file;
  }
  if (newest === null) return null;
  const first = newest.partial ? newest.segment : newest.segment + 1n;
  return { file: newest, timeline: newest.timeline, lsn: first * BigInt(segmentSize) };
}

/** Between two looks at what is received, in milliseconds. */
const LOOK_MS = 500;

/** Resolves once pg_receivewal would start at an LSN or behind it; rejects when the signal fires. */
export async function untilReceived(
  directory: string,
  segmentSize: number,
  lsn: Lsn,
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    const start = findStreamingStart(await listStreamingFiles(directory, segmentSize), segmentSize);
    if (start !== null && start.lsn >= lsn) return;
    await delay(LOOK_MS, undefined, { signal });
  }
}

/** The first page's header of a file; null when it has none (yet): empty, only zeros, compressed, or gone. */
export async function readHeader(directory: string, file: StreamingFile): Promise<LongPageHeader | null> {
  const path = join(directory, file.entry);
  try {
    await using found = await openDelivered(path);
    const { buffer, bytesRead } = await found.handle.read(
      Buffer.alloc(LONG_PAGE_HEADER_SIZE),
      0,
      LONG_PAGE_HEADER_SIZE,
      0,
    );
    const decoded = decodeLongPageHeader(buffer.subarray(0, bytesRead));
    return decoded.ok ? decoded.header : null;
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return null;
    throw new WalwardenError('storage', `can't read ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** Moves a file to errors, as `.reset`. Resolves to a line that says so. */
export async function setAside(
  { streamingDirectory, errors }: Pick<ReceiverSettings, 'streamingDirectory' | 'errors'>,
  { entry }: StreamingFile,
  reason: string,
): Promise<string> {
  const path = join(streamingDirectory, entry);
  const moved = await errors.take(path, entry, 'reset', reason);
  return `Moving status file ${path} to ${join(errors.path, moved)}`;
}

/**
 * Makes pg_receivewal start with the segment that holds an LSN: an empty
 * partial file of its name, durable when it resolves to that name.
 */
export async function createPosition(
  directory: string,
  at: { readonly timeline: number; readonly lsn: Lsn },
  segmentSize: number,
): Promise<string> {
  const entry = `${segmentOfLsn(at.timeline, at.lsn, segmentSize)}.partial`;
  try {
    await writeNewFile(join(directory, entry), Buffer.alloc(0), { mode: 0o600 });
    await fsyncDirectory(directory);
  } catch (cause) {
    throw directoryError(directory, 'write', cause);
  }
  return entry;
}
