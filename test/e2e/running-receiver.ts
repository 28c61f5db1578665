import { spawn, type ChildProcess } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { readReceiverReport, type ReceiverReport, type ReceiverState } from '../../src/receiver/receiver-report.ts';
import { isWalName, walKind } from '../../src/wal/wal-name.ts';
import { CLI, ensureBuilt, runCli, writeConfig } from '../support/cli.ts';
import { until } from '../support/poll.ts';
import { pgReceivewalOf } from '../support/postgres-programs.ts';
import { withPostgres, type PostgresOptions, type TestPostgres } from '../support/postgres.ts';
import { descendantsOf, killIfThere, type LiveProcess } from '../support/processes.ts';
import type { RunResult } from '../support/run.ts';
import { withHome, type TestHome } from '../support/temp-dir.ts';

/** A line of the log, as far as tests look at it. */
export interface LogLine {
  readonly level: number;
  readonly msg: string;
  readonly state?: string;
  readonly failure?: string;
  readonly hint?: string;
}

/** `receive-wal main` in a process of its own. */
export class RunningReceiver {
  readonly process: ChildProcess;
  readonly ended: Promise<{ readonly status: number | null; readonly signal: NodeJS.Signals | null }>;
  stderr = '';
  stdout = '';

  constructor(config: string, flags: readonly string[] = []) {
    this.process = spawn(process.execPath, [CLI, '-c', config, ...flags, 'receive-wal', 'main'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.process.stdout?.setEncoding('utf8').on('data', (text: string) => (this.stdout += text));
    this.process.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
    this.ended = new Promise((resolve) => this.process.once('close', (status, signal) => resolve({ status, signal })));
  }

  get pid(): number {
    const { pid } = this.process;
    if (pid === undefined) throw new Error('receive-wal was not started');
    return pid;
  }

  /** Its pg_receivewal, while one runs. */
  async child(): Promise<number | undefined> {
    const below = await descendantsOf(this.pid);
    return below.find(({ command }) => command === 'pg_receivewal')?.pid;
  }

  /** Asks it to end, and tells how it did. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<{ status: number | null; signal: NodeJS.Signals | null }> {
    killIfThere(this.pid, signal);
    return this.ended;
  }
}

type ServerOptions = Readonly<Record<string, string | number>>;

/** A home whose server `main` streams from a PostgreSQL. */
export class StreamingHome {
  readonly home: TestHome;
  readonly config: string;
  readonly #options: ServerOptions;
  readonly #receivers: RunningReceiver[];

  private constructor(home: TestHome, config: string, options: ServerOptions, receivers: RunningReceiver[]) {
    this.home = home;
    this.config = config;
    this.#options = options;
    this.#receivers = receivers;
  }

  static async create(
    home: TestHome,
    options: ServerOptions,
    receivers: RunningReceiver[] = [],
  ): Promise<StreamingHome> {
    const config = await writeConfig(join(home.home, `config${receivers.length}`), {
      home: home.home,
      global: { log_file: join(home.home, 'walwarden.log'), log_level: 'INFO' },
      servers: { main: options },
    });
    return new StreamingHome(home, config, options, receivers);
  }

  /** The same home with other options of `main`. */
  with(options: ServerOptions): Promise<StreamingHome> {
    return StreamingHome.create(this.home, { ...this.#options, ...options }, this.#receivers);
  }

  get streaming(): string {
    return this.home.streaming;
  }

  get logFile(): string {
    return join(this.home.home, 'walwarden.log');
  }

  get reportPath(): string {
    return join(this.home.home, 'main', '.receive-wal.json');
  }

  /** Starts `receive-wal main`; it is killed when the test ends. */
  start(...flags: readonly string[]): RunningReceiver {
    const receiver = new RunningReceiver(this.config, flags);
    this.#receivers.push(receiver);
    return receiver;
  }

  /** What runs below it. */
  childrenOf(receiver: RunningReceiver): Promise<LiveProcess[]> {
    return descendantsOf(receiver.pid);
  }

  /** Starts one and waits until it streams. */
  async startStreaming(...flags: readonly string[]): Promise<RunningReceiver> {
    const receiver = this.start(...flags);
    await this.reaches('streaming', receiver);
    return receiver;
  }

  /** Waits until the report tells a state, and for what is in the report then. */
  async reaches(state: ReceiverState, receiver: RunningReceiver, timeoutMs = 60_000): Promise<ReceiverReport> {
    let last: ReceiverReport | null = null;
    const probe = async (): Promise<ReceiverReport | undefined> => {
      if (receiver.process.exitCode !== null && state !== 'stopped') {
        throw new Error(`receive-wal ended with ${receiver.process.exitCode}: ${receiver.stderr}`);
      }
      last = await this.report();
      return last?.state === state && last.pid === receiver.pid ? last : undefined;
    };
    try {
      return await until(`receive-wal to be ${state}`, probe, timeoutMs);
    } catch (cause) {
      throw new Error(`receive-wal is not ${state}: ${JSON.stringify(last)} ${receiver.stderr}`, { cause });
    }
  }

  report(): Promise<ReceiverReport | null> {
    return readReceiverReport(this.reportPath);
  }

  cli(args: readonly string[]): Promise<RunResult> {
    return runCli(args, { config: this.config });
  }

  async log(): Promise<LogLine[]> {
    const text = await readFile(this.logFile, 'utf8');
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line): LogLine => JSON.parse(line));
  }

  /** Messages from `info` on. */
  async messages(): Promise<string[]> {
    return (await this.log()).filter(({ level }) => level >= 30).map(({ msg }) => msg);
  }

  /** Waits for a complete file, and compares all there are with the server's own. Tells their names, without a gap. */
  async expectReceived(pg: TestPostgres, last: string): Promise<string[]> {
    await until(`${last} to be received`, async () => (await readdir(this.streaming)).includes(last), 60_000);
    const names = (await readdir(this.streaming))
      .filter((name) => isWalName(name) && walKind(name) === 'segment')
      .sort();
    for (const name of names) {
      const [ours, theirs] = await Promise.all([readFile(join(this.streaming, name)), readFile(join(pg.walDir, name))]);
      expect(ours.equals(theirs), `${name} is as the server wrote it`).toBe(true);
    }
    const [first] = names;
    const expected = (await readdir(pg.walDir)).filter(
      (name) => isWalName(name) && walKind(name) === 'segment' && first !== undefined && name >= first && name <= last,
    );
    expect(names.filter((name) => name <= last)).toEqual(expected.sort());
    return names;
  }

  async dispose(): Promise<void> {
    for (const receiver of this.#receivers) {
      const below = receiver.process.exitCode === null ? await descendantsOf(receiver.pid) : [];
      receiver.process.kill('SIGKILL');
      for (const { pid } of below) killIfThere(pid, 'SIGKILL');
      await receiver.ended;
    }
  }
}

export interface StreamingOptions extends PostgresOptions {
  /** Options of the server `main`. */
  readonly server?: Readonly<Record<string, string | number>>;
}

/** A running PostgreSQL that keeps all its WAL, and a home that can stream from it with the slot `walwarden`. */
export function withStreamingHome<T>(
  options: StreamingOptions,
  body: (pg: TestPostgres, home: StreamingHome) => Promise<T>,
): Promise<T> {
  const { server = {}, settings = {}, ...rest } = options;
  return withPostgres({ ...rest, settings: { wal_keep_size: '1GB', ...settings } }, (pg) =>
    withHomeOf(pg, server, (home) => body(pg, home)),
  );
}

/** The home alone, of a PostgreSQL that runs. */
export function withHomeOf<T>(
  pg: TestPostgres,
  server: ServerOptions,
  body: (home: StreamingHome) => Promise<T>,
): Promise<T> {
  return withHome(async (layout) => {
    pgReceivewalOf(pg.programs);
    await ensureBuilt();
    const home = await StreamingHome.create(layout, {
      archiver: 'off',
      streaming_archiver: 'on',
      slot_name: 'walwarden',
      create_slot: 'auto',
      conninfo: pg.conninfo,
      path_prefix: pg.programs.bin,
      ...server,
    });
    try {
      return await body(home);
    } finally {
      await home.dispose();
    }
  });
}

/** The arguments of a process, as everybody on the machine sees them; empty when it is gone. */
export async function commandLine(pid: number): Promise<string> {
  try {
    return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
