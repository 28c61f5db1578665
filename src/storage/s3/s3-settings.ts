/** How to reach a bucket. Credentials are none of it: they come from the SDK's own chain. */
export interface S3Settings {
  readonly bucket: string;
  /** The SDK's chain (AWS_REGION, the profile) when absent; with an endpoint, `us-east-1` after that. */
  readonly region?: string | undefined;
  readonly profile?: string | undefined;
  /** Of a service other than AWS: `https://s3.example.com`. */
  readonly endpoint?: string | undefined;
  readonly forcePathStyle?: boolean | undefined;
  /** When the SDK adds its own checksums; default `when_required` with an endpoint, else `when_supported`. */
  readonly requestChecksum?: 'when_supported' | 'when_required' | undefined;
  readonly serverSideEncryption?: 'AES256' | 'aws:kms' | undefined;
  readonly kmsKeyId?: string | undefined;
  readonly storageClass?: string | undefined;
  readonly tags?: Readonly<Record<string, string>> | undefined;
  /** A request may go without a byte for so many milliseconds. */
  readonly readTimeoutMs?: number | undefined;
  readonly connectTimeoutMs?: number | undefined;
  /** Of one request, the first included. */
  readonly maxAttempts?: number | undefined;
  /** Bytes per second, for all uploads together. */
  readonly bandwidthLimit?: number | undefined;
  /** From so many bytes on, an object is uploaded in parts. */
  readonly multipartThreshold?: number | undefined;
  /** Bytes; S3 takes 5 MiB to 5 GiB, and at most 10,000 parts. */
  readonly partSize?: number | undefined;
  /** Keys of one DeleteObjects request; at most 1000. */
  readonly deleteBatchSize?: number | undefined;
  /** Is given what the SDK wants to say to the user. */
  readonly onWarning?: ((text: string) => void) | undefined;
}

/** What an endpoint was seen to do. A plain record, so that it can be remembered in a file. */
export interface EndpointCapabilities {
  /** `If-None-Match: *` of a PUT is honoured: nothing is overwritten, and of two writers one wins. */
  readonly conditionalWrites: boolean;
  /**
   * How the ETag in `If-Match` of a PUT has to be written for the endpoint to
   * replace the very object that was looked at, and no other; `none` where it
   * replaces any. Some gateways compare the text as it comes, `bare` of HTTP's quotes.
   */
  readonly ifMatch: 'quoted' | 'bare' | 'none';
  /**
   * What makes the endpoint refuse a body that was damaged on its way: the
   * signed SHA-256, which every request carries, or Content-MD5. `none`: we
   * compare afterwards.
   */
  readonly integrity: 'payload-hash' | 'content-md5' | 'none';
}

/** Settings with their defaults. */
export type EffectiveS3Settings = ReturnType<typeof withDefaults>;

const MIB = 1024 * 1024;

export function withDefaults(settings: S3Settings) {
  return {
    ...settings,
    requestChecksum: settings.requestChecksum ?? (settings.endpoint === undefined ? 'when_supported' : 'when_required'),
    readTimeoutMs: settings.readTimeoutMs ?? 60_000,
    connectTimeoutMs: settings.connectTimeoutMs ?? 10_000,
    maxAttempts: settings.maxAttempts ?? 4,
    multipartThreshold: settings.multipartThreshold ?? 100 * MIB,
    partSize: settings.partSize ?? 16 * MIB,
    deleteBatchSize: Math.min(settings.deleteBatchSize ?? 1000, 1000),
  } as const;
}
