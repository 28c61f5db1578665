import { randomUUID } from 'node:crypto';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe } from 'vitest';
import { Rgw } from './rgw.ts';
import { awsEnvironment, testClient, withAwsEnvironment, type S3Endpoint, type S3Kind } from './s3-endpoint.ts';
import { S3rver } from './s3rver.ts';

export const S3_KINDS: readonly S3Kind[] = ['rgw', 's3rver'];

/** An S3 server that runs for the tests of one `describe`. */
export interface S3Server {
  readonly kind: S3Kind;
  /** The gateway's further abilities: another user, to be paused. Throws when it is another server. */
  readonly rgw: Rgw;
  /**
   * Runs `body` with a new bucket, and with its owner's credentials in our
   * environment, where the SDK finds them. The bucket goes with the server.
   */
  withBucket<T>(body: (endpoint: S3Endpoint) => Promise<T>): Promise<T>;
}

/** Those of this test file. */
const running = new Map<S3Kind, Rgw | S3rver>();

/**
 * The same tests against each server. It is started by the first of a test
 * file's suites that needs it, which takes the gateway two seconds, and stopped
 * after the last. Call it outside of any `describe`.
 */
export function describeS3(title: string, suite: (server: S3Server) => void, kinds = S3_KINDS): void {
  const current = (kind: S3Kind): Rgw | S3rver => {
    const server = running.get(kind);
    if (server === undefined) throw new Error('the S3 server is not running');
    return server;
  };
  describe.each(kinds)(`${title} (%s)`, (kind) => {
    beforeAll(async () => {
      if (!running.has(kind)) running.set(kind, await start(kind));
    }, 120_000);
    suite({
      kind,
      get rgw(): Rgw {
        const server = current(kind);
        if (!(server instanceof Rgw)) throw new Error(`${kind} is no gateway`);
        return server;
      },
      withBucket: (body) => withBucket(current(kind), kind, body),
    });
  });
  afterAll(async () => {
    // Every suite registers this; the hooks of a file run after all its tests.
    const servers = [...running.values()];
    running.clear();
    for (const server of servers) await server.stop();
  }, 60_000);
}

function start(kind: S3Kind): Promise<Rgw | S3rver> {
  return kind === 'rgw' ? Rgw.start() : S3rver.start();
}

/** A server of its own for `body`, with one bucket. */
export async function withS3<T>(kind: S3Kind, body: (endpoint: S3Endpoint) => Promise<T>): Promise<T> {
  const server = await start(kind);
  try {
    return await withBucket(server, kind, body);
  } finally {
    await server.stop();
  }
}

async function withBucket<T>(
  server: Rgw | S3rver,
  kind: S3Kind,
  body: (endpoint: S3Endpoint) => Promise<T>,
): Promise<T> {
  const { url, region, owner } = server;
  const endpoint = { kind, url, region, ...owner, bucket: `test-${randomUUID()}` };
  const client = testClient(endpoint);
  try {
    await client.send(new CreateBucketCommand({ Bucket: endpoint.bucket }));
  } finally {
    client.destroy();
  }
  return withAwsEnvironment(awsEnvironment(owner), () => body(endpoint));
}
