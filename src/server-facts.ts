import { constants } from 'node:fs';
import { access, lstat, readdir, readFile, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { readIdentity } from './archiver/identity.ts';
import { listWaiting } from './archiver/waiting-directory.ts';
import { errnoOf, messageOf, WalwardenError } from './errors.ts';
import type { ArchiveFacts, LastPass, QueueFacts } from './health/archive-checks.ts';
import { unlessAborted } from './health/patience.ts';
import { PostgresError } from './postgres/failure.ts';
import type { PostgresSettings, RemoteStatus } from './postgres/remote-status.ts';
import { UNKNOWN_SERVER, UNKNOWN_SLOT, UNKNOWN_STREAMING } from './postgres/unknown-status.ts';
import type { Server } from './server.ts';
import { claimPath } from './storage/claim.ts';
import type { WalFileInfo } from './wal/wal-file-info.ts';
import { walKind, type WalName } from './wal/wal-name.ts';
import { explain, formatBytes, formatSpan } from './words.ts';

// What `check` and `status` look at on our own machine. Reading only, but for directories that are missing.

/** The files in incoming or streaming; one directory read, whatever waits there. */
export async function queueFacts(directory: string, kind: 'incoming' | 'streaming'): Promise<QueueFacts> {
  const { names, unknown } = await listWaiting(directory);
  const files = names.length + unknown.length;
  if (kind === 'incoming') return { directory, files, waiting: names.length, first: await firstOf(directory, names) };
  const staying = stayingInStreaming(names);
  const waiting = names.filter((name) => !staying.has(name));
  return {
    directory,
    files: Math.max(0, files - 1),
    waiting: waiting.length,
    first: await firstOf(directory, waiting),
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

async function firstOf(directory: string, names: readonly WalName[]): Promise<QueueFacts['first']> {
  for (const name of names) {
    const path = join(directory, name);
    for (const candidate of [path, claimPath(path, name)]) {
      try {
        // The inode's time, which no `cp -p` can set back.
        return { name, arrived: (await lstat(candidate)).ctimeMs };
      } catch (error) {
        // Archived meanwhile.
        if (errnoOf(error) !== 'ENOENT') throw error;
      }
    }
  }
  return null;
}

/** Who archived last, by the lock file, which is not touched; null when nobody ever did. */
export async function lastPass(lockPath: string): Promise<LastPass | null> {
  try {
    const pid = Number.parseInt(await readFile(lockPath, 'latin1'), 10) || 0;
    return { startedAt: (await stat(lockPath)).mtimeMs, running: pid > 0 && isAlive(pid), pid };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return errnoOf(error) !== 'ESRCH';
  }
}

/** Reads the whole catalogue. */
export async function archiveFacts(catalogue: Server['catalogue'], signal: AbortSignal): Promise<ArchiveFacts> {
  let files = 0;
  let bytes = 0;
  let newest: WalFileInfo | null = null;
  let damagedLines = 0;
  for await (const infos of catalogue.readBatches(() => (damagedLines += 1))) {
    for (const info of infos) {
      files += 1;
      bytes += info.size;
      if (newest !== null && info.mtime < newest.mtime) continue;
      // Backup labels and history files say nothing of how recent the WAL is.
      if (info.name.length === 24 || walKind(info.name) === 'partial') newest = info;
    }
    signal.throwIfAborted();
  }
  return { files, bytes, newest, damagedLines };
}

/** The names in the errors directory. */
export async function errorNames(directory: string): Promise<string[]> {
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
  ];
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
  return (await unlessAborted(server.getRemoteStatus(), signal)) ?? unanswered(server.postgres, limitMs);
}

function unanswered(settings: PostgresSettings, limitMs: number): RemoteStatus {
  const error = new PostgresError('unreachable', `no answer within ${formatSpan(limitMs)}`);
  return {
    server: settings.conninfo === null ? null : { ...UNKNOWN_SERVER, error },
    streaming: settings.walStreamingConninfo === null ? null : { ...UNKNOWN_STREAMING, error },
    slot: settings.walConninfo === null ? null : { ...UNKNOWN_SLOT, error },
  };
}
