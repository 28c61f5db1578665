import { constants, type Stats } from 'node:fs';
import { access, lstat, open, readdir, readFile, stat, statfs } from 'node:fs/promises';
import { readIdentity } from './archiver/identity.ts';
import { listWaiting } from './archiver/waiting-directory.ts';
import { OUT_OF_RESOURCES } from './durable/durable-file.ts';
import { hasOpen, isAlive } from './durable/lock-file.ts';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from './errors.ts';
import type { LastPass, QueueFacts } from './health/archive-checks.ts';
import { unlessAborted } from './health/patience.ts';
import { PostgresError } from './postgres/failure.ts';
import type { ReachedServer, RemoteStatus } from './postgres/remote-status.ts';
import { UNKNOWN_SERVER, UNKNOWN_SLOT, UNKNOWN_STREAMING } from './postgres/unknown-status.ts';
import type { ServerConfig } from './config/config.ts';
import { isS3Location } from './config/values.ts';
import { localArchiveOf } from './server-settings.ts';
import type { Server } from './server.ts';
import { placesOf } from './storage/claim.ts';
import { isWalName, walKind, type WalName } from './wal/wal-name.ts';
import { explain, formatBytes, formatSpan } from './words.ts';

// What `check` and `status` look at on our own machine. Reading only, but for directories that are missing.

/** The files in incoming or streaming, claimed ones included; their names are read, whatever waits there, and a look at the first of them. */
export async function queueFacts(
  directory: string,
  claims: string,
  kind: 'incoming' | 'streaming',
  now = Date.now(),
): Promise<QueueFacts> {
  const { names, unknown } = await listWaiting(directory, claims);
  const files = names.length + unknown.length;
  const streaming = kind === 'streaming';
  const staying = streaming ? stayingInStreaming(names) : new Set<WalName>();
  const waiting = names.filter((name) => !staying.has(name));
  const { first, unreadable } = await lookAtFirst({ directory, claims }, waiting, now);
  return {
    kind,
    directory,
    files: streaming ? Math.max(0, files - 1) : files,
    waiting: waiting.length,
    first,
    unreadable,
  };
}

/**
 * What pg_receivewal may still need, by the names alone: files that nothing
 * supersedes both in the order of names and in its own, segment before timeline.
 */
export function stayingInStreaming(names: readonly WalName[]): ReadonlySet<WalName> {
  const staying = new Set<WalName>();
  let highest = '';
  let partials = 0;
  for (const name of names.toReversed()) {
    const kind = walKind(name);
    if (kind !== 'segment' && kind !== 'partial') continue;
    const position = `${name.slice(8, 24)}${name.slice(0, 8)}`;
    // The newest partial stays whatever else is there.
    const isNewest = kind === 'partial' && partials === 0;
    if (isNewest || position > highest) staying.add(name);
    if (kind === 'partial') partials += 1;
    if (position > highest) highest = position;
  }
  return staying;
}

/** So many are enough to tell what is wrong with all of them. */
const LOOKED_AT = 10;
/** Somebody may still be about to change the mode of what has just arrived. */
const FRESH_MS = 60_000;

async function lookAtFirst(
  { directory, claims }: { readonly directory: string; readonly claims: string },
  names: readonly WalName[],
  now: number,
): Promise<Pick<QueueFacts, 'first' | 'unreadable'>> {
  const found: Arrival[] = [];
  for (const name of names) {
    const arrival = await arrivalOf(directory, claims, name);
    if (arrival !== null && found.push(arrival) === LOOKED_AT) break;
  }
  const refused: { readonly arrival: Arrival; readonly errno: string }[] = [];
  for (const arrival of found) {
    if (!arrival.stat.isFile() || now - arrival.arrived < FRESH_MS) continue;
    const errno = await whyUnreadable(arrival.path);
    if (errno !== null) refused.push({ arrival, errno });
  }
  const [first = null] = found;
  const [bad] = refused;
  if (bad === undefined) return { first, unreadable: null };
  const { name, arrived, stat: status } = bad.arrival;
  const mode = (status.mode & 0o7777).toString(8).padStart(4, '0');
  const unreadable = {
    files: refused.length,
    more: refused.length === LOOKED_AT && names.length > LOOKED_AT,
    first: { name, arrived, mode, owner: await userName(status.uid) },
    errno: bad.errno,
    user: await userName(process.geteuid?.() ?? -1),
  };
  return { first, unreadable };
}

