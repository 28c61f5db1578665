import { messageOf, WalwardenError } from '../errors.ts';
import { lockOwner } from '../durable/lock-file.ts';
import type { CheckStrategy } from '../health/check-strategy.ts';
import type { StatusReport } from '../health/status-report.ts';
import type { RemoteStatus } from '../postgres/remote-status.ts';
import { findPgReceivewal, type PgReceivewal } from '../receiver/pg-receivewal.ts';
import { readReceiverReport, type ReceiverReport } from '../receiver/receiver-report.ts';
import type { ReceiverSettings } from '../receiver/receiver-settings.ts';
import { explain, formatMoment, formatTime, oneLine } from '../words.ts';

/** Where the facts of a receiver are found. */
export type StreamingHealthSources = Pick<ReceiverSettings, 'server' | 'pathPrefix' | 'lockPath' | 'reportPath'>;

/** What is known of the streaming of one server. */
export interface StreamingArchivalStatus {
  /** walwarden's name of the server. */
  readonly server: string;
  /** pg_receivewal, or why there is none. */
  readonly program: PgReceivewal | WalwardenError;
  /** `server_version_num` of the server that WAL is received from; null when that is not known. */
  readonly serverVersion: number | null;
  /** The process that holds the lock; 0 when it does not say who it is, null when nobody holds it. */
  readonly owner: number | null | WalwardenError;
  /** What a receiver told last; it may be another process that holds the lock now. */
  readonly report: ReceiverReport | null;
}

/** Collects these facts. Never rejects for what is missing. */
export async function fetchStreamingStatus(
  sources: StreamingHealthSources,
  { streaming, server }: RemoteStatus,
): Promise<StreamingArchivalStatus> {
  const [program, owner] = await Promise.all([
    orError(findPgReceivewal(sources.pathPrefix)),
    orError(ownerOf(sources.lockPath)),
  ]);
  return {
    server: sources.server,
    program,
    serverVersion: streaming?.serverVersion ?? server?.serverVersion ?? null,
    owner,
    // After the lock: a receiver that has just got it is about to write its own.
    report: await readReceiverReport(sources.reportPath),
  };
}

const asking = new Map<string, Promise<number | null>>();

/** Asks once at a time: who asks has the lock for a moment, and must not be taken for a receiver by our other checks. */
async function ownerOf(lockPath: string): Promise<number | null> {
  const known = asking.get(lockPath);
  if (known !== undefined) return known;
  const answer = lockOwner(lockPath).finally(() => asking.delete(lockPath));
  asking.set(lockPath, answer);
  return answer;
}

async function orError<T>(found: Promise<T>): Promise<T | WalwardenError> {
  try {
    return await found;
  } catch (error) {
    return error instanceof WalwardenError ? error : new WalwardenError('internal', messageOf(error), { cause: error });
  }
}

/** `pg_receivexlog`, `pg_receivexlog compatible`, `receive-wal running`: Barman's names, older than pg_receivewal's. */
export function checkStreaming(strategy: CheckStrategy, status: StreamingArchivalStatus, now = Date.now()): void {
  const { program, serverVersion } = status;
  strategy.initCheck('pg_receivexlog');
  if (program instanceof WalwardenError) {
    strategy.result(false, explain(program));
  } else {
    strategy.result(true, `${program.path}, version ${program.version}`);
    strategy.initCheck('pg_receivexlog compatible');
    if (serverVersion !== null) {
      const server = Math.floor(serverVersion / 10_000);
      const fits = program.major >= server;
      strategy.result(
        fits,
        fits ? null : `PostgreSQL ${server} can't be received by ${program.path} ${program.version}: ${NEWER_PROGRAM}`,
      );
    }
  }
  strategy.initCheck('receive-wal running');
  const trouble = whyNothingIsReceived(status, now);
  strategy.result(trouble === null, trouble ?? receiving(status, now));
}

const NEWER_PROGRAM =
  'install the client programs of that version or a later one, and let path_prefix name their directory';

/** A receiver that streams says so every half a minute. */
const SILENCE_MS = 300_000;

/** Why no WAL is being received; null when it is, as far as can be known. */
export function whyNothingIsReceived(status: StreamingArchivalStatus, now = Date.now()): string | null {
  const { server, owner, report } = status;
  if (owner instanceof WalwardenError) return `it can't be told: ${explain(owner)}`;
  if (owner === null || hasLetGo(owner, report, now))
    return `no receive-wal runs for this server; ${lastWords(report, server, now)}`;
  // Barman's own, say: it holds the same lock, and tells us nothing.
  if (report === null || (owner !== 0 && report.pid !== owner)) return null;
  const since = `since ${formatMoment(report.since, now)}`;
  const because = report.cause === null ? '' : `: ${causeOf(report)}`;
  const next =
    report.retryAt !== null && report.retryAt > now ? `; it tries again at ${formatTime(report.retryAt)}` : '';
  switch (report.state) {
    case 'streaming': {
      const silent = report.lastStreamed !== null && now - report.lastStreamed > SILENCE_MS;
      return silent
        ? `process ${report.pid} runs, but gave its last sign of life at ${formatMoment(report.lastStreamed, now)}`
        : null;
    }
    case 'preparing':
      // Between two tries it is what the last one ended with that counts.
      return report.cause === null ? null : `it tries again ${since}, after${because.slice(1)}`;
    case 'waiting':
      return `process ${report.pid} runs, but receives nothing ${since}${because}${next}`;
    case 'blocked':
      return `process ${report.pid} runs, but can't receive until somebody acts, ${since}${because}${next}`;
    case 'low-disk':
      return `paused for lack of disk space ${since}${because}; it goes on by itself once there is space`;
    case 'stopping':
    case 'stopped':
      return `process ${report.pid} is ending, ${since}${because}`;
  }
}

