import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { ArchiveSummary } from '../archiver/wal-archiver.ts';
import { isThere } from '../durable/durable-file.ts';
import { lockOwner } from '../durable/lock-file.ts';
import { isErrorCode, WalwardenError } from '../errors.ts';
import { readReceiverReport } from '../receiver/receiver-report.ts';
import type { Server } from '../server.ts';
import type { WalName } from '../wal/wal-name.ts';
import { formatTime } from '../words.ts';

export interface WaitOptions {
  /** Null: for ever. */
  readonly timeoutSeconds: number | null;
  /** Told what was archived meanwhile. */
  readonly say: (text: string) => void;
  readonly drain: AbortSignal;
}

/** Between one look and the next. */
const INTERVAL_MS = 200;
/** A new segment is among the last lines of the catalogue; whether it is an old one is asked less often, and of a bucket it is a request. */
const THOROUGH_MS = 5_000;

/**
 * Archives, until a segment is in the catalogue, or, where that is null, until
 * any new file is; resolves to its name. When another process archives, it only
 * looks. Throws, with the cause, when the time is over or the segment can't be
 * archived.
 */
export async function waitUntilArchived(server: Server, wal: WalName | null, options: WaitOptions): Promise<WalName> {
  const { timeoutSeconds, say, drain } = options;
  const deadline = timeoutSeconds === null ? Infinity : Date.now() + timeoutSeconds * 1_000;
  const before = new Set(wal === null ? await newestNames(server) : []);
  let thoroughAt = 0;
  const look = async (): Promise<WalName | undefined> => {
    if (wal === null) return (await newestNames(server)).find((name) => !before.has(name));
    if ((await newestNames(server)).includes(wal)) return wal;
    if (Date.now() - thoroughAt < THOROUGH_MS) return undefined;
    thoroughAt = Date.now();
    return (await isListed(server, wal)) ? wal : undefined;
  };
  for (;;) {
    const { passes, fault } = await archiveUnlessBusy(server);
    for (const summary of passes) {
      tell(server, summary, say);
      if (wal !== null) refuse(server, summary, wal);
    }
    const archived = await look();
    if (archived !== undefined) return archived;
    if (fault !== null) throw fault;
    if (drain.aborted) throw new WalwardenError('aborted', 'asked to stop before the WAL file was archived');
    const left = deadline - Date.now();
    if (left <= 0) throw await notReceived(server, wal, timeoutSeconds ?? 0);
    await delay(Math.min(left, INTERVAL_MS));
  }
}

/** Is it anywhere in the catalogue? Only a file that is there is looked for in all of it. */
async function isListed({ catalogue, strategy }: Server, wal: WalName): Promise<boolean> {
  return (await strategy.stored([wal])).has(wal) && (await catalogue.find(wal)) !== undefined;
}

async function newestNames({ catalogue }: Server): Promise<readonly WalName[]> {
  return (await catalogue.readLast()).map(({ name }) => name);
}

/** `fault`: what kept it from doing everything, where it archived what it could. */
async function archiveUnlessBusy(
  server: Server,
): Promise<{ readonly passes: readonly ArchiveSummary[]; readonly fault: WalwardenError | null }> {
  const passes: ArchiveSummary[] = [];
  try {
    await server.archive(false, (pass) => passes.push(pass));
  } catch (error) {
    if (isErrorCode(error, 'source')) return { passes, fault: error };
    if (!isErrorCode(error, 'locked')) throw error;
  }
  return { passes, fault: null };
}

/** Barman's words. */
function tell(server: Server, { archiver, archived }: ArchiveSummary, say: WaitOptions['say']): void {
  if (archived.length === 0) return;
  const names = archived.map(({ name }) => `\t${name}\n`).join('');
  say(`Processing xlog segments from ${archiver} for ${server.name}\n${names}`);
}

/** No waiting helps once it is known that it won't be archived. */
function refuse(server: Server, { conflicts, unknown, failed }: ArchiveSummary, wal: WalName): void {
  const found = [...conflicts, ...unknown, ...failed].find(({ name }) => name === wal);
  if (found === undefined) return;
  const hint = found.movedTo === null ? {} : { hint: `see: walwarden errors explain ${server.name} ${found.movedTo}` };
  throw new WalwardenError('conflict', `the WAL file ${wal} was not archived: ${found.reason}`, hint);
}

async function notReceived(server: Server, wal: WalName | null, seconds: number): Promise<WalwardenError> {
  const reasons = await whyNot(server, wal);
  // Barman's words, which scripts may look for.
  const what = wal === null ? 'A WAL file' : `The WAL file ${wal}`;
  return new WalwardenError('wal-not-found', `${what} has not been received in ${seconds} seconds`, {
    hint:
      reasons.length > 0
        ? reasons.join('; ')
        : `nothing seems to be wrong: see walwarden check ${server.name}, or wait longer with --archive-timeout`,
  });
}

/** What keeps WAL from being archived, as far as we can see it from here. */
async function whyNot(server: Server, wal: WalName | null): Promise<string[]> {
  const { name, config, archivers, receiver } = server;
  const reasons: string[] = [];
  const busy = await lockOwner(server.lockPath('archive-wal'));
  for (const { directory } of archivers) {
    if (wal === null || !(await isThere(join(directory, wal)))) continue;
    reasons.push(`it waits in ${directory}${busy === null ? '' : `, and another archive-wal (process ${busy}) works`}`);
  }
  const thrown = wal === null ? [] : (await namesIn(config.options.errors_directory)).filter(isOf(wal));
  if (thrown.length > 0) reasons.push(`it went to errors: walwarden errors explain ${name} ${thrown.join(' ')}`);
  if (reasons.length > 0) return reasons;

  if (config.options.streaming_archiver) {
    const report = await readReceiverReport(receiver.reportPath);
    if ((await lockOwner(receiver.lockPath)) === null) {
      reasons.push(`no receive-wal runs: start it with walwarden receive-wal ${name}, or walwarden cron`);
    } else if (report !== null && report.state !== 'streaming') {
      reasons.push(`receive-wal does not stream: ${report.cause?.message ?? report.state}`);
    }
  }
  if (config.options.archiver) {
    const { server: status } = await server.getRemoteStatus();
    const { lastFailedWal, lastFailedTime, isArchiving } = status?.archiver ?? {};
    if (status?.archiveMode === 'off') {
      reasons.push('archive_mode of PostgreSQL is off: set archive_mode = on, and an archive_command');
    } else if (isArchiving === false && lastFailedWal) {
      const when = lastFailedTime ? `, last at ${formatTime(lastFailedTime)}` : '';
      reasons.push(`archive_command of PostgreSQL fails for ${lastFailedWal}${when}: its log tells why`);
    }
  }
  return reasons;
}

function isOf(wal: WalName): (entry: string) => boolean {
  return (entry) => entry.startsWith(`${wal}.`);
}

async function namesIn(directory: string): Promise<string[]> {
  // Only to explain: what can't be read explains nothing.
  return readdir(directory).catch(() => []);
}
