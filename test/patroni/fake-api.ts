import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer, type ServerOptions } from 'node:https';
import type { Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { until } from '../support/poll.ts';

/** What came in. */
export interface Received {
  readonly method: string;
  /** With the percent signs it came with. */
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
  /** How many of this kind there were, from 1. */
  readonly nth: number;
}

export interface Reply {
  readonly status?: number;
  /** A string as it is, anything else as JSON. */
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

/** What is sent back, or what is done with the connection instead. */
export type Play = (
  request: Received,
  socket: Socket,
  response: ServerResponse,
) => Reply | undefined | Promise<Reply | undefined>;

/** What the four requests of pg-backup-api get; each does as pg-backup-api does by default. */
export interface Plays {
  readonly status?: Play;
  readonly create?: Play;
  readonly operation?: Play;
  readonly list?: Play;
  /** In front of every path. */
  readonly prefix?: string;
  readonly tls?: ServerOptions;
}

export interface FakeApi {
  readonly url: string;
  readonly port: number;
  readonly received: readonly Received[];
  /** Those of one kind, such as `POST`, or `GET list`. */
  readonly count: (kind: Kind) => number;
  /** The operations that it has, as its list tells them. */
  readonly operations: { id: string; type: unknown }[];
  /** Refuses every new connection from now on. */
  readonly stopListening: () => Promise<void>;
  /** Whether new connections are reset before a byte is read from them. */
  readonly resetConnections: (whether: boolean) => void;
}

export type Kind = 'status' | 'create' | 'operation' | 'list' | 'other';

const DEFAULTS: Required<Pick<Plays, 'status' | 'create' | 'operation'>> = {
  status: () => ({ body: '"OK"', headers: { 'content-type': 'text/html' } }),
  create: () => ({ status: 202, body: { operation_id: 'OP1' } }),
  operation: () => ({ body: { recovery_id: 'OP1', status: 'DONE' } }),
};

/** Gives an HTTP server that plays pg-backup-api to `body`. */
export async function withApi<T>(plays: Plays, body: (api: FakeApi) => Promise<T>): Promise<T> {
  const received: Received[] = [];
  const kinds: Kind[] = [];
  const operations: { id: string; type: unknown }[] = [{ id: 'OLD', type: 'recovery' }];
  const { prefix = '', tls } = plays;
  const table: Record<Kind, Play> = {
    ...DEFAULTS,
    list: () => ({ body: { operations } }),
    other: () => ({ status: 404, body: { error: '404 Not Found: The requested URL was not found on the server.' } }),
    ...(plays.status === undefined ? {} : { status: plays.status }),
    ...(plays.create === undefined ? {} : { create: plays.create }),
    ...(plays.operation === undefined ? {} : { operation: plays.operation }),
    ...(plays.list === undefined ? {} : { list: plays.list }),
  };
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const { method = '', url: path = '', headers } = request;
    const kind = kindOf(method, path.startsWith(prefix) ? path.slice(prefix.length) : 'elsewhere');
    kinds.push(kind);
    const nth = kinds.filter((each) => each === kind).length;
    const one: Received = { method, path, headers, body: await text(request), nth };
    received.push(one);
    const reply = await table[kind](one, request.socket, response);
    if (reply === undefined) return;
    response.writeHead(reply.status ?? 200, reply.headers ?? { 'content-type': 'application/json' });
    response.end(typeof reply.body === 'string' ? reply.body : JSON.stringify(reply.body));
  };
  const listener: RequestListener = (request, response) => {
    answer(request, response).catch(() => request.socket.destroy());
  };
  const server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener);
  return withServerOn(server, async (port) => {
    const scheme = tls === undefined ? 'http' : 'https';
    const count = (kind: Kind): number => kinds.filter((each) => each === kind).length;
    const stopListening = async (): Promise<void> => {
      server.close();
      await until('the port to be closed', () => !server.listening);
    };
    let resetting = false;
    server.on('connection', (socket: Socket) => {
      if (resetting) socket.resetAndDestroy();
    });
    const resetConnections = (whether: boolean): void => {
      resetting = whether;
    };
    const url = `${scheme}://127.0.0.1:${port}${prefix}`;
    return body({ url, port, received, count, operations, stopListening, resetConnections });
  });
}

async function withServerOn<T>(server: Server, body: (port: number) => Promise<T>): Promise<T> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket.on('error', () => undefined).once('close', () => sockets.delete(socket)));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(0, '127.0.0.1', resolve);
  });
  try {
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    return await body(address.port);
  } finally {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  }
}

function kindOf(method: string, path: string): Kind {
  if (method === 'GET' && path === '/status') return 'status';
  const [, last] = /^\/servers\/[^/]+\/operations(?:\/([^/]+))?$/.exec(path) ?? [null, null];
  if (last === null) return 'other';
  if (last !== undefined) return method === 'GET' ? 'operation' : 'other';
  return method === 'POST' ? 'create' : 'list';
}

/** Sends a RST, as a proxy or a kernel does that knows nothing of the connection. */
export function reset(_request: Received, socket: Socket): undefined {
  socket.resetAndDestroy();
}

/** Never says a word. */
export function silence(): undefined {
  return undefined;
}