/** An LSN up to which WAL is received without the slot; null when it is received with it, or not at all. */
export function receivedWithoutSlotUntil(status: StreamingArchivalStatus, now = Date.now()): string | null {
  const { owner, report } = status;
  if (report === null || (owner !== 0 && owner !== report.pid)) return null;
  return whyNothingIsReceived(status, now) === null ? report.withoutSlotUntil : null;
}

/** Its last word comes right before it lets go of the lock. */
const LETS_GO_MS = 10_000;

/** Whoever has the lock now, such as somebody who looks whether it is free, is not the process that the file still names. */
function hasLetGo(owner: number, report: ReceiverReport | null, now: number): boolean {
  return report?.state === 'stopped' && report.pid === owner && now - report.since > LETS_GO_MS;
}

function receiving({ owner, report }: StreamingArchivalStatus, now: number): string | null {
  if (owner === null || owner instanceof WalwardenError) return null;
  if (report === null || (owner !== 0 && report.pid !== owner)) {
    return owner === 0 ? 'another program holds its lock' : `process ${owner}, which does not tell what it does`;
  }
  const doing = report.state === 'streaming' ? 'receiving' : 'about to receive,';
  return `process ${report.pid}, ${doing} since ${formatMoment(report.since, now)}`;
}

function lastWords(report: ReceiverReport | null, server: string, now: number): string {
  const start = `start it with walwarden receive-wal ${server}, or let walwarden cron do it`;
  if (report === null) return start;
  const streamed =
    report.lastStreamed === null ? 'it never received' : `it received until ${formatMoment(report.lastStreamed, now)}`;
  // Without its last word it was killed.
  const ended =
    report.state === 'stopped'
      ? `it stopped at ${formatTime(report.since)}`
      : `process ${report.pid} is gone without having stopped`;
  const cause = report.cause === null ? '' : ` (${causeOf(report)})`;
  return `${ended}${cause}, ${streamed}; ${start}`;
}

function causeOf({ cause }: ReceiverReport): string {
  if (cause === null) return '';
  return oneLine(cause.hint === null ? cause.message : `${cause.message}; ${cause.hint}`);
}

/** What `status` says of them. */
export function reportStreaming(report: StatusReport, status: StreamingArchivalStatus, now = Date.now()): void {
  const { program, owner, report: told } = status;
  if (program instanceof WalwardenError) {
    report.add('pg_receivexlog', 'pg_receivewal', null, `FAILED (${explain(program)})`);
  } else {
    const { path, version } = program;
    report.add('pg_receivexlog', 'pg_receivewal', { path, version }, `${path}, version ${version}`);
  }
  const trouble = whyNothingIsReceived(status, now);
  const pid = typeof owner === 'number' && owner > 0 ? owner : null;
  report.add(
    'receive_wal_running',
    'receive-wal running',
    trouble === null,
    trouble === null ? 'True' : `False (${trouble})`,
  );
  report.add('receive_wal_pid', 'receive-wal process', pid, pid === null ? 'none' : `${pid}`);
  if (told === null) return;
  const mine = pid !== null && told.pid === pid;
  report.add(
    'receive_wal_state',
    'receive-wal state',
    told.state,
    mine ? told.state : `${told.state}, told by process ${told.pid}`,
  );
  report.add('receive_wal_since', 'receive-wal in this state since', told.since / 1000, formatMoment(told.since, now));
  if (told.state !== 'streaming' || !mine) {
    report.add(
      'receive_wal_last_streamed',
      'receive-wal received last',
      told.lastStreamed === null ? null : told.lastStreamed / 1000,
      told.lastStreamed === null ? 'never' : formatMoment(told.lastStreamed, now),
    );
  }
  report.add('receive_wal_restarts', 'receive-wal restarts of pg_receivewal', told.restarts, `${told.restarts}`);
  report.add(
    'receive_wal_stalls',
    'receive-wal restarts of a hung pg_receivewal',
    { stalls: told.stalls, last: told.lastStall === null ? null : told.lastStall / 1000 },
    told.lastStall === null ? 'none' : `${told.stalls}, the last at ${formatMoment(told.lastStall, now)}`,
  );
  const { cause } = told;
  if (cause !== null) {
    const { failure, message, hint } = cause;
    report.add('receive_wal_cause', 'receive-wal interrupted by', { failure, message, hint }, causeOf(told));
  }
  report.add('receive_wal_slot', 'receive-wal slot', told.slotName, told.slotName ?? 'none');
  if (told.synchronous !== null) {
    report.add(
      'receive_wal_synchronous',
      'receive-wal synchronous',
      told.synchronous,
      told.synchronous ? 'True' : 'False',
    );
  }
}
