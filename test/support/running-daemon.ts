import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { errnoOf } from '../../src/errors.ts';
import { CLI, ensureBuilt } from './cli.ts';
import { until } from './poll.ts';
import type { RunAs } from './postgres-programs.ts';
import type { ReachableCli } from './reachable-cli.ts';
import { descendantsOf, killIfThere } from './processes.ts';

/** A line of a daemon's log, as far as tests look at it. */
export interface DaemonLogLine {
  readonly level: number;
  readonly msg: string;
  readonly server?: string;
  readonly wal?: string;
}

/** What it answers over its socket. */
export interface Answer {
  readonly status: number;
  readonly body: Buffer;
  readonly json: () => unknown;
}

export interface DaemonOptions extends RunAs {
  readonly env?: NodeJS.ProcessEnv;
  readonly args?: readonly string[];
  /** Where the built one can't be reached by who runs it. */
  readonly program?: ReachableCli;
}

/** `walwarden daemon` in a process of its own; it logs to its stderr unless the configuration says otherwise. */
export class RunningDaemon {
  readonly config: string;
  /** `unix:` address of the default `http_listen`. */
  readonly socket: string;
  readonly process: ChildProcess;
  readonly ended: Promise<{ readonly status: number | null; readonly signal: NodeJS.Signals | null }>;
  stderr = '';
  stdout = '';

  constructor(
    config: string,
    home: string,
    { env = process.env, args = [], program = { node: process.execPath, cli: CLI }, ...as }: DaemonOptions = {},
  ) {
    this.config = config;
    this.socket = join(home, 'walwarden.sock');
    this.process = spawn(program.node, [program.cli, '-c', config, ...args, 'daemon'], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env,
      cwd: '/',
      ...as,
    });
    this.process.stdout?.setEncoding('utf8').on('data', (text: string) => (this.stdout += text));
    this.process.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
    this.ended = new Promise((resolve) => this.process.once('close', (status, signal) => resolve({ status, signal })));
  }

  get pid(): number {
    const { pid } = this.process;
    if (pid === undefined) throw new Error('the daemon was not started');
    return pid;
  }

  get hasEnded(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null;
  }

  /** Its log so far. */
  get log(): DaemonLogLine[] {
    return this.stderr
      .split('\n')
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
      .map((line): DaemonLogLine => JSON.parse(line));
  }

  /** Waits for a message of the log. */
  says(pattern: RegExp, timeoutMs = 60_000): Promise<DaemonLogLine> {
    return this.waitsFor(String(pattern), () => this.log.find(({ msg }) => pattern.test(msg)), timeoutMs);
  }

  /** {@link until}, but fails at once when the daemon ends. */
  async waitsFor<T>(
    what: string,
    probe: () => T | undefined | false | Promise<T | undefined | false>,
    timeoutMs = 60_000,
  ): Promise<T> {
    try {
      return await until(
        what,
        () => {
          if (this.hasEnded)
            throw new Error(`the daemon ended with ${this.process.exitCode ?? this.process.signalCode}`);
          return probe();
        },
        timeoutMs,
      );
    } catch (cause) {
      throw new Error(`no ${what}: ${this.stdout}${this.stderr.slice(-4000)}`, { cause });
    }
  }

  async ready(): Promise<void> {
    await this.waitsFor('an answer to /livez', () => this.isUp());
  }

  /** It answers over its socket. */
  async isUp(): Promise<boolean> {
    try {
      return (await this.ask('/livez')).status === 200;
    } catch (error) {
      if (['ENOENT', 'ECONNREFUSED'].includes(errnoOf(error) ?? '')) return false;
      throw error;
    }
  }

  /** A request over the unix socket. */
  ask(path: string, method = 'GET', body?: Uint8Array): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const asked = request({ socketPath: this.socket, path, method, agent: false }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const bytes = Buffer.concat(chunks);
          resolve({
            status: response.statusCode ?? 0,
            body: bytes,
            json: (): unknown => JSON.parse(bytes.toString('utf8')),
          });
        });
      });
      asked.on('error', reject);
      asked.end(body);
    });
  }

  /** Sends a signal, and tells how it ended. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<{ status: number | null; signal: NodeJS.Signals | null }> {
    if (!this.hasEnded) killIfThere(this.pid, signal);
    return this.ended;
  }

  /** Bytes that it has in memory right now. */
  async residentBytes(): Promise<number> {
    const status = await readFile(`/proc/${this.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  }

  /** The most that it ever had. */
  async peakBytes(): Promise<number> {
    const status = await readFile(`/proc/${this.pid}/status`, 'utf8');
    return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  }

  async dispose(): Promise<void> {
    const below = this.hasEnded ? [] : await descendantsOf(this.pid);
    this.process.kill('SIGKILL');
    for (const { pid } of below) killIfThere(pid, 'SIGKILL');
    if (!this.hasEnded) await once(this.process, 'exit');
    await this.ended;
  }
}

/** Runs a daemon while `body` does, and waits until it is ready. */
export async function withDaemon<T>(
  config: string,
  home: string,
  body: (daemon: RunningDaemon) => Promise<T>,
  options: DaemonOptions = {},
): Promise<T> {
  await ensureBuilt();
  const daemon = new RunningDaemon(config, home, options);
  try {
    await daemon.ready();
    return await body(daemon);
  } finally {
    await daemon.dispose();
  }
}