interface Arrival {
  readonly name: WalName;
  readonly path: string;
  /** The inode's time, which no `cp -p` can set back. */
  readonly arrived: number;
  readonly stat: Stats;
}

/** Null when it was archived meanwhile. */
async function arrivalOf(directory: string, claims: string, name: WalName): Promise<Arrival | null> {
  for (const path of placesOf(directory, claims, name)) {
    try {
      const found = await lstat(path);
      return { name, path, arrived: found.ctimeMs, stat: found };
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  }
  return null;
}

async function whyUnreadable(path: string): Promise<string | null> {
  try {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    await (await open(path, flags)).close();
    return null;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === undefined || OUT_OF_RESOURCES.has(errno)) throw error;
    return errno === 'ENOENT' ? null : errno;
  }
}

/** As /etc/passwd calls it, which is where a user of PostgreSQL's or ours mostly is; else its number. */
async function userName(uid: number): Promise<string> {
  const users = await readFile('/etc/passwd', 'latin1').catch(() => '');
  const entry = users.split('\n').find((text) => text.split(':')[2] === String(uid));
  return entry?.split(':')[0] ?? `user ${uid}`;
}

/** Who archived last, by the lock file, which is not touched; null when nobody ever did. */
export async function lastPass(lockPath: string): Promise<LastPass | null> {
  try {
    const pid = Number.parseInt(await readFile(lockPath, 'latin1'), 10) || 0;
    return { startedAt: (await stat(lockPath)).mtimeMs, running: await isAtWork(pid, lockPath), pid };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

/** A process that lives may have let go of the lock long ago, or be another one of that number. */
async function isAtWork(pid: number, lockPath: string): Promise<boolean> {
  // Where we may not look, being alive has to do.
  return pid > 0 && isAlive(pid) && hasOpen(pid, lockPath).catch(() => true);
}

/** A file that is archived, where the catalogue of a bucket has none: this machine, say, is new. Null when there is none. */
export async function firstUnlisted({ config, strategy }: Server): Promise<string | null> {
  if (!isS3Location(config.options.wals_directory)) return null;
  for await (const { name } of strategy.list()) return strategy.getFullPath(name);
  return null;
}

/** What is left of an archive that was in a directory before it was in a bucket; null when nothing is. */
export async function localLeftovers(server: ServerConfig): Promise<string | null> {
  const directory = localArchiveOf(server);
  if (directory === null) return null;
  const old = (await namesIn(directory)).filter((name) => /^[0-9A-F]{16}$/i.test(name) || isWalName(name));
  if (old.length === 0) return null;
  return (
    `${directory} still holds WAL of an archive that was there before: get-wal finds it; to have it in the bucket, ` +
    `move its files to ${server.options.incoming_wals_directory} (archive-wal takes compressed ones as they are; encrypted ones ` +
    `have to go through get-wal -o${server.options.archiver ? '' : '; archiver = on is needed for that'}), ` +
    `then walwarden rebuild-xlogdb ${server.name}`
  );
}

/** The names in the errors directory. */
export function errorNames(directory: string): Promise<string[]> {
  return namesIn(directory);
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory, 'latin1');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

/** The system identifier that the archive belongs to; null while it is not known. Throws when identity.json is damaged. */
export async function archiveIdentifier(path: string): Promise<bigint | null> {
  const identity = await readIdentity(path);
  return identity === null ? null : BigInt(identity.systemid);
}

/** Below this nothing can be stored: a segment of the usual size. */
const FULL = 16 * 1024 * 1024;

/** What is wrong with the directories of a server; those that are missing are made first. */
export async function directoryProblems(server: Server, locks: string): Promise<string[]> {
  const { options } = server.config;
  const paths = [
    options.backup_directory,
    options.incoming_wals_directory,
    options.streaming_wals_directory,
    options.errors_directory,
    options.wals_directory,
    options.xlogdb_directory ?? options.wals_directory,
    locks,
  ].filter((path) => !isS3Location(path));
  const problems: string[] = [];
  for (const path of new Set(paths)) problems.push(...(await foreignOwner(path)));
  // What root makes, the right user could not write to.
  if (problems.length > 0) return problems.slice(0, 1);
  try {
    await server.makeDirectories();
  } catch (error) {
    if (!(error instanceof WalwardenError)) throw error;
    return [explain(error)];
  }
  const disks = new Set<number>();
  for (const path of new Set(paths)) {
    try {
      const { dev } = await lstatDirectory(path);
      await access(path, constants.R_OK | constants.W_OK | constants.X_OK);
      if (disks.has(dev)) continue;
      disks.add(dev);
      problems.push(...(await fullDisk(path)));
    } catch (error) {
      // The catalogue's and the locks' are made when they are needed.
      if (errnoOf(error) !== 'ENOENT') problems.push(unusable(path, error));
    }
  }
  return problems;
}

async function lstatDirectory(path: string): Promise<{ readonly dev: number }> {
  const found = await stat(path);
  if (!found.isDirectory()) throw new WalwardenError('storage', `${path} is not a directory`);
  return found;
}

function unusable(path: string, error: unknown): string {
  if (error instanceof WalwardenError) return error.message;
  const errno = errnoOf(error);
  if (errno === 'EROFS') return `${path} is on a file system that is mounted read-only`;
  if (errno === 'EACCES')
    return `${path} can't be read and written by user ${process.geteuid?.() ?? 'unknown'}, whom walwarden runs as`;
  return `${path}: ${messageOf(error)}`;
}

async function foreignOwner(path: string): Promise<string[]> {
  if (process.geteuid?.() !== 0) return [];
  try {
    const { uid } = await stat(path);
    return uid === 0 ? [] : [`walwarden runs as root, but ${path} belongs to user ${uid}: run it as that user`];
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return [];
  }
}

async function fullDisk(path: string): Promise<string[]> {
  const { bavail, bsize, files, ffree } = await statfs(path);
  if (bavail * bsize < FULL) return [`the disk of ${path} is full: ${formatBytes(bavail * bsize)} left`];
  // Some file systems don't count inodes.
  return files > 0 && ffree === 0 ? [`the disk of ${path} has no inodes left`] : [];
}

/** Free and total bytes of the file system that holds a directory; null when it can't be told. */
export async function diskSpace(path: string): Promise<{ readonly free: number; readonly total: number } | null> {
  try {
    const { bavail, blocks, bsize } = await statfs(path);
    return { free: bavail * bsize, total: blocks * bsize };
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return null;
  }
}

/** What PostgreSQL says; once `signal` fires, that it did not answer. */
export async function answerOf(server: Server, signal: AbortSignal, limitMs: number): Promise<RemoteStatus> {
  const { postgres } = server;
  const error = new PostgresError('unreachable', `no answer within ${formatSpan(limitMs)}`);
  const answer = await unlessAborted(server.getRemoteStatus(), signal);
  if (answer === undefined) {
    return {
      server: postgres.conninfo === null ? null : { ...UNKNOWN_SERVER, error },
      streaming: postgres.walStreamingConninfo === null ? null : { ...UNKNOWN_STREAMING, error },
      slot: postgres.walConninfo === null ? null : { ...UNKNOWN_SLOT, error },
    };
  }
  // The time that is up interrupts what is still asked: nobody else did.
  const late = <T extends ReachedServer>(part: T | null): T | null =>
    part !== null && isErrorCode(part.error?.cause, 'aborted') ? { ...part, error } : part;
  return { server: late(answer.server), streaming: late(answer.streaming), slot: late(answer.slot) };
}
