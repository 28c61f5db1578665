import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  DeleteBucketCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  NoSuchBucket,
  paginateListObjectsV2,
  type S3Client,
} from '@aws-sdk/client-s3';
import { isThere } from '../../src/durable/durable-file.ts';
import { parseWalObjectKey, walsPrefix } from '../../src/storage/s3/wal-object-key.ts';
import type { ReadingKeys } from '../../src/storage/stored-content.ts';
import { walDirectory, type WalName } from '../../src/wal/wal-name.ts';
import { CLI, ensureBuilt, runCli, writeConfig } from '../support/cli.ts';
import { withFaultProxy, type FaultProxy } from '../support/fault-proxy.ts';
import { makeWal, type WalOptions } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import type { RunResult } from '../support/run.ts';
import { awsEnvironment, testClient, withoutAws, type S3Endpoint } from '../support/s3-endpoint.ts';
import type { S3Server } from '../support/s3.ts';
import { withHome, withTempDir } from '../support/temp-dir.ts';
import type { FaultOptions } from './fault-home.ts';
import { violations, type Deliveries } from './invariants.ts';
import { isPut, ROOT } from './s3-requests.ts';

/** The object that a probe may leave behind, when it is killed. */
export const PROBE_KEY = 'archive/main/walwarden-probe';

/** A bucket, reached directly by the tests and through a proxy by walwarden. */
export interface S3Bucket {
  readonly endpoint: S3Endpoint;
  readonly proxy: FaultProxy;
  readonly client: S3Client;
  /** What is there, by key: the times of what is never overwritten stay the same. Nothing without a bucket. */
  readonly objects: () => Promise<Map<string, string>>;
  /** Resolves once so many uploads of WAL files were begun. */
  readonly sawPuts: (count: number) => Promise<void>;
  /** Empties the bucket and removes it. */
  readonly remove: () => Promise<void>;
  /** Uploads in parts that were neither completed nor taken back. */
  readonly unfinished: () => Promise<number>;
}

/** One server that archives into the bucket, what was delivered to it, and processes that work on it. */
export interface S3Home extends Deliveries {
  readonly bucket: S3Bucket;
  readonly config: string;
  /** Of the processes; may be changed. */
  readonly env: NodeJS.ProcessEnv;
  readonly produced: Map<WalName, () => Buffer>;
  readonly deliver: (name: WalName, content: () => Buffer) => Promise<void>;
  /** Segments, as small as they may be unless `options` say otherwise. Returns their names. */
  readonly deliverSegments: (from: number, to: number, options?: WalOptions) => Promise<WalName[]>;
  readonly cli: (args: readonly string[], env?: NodeJS.ProcessEnv) => Promise<RunResult>;
  readonly archive: (env?: NodeJS.ProcessEnv) => Promise<RunResult>;
  /** A pass that runs while the test goes on. */
  readonly startPass: () => Promise<RunningPass>;
  /** The lines of the log that are warnings or errors. */
  readonly troubles: () => Promise<string[]>;
  /** As for a local archive: incoming, bucket, errors and catalogue together. */
  readonly violations: (state: 'crashed' | 'healed') => Promise<string[]>;
}

export interface RunningPass {
  readonly child: ChildProcess;
  /** Its status or its signal. */
  readonly ended: Promise<number | NodeJS.Signals | null>;
}

/** A new bucket behind a new proxy. */
export function withS3Bucket<T>(server: S3Server, body: (bucket: S3Bucket) => Promise<T>): Promise<T> {
  return server.withBucket((endpoint) =>
    withFaultProxy(endpoint.url, async (proxy) => {
      const client = testClient(endpoint);
      const objects = async (): Promise<Map<string, string>> => {
        const found = new Map<string, string>();
        try {
          for await (const page of paginateListObjectsV2({ client }, { Bucket: endpoint.bucket })) {
            for (const { Key = '', ETag, Size, LastModified } of page.Contents ?? [])
              found.set(Key, `${ETag} ${Size} ${LastModified?.toISOString()}`);
          }
        } catch (error) {
          if (!(error instanceof NoSuchBucket)) throw error;
        }
        return found;
      };
      try {
        return await body({
          endpoint,
          proxy,
          client,
          objects,
          async sawPuts(count) {
            await until(`${count} uploads`, () => proxy.seen.filter(isPut).length >= count);
          },
          async remove() {
            const Bucket = endpoint.bucket;
            const keys = [...(await objects()).keys()];
            if (keys.length > 0) {
              const Delete = { Objects: keys.map((Key) => ({ Key })) };
              await client.send(new DeleteObjectsCommand({ Bucket, Delete }));
            }
            await client.send(new DeleteBucketCommand({ Bucket }));
          },
          async unfinished() {
            const { Uploads } = await client.send(new ListMultipartUploadsCommand({ Bucket: endpoint.bucket }));
            return Uploads?.length ?? 0;
          },
        });
      } finally {
        client.destroy();
      }
    }),
  );
}

