import { buildWalObjectKey, walsPrefix } from '../../src/storage/s3/wal-object-key.ts';
import type { CompressionName } from '../../src/compression/codec.ts';
import type { WalName } from '../../src/wal/wal-name.ts';
import { withFaultProxy, type FaultProxy, type SeenRequest } from '../support/fault-proxy.ts';
import type { S3Endpoint } from '../support/s3-endpoint.ts';
import type { S3Server } from '../support/s3.ts';
import { listed, withStore } from './s3/with-store.ts';
import { ROOT, withCloudStorage, type CloudOptions, type TestCloudStorage } from './with-cloud-storage.ts';

export interface ProxiedStorage extends TestCloudStorage {
  readonly proxy: FaultProxy;
  /** Requests for the archive since the last call, by kind; not those that find out what the endpoint can do. */
  readonly requests: () => Record<string, number>;
}

/** An archive in a bucket whose requests can be counted and spoiled. */
export function withProxiedStorage(
  server: S3Server,
  options: CloudOptions,
  body: (storage: ProxiedStorage) => Promise<void>,
): Promise<void> {
  return server.withBucket((endpoint) =>
    withFaultProxy(endpoint.url, (proxy) => {
      const s3 = { endpoint: proxy.url, readTimeoutMs: 10_000, maxAttempts: 3, ...options.s3 };
      return withCloudStorage(endpoint, { ...options, s3 }, async (storage) => {
        let from = 0;
        const requests = (): Record<string, number> => {
          const counts: Record<string, number> = {};
          for (const seen of proxy.seen.slice(from)) {
            if (isProbe(seen)) continue;
            const kind = isList(seen) ? 'LIST' : seen.method;
            counts[kind] = (counts[kind] ?? 0) + 1;
          }
          from = proxy.seen.length;
          return counts;
        };
        await body({ ...storage, proxy, requests });
      });
    }),
  );
}

export const isProbe = ({ url }: SeenRequest): boolean => url.includes('walwarden-probe');

export const isList = ({ method, url }: SeenRequest): boolean => method === 'GET' && url.includes('list-type=2');

/** A PUT into the archive, of a certain file where `name` is given. */
export const isPutOf =
  (name = '/wals/') =>
  ({ method, url }: SeenRequest): boolean =>
    method === 'PUT' && url.includes(name);

/** What the archive in the bucket consists of. */
export function keysIn(endpoint: S3Endpoint): Promise<string[]> {
  return withStore(endpoint, {}, async (store) => Object.keys(await listed(store, walsPrefix(ROOT))));
}

export function keyOf(name: WalName, compression: CompressionName | null): string {
  return buildWalObjectKey(ROOT, name, compression);
}
