import { readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fsyncDirectory, replaceFile } from '../durable/durable-file.ts';
import type { PostgresFailure } from '../postgres/failure.ts';

/** What a receiver is doing; the states of its transition table. */
export type ReceiverState =
  | 'preparing' // looks whether streaming is possible, and starts pg_receivewal
  | 'streaming'
  | 'waiting' // until the next try, after a cause that may pass by itself
  | 'blocked' // until the next try, after a cause that somebody has to remove
  | 'low-disk' // until there is space again
  | 'stopping'
  | 'stopped';

/** Why a receiver does not stream; `failure` extends PostgreSQL's causes by our own. */
export interface ReceiverCause {
  readonly failure:
    | PostgresFailure
    | 'program-missing' // no pg_receivewal
    | 'low-disk'
    | 'directory' // streaming/ can't be written
    | 'killed' // pg_receivewal was, from outside
    | 'stalled'; // pg_receivewal received nothing, though the server was ahead
  readonly message: string;
  readonly hint: string | null;
}

/**
 * What a receiver tells other processes (`status`, `check`), as JSON in
 * `<backup_directory>/.receive-wal.json`. Advisory: whether it runs, its lock says.
 */
export interface ReceiverReport {
  readonly pid: number;
  readonly state: ReceiverState;
  /** Milliseconds since the epoch, as all times here. */
  readonly since: number;
  readonly startedAt: number;
  /** When it streamed last, to half a minute while it does; null when it never did. */
  readonly lastStreamed: number | null;
  /** Starts of pg_receivewal after the first. */
  readonly restarts: number;
  /** How often pg_receivewal hung, and was started again for that. */
  readonly stalls: number;
  /** When it did so last, in this process or one before; null when it never did. */
  readonly lastStall: number | null;
  /** Why it does not stream; null while it does, and before it tried. */
  readonly cause: ReceiverCause | null;
  readonly retryAt: number | null;
  readonly slotName: string | null;
  /** An LSN up to which it receives without the slot, which reserves WAL from there on only; null when it does not. */
  readonly withoutSlotUntil: string | null;
  /** Whether the server waited for us when it was asked last, also by a process before: while it is away that counts. */
  readonly synchronous: boolean | null;
  /** pg_receivewal's version text. */
  readonly program: string | null;
}

/** Every value of a union, which a type alone can't list; the compiler finds the one that is missing. */
const STATES: Readonly<Record<ReceiverState, true>> = {
  preparing: true,
  streaming: true,
  waiting: true,
  blocked: true,
  'low-disk': true,
  stopping: true,
  stopped: true,
};

const FAILURES: Readonly<Record<ReceiverCause['failure'], true>> = {
  unreachable: true,
  'starting-up': true,
  authentication: true,
  'pg-hba': true,
  tls: true,
  'no-privilege': true,
  'too-many-walsenders': true,
  'too-many-connections': true,
  'wal-level': true,
  'slot-missing': true,
  'slot-active': true,
  'slot-exhausted': true,
  'wal-removed': true,
  'history-missing': true,
  'timeline-diverged': true,
  'other-cluster': true,
  'server-newer': true,
  misconfigured: true,
  other: true,
  'program-missing': true,
  'low-disk': true,
  directory: true,
  killed: true,
  stalled: true,
};

/**
 * Writes a report for others to read; durable where asked, which what the next
 * receiver decides by has to be. Rejects when the disk is full, say; the caller
 * goes on.
 */
export async function writeReceiverReport(
  path: string,
  report: ReceiverReport,
  options: { readonly durable?: boolean } = {},
): Promise<void> {
  const text = `${JSON.stringify(report, null, 2)}\n`;
  if (options.durable === true) {
    await replaceFile(path, Buffer.from(text), { mode: 0o600 });
    return fsyncDirectory(dirname(path));
  }
  // One writer, the holder of the receive-wal lock: one name is enough, and nothing piles up.
  const temporary = `${path}.tmp`;
  await writeFile(temporary, text, { mode: 0o600 });
  await rename(temporary, path);
}

/** The last report of a server's receiver; null when there is none, or none that can be understood. */
export async function readReceiverReport(path: string): Promise<ReceiverReport | null> {
  try {
    return parseReport(JSON.parse(await readFile(path, 'utf8')));
  } catch {
    // Missing, unreadable or no JSON: it is only advice.
    return null;
  }
}

type Guard<T> = (value: unknown) => value is T;

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);
const isText = (value: unknown): value is string => typeof value === 'string';
const isBoolean = (value: unknown): value is boolean => typeof value === 'boolean';

function isKeyOf<T extends string>(value: unknown, table: Readonly<Record<T, true>>): value is T {
  return typeof value === 'string' && Object.hasOwn(table, value);
}

function isNullOr<T>(value: unknown, guard: Guard<T>): value is T | null {
  return value === null || guard(value);
}

function isCause(value: unknown): value is ReceiverCause {
  if (!isRecord(value)) return false;
  const { failure, message, hint } = value;
  return isKeyOf(failure, FAILURES) && isText(message) && isNullOr(hint, isText);
}

function parseReport(value: unknown): ReceiverReport | null {
  if (!isRecord(value)) return null;
  const { pid, state, since, startedAt, lastStreamed, restarts, cause, retryAt, slotName, synchronous, program } =
    value;
  // An older version's report has none of these.
  const { stalls = 0, lastStall = null, withoutSlotUntil = null } = value;
  if (!isNumber(pid) || !isKeyOf(state, STATES) || !isNumber(since) || !isNumber(startedAt)) return null;
  if (!isNumber(restarts) || !isNullOr(lastStreamed, isNumber) || !isNullOr(retryAt, isNumber)) return null;
  if (!isNumber(stalls) || !isNullOr(lastStall, isNumber) || !isNullOr(withoutSlotUntil, isText)) return null;
  if (!isNullOr(slotName, isText) || !isNullOr(synchronous, isBoolean) || !isNullOr(program, isText)) return null;
  if (!isNullOr(cause, isCause)) return null;
  return {
    pid,
    state,
    since,
    startedAt,
    lastStreamed,
    restarts,
    stalls,
    lastStall,
    cause,
    retryAt,
    slotName,
    withoutSlotUntil,
    synchronous,
    program,
  };
}
