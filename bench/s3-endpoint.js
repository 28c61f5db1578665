// An S3 server to measure with: the one that the environment names, or a Ceph gateway of our own.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  CreateBucketCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  S3Client,
} from '@aws-sdk/client-s3';
import { ROOT, which, withScratch } from './system.js';

/**
 * @typedef {object} S3Endpoint
 * @property {string} name for the report
 * @property {string} url
 * @property {string} region
 * @property {string} bucket
 * @property {Record<string, string>} env credentials, for whoever is measured
 * @property {S3Client} client for our own looks
 */

const PACKAGES = 'radosgw ceph-mon ceph-osd ceph-common';

/** The sources of the tests that are of use here, as Node can run them. */
async function testSupport() {
  const { build } = await import('esbuild');
  const outdir = path.join(ROOT, 'build', 'bench');
  await build({
    entryPoints: ['rgw', 'fault-proxy'].map((name) => path.join(ROOT, 'test', 'support', `${name}.ts`)),
    outdir,
    bundle: true,
    splitting: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    target: 'node20.19',
    logLevel: 'warning',
  });
  const load = (/** @type {string} */ name) => import(pathToFileURL(path.join(outdir, `${name}.js`)).href);
  const [{ Rgw }, { withFaultProxy }] = await Promise.all([load('rgw'), load('fault-proxy')]);
  return { Rgw, withFaultProxy };
}

/**
 * Gives an endpoint with a bucket to `body`; returns undefined when there is none to be had.
 * @template T @param {(endpoint: S3Endpoint) => Promise<T>} body
 */
export async function withS3(body) {
  const url = process.env['WALWARDEN_BENCH_S3_ENDPOINT'];
  if (url !== undefined && url !== '') {
    const bucket = process.env['WALWARDEN_BENCH_S3_BUCKET'] ?? 'walwarden-bench';
    const region = process.env['AWS_REGION'] ?? 'us-east-1';
    // The credentials are in the environment, as for anybody else.
    return withBucket({ name: url, url, region, bucket, env: {} }, body);
  }
  if (which('radosgw') === undefined || which('setpriv') === undefined) {
    console.log(
      `\nno S3 table: install the Debian packages ${PACKAGES}, or set WALWARDEN_BENCH_S3_ENDPOINT=http://…, ` +
        `WALWARDEN_BENCH_S3_BUCKET and the credentials`,
    );
    return undefined;
  }
  return withScratch(async (scratch) => {
    // Its directory goes with ours, also when we are interrupted.
    const rgw = await within(scratch, async () => (await testSupport()).Rgw.start({ capacity: 6 * 1024 ** 3 }));
    try {
      const { accessKeyId, secretAccessKey } = rgw.owner;
      const env = {
        AWS_ACCESS_KEY_ID: accessKeyId,
        AWS_SECRET_ACCESS_KEY: secretAccessKey,
        AWS_DEFAULT_REGION: rgw.region,
        AWS_EC2_METADATA_DISABLED: 'true',
        AWS_CONFIG_FILE: '/dev/null',
        AWS_SHARED_CREDENTIALS_FILE: '/dev/null',
      };
      const name = 'Ceph gateway on the same CPUs, in memory';
      return await withBucket({ name, url: rgw.url, region: rgw.region, bucket: 'bench', env }, body);
    } finally {
      await rgw.stop();
    }
  });
}

/** @template T @param {Omit<S3Endpoint, 'client'>} endpoint @param {(endpoint: S3Endpoint) => Promise<T>} body */
async function withBucket(endpoint, body) {
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = endpoint.env;
  const client = new S3Client({
    endpoint: endpoint.url,
    region: endpoint.region,
    forcePathStyle: true,
    ...(accessKeyId === undefined || secretAccessKey === undefined
      ? {}
      : { credentials: { accessKeyId, secretAccessKey } }),
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
  try {
    if (endpoint.env['AWS_ACCESS_KEY_ID'] !== undefined)
      await client.send(new CreateBucketCommand({ Bucket: endpoint.bucket }));
    return await body({ ...endpoint, client });
  } finally {
    client.destroy();
  }
}

/** @template T @param {string} directory @param {() => Promise<T>} body */
async function within(directory, body) {
  const before = process.env['TMPDIR'];
  process.env['TMPDIR'] = directory;
  try {
    return await body();
  } finally {
    if (before === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = before;
  }
}

/** The requests that `body` sends to the address it is given, by their kind. @param {string} url @param {(url: string) => Promise<void>} body */
export async function countRequests(url, body) {
  const { withFaultProxy } = await testSupport();
  /** @type {Record<string, number>} */
  const counts = {};
  await withFaultProxy(url, async (/** @type {{ url: string, seen: { method: string, url: string }[] }} */ proxy) => {
    await body(proxy.url);
    for (const { method, url: asked } of proxy.seen) {
      const kind = method === 'GET' && /[?&](list-type|prefix)=/.test(asked) ? 'LIST' : method;
      counts[kind] = (counts[kind] ?? 0) + 1;
    }
  });
  return counts;
}

/** @param {S3Endpoint} endpoint @param {string} prefix @returns {Promise<string[]>} */
export async function keysBelow({ client, bucket }, prefix) {
  /** @type {string[]} */
  const keys = [];
  /** @type {string | undefined} */
  let token;
  do {
    const page = await client.send(
      new ListObjectsV2Command({
        Bucket: bucket,
        Prefix: prefix,
        ...(token === undefined ? {} : { ContinuationToken: token }),
      }),
    );
    for (const { Key } of page.Contents ?? []) if (Key !== undefined) keys.push(Key);
    token = page.NextContinuationToken;
  } while (token !== undefined);
  return keys;
}

/** @param {S3Endpoint} endpoint @param {string} key */
export async function bytesOf({ client, bucket }, key) {
  const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }));
  if (Body === undefined) throw new Error(`${key} has no bytes`);
  return Body.transformToByteArray();
}

/** Every object becomes a file of the directory. @param {S3Endpoint} endpoint @param {string} prefix @param {string} directory */
export async function download(endpoint, prefix, directory) {
  fs.mkdirSync(directory);
  for (const key of await keysBelow(endpoint, prefix)) {
    fs.writeFileSync(path.join(directory, path.basename(key)), await bytesOf(endpoint, key));
  }
}

/** @param {S3Endpoint} endpoint @param {string} prefix */
export async function deleteBelow(endpoint, prefix) {
  const { client, bucket } = endpoint;
  const keys = await keysBelow(endpoint, prefix);
  for (let at = 0; at < keys.length; at += 1000) {
    const Objects = keys.slice(at, at + 1000).map((Key) => ({ Key }));
    await client.send(new DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects, Quiet: true } }));
  }
}
