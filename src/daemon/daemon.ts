import { isDeepStrictEqual } from 'node:util';
import type { ServerConfig, WalwardenConfig } from '../config/config.ts';
import { loadConfig } from '../config/load.ts';
import { messageOf, WalwardenError } from '../errors.ts';
import { ownVersion } from '../version.ts';
import { count, explain } from '../words.ts';
import type { DaemonView, ServerView } from './daemon-view.ts';
import { startHttpServer, type HttpServer, type HttpSettings } from './http/http-server.ts';
import { DaemonMetrics } from './metrics.ts';
import { ServerRunner, type RunnerParts } from './server-runner.ts';
import type { ServiceManager } from './systemd.ts';

export interface DaemonParts extends Omit<RunnerParts, 'metrics'> {
  readonly serviceManager: ServiceManager;
}

/** Requests under way get so many milliseconds when HTTP moves to another address. */
const HTTP_RESTART_MS = 60_000;

/** Whoever asked a server before a reload has so many milliseconds to be answered. */
const RETIRED_MS = 60_000;

/** When a reload waits longer than this for the files that a server has in hand, the log says so. */
const RELOAD_PATIENCE_MS = 10_000;

/** The servers of a configuration at work, and HTTP. */
export class Daemon implements DaemonView {
  readonly metrics = new DaemonMetrics();
  readonly #parts: DaemonParts;
  #config: WalwardenConfig;
  readonly #runners = new Map<string, ServerRunner>();
  /** Stopped by a reload, and not closed yet. */
  readonly #retired = new Set<ServerRunner>();
  #http: HttpServer | null = null;
  /** Resolves once the one before, at another address, is closed. */
  #oldHttp: Promise<void> = Promise.resolve();
  #phase: DaemonView['phase'] = 'starting';
  /** Reloads come one after the other, and the stop waits for the last. */
  #work: Promise<void> = Promise.resolve();
  #stopping: Promise<void> | null = null;

  private constructor(config: WalwardenConfig, parts: DaemonParts) {
    this.#config = config;
    this.#parts = parts;
  }

  /** Resolves once every server has begun and HTTP answers. Throws `config` when HTTP can't be served as configured. */
  static async start(config: WalwardenConfig, parts: DaemonParts): Promise<Daemon> {
    const daemon = new Daemon(config, parts);
    daemon.#http = await daemon.#startHttp(config);
    for (const server of config.servers.values()) daemon.#add(server);
    daemon.#phase = 'running';
    parts.logger.info(`walwarden ${ownVersion()} ${daemon.#summary}`);
    await parts.serviceManager.ready(daemon.#summary);
    return daemon;
  }

  get phase(): DaemonView['phase'] {
    return this.#phase;
  }

  get config(): WalwardenConfig {
    return this.#config;
  }

  get servers(): ReadonlyMap<string, ServerView> {
    return this.#runners;
  }

  get kill(): AbortSignal {
    return this.#parts.kill;
  }

  /**
   * Reads the configuration again, and starts anew what it changes. A new
   * one with an error is told, and changes nothing. Never rejects.
   */
  reload(): Promise<void> {
    return this.#enqueue(async () => {
      if (this.#phase !== 'running') return;
      const { logger, serviceManager } = this.#parts;
      await serviceManager.reloading();
      try {
        await this.#apply(await this.#readAgain());
        this.metrics.reloaded(true);
      } catch (error) {
        const text = error instanceof WalwardenError ? explain(error) : messageOf(error);
        logger.error(`the configuration was not reloaded, the one before stays in effect: ${text}`);
        this.metrics.reloaded(false);
      }
      await serviceManager.ready(this.#summary);
    });
  }

  /** Asked anew after whatever was waited for. */
  get #isStopping(): boolean {
    return this.#phase === 'stopping';
  }

  /** Finishes what is in hand, and closes everything. May be called again. Never rejects. */
  stop(): Promise<void> {
    this.#phase = 'stopping';
    this.#stopping ??= this.#stopAll();
    return this.#stopping;
  }

