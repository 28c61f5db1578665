import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import pLimit from 'p-limit';
import type { ServerConfig } from '../config/config.ts';
import { checkHome } from '../home.ts';
import { acquireLock, hasOpen, lockOwner, type HeldLock } from '../durable/lock-file.ts';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import { serverLock, type LockName } from '../server-settings.ts';
import type { CommandContext, Report } from './command.ts';
import { DetachedCommands, detachedLogFile } from './detached.ts';
import { errorJson } from './server-error.ts';
import { tellChanges, type Problem } from './told-problems.ts';

export interface CronOptions {
  /** What is started writes to our stdout and stderr. */
  readonly keepDescriptors?: boolean;
}

type Command = 'archive-wal' | 'receive-wal';

/** What became of one of a server's processes. */
interface Work {
  readonly state: 'started' | 'running' | 'stopping';
  /** Null where the lock doesn't tell. */
  readonly pid: number | null;
}

interface ServerReport {
  readonly server: string;
  /** Why nothing was done; null when something was. */
  readonly skipped: string | null;
  readonly archiveWal: Work | null;
  readonly receiveWal: Work | null;
  readonly error: WalwardenError | null;
}

/** What is to be done for one server; its cron lock is held until it is done. */
interface Plan {
  readonly server: string;
  readonly lock: HeldLock | null;
  readonly report: ServerReport;
  /** To be started. */
  readonly start: readonly Command[];
  /** The pid of a receive-wal that should not run. */
  readonly stop: number | null;
}

/** Probes under way at a time; each is a process. */
const PROBES = 8;

const LOG_MODE = 0o640;

/**
 * `cron`: starts archive-wal, and receive-wal where `streaming_archiver` is on,
 * in the background for every active server where they don't run; waits for
 * none of them. The locks are Barman's, whose cron may run beside us. The exit
 * status is 1 when something could not be started for a server.
 */
export async function cron(context: CommandContext, options: CronOptions): Promise<Report> {
  const { config } = context;
  const { barman_home: home, barman_lock_directory: locks } = config.global.options;
  await checkHome(home);
  let lock: HeldLock;
  try {
    lock = await acquireLock(join(locks, '.cron.lock'));
  } catch (error) {
    if (!isErrorCode(error, 'locked')) throw error;
    return { text: 'Another cron process is already running. Nothing to do\n', json: { running: true, servers: [] } };
  }
  await using _lock = lock;
  const plans = await planAll(context);
  const { reports, problems } = await carryOut(context, plans, options.keepDescriptors === true);
  await tellChanges(join(locks, '.cron-problems.json'), problems, context.logger);
  return {
    text: reports.map(formatReport).join(''),
    json: { running: false, servers: reports.map(toJson) },
    exitCode: problems.length > 0 ? 1 : 0,
  };
}

