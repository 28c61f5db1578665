import { readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { createCompressor } from '../../src/compression/codecs.ts';
import { CLI, ensureBuilt } from '../support/cli.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { run } from '../support/run.ts';
import { describeS3 } from '../support/s3.ts';
import { deliveryOf } from './tar-stream.ts';
import { withS3Server } from './with-s3-server.ts';
import { placeStored, withServer, type TestServer } from './with-server.ts';

/** What takes long to load, and who may load it is in the table below. */
const HEAVY: readonly string[] = [
  '@aws-sdk/client-s3',
  '@node-rs/crc32',
  'fastify',
  'lz4-napi',
  'pg',
  'pino',
  'pino-pretty',
  'prom-client',
  'snappy',
  'tar-stream',
  'tinypool',
  'zstd-napi',
];

const wal = makeWal({ segment: 1 });
const inGzip = (server: TestServer): Promise<unknown> => placeStored(server, wal.name, gzipSync(wal.bytes));

interface Case {
  readonly command: string;
  readonly loads: readonly string[];
  readonly args: readonly string[];
  readonly before?: (server: TestServer) => Promise<unknown>;
  readonly options?: Readonly<Record<string, string>>;
  readonly input?: () => Promise<Buffer>;
}

const conninfo = 'host=127.0.0.1 dbname=postgres';
const delivered = ({ incoming }: TestServer): Promise<unknown> => writeWal(incoming, { segment: 1 });

test.concurrent.each<Case>([
  { command: '--version', args: ['--version'], loads: [] },
  { command: '--help', args: ['--help'], loads: [] },
  { command: 'list-servers', args: ['list-servers'], loads: [] },
  { command: 'get-wal of a gzip file', args: ['get-wal', 'main', wal.name], before: inGzip, loads: [] },
  {
    command: 'get-wal of a zstd file',
    args: ['get-wal', 'main', wal.name],
    before: async (server) =>
      placeStored(server, wal.name, await createCompressor({ compression: 'zstd' }).compress(wal.bytes)),
    loads: ['zstd-napi'],
  },
  { command: 'list-wals', args: ['list-wals', 'main'], before: inGzip, loads: [] },
  { command: 'put-wal', args: ['put-wal', 'main'], input: () => deliveryOf([wal]), loads: ['tar-stream'] },
  { command: 'archive-wal', args: ['archive-wal', 'main'], before: delivered, loads: ['pino'] },
  {
    command: 'archive-wal with zstd',
    args: ['archive-wal', 'main'],
    before: delivered,
    options: { compression: 'zstd' },
    loads: ['pino', 'zstd-napi'],
  },
])('of the heavy packages, $command loads $loads', ({ args, before, options, input, loads }) =>
  // A connection is configured, so that what loads pg because of that is found.
  withServer({ ...options, conninfo }, async (server) => {
    await before?.(server);
    expect(await packagesOpened(server, args, (await input?.()) ?? Buffer.alloc(0))).toEqual(loads);
  }),
);

describeS3(
  'with an archive in S3',
  (s3) => {
    test.each<Case>([
      { command: 'list-servers', args: ['list-servers'], loads: [] },
      { command: 'get-wal --test', args: ['get-wal', '--test', 'main'], loads: [] },
      { command: 'get-wal', args: ['get-wal', 'main', wal.name], loads: ['@aws-sdk/client-s3'] },
      { command: 'list-wals', args: ['list-wals', 'main'], loads: [] },
      { command: 'delete-wals --dry-run', args: ['delete-wals', '-n', '--before', wal.name, 'main'], loads: [] },
      { command: 'archive-wal with nothing to archive', args: ['-q', 'archive-wal', 'main'], loads: [] },
      {
        command: 'put-wal',
        args: ['put-wal', 'main'],
        input: () => deliveryOf([wal]),
        loads: ['@aws-sdk/client-s3', 'tar-stream'],
      },
    ])('of the heavy packages, $command loads $loads', ({ args, input, loads }) =>
      s3.withBucket((endpoint) =>
        withS3Server(endpoint, { compression: 'gzip' }, async (server) => {
          await writeWal(server.incoming, { segment: 1 });
          await server.cli(['archive-wal', 'main']);
          expect(await packagesOpened(server, args, (await input?.()) ?? Buffer.alloc(0))).toEqual(loads);
        }),
      ),
    );
  },
  ['rgw'],
);

/** The heavy packages of which a command opens files. */
async function packagesOpened(server: TestServer, args: readonly string[], input: Buffer): Promise<string[]> {
  await ensureBuilt();
  const trace = join(server.home, 'trace');
  await writeFile(trace, '');
  const { status, stderr } = await run(
    'strace',
    ['-f', '-qq', '-e', 'trace=openat', '-e', 'signal=none', '-o', trace, process.execPath, CLI].concat(
      args[0] === '--version' ? args : ['-c', server.config, ...args],
    ),
    { input },
  );
  if (status !== 0) throw new Error(`${args.join(' ')} ended with ${status}: ${stderr}`);
  const opened = (await readFile(trace, 'latin1')).split('\n').filter((line) => !line.includes('ENOENT'));
  const places = await Promise.all(HEAVY.map(placesOf));
  return HEAVY.filter((_name, index) => places[index]?.some((place) => opened.some((line) => line.includes(place))));
}

/** What of a package that is part of our own files stands in the one that has it. */
const BUNDLED: Readonly<Record<string, string>> = { '@aws-sdk/client-s3': 'S3Client = class' };

/** Where a package may be loaded from. */
async function placesOf(name: string): Promise<string[]> {
  const places = [`/node_modules/${name}/`];
  const mark = BUNDLED[name];
  if (mark === undefined) return places;
  const dist = dirname(CLI);
  for (const file of (await readdir(dist)).filter((entry) => entry.endsWith('.js'))) {
    if ((await readFile(join(dist, file), 'utf8')).includes(mark)) places.push(`/dist/${file}`);
  }
  if (places.length === 1) throw new Error(`${name} is nowhere in ${dist}`);
  return places;
}
