import { join } from 'node:path';
import type { ServerConfig } from './config/config.ts';
import { keptDirectory } from './archiver/errors-directory.ts';
import { isS3Location } from './config/values.ts';
import type { Logger } from './logging.ts';
import { compressionSettings, customFilters, s3Settings, type S3Patience } from './server-settings.ts';
import { CloudWalStorageStrategy } from './storage/cloud-wal-storage-strategy.ts';
import { LocalWalStorageStrategy } from './storage/local-wal-storage-strategy.ts';
import { ObjectStore } from './storage/s3/object-store.ts';
import { RememberedEndpoint } from './storage/s3/remembered-endpoint.ts';
import { parseS3Location } from './storage/s3/wal-object-key.ts';
import type { ReadingKeys } from './storage/stored-content.ts';
import type { StrategyParts, WalStorageStrategy } from './storage/wal-storage-strategy.ts';
import { ownVersion } from './version.ts';

/** How a process uses an archive. */
export interface StrategyUse {
  /** Stop now. */
  readonly kill?: AbortSignal | undefined;
  /** With an archive in S3: how long it is asked, when that is not the configuration's to say. */
  readonly patience?: S3Patience | undefined;
  /** The process goes on after a pass, and does other things meanwhile. */
  readonly resident?: boolean | undefined;
}

/** Where a server's archive is: below a local directory, or in a bucket. */
export function createStrategy(
  server: ServerConfig,
  parts: StrategyParts,
  keys: ReadingKeys,
  logger: Logger,
  { kill, patience, resident }: StrategyUse,
): WalStorageStrategy {
  const { name, options } = server;
  const shared = {
    workers: options.archiver_workers,
    resident,
    compression: compressionSettings(server, customFilters(server)),
    encryption:
      options.encryption === null || options.encryption_key_id === null
        ? null
        : { keyId: options.encryption_key_id, homedir: options.gnupg_home ?? undefined },
    keys,
  };
  if (!isS3Location(options.wals_directory)) {
    return new LocalWalStorageStrategy(parts, {
      ...shared,
      walsDirectory: options.wals_directory,
      digestJournal: join(options.backup_directory, 'encrypted-wals.digests'),
      mode: options.wal_file_mode,
      keptDirectory: keptDirectory(options.errors_directory),
      onNoHardLinks: (directory) =>
        logger.warn(
          { server: name },
          `the file system of ${directory} has no hard links; publishing by rename instead`,
        ),
      onNoClaims: (directory) =>
        logger.warn(
          { server: name },
          `others may write into ${directory} or its .claimed, so WAL is copied into the archive instead of linked: chmod go-w ${directory}, and chmod 700 what is in .claimed, as the user that walwarden runs as`,
        ),
    });
  }
  const { bucket, prefix } = parseS3Location(options.wals_directory);
  const store = new ObjectStore({
    ...s3Settings(server, bucket, patience),
    onWarning: (text) => logger.warn({ server: name }, text),
  });
  return new CloudWalStorageStrategy(parts, {
    ...shared,
    root: { prefix, server: name },
    store,
    endpoint: new RememberedEndpoint(join(options.backup_directory, '.s3-endpoint.json'), store.settings),
    parallel: options.cloud_wal_archive_parallel,
    deleteBatchSize: options.cloud_delete_batch_size,
    version: ownVersion(),
    kill,
    onProbed: ({ conditionalWrites, integrity }, leftover) => {
      const endpoint = options.aws_endpoint_url ?? 'AWS';
      logger.debug({ server: name, conditionalWrites, integrity }, `looked what ${endpoint} can do`);
      if (!conditionalWrites) {
        logger.warn(
          { server: name },
          `${endpoint} does not honour If-None-Match: each object is looked for before it is written, and two archivers must not write to s3://${bucket} at the same time`,
        );
      }
      if (integrity === 'none') {
        logger.warn(
          { server: name },
          `${endpoint} checks no digest of what it is sent: each upload is compared after it`,
        );
      }
      if (leftover !== null) {
        logger.info({ server: name }, `s3://${bucket}/${leftover} stays: it may not be deleted, and does no harm`);
      }
    },
  });
}