/** Looks at all servers before anything is started: what was started would keep us from looking, all at once as it is. */
async function planAll(context: CommandContext): Promise<Plan[]> {
  const limit = pLimit(PROBES);
  const servers = [...context.config.servers.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  return Promise.all(servers.map((server) => limit(() => planFor(context, server))));
}

/** Never rejects: one server's trouble is not the others'. */
async function planFor({ config }: CommandContext, server: ServerConfig): Promise<Plan> {
  const { name } = server;
  const nothing = { server: name, skipped: null, archiveWal: null, receiveWal: null, error: null };
  const leave = (report: Partial<ServerReport>): Plan => ({
    server: name,
    lock: null,
    report: { ...nothing, ...report },
    start: [],
    stop: null,
  });
  if (server.disabled) {
    // Nothing is stopped either: a slip in the configuration must not end a stream.
    const problems = server.problems.map(({ message }) => message).join('; ');
    const error = new WalwardenError('config', `server ${name} is disabled: ${problems}`, {
      hint: 'correct the configuration; the other servers are not affected',
    });
    return leave({ skipped: `Skipping temporarily disabled server '${name}'`, error });
  }
  const works = server.active && !server.passive;
  const streams = works && server.options.streaming_archiver;
  const owner = (what: LockName): Promise<number | null> => lockOwner(serverLock(config, name, what));
  let lock: HeldLock | null = null;
  try {
    const skipped = works ? null : `Skipping ${server.active ? 'passive' : 'inactive'} server '${name}'`;
    if (!works && (await owner('receive-wal')) === null) return leave({ skipped });
    lock = await acquireLock(serverLock(config, name, 'cron'));
    const archiver = works ? await owner('archive-wal') : null;
    const receiver = await owner('receive-wal');
    const start: Command[] = [];
    if (works && archiver === null) start.push('archive-wal');
    if (streams && receiver === null) start.push('receive-wal');
    const report = { ...nothing, skipped, archiveWal: running(archiver), receiveWal: running(receiver) };
    return { server: name, lock, report, start, stop: streams ? null : receiver };
  } catch (error) {
    await lock?.[Symbol.asyncDispose]();
    if (!isErrorCode(error, 'locked')) return leave({ error: toError(error) });
    return leave({
      skipped: `Another cron process is already running on server ${name}. Skipping to the next server`,
    });
  }
}

function running(owner: number | null): Work | null {
  return owner === null ? null : { state: 'running', pid: owner === 0 ? null : owner };
}

interface Outcome {
  readonly reports: readonly ServerReport[];
  readonly problems: readonly Problem[];
}

/** Starts and stops what was planned. Until then its cron lock keeps other crons from a server. */
async function carryOut(context: CommandContext, plans: readonly Plan[], keepDescriptors: boolean): Promise<Outcome> {
  const needed = !keepDescriptors && plans.some(({ start }) => start.length > 0);
  const problems: Problem[] = [];
  const reports: ServerReport[] = [];
  try {
    await using stderr = needed ? await openLog(context, problems) : undefined;
    const commands = new DetachedCommands(context.config, { stderr: stderr?.fd ?? null, keepDescriptors });
    for (const plan of plans) {
      const report = await work(context, plan, commands);
      reports.push(report);
      if (report.error !== null) problems.push({ about: report.server, message: textOf(report.error) });
    }
  } finally {
    for (const { lock } of plans) await lock?.[Symbol.asyncDispose]();
  }
  return { reports, problems };
}

async function work(
  { config, logger, drain }: CommandContext,
  { server, start, stop, report }: Plan,
  commands: DetachedCommands,
): Promise<ServerReport> {
  let { archiveWal, receiveWal } = report;
  try {
    if (stop !== null && (await interruptReceiver(stop, serverLock(config, server, 'receive-wal')))) {
      logger.info(
        { server, receiver: stop },
        `asked receive-wal of ${server} to stop: ${server} is not to be streamed`,
      );
      receiveWal = { state: 'stopping', pid: stop };
    }
    for (const what of drain.aborted ? [] : start) {
      const pid = await commands.start([what, server]);
      // archive-wal is started every minute.
      logger[what === 'receive-wal' ? 'info' : 'debug']({ server, process: pid }, `started ${what} of ${server}`);
      if (what === 'receive-wal') receiveWal = { state: 'started', pid };
      else archiveWal = { state: 'started', pid };
    }
    return { ...report, archiveWal, receiveWal };
  } catch (error) {
    return { ...report, archiveWal, receiveWal, error: toError(error) };
  }
}

/**
 * SIGINT, as Barman's cron does it. False when that process has not the lock:
 * its pid may be one of another container, or somebody else's by now.
 */
async function interruptReceiver(pid: number, lockPath: string): Promise<boolean> {
  try {
    return (await hasOpen(pid, lockPath)) && process.kill(pid, 'SIGINT');
  } catch (error) {
    // Gone meanwhile.
    if (errnoOf(error) === 'ESRCH') return false;
    throw error;
  }
}

/** What the log can't take, goes there as well: what Node says of a crash. Undefined when it can't be opened. */
async function openLog({ config, logger }: CommandContext, problems: Problem[]): Promise<FileHandle | undefined> {
  const path = detachedLogFile(config);
  const chosen = config.global.options.log_file !== null;
  try {
    if (chosen) return await open(path, 'a', LOG_MODE);
    try {
      const handle = await open(path, 'ax', LOG_MODE);
      logger.warn(`log_file is not set: what cron starts in the background logs to ${path}`);
      return handle;
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
      return await open(path, 'a', LOG_MODE);
    }
  } catch (error) {
    const hint = `set log_file to a file that walwarden may write`;
    problems.push({ about: 'log_file', message: `can't open ${path}: ${messageOf(error)}; ${hint}` });
    return undefined;
  }
}

function toError(error: unknown): WalwardenError {
  return error instanceof WalwardenError ? error : new WalwardenError('internal', messageOf(error), { cause: error });
}

function textOf({ message, hint }: WalwardenError): string {
  return hint === undefined ? message : `${message} (${hint})`;
}

function formatReport({ server, skipped, archiveWal, receiveWal, error }: ServerReport): string {
  const lines: string[] = [];
  if (error !== null) lines.push(`${skipped ?? `ERROR: server ${server}`}: ${textOf(error)}`);
  else if (skipped !== null) lines.push(skipped);
  if (archiveWal?.state === 'started') lines.push(`Starting WAL archiving for server ${server}`);
  if (archiveWal?.state === 'running') {
    lines.push(`Another archive-wal process is already running on server ${server}. Skipping to the next server`);
  }
  if (receiveWal?.state === 'started') lines.push(`Starting streaming archiver for server ${server}`);
  if (receiveWal?.state === 'stopping') lines.push(`Stopping streaming archiver for server ${server}`);
  return lines.map((line) => `${line}\n`).join('');
}

function toJson({ error, ...report }: ServerReport): unknown {
  return {
    ...report,
    error: errorJson(error),
  };
}
