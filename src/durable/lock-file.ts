import { spawn, type ChildProcess } from 'node:child_process';
import { constants } from 'node:fs';
import { open, readdir, readlink, realpath, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf, WalwardenError } from '../errors.ts';
import { makeDirectory } from './durable-file.ts';

/** A lock that is held; disposing it lets go. The file stays, as Barman's does. */
export interface HeldLock extends AsyncDisposable {
  readonly path: string;
}

export interface LockOptions {
  /** Wait until the lock is free; otherwise `locked` is thrown at once. */
  readonly wait?: boolean;
  /**
   * Wait so many milliseconds at most, unless the process that the file names
   * has it: whoever asks {@link lockOwner} holds a lock for a moment.
   */
  readonly waitMs?: number;
  /** Ends the wait: `aborted` is thrown. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Takes Barman's kind of lock: flock(2), exclusive, on a file of mode 0600
 * that holds the owner's pid and a newline (Barman: lockfile.py). The kernel
 * lets go when we die, whatever the way.
 *
 * Node has no flock(2). The util-linux program takes it on a descriptor that it
 * inherits; the lock belongs to the open file description, which is ours, so it
 * stays when the program ends. Our own descriptor is close-on-exec: no hook
 * script or compressor can hold the lock longer than we live.
 */
export async function acquireLock(path: string, options: LockOptions = {}): Promise<HeldLock> {
  const handle = await openLockFile(path);
  try {
    if (!(await take(handle, path, options))) {
      const owner = await readOwner(handle);
      throw new WalwardenError('locked', `${path} is locked${owner === undefined ? '' : ` by process ${owner}`}`);
    }
    await handle.truncate(0);
    await handle.write(`${process.pid}\n`, 0);
  } catch (error) {
    await handle.close();
    throw error;
  }
  return { path, [Symbol.asyncDispose]: () => handle.close() };
}

/** Others who ask have a lock no longer, in milliseconds. */
const PROBE_MS = 500;

/**
 * The pid in a lock file that somebody holds (0 when it holds no pid); null
 * when nobody does, or there is no such file. Takes the lock for a moment.
 * The pid is an old one where the holder has not written its own yet, and
 * another process's where it counts in another pid namespace: see {@link hasOpen}.
 */
export async function lockOwner(path: string, waitMs = PROBE_MS): Promise<number | null> {
  let handle: FileHandle;
  try {
    handle = await open(path, constants.O_RDWR);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw lockError(path, error);
  }
  try {
    if (await take(handle, path, { waitMs })) return null;
    return (await readOwner(handle)) ?? 0;
  } finally {
    await handle.close();
  }
}

async function openLockFile(path: string): Promise<FileHandle> {
  const flags = constants.O_RDWR | constants.O_CREAT;
  try {
    return await open(path, flags, 0o600);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw lockError(path, error);
  }
  try {
    await makeDirectory(dirname(path));
    return await open(path, flags, 0o600);
  } catch (error) {
    throw lockError(path, error);
  }
}

function lockError(path: string, cause: unknown): WalwardenError {
  const errno = errnoOf(cause);
  const denied = errno === 'EACCES' || errno === 'EPERM';
  return new WalwardenError('storage', `can't open the lock file ${path}: ${errno ?? String(cause)}`, {
    cause,
    hint: `the directory is barman_lock_directory${denied ? '; walwarden must run as the user that owns it' : ''}`,
  });
}

async function readOwner(handle: FileHandle): Promise<number | undefined> {
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(32), 0, 32, 0);
  const pid = Number.parseInt(buffer.toString('latin1', 0, bytesRead), 10);
  return Number.isNaN(pid) ? undefined : pid;
}

/** True when the lock was got. */
async function take(handle: FileHandle, path: string, options: LockOptions): Promise<boolean> {
  if (options.wait === true || options.waitMs === undefined) return flock(handle, path, options);
  if (await flock(handle, path, {})) return true;
  const owner = await readOwner(handle);
  // Where that can't be told, only time can.
  if (owner !== undefined && (await hasOpen(owner, path, handle.fd).catch(() => false))) return false;
  return flock(handle, path, options);
}

/** Whether a process of this number lives, whoever's it is. */
export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return errnoOf(error) !== 'ESRCH';
  }
}

/**
 * Whether a process has a file open, but for a descriptor of our own. Says no
 * of one in a pid namespace that we don't see; throws where we may not look,
 * which is where we may not signal either.
 */
export async function hasOpen(pid: number, path: string, except = -1): Promise<boolean> {
  const descriptors = `/proc/${pid}/fd`;
  try {
    const wanted = await realpath(path);
    for (const entry of await readdir(descriptors)) {
      if (pid === process.pid && entry === String(except)) continue;
      if ((await readlink(`${descriptors}/${entry}`).catch(() => null)) === wanted) return true;
    }
    return false;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ESRCH') return false;
    throw error;
  }
}

/** What runs now, each in a process group of its own: no signal of a terminal ends it with us. */
const running = new Set<ChildProcess>();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/** True when the lock was got; flock(1) says 1 when somebody else has it. */
function flock(handle: FileHandle, path: string, { wait, waitMs, signal }: LockOptions): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const aborted = (): void => reject(new WalwardenError('aborted', `stopped waiting for the lock ${path}`));
    if (signal?.aborted === true) return aborted();
    const patience = waitMs === undefined ? '-n' : `-w${waitMs / 1_000}`;
    const args = wait === true ? ['-x', '3'] : [patience, '-x', '3'];
    const child = spawn('flock', args, { stdio: ['ignore', 'ignore', 'pipe', handle.fd], detached: true });
    // The first listener of all: an 'error' that nobody hears ends us.
    child.on('error', (cause) => reject(startError(path, cause)));
    // Nothing was started, and Node may have left out even the streams.
    if (child.pid === undefined) return;
    running.add(child);
    const onAbort = (): void => void child.kill('SIGKILL');
    signal?.addEventListener('abort', onAbort, { once: true });
    let stderr = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.once('close', (status, killedBy) => {
      running.delete(child);
      signal?.removeEventListener('abort', onAbort);
      if (status === 0) resolve(true);
      else if (status === 1 && wait !== true) resolve(false);
      else if (signal?.aborted === true) aborted();
      else {
        const why = stderr.trim() || (killedBy ?? `exit status ${status}`);
        reject(new WalwardenError('storage', `flock failed on ${path}: ${why}`));
      }
    });
  });
}

const START_HINTS: Readonly<Record<string, string>> = {
  EAGAIN: 'allow more processes (ulimit -u; systemd: TasksMax)',
  EMFILE: 'allow more open files (ulimit -n; systemd: LimitNOFILE)',
  ENOENT: 'install util-linux',
};

function startError(path: string, cause: Error): WalwardenError {
  const hint = START_HINTS[errnoOf(cause) ?? ''];
  return new WalwardenError('program', `can't run flock, needed for ${path}: ${cause.message}`, {
    cause,
    ...(hint === undefined ? {} : { hint }),
  });
}
