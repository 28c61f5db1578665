import { spawn, type ChildProcess } from 'node:child_process';
import { appendFile, chown, cp, mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf } from '../../src/errors.ts';
import { isThere } from '../../src/durable/durable-file.ts';
import { parseLsn, type Lsn } from '../../src/wal/lsn.ts';
import { walName, type WalName } from '../../src/wal/wal-name.ts';
import { PgClient, type Row } from './pg-client.ts';
import { findPostgres, reachablePrograms, serverUser, type PostgresPrograms, type RunAs } from './postgres-programs.ts';
import { until } from './poll.ts';
import { descendantsOf, killIfThere } from './processes.ts';
import { run } from './run.ts';
import { withTempDir } from './temp-dir.ts';

export interface PostgresOptions {
  /** Power of two, in MiB. */
  readonly segmentSizeMb?: number;
  /** Turns archive_mode on. */
  readonly archiveCommand?: string;
  readonly settings?: Readonly<Record<string, string>>;
  /** false: initdb only; `start()` is the caller's. */
  readonly start?: boolean;
  /** Instead of a temporary directory; others must be able to traverse it, and it is the caller's to remove. */
  readonly directory?: string;
}

export interface RestoreOptions {
  readonly restoreCommand: string;
  /** `standby` keeps following; `recovery` promotes at the end of the WAL. */
  readonly mode?: 'recovery' | 'standby';
  readonly settings?: Readonly<Record<string, string>>;
}

/**
 * A real PostgreSQL in a temporary directory, on a unix socket only. Everything
 * that it started is gone when this ends.
 */
export async function withPostgres<T>(options: PostgresOptions, body: (pg: TestPostgres) => Promise<T>): Promise<T> {
  const work = async (directory: string): Promise<T> => {
    const owner = serverUser();
    const programs = await reachablePrograms(findPostgres(), owner, directory);
    const site: Site = { directory, owner, programs, servers: [] };
    try {
      const pg = await TestPostgres.create(site, options);
      if (options.start !== false) await pg.start();
      return await body(pg);
    } finally {
      for (const server of site.servers) await server.dispose();
    }
  };
  return options.directory === undefined ? withTempDir(work) : work(options.directory);
}

/** What the servers of one {@link withPostgres} share. */
interface Site {
  readonly directory: string;
  readonly owner: RunAs;
  readonly programs: PostgresPrograms;
  readonly servers: TestPostgres[];
}

export class TestPostgres {
  readonly #site: Site;
  readonly segmentSize: number;
  readonly dataDir: string;
  /** Holds the socket `.s.PGSQL.5432`. */
  readonly socketDir: string;
  readonly logFile: string;
  #postmaster: ChildProcess | undefined;

  private constructor(site: Site, segmentSize: number) {
    const name = `pg${site.servers.length}`;
    this.#site = site;
    this.segmentSize = segmentSize;
    this.dataDir = join(site.directory, name);
    this.socketDir = join(site.directory, `${name}s`);
    this.logFile = join(site.directory, `${name}.log`);
    site.servers.push(this);
  }