  async #stopAll(): Promise<void> {
    const { logger, serviceManager } = this.#parts;
    logger.info('asked to stop: finishing what is in hand');
    const runners = [...this.#runners.values()];
    const http = this.#http;
    const ended = Promise.all([http?.close(this.kill), ...runners.map((runner) => runner.stop())]);
    await serviceManager.stopping();
    await ended;
    // A reload may have been under way; it starts nothing any more.
    await this.#work;
    if (this.#http !== http) await this.#http?.close(this.kill);
    await this.#oldHttp;
    await this.#close([...runners, ...this.#retired]);
    await serviceManager.close();
    logger.info('stopped');
  }

  #enqueue(work: () => Promise<void>): Promise<void> {
    this.#work = this.#work.then(work).catch((error: unknown) => {
      this.#parts.logger.error({ err: error }, `internal error: ${messageOf(error)}`);
    });
    return this.#work;
  }

  /** Throws `config` when it has an error that the one in effect has not. */
  async #readAgain(): Promise<WalwardenConfig> {
    const config = await loadConfig(this.#config.file);
    const { logger } = this.#parts;
    for (const option of ['barman_home', 'barman_lock_directory'] as const) {
      if (config.global.options[option] === this.#config.global.options[option]) continue;
      throw new WalwardenError('config', `${option} can't be changed while the daemon runs`, {
        hint: 'restart it: its own lock lies there',
      });
    }
    for (const option of ['log_file', 'log_level'] as const) {
      if (config.global.options[option] === this.#config.global.options[option]) continue;
      logger.warn(`${option} has changed: that takes effect when the daemon is restarted`);
    }
    for (const server of config.servers.values()) {
      const before = this.#config.servers.get(server.name)?.problems.map(({ message }) => message) ?? [];
      const [problem] = server.problems.filter(({ message }) => !before.includes(message));
      if (problem !== undefined) throw new WalwardenError('config', problem.message);
    }
    for (const { file, line, message } of config.warnings) logger.warn(`${file}:${line}: ${message}`);
    return config;
  }

  async #apply(config: WalwardenConfig): Promise<void> {
    const { logger } = this.#parts;
    // First what can fail: nothing is changed then.
    await this.#updateHttp(config);
    if (this.#isStopping) return;
    const leaving = [...this.#runners.values()].filter(({ name, config: old }) => {
      const next = config.servers.get(name);
      return next === undefined || !isSame(old, next);
    });
    await this.#stopPatiently(leaving);
    if (this.#isStopping) return;
    this.#config = config;
    for (const { name } of leaving) {
      this.#runners.delete(name);
      if (!config.servers.has(name)) this.metrics.forget(name);
    }
    const coming = [...config.servers.values()].filter(({ name }) => !this.#runners.has(name));
    for (const server of coming) this.#add(server);
    for (const runner of leaving) this.#retire(runner);
    const names = (servers: readonly { readonly name: string }[]): string => servers.map(({ name }) => name).join(', ');
    const removed = leaving.filter(({ name }) => !config.servers.has(name));
    const changes = [
      ...(coming.length > 0 ? [`started with what is new: ${names(coming)}`] : []),
      ...(removed.length > 0 ? [`gone: ${names(removed)}`] : []),
    ];
    const what = changes.length > 0 ? changes.join('; ') : 'no server has changed';
    logger.info(`the configuration was reloaded; ${what}`);
  }

  #add(server: ServerConfig): void {
    const { logger } = this.#parts;
    const runner = new ServerRunner(this.#config, server, { ...this.#parts, metrics: this.metrics });
    this.#runners.set(server.name, runner);
    if (server.disabled) {
      const problems = server.problems.map(({ message }) => message).join('; ');
      logger.error({ server: server.name, code: 'config' }, `server ${server.name} is disabled: ${problems}`);
    }
    runner.start();
  }

  async #startHttp(config: WalwardenConfig): Promise<HttpServer | null> {
    const settings = httpSettings(config);
    if (settings === null) return null;
    return startHttpServer(settings, new Set(config.servers.keys()), () => this, this.#parts.logger);
  }

  /** Certificate and tokens are read anew; the requests under way go on. Throws `config` when that can't be. */
  async #updateHttp(config: WalwardenConfig): Promise<void> {
    const settings = httpSettings(config);
    const before = this.#http;
    if (before !== null && settings !== null && (await before.update(settings, new Set(config.servers.keys())))) return;
    this.#http = await this.#startHttp(config);
    // The reload doesn't wait for the clients that it serves.
    this.#oldHttp = before?.close(AbortSignal.any([this.kill, AbortSignal.timeout(HTTP_RESTART_MS)])) ?? this.#oldHttp;
  }

  async #stopPatiently(runners: readonly ServerRunner[]): Promise<void> {
    const waiting = new Set(runners.map(({ name }) => name));
    const timer = setTimeout(() => {
      this.#parts.logger.warn(`the reload waits for files in hand of ${[...waiting].join(', ')}`);
    }, RELOAD_PATIENCE_MS);
    await Promise.all(runners.map((runner) => runner.stop().then(() => waiting.delete(runner.name))));
    clearTimeout(timer);
  }

  /** Closes it when those who asked it are answered. */
  #retire(runner: ServerRunner): void {
    this.#retired.add(runner);
    const close = (): void => {
      if (this.#retired.delete(runner)) void this.#close([runner]);
    };
    setTimeout(close, RETIRED_MS).unref();
  }

  async #close(runners: readonly ServerRunner[]): Promise<void> {
    for (const runner of runners) {
      try {
        await runner.close();
      } catch (error) {
        this.#parts.logger.warn({ server: runner.name }, `${runner.name} could not be closed: ${messageOf(error)}`);
      }
    }
  }

  get #summary(): string {
    const runners = [...this.#runners.values()];
    const archived = runners.filter(({ archiving }) => archiving !== null).length;
    const streamed = runners.filter(({ receiving }) => receiving !== null).length;
    const http = this.#http === null ? 'no HTTP' : `HTTP on ${this.#http.address}`;
    return `archives for ${count(archived, 'server')}, receives for ${streamed}; ${http}`;
  }
}

/** Null where nothing is served. */
function httpSettings({ global }: WalwardenConfig): HttpSettings | null {
  const { http_listen: listen, http_tls_cert_file, http_tls_key_file, http_tokens_file } = global.options;
  if (listen === 'off') return null;
  return { listen, tlsCertFile: http_tls_cert_file, tlsKeyFile: http_tls_key_file, tokensFile: http_tokens_file };
}

/** What makes a server another one. */
function isSame(a: ServerConfig, b: ServerConfig): boolean {
  const facts = ({ active, disabled, passive, problems, options }: ServerConfig): unknown => ({
    active,
    disabled,
    passive,
    problems,
    options,
  });
  return isDeepStrictEqual(facts(a), facts(b));
}
