import { count, formatBytes, formatMoment, formatSpan, formatTime } from '../words.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import type { Gap } from '../wal/gaps.ts';
import type { SegmentRange, TimelineSummary } from '../wal/wal-ranges.ts';
import type { WalName } from '../wal/wal-name.ts';
import type { CheckResult } from './check-strategy.ts';
import type { ListingFacts } from './listing-check.ts';

/** A directory that WAL files are delivered to. */
export interface QueueFacts {
  readonly kind: 'incoming' | 'streaming';
  readonly directory: string;
  /** As Barman counts: neither temporaries nor dot files, and in streaming one less, for the position marker. */
  readonly files: number;
  /** Files that a pass would archive. */
  readonly waiting: number;
  /** The first of them; `arrived` is when its inode changed last, in milliseconds since the epoch. */
  readonly first: { readonly name: string; readonly arrived: number } | null;
  /** Of the first some: those that have been there for a while, and can't be read. */
  readonly unreadable: UnreadableFiles | null;
}

export interface UnreadableFiles {
  readonly files: number;
  /** There may be more: only so many were looked at. */
  readonly more: boolean;
  readonly first: { readonly name: string; readonly arrived: number; readonly mode: string; readonly owner: string };
  readonly errno: string;
  /** Whom we run as. */
  readonly user: string;
}

/** When WAL was archived last by anybody: the time and the process in the lock file. */
export interface LastPass {
  readonly startedAt: number;
  /** The process that started it lives. */
  readonly running: boolean;
  readonly pid: number;
}

/** What `archive-wal` remembers of passes that ended early. */
export interface FailureFacts {
  readonly since: number;
  readonly last: number;
  readonly passes: number;
  readonly message: string;
  readonly hint: string | null;
}

/** Since when nothing can be archived, and why. */
export function describeFailure({ since, last, passes, message, hint }: FailureFacts, now: number): string {
  const times =
    passes === 1
      ? `archive-wal failed at ${formatMoment(last, now)}`
      : `archive-wal fails since ${formatMoment(since, now)} (${count(passes, 'pass', 'passes')}, the last at ${formatTime(last)})`;
  return `${times}: ${message}${hint === null ? '' : `; ${hint}`}`;
}

/** What the catalogue says of the archive. */
export interface ArchiveFacts {
  readonly files: number;
  /** As stored. */
  readonly bytes: number;
  /** The segment, or partial one, that was written last. */
  readonly newest: WalFileInfo | null;
  readonly damagedLines: number;
  /** What is remembered of the last listing; null when there was none. */
  readonly listing: ListingFacts | null;
  /** Of the files that were missing in it: those that have a line now. */
  readonly stillListed: readonly WalName[];
  readonly timelines: readonly TimelineSummary[];
  readonly segmentSize: number;
  /** Files to be looked at: the newest, the oldest by name, and those at a third and at two thirds of the catalogue. */
  readonly sample: readonly WalFileInfo[];
}

/** A file that still waits after this, though a pass has come since, is one that was left. */
const LEFT_MS = 300_000;

/** A file that waits longer than this, without a pass since it came, is one that nobody will take. */
const FORGOTTEN_MS = 3_600_000;

/** Cron comes every minute. */
const PATIENCE_MS = 120_000;

/** Why what waits was not archived; null when nothing waits. `failure`: of the last pass. */
export function whyItWaits(
  queue: QueueFacts,
  pass: LastPass | null,
  now: number,
  server: string,
  failure: FailureFacts | null = null,
): string | null {
  const { first, waiting, directory, unreadable } = queue;
  if (unreadable !== null) return whyUnreadable(queue, unreadable, now);
  if (first === null) return null;
  const subject = `${count(waiting, 'file')} in ${directory} ${waiting === 1 ? 'waits' : 'wait'}, since ${formatMoment(first.arrived, now)}`;
  if (failure !== null) {
    const atWork = pass?.running === true ? ` (process ${pass.pid} tries again)` : '';
    return `${subject}; ${describeFailure(failure, now)}${atWork}`;
  }
  if (now - first.arrived < PATIENCE_MS && pass?.running !== true) {
    return `${subject}, for the next archive-wal${pass === null ? '' : ` (the last one ran at ${formatMoment(pass.startedAt, now)})`}`;
  }
  const who = 'is walwarden cron, or its daemon, at work?';
  if (pass === null) return `${subject}, and archive-wal has never run: ${who}`;
  const at = formatMoment(pass.startedAt, now);
  if (pass.running) return `${subject}; archive-wal is at work (process ${pass.pid}, since ${at})`;
  if (pass.startedAt < first.arrived) return `${subject}, and archive-wal has not run since ${at}: ${who}`;
  const left = waiting === 1 ? 'it' : `the first, ${first.name}`;
  return `${subject}; archive-wal ran at ${at} and left ${left}: walwarden archive-wal ${server} tells why`;
}

