import { join } from 'node:path';
import { pino } from 'pino';
import { findServer, type WalwardenConfig } from '../../src/config/config.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { ArchivingState, DaemonView, ReceivingState, ServerView } from '../../src/daemon/daemon-view.ts';
import { DaemonMetrics } from '../../src/daemon/metrics.ts';
import type { LookLimits } from '../../src/daemon/server-look.ts';
import { listNow } from '../../src/server-listing.ts';
import { openServer, type Server } from '../../src/server.ts';
import { writeConfig, type ConfigOptions } from '../support/cli.ts';
import { run } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';

/** The servers of a configuration as a daemon shows them, and its metrics. */
export interface TestView {
  readonly home: string;
  readonly config: WalwardenConfig;
  readonly metrics: DaemonMetrics;
  readonly view: DaemonView;
  /** Changes what the view shows of a server. */
  show(server: string, change: Partial<Pick<ServerView, 'archiving' | 'receiving'>>): void;
  remove(server: string): void;
  /** One archive pass, counted. */
  archive(server: string): Promise<void>;
  /** Lists the archive, as is done once a day. */
  list(server: string): Promise<void>;
  /** The series of all servers, or of these. */
  series(servers?: readonly string[]): Promise<Series>;
}

export const IDLE: ArchivingState = {
  state: 'idle',
  failures: 0,
  error: null,
  lastPass: 1_700_000_000_000,
  waiting: 0,
  watching: true,
};

export const RECEIVING: ReceivingState = { state: 'running', pid: process.pid, restarts: 0 };

/** Nothing is remembered from one answer to the next. */
const ALWAYS: Partial<LookLimits> = { catalogueMs: 0, postgresMs: 0 };

/** `options` as for {@link writeConfig}; every server is idle, and receives where it streams. */
export async function withView<T>(
  options: ConfigOptions,
  body: (test: TestView) => Promise<T>,
  limits: Partial<LookLimits> = ALWAYS,
): Promise<T> {
  return withTempDir(async (home) => {
    const config = await loadConfig(await writeConfig(home, options));
    const logger = pino({ level: 'silent' });
    const metrics = new DaemonMetrics(limits);
    const opened: Server[] = [];
    const servers = new Map<string, ServerView>();
    for (const server of config.servers.values()) {
      const { name } = server;
      const mine = server.active && !server.passive && !server.disabled;
      let used: Server | undefined;
      const use = (): Server => {
        if (used === undefined) opened.push((used = openServer(config, server, logger)));
        return used;
      };
      const receiving = mine && server.options.streaming_archiver ? RECEIVING : null;
      servers.set(name, { name, config: server, archiving: mine ? IDLE : null, receiving, use });
    }
    const view: DaemonView = { phase: 'running', config, servers, metrics, kill: new AbortController().signal };
    const test: TestView = {
      home,
      config,
      metrics,
      view,
      show(name, change) {
        const known = servers.get(name);
        if (known !== undefined) servers.set(name, { ...known, ...change });
      },
      remove: (name) => void servers.delete(name),
      async archive(name) {
        await using server = openServer(config, findServer(config, name), logger, {
          observer: metrics.archiving(name),
        });
        await server.archive(false);
      },
      async list(name) {
        await using server = openServer(config, findServer(config, name), logger);
        await listNow(server);
      },
      series: async (names = [...servers.keys()]) => new Series(await metrics.text(view, new Set(names))),
    };
    try {
      for (const each of servers.values()) if (!each.config.disabled) await each.use().makeDirectories();
      return await body(test);
    } finally {
      for (const server of opened) await server[Symbol.asyncDispose]();
    }
  });
}

/** A directory of a server in a test's home. */
export const inServer = ({ home }: TestView, server: string, directory: string): string =>
  join(home, server, directory);

/** What stands in an answer, as Prometheus reads it. */
export class Series {
  readonly text: string;
  /** By name and labels, these in alphabetical order: `walwarden_x{a="1",b="2"}`. */
  readonly values = new Map<string, number>();
  readonly types = new Map<string, string>();

  constructor(text: string) {
    this.text = text;
    for (const line of text.split('\n')) {
      const [, name, type] = /^# TYPE (\S+) (\S+)$/.exec(line) ?? [];
      if (name !== undefined && type !== undefined) {
        if (this.types.has(name)) throw new Error(`${name} stands there twice`);
        this.types.set(name, type);
      }
      if (line === '' || line.startsWith('#')) continue;
      const [, series = '', labels = '', value = ''] = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
      if (series === '') throw new Error(`not a line of Prometheus' format: ${JSON.stringify(line)}`);
      const sorted = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([label]) => label).sort();
      const key = sorted.length === 0 ? series : `${series}{${sorted.join(',')}}`;
      if (this.values.has(key)) throw new Error(`${key} stands there twice`);
      this.values.set(key, Number(value.replace('+Inf', 'Infinity')));
    }
  }

  /** The value of one series, `server="main"` understood; undefined when it is not there. */
  of(name: string, labels: Readonly<Record<string, string>> = {}): number | undefined {
    const all = Object.entries({ server: 'main', ...labels }).map(([label, value]) => `${label}="${value}"`);
    return this.values.get(`walwarden_${name}{${all.sort().join(',')}}`);
  }

  /** The value of one that is no server's. */
  global(name: string): number | undefined {
    return this.values.get(name);
  }

  /** All series of a name. */
  named(name: string): ReadonlyMap<string, number> {
    return new Map([...this.values].filter(([key]) => key === name || key.startsWith(`${name}{`)));
  }

  /** The servers that something is told of. */
  get servers(): ReadonlySet<string> {
    return new Set([...this.text.matchAll(/[{,]server="((?:[^"\\]|\\.)*)"/g)].map(([, name = '']) => name));
  }
}

/** Node's own, as every service with prom-client calls them, are gauges with a counter's name. */
const NODES = /^nodejs_active_\w+_total non-counter metrics should not have "_total" suffix$/;

/** What promtool (Debian's prometheus) says of our metrics; the empty string when nothing is wrong. */
export async function promtoolCheck(text: string): Promise<string> {
  const { status, stderr, stdout } = await run('promtool', ['check', 'metrics'], { input: text });
  const told = `${stdout}${stderr}`.split('\n').filter((line) => line !== '');
  const ours = told.filter((line) => !NODES.test(line)).join('\n');
  return status === 0 || told.length > 0 ? ours : `exit status ${status}`;
}
