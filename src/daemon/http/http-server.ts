import { once } from 'node:events';
import type { Server } from 'node:http';
import { errnoOf, messageOf, WalwardenError } from '../../errors.ts';
import { unlessAborted } from '../../health/patience.ts';
import type { Logger } from '../../logging.ts';
import type { DaemonView } from '../daemon-view.ts';
import { createApp, type App } from './app.ts';
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
}

export interface HttpServer {
  /** Where it can be reached: `unix:/PATH`, `http://127.0.0.1:8432`, `https://…`; with the port that the system chose for 0. */
  readonly address: string;
  /**
   * Takes no more requests, finishes those under way (which are cut off when `kill` fires), and closes every connection.
   */
  close(kill: AbortSignal): Promise<void>;
}

/**
 * Serves HTTP until it is closed. `view` is asked anew for every request. Throws `config` when what is configured can't be
 * used: certificate, key, tokens, address; `locked` when another process listens on the unix socket.
 */
export async function startHttpServer(
  settings: HttpSettings,
  view: () => DaemonView,
  logger: Logger,
): Promise<HttpServer> {
  const where = parseListenAddress(settings.listen);
  const isSocket = where.kind === 'unix';
  const tls = await readTls(settings.tlsCertFile, settings.tlsKeyFile);
  if (!isSocket && tls === null && !(await isLoopback(where.host))) {
    throw new WalwardenError(
      'config',
      `http_listen = ${settings.listen} can be reached from other machines, and there is no TLS`,
      {
        hint: 'set http_tls_cert_file and http_tls_key_file, or listen on 127.0.0.1 or a unix socket',
      },
    );
  }
  const tokens = settings.tokensFile === null ? null : await readTokens(settings.tokensFile);
  tellOfTokens(tokens, settings, isSocket, view(), logger);
  const readAhead = new ReadAhead();
  const app = await createApp({ tokens, isSocket, tls }, { view, logger, readAhead });
  await listen(app.server, where, settings.listen);
  const address = addressOf(app.server, where, tls !== null);
  logger.info({ address }, `serving HTTP on ${address}`);
  return {
    address,
    async close(kill) {
      // What is read ahead now, nobody will ask for.
      const quiet = readAhead.close();
      await closeApp(app, kill);
      await unlessAborted(quiet, kill);
    },
  };
}

function tellOfTokens(
  tokens: Tokens | null,
  { listen: text, tokensFile }: HttpSettings,
  isSocket: boolean,
  { servers }: DaemonView,
  logger: Logger,
): void {
  if (!isSocket && (tokens === null || tokens.count === 0)) {
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
