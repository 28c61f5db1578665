import { lookup } from 'node:dns/promises';
import { connect as connectSocket, isIP, type Socket } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { errnoOf, messageOf } from '../errors.ts';
import { socketPath, type HostPlan } from './connection-plan.ts';
import { PostgresError } from './failure.ts';
import { certificateMatchesHost, namesOfCertificate } from './host-name-match.ts';
import type { TlsMaterial } from './tls-files.ts';
import type { TlsSettings } from './tls-settings.ts';

/** Where one attempt goes. */
export type Address =
  | { readonly kind: 'socket'; readonly path: string }
  | { readonly kind: 'tcp'; readonly ip: string; readonly port: number };

/** All addresses of a host, in the order in which the system prefers them. Throws `unreachable`. */
export async function addressesOf(host: HostPlan, signal: AbortSignal): Promise<readonly Address[]> {
  const { kind, address, port } = host;
  if (kind === 'socket') return [{ kind, path: socketPath(address, port) }];
  if (isIP(address) !== 0) return [{ kind, ip: address, port }];
  try {
    const found = await orAbort(lookup(address, { all: true, verbatim: true }), signal);
    return found.map((each) => ({ kind, ip: each.address, port }));
  } catch (cause) {
    const why = errnoOf(cause);
    if (why === undefined) throw cause;
    const said = why === 'ENOTFOUND' ? 'there is no such host' : `its address can't be looked up (${why})`;
    throw new PostgresError('unreachable', `host ${JSON.stringify(address)}: ${said}`, { cause });
  }
}

/** For messages: `localhost (127.0.0.1):5432`, or the path of a socket. */
export function describeAddress(host: HostPlan, address: Address | null): string {
  if (host.kind === 'socket') return socketPath(host.address, host.port);
  const ip = address?.kind === 'tcp' ? address.ip : host.address;
  const shown = isIP(ip) === 6 ? `[${ip}]` : ip;
  if (host.name === '' || host.name === ip) return `${shown}:${host.port}`;
  return ip === host.address && isIP(ip) === 0 ? `${host.name}:${host.port}` : `${host.name} (${shown}):${host.port}`;
}

/** Connects; resolves once there is a connection. When `signal` fires before, the socket is destroyed. */
export function openSocket(address: Address, keepAliveIdleMs: number | null, signal: AbortSignal): Promise<Socket> {
  const socket =
    address.kind === 'socket' ? connectSocket(address.path) : connectSocket({ host: address.ip, port: address.port });
  // What goes wrong while nobody waits for it, the next wait finds out.
  socket.on('error', () => undefined);
  if (address.kind === 'tcp') {
    socket.setNoDelay(true);
    if (keepAliveIdleMs !== null) socket.setKeepAlive(true, keepAliveIdleMs);
  }
  return whenReady(socket, 'connect', signal);
}

/** SSLRequest (PostgreSQL: libpq/pqcomm.h, NEGOTIATE_SSL_CODE). */
const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);

/** Asks the server whether it speaks TLS. Throws when it says neither yes nor no. */
export async function askForTls(socket: Socket, signal: AbortSignal): Promise<boolean> {
  socket.write(SSL_REQUEST);
  const answer = (await readSome(socket, signal)).toString('latin1');
  // More than one byte was not encrypted, and may be somebody else's (CVE-2021-23222).
  if (answer === 'S') return true;
  if (answer === 'N') return false;
  if (answer.startsWith('E')) {
    // Nobody has proved to be the server yet: its words are not repeated (CVE-2024-10977).
    throw new PostgresError('unreachable', 'the server answered with an error when it was asked for TLS: see its log');
  }
  if (/^[SN]/.test(answer)) {
    throw new PostgresError('tls', 'somebody sent data before TLS began, which may be an attack');
  }
  throw new PostgresError('misconfigured', 'what answers there is no PostgreSQL');
}

/** The first bytes that come; none of them is lost. */
async function readSome(socket: Socket, signal: AbortSignal): Promise<Buffer> {
  await whenReady(socket, 'readable', signal);
  const bytes: unknown = socket.read();
  if (Buffer.isBuffer(bytes)) return bytes;
  throw new PostgresError('unreachable', 'the server closed the connection');
}

/** Begins TLS on a socket. Throws `tls` also for a certificate that doesn't convince. */
export async function startTls(
  socket: Socket,
  host: HostPlan,
  settings: TlsSettings,
  material: TlsMaterial,
  signal: AbortSignal,
): Promise<TLSSocket> {
  const { name } = host;
  if (material.verify === 'authority-and-name' && name === '') {
    throw new PostgresError(
      'tls',
      'sslmode=verify-full compares the name of the host with the certificate: host must be given',
    );
  }
  try {
    const secure = connectTls({
      ...material.options,
      socket,
      servername: settings.serverNameIndication && isIP(name) === 0 ? name : '',
      ...(settings.negotiation === 'direct' ? { ALPNProtocols: ['postgresql'] } : {}),
      checkServerIdentity: (_host, certificate) => {
        if (material.verify !== 'authority-and-name' || certificateMatchesHost(name, certificate)) return undefined;
        const names = namesOfCertificate(certificate).join(', ');
        return new PostgresError(
          'tls',
          `the certificate of the server is for ${names === '' ? 'no host' : names}, not for ${name}`,
        );
      },
    });
    secure.on('error', () => undefined);
    await whenReady(secure, 'secureConnect', signal);
    if (settings.negotiation === 'direct' && secure.alpnProtocol !== 'postgresql') {
      secure.destroy();
      throw new PostgresError('tls', 'the server does not speak TLS from the first byte on (sslnegotiation=direct)');
    }
    return secure;
  } catch (cause) {
    socket.destroy();
    signal.throwIfAborted();
    if (cause instanceof PostgresError) throw cause;
    throw new PostgresError('tls', tlsTrouble(cause), { cause });
  }
}

function tlsTrouble(error: unknown): string {
  const code = errnoOf(error) ?? '';
  const words = messageOf(error);
  if (['ECONNRESET', 'EPIPE'].includes(code)) return 'the server broke off when TLS began';
  if (
    /^(?:CERT_|UNABLE_TO_|DEPTH_|SELF_SIGNED|INVALID_|CRL_|HOSTNAME_|ERROR_IN_C|ERR_TLS_CERT|PATH_LENGTH|OUT_OF_MEM)/.test(
      code,
    )
  ) {
    return `the certificate of the server is not trusted: ${words} (${code})`;
  }
  return `TLS failed: ${/:SSL routines:[^:]*:([^:]+)/.exec(words)?.[1] ?? words}`;
}

/** Resolves to the stream with the first `event`; it is destroyed on errors, and when `signal` fires. */
function whenReady<T extends Socket>(
  stream: T,
  event: 'connect' | 'readable' | 'secureConnect',
  signal: AbortSignal,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void): void => {
      stream.off(event, onEvent).off('error', onError).off('close', onClose);
      signal.removeEventListener('abort', onAbort);
      act();
    };
    const fail = (error: unknown): void => {
      settle(() => {
        stream.destroy();
        reject(error instanceof Error ? error : new Error(String(error)));
      });
    };
    const onEvent = (): void => settle(() => resolve(stream));
    const onError = (error: Error): void => fail(error);
    const onClose = (): void => fail(new PostgresError('unreachable', 'the server closed the connection'));
    const onAbort = (): void => fail(signal.reason);
    stream.on(event, onEvent).on('error', onError).on('close', onClose);
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) onAbort();
    else if (stream.destroyed)
      fail(stream.errored ?? new PostgresError('unreachable', 'the server closed the connection'));
  });
}

function orAbort<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) onAbort();
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
