import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadConfig } from '../../../src/config/load.ts';
import type { WalwardenConfig } from '../../../src/config/config.ts';
import type { DaemonView, ServerView } from '../../../src/daemon/daemon-view.ts';
import { startHttpServer, type HttpServer, type HttpSettings } from '../../../src/daemon/http/http-server.ts';
import { DaemonMetrics } from '../../../src/daemon/metrics.ts';
import { createLogger } from '../../../src/logging.ts';
import { openServer, type Server } from '../../../src/server.ts';
import { sha256 } from '../../../src/storage/sha256.ts';
import { configured, type ServerOptions, type TestServer } from '../../commands/with-server.ts';
import { withHome } from '../../support/temp-dir.ts';

export interface HttpRequestOptions {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  readonly token?: string;
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** A daemon's HTTP server over a real home, without the daemon. */
export interface TestHttp extends TestServer {
  readonly http: HttpServer;
  readonly settings: HttpSettings;
  readonly socket: string;
  readonly view: { phase: DaemonView['phase']; servers: DaemonView['servers'] };
  readonly ask: (path: string, options?: HttpRequestOptions) => Promise<HttpAnswer>;
  readonly put: (name: string, bytes: Uint8Array, headers?: Readonly<Record<string, string>>) => Promise<HttpAnswer>;
  readonly get: (name: string) => Promise<HttpAnswer>;
  /** Of the server `main`. */
  readonly opened: () => Server;
  readonly log: () => Promise<string>;
}

export interface HttpTestOptions {
  /** Of the server `main`. */
  readonly server?: ServerOptions;
  readonly global?: ServerOptions;
  /** Other servers. */
  readonly others?: Readonly<Record<string, ServerOptions>>;
  /** Default: a unix socket. */
  readonly listen?: string;
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca: Buffer };
  /** How long a deposit may take, in milliseconds. */
  readonly depositMs?: number;
  /** The lines of the tokens file. */
  readonly tokens?: readonly string[];
}

/** A line of a tokens file. */
export function tokenLine(token: string, servers = '*', scopes = 'read,write,metrics', name = ''): string {
  return `sha256:${sha256(Buffer.from(token))} ${servers} ${scopes} ${name}`.trim();
}

export async function withHttp<T>(options: HttpTestOptions, body: (test: TestHttp) => Promise<T>): Promise<T> {
  return withHome(async (home) => {
    const test = await configured(home, options.server ?? {}, options.global);
    for (const [name, values] of Object.entries(options.others ?? {})) {
      const lines = Object.entries({ description: name, archiver: 'on', ...values }).map(([k, v]) => `${k} = ${v}\n`);
      await writeFile(test.config, `[${name}]\n${lines.join('')}\n`, { flag: 'a' });
    }
    const config = await loadConfig(test.config);
    const logFile = join(home.home, 'walwarden.log');
    const logger = createLogger({ file: logFile, level: 'DEBUG' });
    const opened = new Map<string, Server>();
    const kill = new AbortController();
    const view = viewOf(
      config,
      (name) => {
        let server = opened.get(name);
        if (server === undefined) {
          const found = config.servers.get(name);
          if (found === undefined) throw new Error(`no server ${name}`);
          server = openServer(config, found, logger, { kill: kill.signal, resident: true });
          opened.set(name, server);
        }
        return server;
      },
      kill.signal,
    );
    const tokensFile = options.tokens === undefined ? null : join(home.home, 'tokens');
    if (tokensFile !== null) await writeFile(tokensFile, `${options.tokens?.join('\n')}\n`, { mode: 0o600 });
    const socket = join(home.home, 'walwarden.sock');
    const settings: HttpSettings = {
      listen: options.listen ?? `unix:${socket}`,
      tlsCertFile: options.tls?.cert ?? null,
      tlsKeyFile: options.tls?.key ?? null,
      tokensFile,
      ...(options.depositMs === undefined ? {} : { depositMs: options.depositMs }),
    };
    const http = await startHttpServer(settings, new Set(config.servers.keys()), () => view, logger);
    const ask = (path: string, asked: HttpRequestOptions = {}): Promise<HttpAnswer> =>
      askHttp(http.address, path, asked, options.tls?.ca);
    try {
      return await body({
        ...test,
        http,
        settings,
        socket,
        view,
        ask,
        put: (name, bytes, headers = {}) => ask(`/servers/main/wal/${name}`, { method: 'PUT', body: bytes, headers }),
        get: (name) => ask(`/servers/main/wal/${name}`),
        opened: () => view.servers.get('main')?.use() ?? never(),
        log: () => readFile(logFile, 'utf8'),
      });
    } finally {
      kill.abort();
      await http.close(kill.signal);
      for (const server of opened.values()) await server[Symbol.asyncDispose]();
    }
  });
}

function never(): never {
  throw new Error('there is no server main');
}

type MutableView = { -readonly [Key in keyof DaemonView]: DaemonView[Key] };

function viewOf(config: WalwardenConfig, use: (name: string) => Server, kill: AbortSignal): MutableView {
  const servers = [...config.servers.values()].map((server): ServerView => {
    const works = server.active && !server.disabled && !server.passive;
    return {
      name: server.name,
      config: server,
      archiving: works ? { state: 'idle', failures: 0, error: null, lastPass: null, waiting: 0, watching: true } : null,
      receiving: null,
      use: () => use(server.name),
    };
  });
  return {
    phase: 'running',
    config,
    servers: new Map(servers.map((server) => [server.name, server])),
    metrics: new DaemonMetrics(),
    kill,
  };
}

/** One request over a connection of its own. */
export function askHttp(
  address: string,
  path: string,
  { method = 'GET', headers = {}, body, token }: HttpRequestOptions = {},
  ca?: Buffer,
): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    const [, socketPath] = /^unix:(.*)$/.exec(address) ?? [];
    const target = socketPath === undefined ? new URL(address) : null;
    const options = {
      ...(target === null ? { socketPath } : { host: target.hostname.replaceAll(/[[\]]/g, ''), port: target.port }),
      path,
      method,
      agent: false,
      ...(ca === undefined ? {} : { ca }),
      headers: {
        connection: 'close',
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { 'content-length': String(body.length) }),
        ...headers,
      },
    };
    const request = (target?.protocol === 'https:' ? httpsRequest : httpRequest)(options, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }),
      );
    });
    request.on('error', reject);
    request.end(body);
  });
}

/** The body of an answer, parsed. */
export function jsonOf({ body }: HttpAnswer): unknown {
  return JSON.parse(body.toString('utf8'));
}
