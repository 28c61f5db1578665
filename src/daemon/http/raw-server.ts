import { createServer as createHttp, type Server } from 'node:http';
import { createServer as createHttps } from 'node:https';
import type { Socket } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import { errnoOf } from '../../errors.ts';
import { errorBody, HttpError } from './answers.ts';
import {
  HEADERS_TIMEOUT_MS,
  KEEP_ALIVE_MS,
  MAX_CONNECTIONS,
  MAX_HEADER_SIZE,
  SILENCE_MS,
  TIMEOUT_CHECK_MS,
  TLS_HANDSHAKE_TIMEOUT_MS,
} from './limits.ts';

export interface RawServer {
  readonly server: Server;
  /** Takes another certificate; connections that are there keep theirs. */
  readonly renew: (tls: SecureContextOptions) => void;
}

/** Node's server within our limits, without a route. */
export function createRawServer(tls: SecureContextOptions | null): RawServer {
  const options = {
    maxHeaderSize: MAX_HEADER_SIZE,
    headersTimeout: HEADERS_TIMEOUT_MS,
    // Of a whole request: a large segment may take its time, as long as it comes.
    requestTimeout: 0,
    connectionsCheckingInterval: TIMEOUT_CHECK_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
  };
  if (tls === null) return { server: within(createHttp(options)), renew: () => {} };
  const secure = createHttps({ ...options, ...tls, handshakeTimeout: TLS_HANDSHAKE_TIMEOUT_MS });
  return { server: within(secure), renew: (other) => secure.setSecureContext(other) };
}

function within(server: Server): Server {
  server.maxConnections = MAX_CONNECTIONS;
  server.setTimeout(SILENCE_MS);
  // Whoever is refused is so before he sends the body; the route that wants it asks for it.
  server.on('checkContinue', (request, response) => server.emit('request', request, response));
  // Node's close() calls it, and it takes a response for sent that a slow client still reads; see Connections.
  server.closeIdleConnections = () => {};
  return server;
}

const STATUS_LINES: Readonly<Record<number, string>> = {
  400: '400 Bad Request',
  408: '408 Request Timeout',
  431: '431 Request Header Fields Too Large',
};

/** Answers what is no HTTP, or takes too long to become it, unless an answer is under way, and ends the connection. */
export function refuseGarbage(error: Error, socket: Socket, isBusy: boolean): void {
  if (isBusy || !socket.writable || errnoOf(error) === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const refusal = refusalOf(errnoOf(error));
  const body = JSON.stringify(errorBody(refusal));
  const head = [
    `HTTP/1.1 ${STATUS_LINES[refusal.status]}`,
    'Connection: close',
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
}

function refusalOf(code: string | undefined): HttpError {
  if (code === 'HPE_HEADER_OVERFLOW') {
    return new HttpError(431, 'too-large', `the headers have more than ${MAX_HEADER_SIZE} bytes`);
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return new HttpError(408, 'bad-request', `the headers were not complete after ${HEADERS_TIMEOUT_MS / 1000} s`);
  }
  return new HttpError(400, 'bad-request', 'this is no HTTP request');
}
