import { GetObjectCommand, HeadObjectCommand, ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3';
import { testClient, type S3Endpoint } from '../support/s3-endpoint.ts';
import { withServer, type ServerOptions, type TestServer } from './with-server.ts';

/** Where the objects of the tests' server lie. */
export const PREFIX = 'archive/wal/main/wals/';

export interface S3TestServer extends TestServer {
  readonly endpoint: S3Endpoint;
  /** Keys below {@link PREFIX}, in their order. */
  keys(): Promise<string[]>;
  get(key: string): Promise<Buffer>;
  /** Another writer's object. */
  put(key: string, bytes: Uint8Array, metadata?: Record<string, string>): Promise<void>;
  metadata(key: string): Promise<Record<string, string>>;
}

/** The options of a server whose archive is in this bucket. */
export function s3Options({ bucket, url, region }: S3Endpoint): ServerOptions {
  return {
    wals_directory: `s3://${bucket}/archive/wal`,
    aws_endpoint_url: url,
    aws_region: region,
    aws_force_path_style: 'on',
    archiver_workers: 0,
  };
}

/** A home with one server `main`, whose archive is in a bucket; `options` may send it through a proxy. */
export async function withS3Server<T>(
  endpoint: S3Endpoint,
  options: ServerOptions,
  body: (server: S3TestServer) => Promise<T>,
  global: ServerOptions = {},
): Promise<T> {
  const client = testClient(endpoint);
  const Bucket = endpoint.bucket;
  try {
    return await withServer(
      { ...s3Options(endpoint), ...options },
      (server) =>
        body({
          ...server,
          endpoint,
          keys: async () => {
            const { Contents: found = [] } = await client.send(new ListObjectsV2Command({ Bucket, Prefix: PREFIX }));
            return found.map(({ Key = '' }) => Key.slice(PREFIX.length));
          },
          get: async (key) => {
            const { Body } = await client.send(new GetObjectCommand({ Bucket, Key: PREFIX + key }));
            return Buffer.from((await Body?.transformToByteArray()) ?? []);
          },
          put: async (key, bytes, metadata = {}) => {
            const command = new PutObjectCommand({ Bucket, Key: PREFIX + key, Body: bytes, Metadata: metadata });
            await client.send(command);
          },
          metadata: async (key) =>
            (await client.send(new HeadObjectCommand({ Bucket, Key: PREFIX + key }))).Metadata ?? {},
        }),
      // So that what is wrong stands alone on stderr.
      { log_level: 'WARNING', ...global },
    );
  } finally {
    client.destroy();
  }
}
