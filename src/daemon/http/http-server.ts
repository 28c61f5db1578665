import { once } from 'node:events';
import type { Server } from 'node:http';
import type { SecureContextOptions } from 'node:tls';
import { errnoOf, messageOf, WalwardenError } from '../../errors.ts';
import { unlessAborted } from '../../health/patience.ts';
import type { Logger } from '../../logging.ts';
import type { DaemonView } from '../daemon-view.ts';
import { DiskWatch } from '../disk-watch.ts';
import { createApp, type App } from './app.ts';
import { DEPOSIT_MS, DISK_PATIENCE_MS } from './limits.ts';
import { isLoopback, parseListenAddress, type ListenAddress } from './listen-address.ts';
import { ReadAhead } from './read-ahead.ts';
import { readTls } from './tls.ts';
import { readTokens, type Tokens } from './tokens.ts';
import { clearWay, listenOnSocket } from './unix-socket.ts';

/** Where and how the daemon serves HTTP; the options `http_*`. */
export interface HttpSettings {
  /** `unix:/PATH`, `HOST:PORT`, `[IPV6]:PORT`. */
  readonly listen: string;
  readonly tlsCertFile: string | null;
  readonly tlsKeyFile: string | null;
  readonly tokensFile: string | null;
  /** How long a deposit may take, in milliseconds; default {@link DEPOSIT_MS}. */
  readonly depositMs?: number;
}

export interface HttpServer {
  /** Where it can be reached: `unix:/PATH`, `http://127.0.0.1:8432`, `https://…`; with the port that the system chose for 0. */
  readonly address: string;
  /**
   * Reads tokens, certificate and key again, and takes them for the requests and connections that come from now on; nothing
   * is closed. `servers`: the names that are configured. False, with nothing changed, where the new settings need another
   * listener. Throws `config`, with nothing changed, when what is new can't be used.
   */
  update(settings: HttpSettings, servers: ReadonlySet<string>): Promise<boolean>;
  /**
   * Takes no more requests, finishes those under way (which are cut off when `kill` fires), and closes every connection.
   */
  close(kill: AbortSignal): Promise<void>;
}

/**
 * Serves HTTP until it is closed. `servers`: the names that are configured. `view` is asked anew for every request. Throws
 * `config` when what is configured can't be used: certificate, key, tokens, address; `locked` when another process listens
 * on the unix socket.
 */
export async function startHttpServer(
  settings: HttpSettings,
  servers: ReadonlySet<string>,
  view: () => DaemonView,
  logger: Logger,
): Promise<HttpServer> {
  const where = parseListenAddress(settings.listen);
  const { tls, ...read } = await readSecrets(settings, where);
  let { tokens } = read;
  tellOfTokens(tokens, settings, where, servers, logger);
  const readAhead = new ReadAhead();
  const app = await createApp(
    { tokens: () => tokens, isSocket: where.kind === 'unix', tls },
    {
      view,
      logger,
      readAhead,
      disks: new DiskWatch(DISK_PATIENCE_MS),
      depositMs: settings.depositMs ?? DEPOSIT_MS,
    },
  );
  await listen(app.server, where, settings.listen);
  const address = addressOf(app.server, where, tls !== null);
  logger.info({ address }, `serving HTTP on ${address}`);
  return {
    address,
    async update(wanted, configured) {
      if (wanted.listen !== settings.listen) return false;
      const secrets = await readSecrets(wanted, where);
      if ((secrets.tls === null) !== (tls === null)) throw switched(address, secrets.tls !== null);
      if (secrets.tls !== null) app.renew(secrets.tls);
      tokens = secrets.tokens;
      tellOfTokens(tokens, wanted, where, configured, logger);
      return true;
    },
    async close(kill) {
      // What is read ahead now, nobody will ask for.
      const quiet = readAhead.close();
      await closeApp(app, kill);
      await unlessAborted(quiet, kill);
    },
  };
}

interface Secrets {
  readonly tls: SecureContextOptions | null;
  readonly tokens: Tokens | null;
}

/** What the files of the settings say; throws `config` when it can't be used there. */
async function readSecrets(settings: HttpSettings, where: ListenAddress): Promise<Secrets> {
  const tls = await readTls(settings.tlsCertFile, settings.tlsKeyFile);
  if (where.kind === 'tcp' && tls === null && !(await isLoopback(where.host))) {
    throw new WalwardenError(
      'config',
      `http_listen = ${settings.listen} can be reached from other machines, and there is no TLS`,
      {
        hint: 'set http_tls_cert_file and http_tls_key_file, or listen on 127.0.0.1 or a unix socket',
      },
    );
  }
  return { tls, tokens: settings.tokensFile === null ? null : await readTokens(settings.tokensFile) };
}

/** Clients of the one would meet the other on the same port. */
function switched(address: string, isTls: boolean): WalwardenError {
  return new WalwardenError(
    'config',
    `${address} can't ${isTls ? 'begin to speak' : 'stop speaking'} TLS while it serves`,
    {
      hint: 'restart the daemon, or set http_listen to another port',
    },
  );
}

function tellOfTokens(
  tokens: Tokens | null,
  { listen: text, tokensFile }: HttpSettings,
  where: ListenAddress,
  servers: ReadonlySet<string>,
  logger: Logger,
): void {
  if (where.kind === 'tcp' && (tokens === null || tokens.count === 0)) {
    logger.warn(`there are no tokens: on ${text} only /livez answers; see http_tokens_file`);
  }
  for (const name of tokens?.servers() ?? []) {
    if (!servers.has(name)) logger.warn(`${tokensFile} has a token of server ${name}, which is not configured`);
  }
}

async function listen(server: Server, where: ListenAddress, text: string): Promise<void> {
  if (where.kind === 'unix') await clearWay(where.path);
  const listening = once(server, 'listening');
  try {
    if (where.kind === 'unix') listenOnSocket(server, where.path);
    else server.listen({ host: where.host, port: where.port });
    await listening;
  } catch (cause) {
    throw new WalwardenError('config', `can't listen on http_listen = ${text}: ${messageOf(cause)}`, {
      cause,
      hint: HINTS[errnoOf(cause) ?? ''] ?? 'set http_listen to an address of this machine',
    });
  }
}

const HINTS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another process listens there: stop it, or set http_listen to another port',
  EACCES: 'ports below 1024 are for root: set http_listen to a higher one',
};

function addressOf(server: Server, where: ListenAddress, isTls: boolean): string {
  if (where.kind === 'unix') return `unix:${where.path}`;
  const bound = server.address();
  const port = typeof bound === 'object' && bound !== null ? bound.port : where.port;
  const host = where.host.includes(':') ? `[${where.host}]` : where.host;
  return `${isTls ? 'https' : 'http'}://${host}:${port}`;
}

async function closeApp({ server, connections }: App, kill: AbortSignal): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  connections.close();
  const cut = (): void => connections.destroyAll();
  kill.addEventListener('abort', cut, { once: true });
  if (kill.aborted) cut();
  await closed;
  kill.removeEventListener('abort', cut);
}
