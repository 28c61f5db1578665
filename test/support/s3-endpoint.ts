import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';

/** Which S3 server: Ceph's RADOS Gateway, the real thing, or the npm package s3rver, which knows less. */
export type S3Kind = 'rgw' | 's3rver';

export interface S3Keys {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

/** A bucket of a real S3 server, over HTTP on 127.0.0.1. Addresses have the bucket in their path. */
export interface S3Endpoint extends S3Keys {
  readonly kind: S3Kind;
  readonly url: string;
  readonly region: string;
  readonly bucket: string;
}

/** The environment that the SDK, and boto3, take credentials from; nothing else of the machine's is found. */
export function awsEnvironment(keys: S3Keys): Record<string, string> {
  return {
    AWS_ACCESS_KEY_ID: keys.accessKeyId,
    AWS_SECRET_ACCESS_KEY: keys.secretAccessKey,
    AWS_EC2_METADATA_DISABLED: 'true',
    AWS_CONFIG_FILE: '/dev/null',
    AWS_SHARED_CREDENTIALS_FILE: '/dev/null',
  };
}

/** Everything by which the environment can say something to the SDK. */
export function withoutAws(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('AWS_')));
}

/** Runs `body` with these variables in our own environment, and no other of AWS's. */
export async function withAwsEnvironment<T>(variables: Record<string, string>, body: () => Promise<T>): Promise<T> {
  const before = { ...process.env };
  const restore = (wanted: NodeJS.ProcessEnv): void => {
    for (const name of Object.keys(process.env)) if (name.startsWith('AWS_')) delete process.env[name];
    for (const [name, value] of Object.entries(wanted)) if (name.startsWith('AWS_')) process.env[name] = value;
  };
  restore(variables);
  try {
    return await body();
  } finally {
    restore(before);
  }
}

/** A plain client for the tests' own looks and doings, with credentials given outright. */
export function testClient(
  endpoint: { readonly url: string; readonly region: string } & S3Keys,
  config: S3ClientConfig = {},
): S3Client {
  process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] ??= 'true';
  const { accessKeyId, secretAccessKey, region, url } = endpoint;
  return new S3Client({
    endpoint: url,
    region,
    forcePathStyle: true,
    credentials: { accessKeyId, secretAccessKey },
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    ...config,
  });
}
