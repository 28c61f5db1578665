import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { isThere } from '../../src/durable/durable-file.ts';
import { lockOwner } from '../../src/durable/lock-file.ts';
import { errnoOf } from '../../src/errors.ts';
import { runCli, writeConfig, type ConfigOptions } from '../support/cli.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import type { RunResult } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';

/** A home whose archive-wal can be kept busy: its hook script waits for the file `go`. */
export class CronHome {
  readonly home: string;
  readonly config: string;

  constructor(home: string, config: string) {
    this.home = home;
    this.config = config;
  }

  at(...path: string[]): string {
    return join(this.home, ...path);
  }

  cron(args: readonly string[] = []): Promise<RunResult> {
    return runCli([...args, 'cron'], { config: this.config });
  }

  /** What `-f json cron` says of each server, by name. */
  async report(): Promise<{ status: number | null; servers: Record<string, ReportedServer> }> {
    const { status, stdout, stderr } = await this.cron(['-f', 'json']);
    expect(stderr).toBe('');
    const { servers }: { servers: ReportedServer[] } = JSON.parse(stdout);
    return { status, servers: Object.fromEntries(servers.map((server) => [server.server, server])) };
  }

  async deliver(server = 'main', segment = 1): Promise<void> {
    await mkdir(this.at(server, 'incoming'), { recursive: true });
    await writeWal(this.at(server, 'incoming'), { segment });
  }

  async archived(server = 'main', segment = 1): Promise<void> {
    const { name } = makeWal({ segment });
    await until(`${name} to be archived`, () => isThere(this.at(server, 'wals', name.slice(0, 16), name)));
  }

  /** Waits until everything that was started with this configuration has ended. */
  async idle(): Promise<void> {
    await until('what cron started to end', async () => (await commandsWith(this.config)).size === 0);
  }

  /** Waits until every archive-wal has ended; receive-wal goes on. */
  async archiversEnd(): Promise<void> {
    await until('archive-wal to end', async () => {
      const commands = await commandsWith(this.config);
      return [...commands.values()].every((words) => !words.includes('archive-wal'));
    });
  }

  worker(server = 'main'): Promise<number | null> {
    return lockOwner(this.at(`.${server}-archive-wal.lock`));
  }

  async busy(): Promise<void> {
    await until('the hook script to run', () => isThere(this.at('busy')));
  }

  async go(): Promise<void> {
    await writeFile(this.at('go'), '');
  }

  log(name = 'walwarden.log'): Promise<string> {
    return readFile(this.at(name), 'utf8');
  }
}

export interface ReportedServer {
  readonly server: string;
  readonly skipped: string | null;
  readonly archiveWal: { readonly state: string; readonly pid: number | null } | null;
  readonly receiveWal: { readonly state: string; readonly pid: number | null } | null;
  readonly error: { readonly code: string; readonly message: string } | null;
}

export const LOGGED = { log_file: '%(barman_home)s/walwarden.log' } as const;

export function withCron<T>(options: ConfigOptions, body: (cron: CronHome) => Promise<T>): Promise<T> {
  return withTempDir(async (directory) => {
    const home = join(directory, 'home');
    await mkdir(home);
    // It must end when the test has failed, and took its directory away.
    await writeFile(
      join(directory, 'gate.sh'),
      `touch ${home}/busy; while [ -d ${home} ] && [ ! -e ${home}/go ]; do sleep 0.02; done`,
    );
    const servers = options.servers ?? { main: {} };
    const gated = Object.entries(servers).map(
      ([name, values]) => [name, { pre_archive_script: `sh ${directory}/gate.sh`, ...values }] as const,
    );
    const config = await writeConfig(directory, { home, ...options, servers: Object.fromEntries(gated) });
    const cron = new CronHome(home, config);
    try {
      return await body(cron);
    } finally {
      await cron.go();
      await cron.idle();
    }
  });
}

/** The command lines of the living processes that have this argument, such as a configuration file; by pid. */
export async function commandsWith(argument: string): Promise<Map<number, readonly string[]>> {
  const found = new Map<number, readonly string[]>();
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const words = (await readFile(`/proc/${entry}/cmdline`, 'utf8')).split('\0').slice(0, -1);
      if (words.includes(argument)) found.set(Number(entry), words);
    } catch (error) {
      // Gone meanwhile.
      if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ESRCH') throw error;
    }
  }
  return found;
}
