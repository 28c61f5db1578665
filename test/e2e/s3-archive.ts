import { connect, createServer, type Server, type Socket } from 'node:net';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ListObjectsV2Command } from '@aws-sdk/client-s3';
import { expect } from 'vitest';
import type { TestPostgres } from '../support/postgres.ts';
import { testClient, type S3Endpoint } from '../support/s3-endpoint.ts';
import type { Archive } from './postgres-archive.ts';

/** Whole processes are started for every file, and other tests run at the same time. */
export const PATIENCE_MS = 180_000;

/** What calls put-wal as archive_command; to be copied where PostgreSQL's user may run it. */
export const PUSH_WAL = fileURLToPath(new URL('../../config/push-wal', import.meta.url));

/** Where the archives of these tests lie in their bucket. */
export const PREFIX = 'postgres/wal';

/** Options of a server whose archive is in a bucket; `url` instead of the endpoint's own address. */
export function s3Options(endpoint: S3Endpoint, url = endpoint.url): Record<string, string> {
  return {
    wals_directory: locationOf(endpoint),
    aws_endpoint_url: url,
    aws_force_path_style: 'on',
  };
}

export function locationOf({ bucket }: S3Endpoint): string {
  return `s3://${bucket}/${PREFIX}`;
}

/** The keys of everything in a bucket, in order. */
export async function keysIn(endpoint: S3Endpoint): Promise<string[]> {
  const client = testClient(endpoint);
  try {
    const { Contents = [], IsTruncated } = await client.send(new ListObjectsV2Command({ Bucket: endpoint.bucket }));
    if (IsTruncated === true) throw new Error('more objects than a test should have');
    return Contents.map(({ Key = '' }) => Key);
  } finally {
    client.destroy();
  }
}

/** Where a segment of the server `main` is stored; `extension` as `.gz`. */
export function segmentKey(name: string, extension: string): string {
  return `${PREFIX}/main/wals/${name.slice(0, 16)}/${name}${extension}`;
}

/** Nothing waits, and on our disk is no WAL: whatever comes back comes from the bucket. */
export async function expectOnlyInBucket(archive: Archive): Promise<void> {
  expect(await readdir(archive.incoming)).toEqual([]);
  expect(await readdir(archive.errors)).toEqual([]);
  expect(await readdir(join(archive.home, 'main', 'streaming'))).toEqual([]);
  expect(await readdir(join(archive.home, 'main', 'wals'))).toEqual(['main-xlog.db']);
}

/** Writes a row and ends the segment that holds it; resolves once it is out of PostgreSQL's hands. */
export async function writeRow(pg: TestPostgres, text: string): Promise<string> {
  await pg.sql(`create table if not exists ledger (t text); insert into ledger values ('${text}')`);
  const name = await pg.switchWal();
  await pg.archived(name, PATIENCE_MS);
  return name;
}

export async function rowsOf(pg: TestPostgres): Promise<(string | null)[]> {
  return (await pg.sql('select t from ledger order by t')).map((row) => row[0] ?? null);
}

/** A way to a gateway that can be closed: then nothing listens at its address, until it is opened again. */
export class Gate {
  readonly #target: number;
  readonly #clients = new Set<Socket>();
  #server: Server;
  #port = 0;

  private constructor(target: number) {
    this.#target = target;
    this.#server = this.#create();
  }

  static async before(url: string): Promise<Gate> {
    const gate = new Gate(Number(new URL(url).port));
    await gate.open();
    return gate;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  async open(): Promise<void> {
    this.#server = this.#create();
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject).listen(this.#port, '127.0.0.1', resolve);
    });
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('the gate does not listen');
    this.#port = address.port;
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const client of this.#clients) client.resetAndDestroy();
    await closed;
  }

  #create(): Server {
    return createServer((client) => {
      this.#clients.add(client);
      const server = connect(this.#target, '127.0.0.1');
      for (const end of [client, server]) end.on('error', () => end.destroy());
      client.pipe(server).pipe(client);
      client.once('close', () => {
        this.#clients.delete(client);
        server.destroy();
      });
      server.once('close', () => client.destroy());
    });
  }
}

/** A {@link Gate}, open, for `body`. */
export async function withGate<T>(url: string, body: (gate: Gate) => Promise<T>): Promise<T> {
  const gate = await Gate.before(url);
  try {
    return await body(gate);
  } finally {
    await gate.close();
  }
}
