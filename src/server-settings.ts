import { isAbsolute, join } from 'node:path';
import type { CompressionSettings, CustomFilters } from './compression/codec.ts';
import type { ServerConfig, WalwardenConfig } from './config/config.ts';
import { isS3Location } from './config/values.ts';
import type { WalHookSettings } from './hooks/wal-hooks.ts';
import type { PostgresSettings } from './postgres/remote-status.ts';
import type { BackupDirectories } from './retention/read-backups.ts';
import type { S3Settings } from './storage/s3/s3-settings.ts';

// What the parts of a server take instead of the configuration, which only server.ts knows.

/** Barman's locks of a server; those after `xlogdb` are ours. */
export type LockName = 'cron' | 'archive-wal' | 'receive-wal' | 'xlogdb' | 'delete-wals' | 'listing' | 'gaps';

/** The path of one of them. */
export function serverLock(config: WalwardenConfig, server: string, what: LockName): string {
  return join(config.global.options.barman_lock_directory, `.${server}-${what}.lock`);
}

/** The filters of `compression = custom`; undefined without any. */
export function customFilters(server: ServerConfig): CustomFilters | undefined {
  const { custom_compression_filter, custom_decompression_filter, custom_compression_magic } = server.options;
  if (custom_decompression_filter === null && custom_compression_filter === null) return undefined;
  return {
    compress: custom_compression_filter ?? undefined,
    decompress: custom_decompression_filter ?? undefined,
    magic: custom_compression_magic ?? undefined,
  };
}

/** How archived files are compressed; null when they are not. */
export function compressionSettings(
  server: ServerConfig,
  custom: CustomFilters | undefined,
): CompressionSettings | null {
  const { compression, compression_level } = server.options;
  if (compression === null) return null;
  return { compression, level: compression_level ?? undefined, custom };
}

/** An endpoint that is there takes a connection at once. */
const CONNECT_TIMEOUT_MS = 10_000;

/** How long S3 is asked, where somebody waits for our answer. */
export interface S3Patience {
  /** A request may go without a byte for so many milliseconds. */
  readonly silenceMs: number;
  /** Of one request, the first included. */
  readonly attempts: number;
}

/**
 * Of get-wal and put-wal, which PostgreSQL waits for: half a minute with an
 * endpoint that is silent. Long enough for one that is restarted behind its load
 * balancer; and a standby, which could stream meanwhile, is not kept for minutes.
 */
export const PATIENCE_FOR_POSTGRES: S3Patience = { silenceMs: 10_000, attempts: 3 };

/** Of whoever could do without the answer. */
export const LITTLE_PATIENCE: S3Patience = { silenceMs: 3_000, attempts: 1 };

/** So that S3 has failed with its own words before the time is up; 0 is no limit. */
export function patienceWithin(limitMs: number): S3Patience {
  return { silenceMs: limitMs === 0 ? 10_000 : Math.min(10_000, Math.max(200, limitMs / 3)), attempts: 2 };
}

/** How the bucket of an archive in S3 is reached. */
export function s3Settings(server: ServerConfig, bucket: string, patience?: S3Patience): S3Settings {
  const o = server.options;
  const readTimeoutMs = Math.min(o.aws_read_timeout, patience?.silenceMs ?? Infinity);
  return {
    bucket,
    region: o.aws_region ?? undefined,
    profile: o.aws_profile ?? undefined,
    endpoint: o.aws_endpoint_url ?? undefined,
    forcePathStyle: o.aws_force_path_style,
    requestChecksum: o.aws_request_checksum ?? undefined,
    serverSideEncryption: o.aws_encryption ?? undefined,
    kmsKeyId: o.aws_sse_kms_key_id ?? undefined,
    storageClass: o.aws_storage_class ?? undefined,
    tags: o.aws_tags ?? undefined,
    readTimeoutMs,
    connectTimeoutMs: Math.min(CONNECT_TIMEOUT_MS, readTimeoutMs),
    maxAttempts: patience?.attempts,
    bandwidthLimit: o.bandwidth_limit === 0 ? undefined : o.bandwidth_limit * 1024,
    deleteBatchSize: o.cloud_delete_batch_size,
  };
}

/** Where an archive was before it became one in a bucket, by default. */
export function localArchiveOf({ options }: ServerConfig): string | null {
  return isS3Location(options.wals_directory) ? join(options.backup_directory, 'wals') : null;
}

/** Where Barman's backups are described. */
export function backupDirectories({ options }: ServerConfig): BackupDirectories {
  const { basebackups_directory: base, backup_directory } = options;
  return { base: isAbsolute(base) ? base : null, meta: join(backup_directory, 'meta') };
}

/** The hook scripts, by operation. */
export function hookScripts(server: ServerConfig): WalHookSettings['scripts'] {
  const o = server.options;
  return {
    archive: {
      pre: o.pre_archive_script ?? undefined,
      preRetry: o.pre_archive_retry_script ?? undefined,
      postRetry: o.post_archive_retry_script ?? undefined,
      post: o.post_archive_script ?? undefined,
    },
    wal_delete: {
      pre: o.pre_wal_delete_script ?? undefined,
      preRetry: o.pre_wal_delete_retry_script ?? undefined,
      postRetry: o.post_wal_delete_retry_script ?? undefined,
      post: o.post_wal_delete_script ?? undefined,
    },
  };
}

/** How the server's PostgreSQL is reached. */
export function postgresSettings(server: ServerConfig): PostgresSettings {
  const o = server.options;
  return {
    conninfo: o.conninfo,
    streamingConninfo: o.streaming_conninfo,
    walConninfo: o.wal_conninfo,
    walStreamingConninfo: o.wal_streaming_conninfo,
    slotName: o.slot_name,
    streamingName: o.streaming_archiver_name,
  };
}

/**
 * The connections that `check` and `status` try: only those in use. A
 * replication connection that nobody needs would be refused, and logged, by
 * most servers.
 */
export function connectionsInUse(server: ServerConfig): PostgresSettings {
  const settings = postgresSettings(server);
  const nothing = { streamingConninfo: null, walStreamingConninfo: null };
  if (server.passive) return { ...settings, ...nothing, conninfo: null, walConninfo: null, slotName: null };
  if (server.options.streaming_archiver) return settings;
  return { ...settings, ...nothing, walConninfo: settings.slotName === null ? null : settings.walConninfo };
}

/** Where a server's receive-wal tells what it does. */
export function receiverReportPath({ options }: ServerConfig): string {
  return join(options.backup_directory, '.receive-wal.json');
}
