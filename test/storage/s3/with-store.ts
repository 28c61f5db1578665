import { randomBytes } from 'node:crypto';
import { ObjectStore } from '../../../src/storage/s3/object-store.ts';
import type { EndpointCapabilities, S3Settings } from '../../../src/storage/s3/s3-settings.ts';
import { withFaultProxy, type FaultProxy, type SeenRequest } from '../../support/fault-proxy.ts';
import type { S3Endpoint, S3Kind } from '../../support/s3-endpoint.ts';
import type { S3Server } from '../../support/s3.ts';

/** What a probe finds out about our servers. */
export const CAPABILITIES: Readonly<Record<S3Kind, EndpointCapabilities>> = {
  rgw: { conditionalWrites: true, ifMatch: 'bare', integrity: 'payload-hash' },
  s3rver: { conditionalWrites: false, ifMatch: 'none', integrity: 'none' },
};

export interface StoreOptions extends Partial<S3Settings> {
  /** Null: as if nobody had ever looked. */
  readonly capabilities?: EndpointCapabilities | null;
}

/** A store on a bucket, closed afterwards; through a proxy when `endpoint` names it. */
export async function withStore<T>(
  s3: S3Endpoint,
  options: StoreOptions,
  body: (store: ObjectStore) => Promise<T>,
): Promise<T> {
  const { capabilities = CAPABILITIES[s3.kind], ...settings } = options;
  const { bucket, region, url: endpoint } = s3;
  await using store = new ObjectStore({ bucket, region, endpoint, forcePathStyle: true, ...settings }, capabilities);
  return await body(store);
}

/** Keys and sizes below a prefix, as the store lists them. */
export async function listed(store: ObjectStore, prefix: string): Promise<Record<string, number>> {
  const found: Record<string, number> = {};
  for await (const { key, size } of store.list(prefix)) found[key] = size;
  return found;
}

export function noise(size: number): Buffer {
  return randomBytes(size);
}

/** Everything that comes, at once. (Array.fromAsync is newer than Node 20.) */
export async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

/** Rules for a {@link FaultProxy}. */
export const isPut = ({ method }: SeenRequest): boolean => method === 'PUT';
export const isGet = ({ method }: SeenRequest): boolean => method === 'GET';
export const isHead = ({ method }: SeenRequest): boolean => method === 'HEAD';
export const isAny = (): boolean => true;
export const ALWAYS = 1_000;

/** A store that reaches its bucket through a proxy. */
export function throughProxy(
  server: S3Server,
  body: (store: ObjectStore, proxy: FaultProxy, s3: S3Endpoint) => Promise<void>,
  options: StoreOptions = {},
): Promise<void> {
  return server.withBucket((s3) =>
    withFaultProxy(s3.url, (proxy) =>
      withStore(s3, { endpoint: proxy.url, readTimeoutMs: 1_500, maxAttempts: 3, ...options }, (store) =>
        body(store, proxy, s3),
      ),
    ),
  );
}