function whyUnreadable({ kind, directory }: QueueFacts, found: UnreadableFiles, now: number): string {
  const { files, more, first, errno, user } = found;
  const { name, mode, owner, arrived } = first;
  const advice =
    kind === 'incoming'
      ? `chmod or chown them, and let archive_command leave them readable for ${user}, or deliver by walwarden put-wal`
      : `chown them to ${user}, and run receive-wal as that user`;
  return (
    `${more ? 'at least ' : ''}${count(files, 'file')} in ${directory} can't be read by ${user}: ${errno} ` +
    `(first ${name}, of ${owner}, mode ${mode}, since ${formatMoment(arrived, now)}): ${advice}`
  );
}

/** Whether files wait that nobody comes for, or that were left where they are; `patienceMs`: what a pass leaves a file on purpose. */
export function isStuck(
  { kind, first, unreadable }: QueueFacts,
  pass: LastPass | null,
  now: number,
  patienceMs = 0,
): boolean {
  if (unreadable !== null) return true;
  if (first === null || pass?.running === true) return false;
  // Which partial files pg_receivewal may go on with, their names tell only almost.
  const mayStay = kind === 'streaming' && first.name.endsWith('.partial');
  const left = !mayStay && pass !== null && pass.startedAt >= first.arrived;
  return now - first.arrived >= patienceMs + (left ? LEFT_MS : FORGOTTEN_MS);
}

export interface QueueCheckOptions {
  readonly kind: 'incoming' | 'streaming';
  readonly enabled: boolean;
  /** `max_incoming_wals_queue`; null for no limit. */
  readonly limit: number | null;
  /** Why the files wait. */
  readonly why: string | null;
}

/** `empty … directory` of an archiver that is off, `… WALs directory` of one that is on; as in Barman only where they fail. */
export function checkQueue({ directory, files }: QueueFacts, options: QueueCheckOptions): CheckResult[] {
  const { kind, enabled, limit } = options;
  if (!enabled) {
    if (files <= 0) return [];
    const option = kind === 'incoming' ? 'archiver' : 'streaming_archiver';
    const hint = `${count(files, 'file')} in ${directory} will never be archived as long as ${option} = off: set it to on, or see who delivers there`;
    return [{ check: `empty ${kind} directory`, ok: false, hint }];
  }
  if (limit === null || files <= limit) return [];
  const why = options.why === null ? '' : `; ${options.why}`;
  return [
    { check: `${kind} WALs directory`, ok: false, hint: `${files} files, max_incoming_wals_queue = ${limit}${why}` },
  ];
}

/** What is missing in the archive, in a line; null when nothing is. A history file counts as no segment. */
export function describeGaps(gaps: readonly SegmentRange[], server: string): string | null {
  const ranges = gaps.filter(({ segments }) => segments > 0);
  const histories = gaps.filter(({ segments }) => segments === 0).map(({ first }) => first);
  const [first] = ranges;
  const last = ranges.at(-1);
  const parts: string[] = [];
  if (first !== undefined && last !== undefined) {
    const missing = ranges.reduce((sum, { segments }) => sum + segments, 0);
    const where = missing === 1 ? first.first : `between ${first.first} and ${last.last}`;
    parts.push(`${count(missing, 'segment')} missing, ${where}`);
  }
  if (histories.length > 0) parts.push(`history missing, ${histories.join(', ')}`);
  if (parts.length === 0) return null;
  return `${parts.join('; ')}: walwarden list-wals --gaps ${server}; a recovery can't go across them`;
}

