import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { oneLine } from '../words.ts';

/** The program pg_receivewal, found and asked for its version. */
export interface PgReceivewal {
  readonly path: string;
  /** `15.18`, `17beta1`, `18devel`. */
  readonly version: string;
  /** 15. */
  readonly major: number;
}

const PROGRAM = 'pg_receivewal';

/** It only has to print a line. */
const VERSION_TIMEOUT_MS = 10_000;

/**
 * Finds pg_receivewal in `path_prefix`, then in PATH: the first one that can say
 * its version, because Debian's wrapper is there also where no PostgreSQL client
 * is. Throws `program` when there is none.
 */
export async function findPgReceivewal(
  pathPrefix: readonly string[] | null,
  signal?: AbortSignal,
): Promise<PgReceivewal> {
  const directories = [...(pathPrefix ?? []), ...(process.env['PATH'] ?? '').split(delimiter)];
  const failures: string[] = [];
  for (const directory of new Set(directories.filter((path) => path !== ''))) {
    const path = join(directory, PROGRAM);
    const found = await askVersion(path, signal);
    if (found === null) continue;
    if (typeof found !== 'string') return found;
    failures.push(`${path}: ${found}`);
  }
  const where = pathPrefix === null ? 'PATH' : `path_prefix (${pathPrefix.join(delimiter)}) and PATH`;
  const message =
    failures.length === 0 ? `${PROGRAM} is not found in ${where}` : `no ${PROGRAM} works: ${failures.join('; ')}`;
  throw new WalwardenError('program', message, {
    hint: "install PostgreSQL's client programs (Debian: postgresql-client), or set path_prefix to the directory they are in",
  });
}

/** Null when there is no such program; what is wrong with it as text. */
async function askVersion(path: string, signal: AbortSignal | undefined): Promise<PgReceivewal | string | null> {
  try {
    await access(path, constants.X_OK);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EACCES'].includes(errnoOf(error) ?? '')) return null;
    return messageOf(error);
  }
  try {
    const { stdout } = await promisify(execFile)(path, ['--version'], {
      env: receivewalEnvironment(process.env),
      timeout: VERSION_TIMEOUT_MS,
      killSignal: 'SIGKILL',
      ...(signal === undefined ? {} : { signal }),
    });
    return parseVersion(path, stdout) ?? `it says ${JSON.stringify(stdout.slice(0, 200))} instead of its version`;
  } catch (error) {
    signal?.throwIfAborted();
    return whyNot(error);
  }
}

/** `pg_receivewal (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`; another name stands there for derived products. */
export function parseVersion(path: string, output: string): PgReceivewal | null {
  const [, version, major] = /^pg_receivewal \([^)]*\) ((\d+)[\w.+~-]*)/m.exec(output) ?? [];
  if (version === undefined || major === undefined) return null;
  return { path, version, major: Number(major) };
}

function whyNot(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if ('killed' in error && error.killed === true)
    return `it did not tell its version within ${VERSION_TIMEOUT_MS / 1000} s`;
  const said = 'stderr' in error && typeof error.stderr === 'string' ? error.stderr.trim() : '';
  return oneLine(said === '' ? error.message : said).slice(0, 300);
}

/**
 * The environment of pg_receivewal. Its words are English, since we look for
 * some of them. An empty PGHOST means the default to libpq, and to Debian's
 * wrapper that it shall not choose a program, an address and a version by the
 * clusters that happen to live on this machine.
 */
export function receivewalEnvironment(ours: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ...ours, PGHOST: ours['PGHOST'] ?? '', LC_ALL: 'C', LC_MESSAGES: 'C', LANGUAGE: 'C' };
}
