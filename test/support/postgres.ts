import { spawn, type ChildProcess } from 'node:child_process';
import { appendFile, chown, mkdir, open, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../../src/errors.ts';
import { isThere } from '../../src/durable/durable-file.ts';
import { formatLsn, parseLsn, type Lsn } from '../../src/wal/lsn.ts';
import { walName, type WalName } from '../../src/wal/wal-name.ts';
import { copyCluster, freePort, removeSharedMemory, toConf } from './cluster-files.ts';
import { PgClient, type Row } from './pg-client.ts';
import { runPgbench, type PgbenchLoad, type PgbenchOptions } from './pgbench.ts';
import { findPostgres, reachablePrograms, serverUser, type PostgresPrograms, type RunAs } from './postgres-programs.ts';
import { until } from './poll.ts';
import { descendantsOf, killIfThere } from './processes.ts';
import { run, type RunResult } from './run.ts';
import { withTempDir } from './temp-dir.ts';

export interface PostgresOptions {
  /** Power of two, in MiB. */
  readonly segmentSizeMb?: number;
  /** Turns archive_mode on. */
  readonly archiveCommand?: string;
  readonly settings?: Readonly<Record<string, string>>;
  /** false: initdb only; `start()` is the caller's. */
  readonly start?: boolean;
  /** Listens on a port of 127.0.0.1, too: `pg.port`, `pg.tcpConninfo`. */
  readonly tcp?: boolean;
  /**
   * Lines of pg_hba.conf, instead of initdb's, which trust everybody. The user
   * `postgres` is always trusted on the socket, for `sql()` and standbys.
   */
  readonly hba?: readonly string[];
  /** Instead of a temporary directory; others must be able to traverse it, and it is the caller's to remove. */
  readonly directory?: string;
}

export interface RestoreOptions {
  readonly restoreCommand: string;
  /** `standby` keeps following; `recovery` promotes at the end of the WAL. */
  readonly mode?: 'recovery' | 'standby';
  readonly settings?: Readonly<Record<string, string>>;
}

export interface StandbyOptions {
  /** Listens on a port of 127.0.0.1, too. */
  readonly tcp?: boolean;
  /** In place of the conninfo of the primary's socket: the address of a proxy, say. */
  readonly primaryConninfo?: string;
  readonly settings?: Readonly<Record<string, string>>;
}

/**
 * A real PostgreSQL in a temporary directory, on a unix socket; with `tcp` on 127.0.0.1 too. Everything
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
  /** Of the socket, `.s.PGSQL.<port>`, and of 127.0.0.1 with `tcp`; else 5432. */
  readonly port: number;
  /** Holds the socket. */
  readonly socketDir: string;
  readonly logFile: string;
  #postmaster: ChildProcess | undefined;

  private constructor(site: Site, segmentSize: number, port: number) {
    const name = `pg${site.servers.length}`;
    this.#site = site;
    this.segmentSize = segmentSize;
    this.port = port;
    this.dataDir = join(site.directory, name);
    this.socketDir = join(site.directory, `${name}s`);
    this.logFile = join(site.directory, `${name}.log`);
    site.servers.push(this);
  }

  static async create(site: Site, options: PostgresOptions): Promise<TestPostgres> {
    const segmentSizeMb = options.segmentSizeMb ?? 1;
    const pg = new TestPostgres(site, segmentSizeMb * 1024 * 1024, await choosePort(options.tcp));
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
    if (options.hba !== undefined) await pg.setHba(options.hba);
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
    return `host=${this.socketDir} port=${this.port} user=postgres dbname=postgres`;
  }

  /** Without a user; needs `tcp`. */
  get tcpConninfo(): string {
    if (!this.#listens) throw new Error('this PostgreSQL has no port: withPostgres({ tcp: true }, …)');
    return `host=127.0.0.1 port=${this.port} dbname=postgres`;
  }

  get #listens(): boolean {
    return this.port !== SOCKET_PORT;
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
      await until(
        'PostgreSQL to answer',
        async () => {
          if (this.#postmaster === undefined) throw new Error('PostgreSQL ended');
          try {
            await this.sql('select 1');
            return true;
          } catch (error) {
            lastError = messageOf(error);
            return false;
          }
        },
        START_MS,
      );
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
    return PgClient.connect(this.socketDir, 'postgres', 'postgres', this.port);
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

  /** Replaces pg_hba.conf and reloads; see {@link PostgresOptions.hba}. */
  async setHba(lines: readonly string[]): Promise<void> {
    const ours = ['local all postgres trust', 'local replication postgres trust'];
    await writeFile(join(this.dataDir, 'pg_hba.conf'), [...ours, ...lines, ''].join('\n'));
    if (!this.running) return;
    // A reload takes a while, and whoever connects meanwhile would meet the old rules.
    const before = await this.value('select pg_conf_load_time()');
    await until('pg_hba.conf to be loaded', async () => {
      await this.sql('select pg_reload_conf()');
      return (await this.value('select pg_conf_load_time()')) !== before;
    });
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
    await this.#copyCluster(this.dataDir, backup);
    const [row] = await client.query(
      modern ? 'select labelfile from pg_backup_stop(false)' : 'select labelfile from pg_stop_backup(false, false)',
    );
    await writeFile(join(backup, 'backup_label'), row?.[0] ?? '');
    await this.giveToServer(join(backup, 'backup_label'));
    return backup;
  }

  /** Starts another server on a copy of a base backup; it is cleaned up together with this one. */
  async restore(backup: string, options: RestoreOptions): Promise<TestPostgres> {
    const other = new TestPostgres(this.#site, this.segmentSize, SOCKET_PORT);
    await this.#copyCluster(backup, other.dataDir);
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

  /**
   * A hot standby of this server that streams from it, through a slot of its own
   * (`standby1`, …, which is also its application_name); it is cleaned up together with this one.
   */
  async standby(options: StandbyOptions = {}): Promise<TestPostgres> {
    const slot = `standby${this.#site.servers.length}`;
    await this.sql(`select pg_create_physical_replication_slot('${slot}', true)`);
    const backup = await this.baseBackup();
    const other = new TestPostgres(this.#site, this.segmentSize, await choosePort(options.tcp));
    await rename(backup, other.dataDir);
    await writeFile(join(other.dataDir, 'standby.signal'), '');
    await this.giveToServer(join(other.dataDir, 'standby.signal'));
    const primary = options.primaryConninfo ?? this.conninfo;
    await other.#prepareToRun({
      archive_mode: 'off',
      primary_conninfo: `${primary} application_name=${slot}`,
      primary_slot_name: slot,
      recovery_target_timeline: 'latest',
      wal_retrieve_retry_interval: '200ms',
      ...options.settings,
    });
    await other.start();
    return other;
  }

  /** Waits until a standby has replayed up to a position. */
  async replayed(lsn: Lsn, timeoutMs = 30_000): Promise<void> {
    const there = async (): Promise<boolean> => parseLsn(await this.value('select pg_last_wal_replay_lsn()')) >= lsn;
    await until(`the standby to replay ${formatLsn(lsn)}`, there, timeoutMs);
  }

  /** Runs pgbench to its end; makes its tables when they are missing. Where `programs.complete` only. */
  pgbench(load: PgbenchLoad, options: PgbenchOptions = {}): Promise<RunResult> {
    return runPgbench(this, load, options);
  }

  /** Ends whatever still runs. */
  async dispose(): Promise<void> {
    await this.kill9();
    await removeSharedMemory(this.dataDir);
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
    await this.configure({
      listen_addresses: this.#listens ? '127.0.0.1' : '',
      port: String(this.port),
      unix_socket_directories: this.socketDir,
      ...settings,
    });
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

  async #copyCluster(from: string, to: string): Promise<void> {
    await copyCluster(from, to, this.owner);
    await this.makeDirectory(join(to, 'pg_wal', 'archive_status'));
  }
}

/** In recovery it runs restore_command again and again before it answers, on a machine that may be busy. */
const START_MS = 180_000;

/** Without `tcp` every server has it, in a socket directory of its own. */
const SOCKET_PORT = 5432;

async function choosePort(tcp: boolean | undefined): Promise<number> {
  return tcp === true ? freePort() : SOCKET_PORT;
}
