import { Unpacker } from '../../src/storage/unpacker.ts';
import { join } from 'node:path';
import { ShortDeliveries } from '../../src/archiver/short-deliveries.ts';
import { ShortSegments } from '../../src/archiver/short-segments.ts';
import { STRICT } from '../../src/storage/taking.ts';
import { Xlogdb } from '../../src/catalogue/xlogdb.ts';
import { CloudWalStorageStrategy, type CloudStorageSettings } from '../../src/storage/cloud-wal-storage-strategy.ts';
import { ObjectStore } from '../../src/storage/s3/object-store.ts';
import { RememberedEndpoint } from '../../src/storage/s3/remembered-endpoint.ts';
import type { S3Settings } from '../../src/storage/s3/s3-settings.ts';
import type { ReadingKeys } from '../../src/storage/stored-content.ts';
import type { S3Endpoint } from '../support/s3-endpoint.ts';
import { withHome, type TestHome } from '../support/temp-dir.ts';
import { GO_ON, type StorageOptions } from './with-storage.ts';

export interface CloudOptions extends StorageOptions {
  /** Changes to how the bucket is reached: through a proxy, say. */
  readonly s3?: Partial<S3Settings>;
  readonly storage?: Partial<CloudStorageSettings>;
}

/** An archive in a bucket, without the configuration and the process around it. */
export interface TestCloudStorage extends TestHome {
  readonly endpoint: S3Endpoint;
  readonly catalogue: Xlogdb;
  readonly keys: ReadingKeys;
  readonly deliveries: ShortDeliveries;
  /** What the strategies told of probes: the warnings that a user would see. */
  readonly probed: Parameters<CloudStorageSettings['onProbed']>[];
  /** Another object for the same archive, as another process has it. */
  readonly open: (options?: CloudOptions) => CloudWalStorageStrategy;
}

/** Where the objects of the tests' server lie. */
export const ROOT = { prefix: 'archive/wal', server: 'main' } as const;

export function s3SettingsOf(endpoint: S3Endpoint): S3Settings {
  const { bucket, url, region } = endpoint;
  return { bucket, endpoint: url, region, forcePathStyle: true };
}

export async function withCloudStorage<T>(
  endpoint: S3Endpoint,
  defaults: CloudOptions,
  body: (storage: TestCloudStorage) => Promise<T>,
): Promise<T> {
  return withHome(async (home) => {
    const keys = defaults.keys ?? {};
    const opened: CloudWalStorageStrategy[] = [];
    const probed: Parameters<CloudStorageSettings['onProbed']>[] = [];
    const deliveries = new ShortDeliveries(join(home.home, home.server, '.short-segments.json'));
    const catalogue = new Xlogdb({
      path: join(home.wals, 'main-xlog.db'),
      legacyPath: join(home.wals, 'xlog.db'),
      lockPath: join(home.home, '.main-xlogdb.lock'),
      migrate: false,
      logger: { warn: () => undefined, info: () => undefined },
      describeStored: (name) => open().describe(name),
    });
    const open = (options: CloudOptions = {}): CloudWalStorageStrategy => {
      const { compression = null, encryption = null, hooks, accept, s3, storage } = { ...defaults, ...options };
      const store = new ObjectStore({ ...s3SettingsOf(endpoint), ...s3 });
      const strategy = new CloudWalStorageStrategy(
        {
          catalogue,
          hooks: { watches: () => true, before: GO_ON, after: GO_ON, ...hooks },
          accept: accept ?? (async () => null),
          nameOf: (wal) => shortSegments.nameOf(wal),
          rules: async () => STRICT,
        },
        {
          root: ROOT,
          store,
          endpoint: new RememberedEndpoint(join(home.home, home.server, '.s3-endpoint.json'), store.settings),
          onProbed: (...told) => probed.push(told),
          workers: 0,
          parallel: 4,
          compression: compression === null ? null : { compression, level: undefined, custom: undefined },
          encryption,
          keys: options.keys ?? keys,
          version: '0.0.0-test',
          deleteBatchSize: 1000,
          ...storage,
        },
      );
      const unpacker = new Unpacker({
        custom: (options.keys ?? keys).custom,
        segmentSize: async () => null,
        resident: false,
      });
      const shortSegments = new ShortSegments({
        strategy,
        streaming: home.streaming,
        claims: join(home.home, home.server, '.claimed', 'streaming'),
        keys,
        unpacker,
        deliveries,
      });
      opened.push(strategy);
      return strategy;
    };
    try {
      return await body({ ...home, endpoint, catalogue, keys, deliveries, probed, open });
    } finally {
      for (const strategy of opened) await strategy.close();
    }
  });
}