  static async create(site: Site, options: PostgresOptions): Promise<TestPostgres> {
    const segmentSizeMb = options.segmentSizeMb ?? 1;
    const pg = new TestPostgres(site, segmentSizeMb * 1024 * 1024);
    await pg.makeDirectory(pg.dataDir);
    await pg.#initdb(segmentSizeMb);
    await pg.#prepareToRun({
      // No power fails here: what a killed process has written stays written.
      fsync: 'off',
      shared_buffers: '16MB',
      max_connections: '20',
      autovacuum: 'off',
      ...(options.archiveCommand === undefined ? {} : { archive_mode: 'on', archive_command: options.archiveCommand }),
      ...options.settings,
    });
    return pg;
  }

  /** Ids of the user that runs it; give them to `runCli`. */
  get owner(): RunAs {
    return this.#site.owner;
  }

  get programs(): PostgresPrograms {
    return this.#site.programs;
  }

  /** A directory with everything of this server and its relatives; add your own below it. */
  get directory(): string {
    return this.#site.directory;
  }

  get walDir(): string {
    return join(this.dataDir, 'pg_wal');
  }

  get conninfo(): string {
    return `host=${this.socketDir} port=5432 user=postgres dbname=postgres`;
  }

  get running(): boolean {
    return this.#postmaster !== undefined;
  }

  /** A directory (0700) that belongs to the server's user. */
  async makeDirectory(path: string): Promise<string> {
    await mkdir(path, { recursive: true, mode: 0o700 });
    await this.giveToServer(path);
    return path;
  }

  /** Makes the server's user the owner of a path, when that is another user. */
  async giveToServer(path: string): Promise<void> {
    const { uid, gid } = this.owner;
    if (uid !== undefined && gid !== undefined) await chown(path, uid, gid);
  }

  /** Starts it and waits until it answers queries (in recovery: as a hot standby). */
  async start(): Promise<void> {
    if (this.#postmaster !== undefined) throw new Error('this PostgreSQL runs already');
    await using log = await open(this.logFile, 'a');
    const postmaster = spawn(join(this.programs.bin, 'postgres'), ['-D', this.dataDir], {
      ...this.owner,
      cwd: this.directory,
      env: this.#env(),
      stdio: ['ignore', log.fd, log.fd],
    });
    this.#postmaster = postmaster;
    postmaster.once('exit', () => (this.#postmaster = undefined));
    postmaster.once('error', () => (this.#postmaster = undefined));
    let lastError = '';
    try {
      await until('PostgreSQL to answer', async () => {
        if (this.#postmaster === undefined) throw new Error('PostgreSQL ended');
        try {
          await this.sql('select 1');
          return true;
        } catch (error) {
          lastError = messageOf(error);
          return false;
        }
      });
    } catch (error) {
      const told = await readFile(this.logFile, 'utf8');
      throw new Error(`PostgreSQL doesn't start: ${messageOf(error)} (${lastError})\n${told.slice(-2_000)}`, {
        cause: error,
      });
    }
  }

  async stop(mode: 'smart' | 'fast' | 'immediate' = 'fast'): Promise<void> {
    const signals = { smart: 'SIGTERM', fast: 'SIGINT', immediate: 'SIGQUIT' } as const;
    await this.#end(signals[mode]);
  }

  /** As if its processes were struck by lightning: all of them, archive_command included. */
  async kill9(): Promise<void> {
    const pid = this.#postmaster?.pid;
    const children = pid === undefined ? [] : await descendantsOf(pid);
    await this.#end('SIGKILL');
    for (const child of children) killIfThere(child.pid, 'SIGKILL');
  }

  /** All rows, as text. */
  async sql(text: string): Promise<Row[]> {
    await using client = await this.connect();
    // Awaited here: the session must not end before its query.
    return await client.query(text);
  }

  /** The first column of the first row. */
  async value(text: string): Promise<string> {
    const value = (await this.sql(text))[0]?.[0];
    if (value === undefined || value === null) throw new Error(`no value: ${text}`);
    return value;
  }

  /** A session of its own, for what belongs together; dispose it. */
  connect(): Promise<PgClient> {
    return PgClient.connect(this.socketDir);
  }

  async currentLsn(): Promise<Lsn> {
    return parseLsn(await this.value('select pg_current_wal_lsn()'));
  }

  async systemIdentifier(): Promise<bigint> {
    return BigInt(await this.value('select system_identifier from pg_control_system()'));
  }

  /** Ends the current segment, which has something in it, and tells its name. */
  async switchWal(): Promise<WalName> {
    await this.sql(`select pg_create_restore_point('switch')`);
    return walName(await this.value('select pg_walfile_name(pg_switch_wal())'), 'pg_switch_wal');
  }

  /** Writes about so many segments of WAL, switches, and tells the last one's name. */
  async writeSegments(count: number): Promise<WalName> {
    await this.sql('create table if not exists filler (id int, t text)');
    let last = await this.switchWal();
    for (let written = 1; written < count; written++) {
      await this.sql('insert into filler select i, md5(i::text) from generate_series(1, 1000) i');
      last = await this.switchWal();
    }
    return last;
  }

  /** Waits until archive_command has succeeded for a file. */
  async archived(name: string, timeoutMs = 30_000): Promise<void> {
    const status = join(this.walDir, 'archive_status');
    // A recycled segment has neither mark.
    const done = async (): Promise<boolean> =>
      (await isThere(join(status, `${name}.done`))) ||
      (!(await isThere(join(status, `${name}.ready`))) && !(await isThere(join(this.walDir, name))));
    await until(`archive_command to succeed for ${name}`, done, timeoutMs);
  }

  /** Changes settings and reloads; those that need a restart wait for one. */
  async configure(settings: Readonly<Record<string, string>>): Promise<void> {
    await appendFile(join(this.dataDir, 'postgresql.conf'), toConf(settings));
    if (this.#postmaster?.pid !== undefined) process.kill(this.#postmaster.pid, 'SIGHUP');
  }

  /** Ends recovery; waits until it takes writes. */
  async promote(): Promise<void> {
    await this.sql('select pg_promote()');
    await this.writable();
  }

  /** Waits until recovery has ended. */
  async writable(timeoutMs = 60_000): Promise<void> {
    const writable = async (): Promise<boolean> => {
      try {
        return (await this.value('select pg_is_in_recovery()')) === 'f';
      } catch (error) {
        if (!this.running) throw error;
        return false;
      }
    };
    await until('recovery to end', writable, timeoutMs);
  }

  /**
   * A base backup without WAL, by copying files; pg_basebackup is not
   * everywhere. Resolves with its directory; the WAL needed is left to the archive.
   */
  async baseBackup(): Promise<string> {
    const backup = join(this.directory, `backup${Date.now()}`);
    // Start and stop belong to one session.
    await using client = await this.connect();
    const modern = this.programs.major >= 15;
    await client.query(modern ? `select pg_backup_start('t', true)` : `select pg_start_backup('t', true, false)`);
    await this.#copyTree(this.dataDir, backup);
    const [row] = await client.query(
      modern ? 'select labelfile from pg_backup_stop(false)' : 'select labelfile from pg_stop_backup(false, false)',
    );
    await writeFile(join(backup, 'backup_label'), row?.[0] ?? '');
    await this.giveToServer(join(backup, 'backup_label'));
    return backup;
  }

  /** Starts another server on a copy of a base backup; it is cleaned up together with this one. */
  async restore(backup: string, options: RestoreOptions): Promise<TestPostgres> {
    const other = new TestPostgres(this.#site, this.segmentSize);
    await this.#copyTree(backup, other.dataDir);
    const signal = join(other.dataDir, `${options.mode ?? 'recovery'}.signal`);
    await writeFile(signal, '');
    await this.giveToServer(signal);
    await other.#prepareToRun({
      archive_mode: 'off',
      restore_command: options.restoreCommand,
      recovery_target_timeline: 'latest',
      ...options.settings,
    });
    await other.start();
    return other;
  }

  /** Ends whatever still runs. */
  async dispose(): Promise<void> {
    await this.kill9();
    await this.#removeSharedMemory();
  }

  async #initdb(segmentSizeMb: number): Promise<void> {
    const flags = ['-A', 'trust', '-U', 'postgres', '-E', 'UTF8', '--locale=C', '--no-sync'];
    const result = await run(
      join(this.programs.bin, 'initdb'),
      ['-D', this.dataDir, ...flags, `--wal-segsize=${segmentSizeMb}`],
      { ...this.owner, cwd: this.directory, env: this.#env() },
    );
    if (result.status !== 0) throw new Error(`initdb failed: ${result.stderr}${result.stdout}`);
  }

  async #prepareToRun(settings: Readonly<Record<string, string>>): Promise<void> {
    await this.makeDirectory(this.socketDir);
    await this.configure({ listen_addresses: '', port: '5432', unix_socket_directories: this.socketDir, ...settings });
  }

  #env(): NodeJS.ProcessEnv {
    const env = { ...process.env, HOME: this.directory, LC_ALL: 'C', TZ: 'UTC' };
    return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('PG')));
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const postmaster = this.#postmaster;
    if (postmaster?.pid === undefined) return;
    postmaster.kill(signal);
    await until(`PostgreSQL to stop after ${signal}`, () => this.#postmaster !== postmaster, 60_000);
  }

  /** A killed postmaster leaves a small segment of System V shared memory; its id is in postmaster.pid. */
  async #removeSharedMemory(): Promise<void> {
    let text;
    try {
      text = await readFile(join(this.dataDir, 'postmaster.pid'), 'utf8');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return;
      throw error;
    }
    const id = text.split('\n')[6]?.trim().split(/\s+/)[1];
    if (id !== undefined) await run('ipcrm', ['-m', id], {});
  }

  async #copyTree(from: string, to: string): Promise<void> {
    // pg_wal's directories have to be there, its files come from the archive.
    const skipped = new Set(['postmaster.pid', 'postmaster.opts', 'recovery.signal', 'standby.signal']);
    await cp(from, to, {
      recursive: true,
      filter: async (path) => {
        const name = path.slice(from.length + 1);
        if (skipped.has(name) || name.startsWith('pgsql_tmp')) return false;
        if (name.startsWith('pg_wal/')) return name === 'pg_wal/archive_status';
        return isThere(path);
      },
    });
    const { uid, gid } = this.owner;
    if (uid !== undefined) await run('chown', ['-R', `${uid}:${gid}`, to], {});
    await rm(join(to, 'pg_wal', 'archive_status'), { recursive: true, force: true });
    await this.makeDirectory(join(to, 'pg_wal', 'archive_status'));
  }
}

function toConf(settings: Readonly<Record<string, string>>): string {
  return Object.entries(settings)
    .map(([name, value]) => `${name} = '${value.replaceAll(`'`, `''`)}'\n`)
    .join('');
}
