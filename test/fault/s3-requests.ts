import { parseWalObjectKey, type WalRoot } from '../../src/storage/s3/wal-object-key.ts';
import type { Fault, SeenRequest } from '../support/fault-proxy.ts';

/** Where the objects of these tests lie. */
export const ROOT: WalRoot = { prefix: 'archive', server: 'main' };

/** Rules for a proxy. */
export const isAny = (): boolean => true;
/** Of a WAL file, as a whole or a part of it. */
export const isPut = (request: SeenRequest): boolean => request.method === 'PUT' && walOf(request) !== null;
/** Of a WAL file's bytes. */
export const isGet = (request: SeenRequest): boolean => request.method === 'GET' && walOf(request) !== null;
export const isList = ({ method, url }: SeenRequest): boolean => method === 'GET' && url.includes('list-type=');
export const isPart = ({ method, url }: SeenRequest): boolean => method === 'PUT' && url.includes('partNumber=');

/** Nothing but a timeout ends it. */
export function isStall(fault: Fault): boolean {
  return fault.kind === 'stall' || (fault.kind === 'cut-download' && fault.stall === true);
}

/** More often than anybody asks. */
export const ALWAYS = 100_000;

/** The WAL file that a request is about; null when it is about none. */
export function walOf({ url }: SeenRequest): string | null {
  const [, , ...key] = (url.split('?')[0] ?? '').split('/');
  return parseWalObjectKey(ROOT, key.join('/'))?.name ?? null;
}