/** For a request that nobody answers. All others are waited for as long as by default: a machine may be busy. */
export const IMPATIENT: FaultOptions = { aws_read_timeout: '1 s' };

/** A home of its own on a bucket; several may share one. */
export function withS3Home<T>(bucket: S3Bucket, options: FaultOptions, body: (home: S3Home) => Promise<T>): Promise<T> {
  return withHome(async (home) => {
    const { endpoint, proxy } = bucket;
    const config = await writeConfig(home.home, {
      global: { log_file: '%(barman_home)s/walwarden.log' },
      servers: {
        main: {
          wals_directory: `s3://${endpoint.bucket}/${ROOT.prefix}`,
          aws_endpoint_url: proxy.url,
          aws_force_path_style: 'on',
          ...options,
        },
      },
    });
    const env: NodeJS.ProcessEnv = { ...withoutAws(process.env), ...awsEnvironment(endpoint) };
    const produced = new Map<WalName, () => Buffer>();
    const keys: ReadingKeys = {};
    const deliveries: Deliveries = { home, keys, produced, staying: new Map(), cameAs: new Map() };
    const deliver = async (name: WalName, content: () => Buffer): Promise<void> => {
      await writeFile(join(home.incoming, name), content(), { mode: 0o600 });
      produced.set(name, content);
    };
    const cli = (args: readonly string[], changes: NodeJS.ProcessEnv = {}): Promise<RunResult> =>
      runCli(args, { config, env: { ...env, ...changes }, timeoutMs: 300_000 });
    const running: RunningPass[] = [];
    try {
      return await body({
        ...deliveries,
        bucket,
        config,
        env,
        produced,
        deliver,
        async deliverSegments(from, to, segmentOptions = {}) {
          const names: WalName[] = [];
          for (let segment = from; segment <= to; segment += 1) {
            const make = (): ReturnType<typeof makeWal> => makeWal({ content: 'zeros', ...segmentOptions, segment });
            const { name } = make();
            await deliver(name, () => make().bytes);
            names.push(name);
          }
          return names;
        },
        cli,
        archive: (changes) => cli(['archive-wal', 'main'], changes),
        async startPass() {
          await ensureBuilt();
          const child = spawn(process.execPath, [CLI, '-q', '-c', config, 'archive-wal', 'main'], {
            cwd: home.home,
            env,
            stdio: 'ignore',
          });
          const ended = once(child, 'close').then(
            ([status, signal]): number | NodeJS.Signals | null => status ?? signal,
          );
          const pass = { child, ended };
          running.push(pass);
          return pass;
        },
        async troubles() {
          const text = await readFile(join(home.home, 'walwarden.log'), 'utf8').catch(() => '');
          return text.split('\n').filter((line) => /^\{"level":[456]0,/.test(line));
        },
        violations: (state) => bucketViolations(bucket, deliveries, state),
      });
    } finally {
      for (const { child, ended } of running) {
        child.kill('SIGKILL');
        await ended;
      }
    }
  });
}

/** The bucket as a local archive, which is looked at like any. */
async function bucketViolations(
  { client, endpoint, objects }: S3Bucket,
  deliveries: Deliveries,
  state: 'crashed' | 'healed',
): Promise<string[]> {
  return withTempDir(async (mirror) => {
    const { home } = deliveries;
    const found: string[] = [];
    const names = new Set<WalName>();
    const fetchOne = async (key: string): Promise<void> => {
      const parsed = parseWalObjectKey(ROOT, key);
      if (parsed === null && !key.startsWith(walsPrefix(ROOT))) {
        if (state === 'healed' && key !== PROBE_KEY) found.push(`${key} is left in the bucket`);
        return;
      }
      if (parsed !== null && names.has(parsed.name)) found.push(`${parsed.name} is stored twice`);
      const path = join(
        mirror,
        parsed === null ? key.slice(walsPrefix(ROOT).length) : join(walDirectory(parsed.name), parsed.name),
      );
      if (parsed !== null) names.add(parsed.name);
      const { Body } = await client.send(new GetObjectCommand({ Bucket: endpoint.bucket, Key: key }));
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, (await Body?.transformToByteArray()) ?? '');
    };
    const keys = [...(await objects()).keys()];
    const work = async (): Promise<void> => {
      for (let key = keys.shift(); key !== undefined; key = keys.shift()) await fetchOne(key);
    };
    await Promise.all(Array.from({ length: 8 }, work));
    const catalogue = join(home.wals, `${home.server}-xlog.db`);
    if (await isThere(catalogue)) await copyFile(catalogue, join(mirror, `${home.server}-xlog.db`));
    return [...found, ...(await violations({ ...deliveries, home: { ...home, wals: mirror } }, state))];
  });
}
