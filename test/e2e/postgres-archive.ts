import { readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect } from 'vitest';
import { isWalName, walKind, type WalName } from '../../src/wal/wal-name.ts';
import { CLI, ensureBuilt, writeConfig } from '../support/cli.ts';
import { withPostgres, type PostgresOptions, type TestPostgres } from '../support/postgres.ts';
import type { RunAs } from '../support/postgres-programs.ts';
import { reachableCli, type ReachableCli } from '../support/reachable-cli.ts';
import { run, type RunResult } from '../support/run.ts';

export interface ArchivedOptions extends Omit<PostgresOptions, 'archiveCommand' | 'start'> {
  /** Options of walwarden's server `main`. */
  readonly server?: Readonly<Record<string, string | number>>;
  /** How PostgreSQL archives, as settings; default: a plain cp into incoming. */
  readonly archiving?: Archiving;
}

export type Archiving = (pg: TestPostgres, archive: Archive) => Promise<Readonly<Record<string, string>>>;

/** What `archive-wal -f json` says of one pass, as far as tests look at it. */
export interface Pass {
  readonly archived: readonly { readonly name: string; readonly compression: string | null }[];
  readonly duplicates: readonly string[];
  readonly conflicts: readonly NotArchived[];
  readonly unknown: readonly NotArchived[];
  readonly waiting: number;
}

interface NotArchived {
  readonly name: string;
  readonly reason: string;
  readonly movedTo: string;
}

/** What `list-wals -f json` says of one timeline. */
export interface Timeline {
  readonly timeline: number;
  readonly segments: number;
  readonly histories: number;
  readonly backups: number;
  readonly ranges: readonly { readonly first: string; readonly last: string; readonly segments: number }[];
  readonly gaps: readonly unknown[];
}

/** A barman_home with the server `main`, beside a PostgreSQL and used by that one's user. */
export class Archive {
  readonly home: string;
  readonly config: string;
  /** Who archives: PostgreSQL's user. */
  readonly user: RunAs;
  readonly program: ReachableCli;

  constructor(home: string, config: string, user: RunAs, program: ReachableCli) {
    this.home = home;
    this.config = config;
    this.user = user;
    this.program = program;
  }

  /** The same archive with another configuration. */
  withConfig(config: string): Archive {
    return new Archive(this.home, config, this.user, this.program);
  }

  get incoming(): string {
    return join(this.home, 'main', 'incoming');
  }

  get errors(): string {
    return join(this.home, 'main', 'errors');
  }

  get logFile(): string {
    return join(this.home, 'walwarden.log');
  }

  /** Where a segment is stored. */
  stored(name: string): string {
    return join(this.home, 'main', 'wals', name.slice(0, 16), name);
  }

  get copyCommand(): string {
    return `cp %p ${this.incoming}/%f`;
  }

  get restoreCommand(): string {
    return `${this.command('get-wal', 'main', '%f')} > %p`;
  }

  /** A command line of walwarden for a shell. */
  command(...args: readonly string[]): string {
    const { node, cli } = this.program;
    return [node, cli, '-c', this.config, ...args].join(' ');
  }

  walwarden(args: readonly string[]): Promise<RunResult> {
    const { node, cli } = this.program;
    return run(node, [cli, '-c', this.config, ...args], { ...this.user, cwd: this.home });
  }

  /** One pass without trouble. */
  async pass(): Promise<Pass> {
    const { pass, status, stderr } = await this.anyPass();
    expect(status, stderr + JSON.stringify(pass)).toBe(0);
    return pass;
  }

  /** One pass, with files that may go to errors. */
  async anyPass(): Promise<{ pass: Pass; status: number | null; stderr: string }> {
    const { status, stdout, stderr } = await this.walwarden(['-f', 'json', 'archive-wal', 'main']);
    const reports: { passes: Pass[] }[] = stdout === '' ? [] : JSON.parse(stdout);
    const pass = reports[0]?.passes[0];
    if (pass === undefined) throw new Error(`archive-wal made no pass: ${stderr}`);
    return { pass, status, stderr };
  }

  /** What the catalogue knows, by timeline. */
  async timelines(): Promise<Timeline[]> {
    const { status, stdout, stderr } = await this.walwarden(['-f', 'json', 'list-wals', 'main']);
    expect(status, stderr).toBe(0);
    const report: { timelines: Timeline[] } = JSON.parse(stdout);
    return report.timelines;
  }

  async getWal(name: string, args: readonly string[] = []): Promise<RunResult> {
    return this.walwarden(['get-wal', ...args, 'main', name]);
  }

  log(): Promise<string> {
    return readFile(this.logFile, 'utf8');
  }
}

/**
 * A running PostgreSQL that archives into an {@link Archive}, segments of
 * 1 MiB unless said otherwise. Its pg_wal keeps what was archived, to compare with.
 */
export function withArchivedPostgres<T>(
  options: ArchivedOptions,
  body: (pg: TestPostgres, archive: Archive) => Promise<T>,
): Promise<T> {
  const { server, archiving, ...rest } = options;
  return withPostgres({ ...rest, start: false }, async (pg) => {
    const archive = await makeArchive(pg, server);
    const settings = archiving === undefined ? { archive_command: archive.copyCommand } : await archiving(pg, archive);
    await pg.configure({ wal_keep_size: '1GB', archive_mode: 'on', ...settings });
    await pg.start();
    return await body(pg, archive);
  });
}

/** An empty archive in the directory of a PostgreSQL. */
export async function makeArchive(
  pg: TestPostgres,
  server: Readonly<Record<string, string | number>> = {},
): Promise<Archive> {
  const home = await pg.makeDirectory(join(pg.directory, 'home'));
  const config = await writeConfig(home, {
    global: { log_file: join(home, 'walwarden.log') },
    servers: { main: server },
  });
  await ensureBuilt();
  const program = await reachableCli(dirname(dirname(CLI)), pg.owner, pg.directory);
  const archive = new Archive(home, config, pg.owner, program);
  // Makes the directories, so that PostgreSQL finds incoming.
  await archive.pass();
  return archive;
}

/** Names of the segments in a directory, in order, up to `last`. */
export async function segmentsIn(directory: string, last = '~'): Promise<WalName[]> {
  const names = (await readdir(directory)).filter(isWalName);
  return names.filter((name) => walKind(name) === 'segment' && name <= last).sort();
}

/** Every segment up to `last` comes out of the archive as it is in pg_wal. Tells their names. */
export async function expectAllHandedOut(pg: TestPostgres, archive: Archive, last: string): Promise<WalName[]> {
  const names = await segmentsIn(pg.walDir, last);
  expect(names).toContain(last);
  const waiting = names.values();
  const compareRest = async (): Promise<void> => {
    for (const name of waiting) {
      const { status, bytes, stderr } = await archive.getWal(name);
      expect(status, stderr).toBe(0);
      expect(bytes.equals(await readFile(join(pg.walDir, name))), name).toBe(true);
    }
  };
  await Promise.all([compareRest(), compareRest(), compareRest()]);
  return names;
}
