import { count, formatBytes, formatMoment, formatSpan } from '../words.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import type { CheckResult } from './check-strategy.ts';

/** A directory that WAL files are delivered to. */
export interface QueueFacts {
  readonly directory: string;
  /** As Barman counts: neither temporaries nor dot files, and in streaming one less, for the position marker. */
  readonly files: number;
  /** Files that a pass would archive. */
  readonly waiting: number;
  /** The first of them; `arrived` is when its inode changed last, in milliseconds since the epoch. */
  readonly first: { readonly name: string; readonly arrived: number } | null;
}

/** When WAL was archived last by anybody: the time and the process in the lock file. */
export interface LastPass {
  readonly startedAt: number;
  /** The process that started it lives. */
  readonly running: boolean;
  readonly pid: number;
}

/** What the catalogue says of the archive. */
export interface ArchiveFacts {
  readonly files: number;
  /** As stored. */
  readonly bytes: number;
  /** The segment, or partial one, that was written last. */
  readonly newest: WalFileInfo | null;
  readonly damagedLines: number;
}

/** A file that waits longer than this, without a pass since it came, is one that nobody will take. */
const FORGOTTEN_MS = 3_600_000;

/** Cron comes every minute. */
const PATIENCE_MS = 120_000;

/** Why what waits was not archived; null when nothing waits. */
export function whyItWaits(queue: QueueFacts, pass: LastPass | null, now: number): string | null {
  const { first, waiting, directory } = queue;
  if (first === null) return null;
  const subject = `${count(waiting, 'file')} in ${directory} ${waiting === 1 ? 'waits' : 'wait'}, since ${formatMoment(first.arrived, now)}`;
  if (now - first.arrived < PATIENCE_MS && pass?.running !== true) {
    return `${subject}, for the next archive-wal${pass === null ? '' : ` (the last one ran at ${formatMoment(pass.startedAt, now)})`}`;
  }
  const who = 'is walwarden cron, or its daemon, at work?';
  if (pass === null) return `${subject}, and archive-wal has never run: ${who}`;
  const at = formatMoment(pass.startedAt, now);
  if (pass.running) return `${subject}; archive-wal is at work (process ${pass.pid}, since ${at})`;
  if (pass.startedAt < first.arrived) return `${subject}, and archive-wal has not run since ${at}: ${who}`;
  return `${subject}; archive-wal ran at ${at} and did not take ${waiting === 1 ? 'it' : 'them all'}: run it, or see its log`;
}

/** Whether files wait that nobody comes for. */
export function isForgotten({ first }: QueueFacts, pass: LastPass | null, now: number): boolean {
  if (first === null || now - first.arrived < FORGOTTEN_MS) return false;
  return pass === null || (!pass.running && pass.startedAt < first.arrived);
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
export function walSize({ files, bytes }: ArchiveFacts): CheckResult {
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
