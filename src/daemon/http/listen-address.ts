import { lookup } from 'node:dns/promises';
import { BlockList, isIP } from 'node:net';
import { messageOf, WalwardenError } from '../../errors.ts';

/** Where the server listens. */
export type ListenAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** The value of `http_listen`; throws `config` when it is none. */
export function parseListenAddress(text: string): ListenAddress {
  const [, path] = /^unix:(\/.+)$/.exec(text) ?? [];
  if (path !== undefined) {
    checkSocketPath(text, path);
    return { kind: 'unix', path };
  }
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^\s:/[\]]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  if (host === undefined || port === undefined || Number(port) > 65_535) {
    throw new WalwardenError('config', `http_listen = ${text} is no address`, {
      hint: 'expected unix:/PATH, HOST:PORT, [IPV6]:PORT or off',
    });
  }
  return { kind: 'tcp', host, port: Number(port) };
}

/** Bytes of a unix socket's path that the kernel takes. A longer one would be cut, and the socket be somewhere else. */
const MAX_SOCKET_PATH = 107;

function checkSocketPath(text: string, path: string): void {
  const length = Buffer.byteLength(path);
  if (length <= MAX_SOCKET_PATH) return;
  throw new WalwardenError(
    'config',
    `http_listen = ${text} has a path of ${length} bytes, and a unix socket's has ${MAX_SOCKET_PATH} at most`,
    { hint: 'set http_listen to a shorter one, such as unix:/run/walwarden/walwarden.sock' },
  );
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');

/** Whether nobody but this machine can connect there, under any address that the name has. */
export async function isLoopback(host: string): Promise<boolean> {
  const addresses = isIP(host) === 0 ? await addressesOf(host) : [host];
  return addresses.every((address) => LOOPBACK.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4'));
}

async function addressesOf(host: string): Promise<string[]> {
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address);
  } catch (cause) {
    throw new WalwardenError('config', `http_listen names a host that has no address: ${messageOf(cause)}`, { cause });
  }
}