/** That there are no gaps, for who is told that all is well; or that there are, and why that is no alarm. */
export function praiseGaps(gaps: readonly Gap[], files: number): string {
  const open = gaps.filter(({ acknowledged }) => acknowledged === undefined).length;
  if (open > 0) return `${count(open, 'gap')} that gap_severity makes nothing of`;
  const known = gaps.length === 0 ? '' : ` but ${count(gaps.length, 'acknowledged one')}`;
  return `no gap${known} in ${count(files, 'catalogued file')}`;
}

/** What `gap_severity` makes of gaps that nobody has acknowledged. */
export type GapSeverity = 'warning' | 'critical' | 'ok';

/** `wal maximum age`: `last_wal_maximum_age` in milliseconds. */
export function checkWalAge(newest: WalFileInfo | null, maximum: number | null, now: number): CheckResult {
  const check = 'wal maximum age';
  if (maximum === null) return { check, ok: true, hint: 'last_wal_maximum_age is not set' };
  if (newest === null) return { check, ok: false, hint: 'nothing is archived' };
  const age = Math.max(0, now - newest.mtime * 1000);
  const hint = `the newest archived WAL, ${newest.name}, was written ${formatSpan(age)} ago; last_wal_maximum_age is ${formatSpan(maximum)}`;
  return { check, ok: age <= maximum, hint };
}

/** `wal size`: what is stored, for performance data. */
export function walSize({
  files,
  bytes,
}: Pick<ArchiveFacts, 'files' | 'bytes' | 'newest' | 'damagedLines'>): CheckResult {
  return { check: 'wal size', ok: true, hint: `${formatBytes(bytes)} in ${count(files, 'file')}`, bytes };
}

/** `archiver errors`: names in the errors directory, and Barman's summary of them. */
export function checkArchiverErrors(names: readonly string[], summary: string | null, server: string): CheckResult {
  const check = 'archiver errors';
  // What receive-wal --reset set aside is kept for somebody to look at, but nothing failed.
  const failures = names.filter((name) => !name.endsWith('.reset'));
  if (failures.length === 0) return { check, ok: true, hint: summary };
  return { check, ok: false, hint: `${summary ?? ''}; see: walwarden errors explain ${server}` };
}

/** A segment that was delivered and refused more than once; the time is in milliseconds since the epoch. */
export interface RefusedFacts {
  readonly name: string;
  readonly reason: string;
  readonly times: number;
  readonly last: number;
}

/** `refused WAL`: what is broken in pg_wal itself is refused for ever, and no segment after it comes. */
export function checkRefusedSegment(
  { name, reason, times, last }: RefusedFacts,
  server: string,
  now: number,
): CheckResult {
  const hint =
    `${name} was refused ${count(times, 'time')} with the same content, last ${formatMoment(last, now)}: ${reason}; ` +
    'PostgreSQL keeps it and all that follows in pg_wal, which fills up; ' +
    `to have it archived as it is (no recovery goes past that page then): walwarden errors resolve --as-it-is ${server} ${name}`;
  return { check: 'refused WAL', ok: false, hint };
}

/** `WAL headers`, where they are not verified; the sizes of segments that we count on, and that the server tells, are in bytes, null where they are not known. */
export function checkOpaqueWal(known: number | null, told: number | null): CheckResult {
  const check = 'WAL headers';
  const off = 'they are not verified, for verify_wal_header is off';
  if (known === null) {
    const hint = `${off}, and no segment is taken while the size of the server's segments is not known: set wal_segment_size, or let conninfo or streaming_conninfo reach the server, which is asked`;
    return { check, ok: false, hint };
  }
  if (told !== null && told !== known) {
    const hint = `${off}, and segments have to have ${known} bytes, but those of the server have ${told}: set wal_segment_size`;
    return { check, ok: false, hint };
  }
  return { check, ok: true, hint: `${off}: a segment is taken by its name and its size of ${formatBytes(known)}` };
}
