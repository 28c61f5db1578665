import { setMaxListeners } from 'node:events';
import { join } from 'node:path';
import { Daemon } from '../daemon/daemon.ts';
import { connectServiceManager } from '../daemon/systemd.ts';
import { acquireLock, type HeldLock } from '../durable/lock-file.ts';
import { isErrorCode, WalwardenError } from '../errors.ts';
import { checkHome } from '../home.ts';
import { endSurely } from '../last-resort.ts';
import { formatSpan } from '../words.ts';
import type { CommandContext, Report } from './command.ts';
import { ownProgram } from './detached.ts';

/** What was cut off gets this long to end, in milliseconds: a hook script that minds no SIGTERM has 5 s. */
const LAST_WORDS_MS = 7_000;

/**
 * `daemon`: archives for all active servers as WAL arrives, keeps a receive-wal
 * process for each that streams, and serves HTTP. The first SIGTERM or SIGINT
 * lets it finish what is in hand, for `shutdown_timeout` at most (exit status 1
 * when that was not enough), the second ends it at once. SIGHUP reads the
 * configuration again.
 */
export async function daemon(context: CommandContext): Promise<Report> {
  const { config, logger, logsToFile, logLevel, drain } = context;
  const { barman_home: home, barman_lock_directory: locks } = config.global.options;
  // From the first moment on: by default it would end us.
  let running: Daemon | null = null;
  let reloadAsked = false;
  process.on('SIGHUP', () => {
    reloadAsked = true;
    void running?.reload();
  });
  await checkHome(home);
  await using _lock = await lockDaemon(join(locks, '.walwarden-daemon.lock'));
  const cutOff = new AbortController();
  const kill = AbortSignal.any([context.kill, cutOff.signal]);
  setMaxListeners(0, kill);
  const level = logLevel === null ? [] : ['--log-level', logLevel];
  // Whoever reads what we say may go away; that ends nothing.
  process.stderr.on('error', () => {});
  if (process.env['UV_THREADPOOL_SIZE'] === undefined) {
    logger.info(
      'UV_THREADPOOL_SIZE is not set: a file system that does not answer, of any server, stops all of them once it holds 4 calls; start the daemon with UV_THREADPOOL_SIZE=32',
    );
  }
  running = await Daemon.start(config, {
    command: (...args) => {
      const [program, ...own] = ownProgram(config);
      return [program, ...own, ...(logsToFile ? ['--detached'] : []), ...level, ...args];
    },
    // What it logs goes where our own log goes.
    onLine: (line) => (logsToFile ? logger.warn(line) : process.stderr.write(`${line}\n`)),
    serviceManager: connectServiceManager(logger),
    logger,
    kill,
  });
  if (reloadAsked) void running.reload();
  await aborted(drain);
  const timeoutMs = running.config.global.options.shutdown_timeout;
  if (await inTime(running.stop(), timeoutMs)) return { text: '', json: undefined, abandons: true };
  logger.error(
    `not everything was finished within ${formatSpan(timeoutMs)} (shutdown_timeout): the rest is cut off; nothing is lost, the next start goes on with it`,
  );
  endSurely(LAST_WORDS_MS / 1000 + 3);
  cutOff.abort();
  await inTime(running.stop(), LAST_WORDS_MS);
  return { text: '', json: undefined, exitCode: 1, abandons: true };
}

async function lockDaemon(path: string): Promise<HeldLock> {
  try {
    return await acquireLock(path);
  } catch (error) {
    if (!isErrorCode(error, 'locked')) throw error;
    throw new WalwardenError('locked', `another walwarden daemon runs with this configuration: ${error.message}`, {
      hint: 'one daemon serves all servers; to make it read a changed configuration, send it SIGHUP',
      cause: error,
    });
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

/** False when it takes longer. */
async function inTime(work: Promise<void>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => (timer = setTimeout(resolve, ms, false)));
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
