import { createHash } from 'node:crypto';
import { open, readdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { GetObjectCommand } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { segmentName } from '../../src/wal/wal-name.ts';
import { runCli, writeConfig } from '../support/cli.ts';
import { makeWal } from '../support/make-wal.ts';
import { awsEnvironment, testClient, withoutAws, type S3Endpoint } from '../support/s3-endpoint.ts';
import { describeS3, type S3Server } from '../support/s3.ts';
import { withHome } from '../support/temp-dir.ts';

const MIB = 1024 * 1024;

/** What a process says at its end: the most memory that it ever had, in KiB. */
const TELL = `data:text/javascript,process.on('exit',()=>console.error('peak',process.resourceUsage().maxRSS))`;

interface Pass {
  readonly incoming: string;
  readonly endpoint: S3Endpoint;
  /** One pass of archive-wal as a process of its own. Returns the peak of its memory in MiB. */
  readonly archive: () => Promise<number>;
}

function withPass(
  server: S3Server,
  options: Readonly<Record<string, string | number>>,
  body: (pass: Pass) => Promise<void>,
): Promise<void> {
  return server.withBucket((endpoint) =>
    withHome(async ({ home, incoming }) => {
      const config = await writeConfig(home, {
        servers: {
          main: {
            wals_directory: `s3://${endpoint.bucket}/archive`,
            aws_endpoint_url: endpoint.url,
            aws_region: endpoint.region,
            aws_force_path_style: 'on',
            archiver_workers: 2,
            cloud_wal_archive_parallel: 4,
            ...options,
          },
        },
      });
      const env = { ...withoutAws(process.env), ...awsEnvironment(endpoint), NODE_OPTIONS: `--import=${TELL}` };
      const archive = async (): Promise<number> => {
        const { status, stdout, stderr } = await runCli(['archive-wal', 'main'], { config, env, timeoutMs: 300_000 });
        expect(status, stdout + stderr).toBe(0);
        expect(await readdir(incoming)).toEqual([]);
        const peaks = [...stderr.matchAll(/^peak (\d+)$/gm)].map(([, kib]) => Number(kib));
        return Math.max(...peaks) / 1024;
      };
      await body({ incoming, endpoint, archive });
    }),
  );
}

/** Segments of which only the first page was ever written: they cost no disk, and without compression as much as any. */
async function deliverSparse(incoming: string, from: number, count: number, size: number): Promise<string[]> {
  const names: string[] = [];
  for (let segment = from; segment < from + count; segment += 1) {
    const name = segmentName(1, BigInt(segment), size);
    const { bytes } = makeWal({ segment, content: 'zeros' });
    const page = Buffer.from(bytes.subarray(0, 8192));
    page.writeBigUInt64LE(BigInt(segment) * BigInt(size), 8);
    page.writeUInt32LE(size, 32);
    await writeFile(join(incoming, name), page);
    await truncate(join(incoming, name), size);
    names.push(name);
  }
  return names;
}

/** Segments that no codec makes smaller; all the same but for their headers. */
async function deliverNoise(incoming: string, count: number, size: number): Promise<void> {
  const { bytes } = makeWal({ segment: 1, size, content: 'random' });
  for (let segment = 1; segment <= count; segment += 1) {
    bytes.writeBigUInt64LE(BigInt(segment) * BigInt(size), 8);
    await writeFile(join(incoming, segmentName(1, BigInt(segment), size)), bytes);
  }
}

describeS3(
  'the memory of archive-wal into S3',
  (server) => {
    test('is the same for 200 files of 16 MiB as for a few', () =>
      withPass(server, { compression: 'none' }, async ({ incoming, archive }) => {
        await deliverSparse(incoming, 1, 12, 16 * MIB);
        const few = await archive();
        await deliverSparse(incoming, 101, 200, 16 * MIB);
        const many = await archive();
        // Their WAL ends inside, so that each is read once more, by the pass: two segments above what whole ones take.
        expect(many).toBeLessThan(256 + 2 * 16);
        expect(many - few).toBeLessThan(64);
      }));

    // Real WAL becomes smaller, and needs less.
    test.each(['zstd', 'lz4', 'gzip'])('is bounded with %s, which makes no smaller what is sent', (compression) =>
      withPass(server, { compression }, async ({ incoming, archive }) => {
        await deliverNoise(incoming, 16, 16 * MIB);
        const peak = await archive();
        expect(peak).toBeLessThan(448);
      }),
    );

    test('is that of one file for segments of 1 GiB, which go in parts and come back byte for byte', () =>
      withPass(server, { compression: 'none' }, async ({ incoming, endpoint, archive }) => {
        const size = 1024 * MIB;
        const [name = ''] = await deliverSparse(incoming, 1, 1, size);
        const source = await open(join(incoming, name), 'r+');
        // Not only zeros: something at each border of a part.
        for (let at = 16 * MIB; at < size; at += 16 * MIB) await source.write(`part ${at}`, at - 4);
        const expected = await digestOf(source.createReadStream());
        const peak = await archive();
        expect(peak).toBeLessThan(80 + 3 * 1024);
        const client = testClient(endpoint);
        const Key = `archive/main/wals/${name.slice(0, 16)}/${name}`;
        const { Body, ETag } = await client.send(new GetObjectCommand({ Bucket: endpoint.bucket, Key }));
        if (!(Body instanceof Readable)) throw new Error('no object');
        expect(await digestOf(Body)).toEqual(expected);
        expect(ETag).toMatch(/-64"$/);
        client.destroy();
      }));
  },
  ['rgw'],
);

async function digestOf(stream: AsyncIterable<unknown>): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of stream) {
    if (!(chunk instanceof Uint8Array)) throw new Error('no bytes');
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { bytes, sha256: hash.digest('hex') };
}
