import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { isWalName, walKind, type WalName } from '../../src/wal/wal-name.ts';
import { until } from '../support/poll.ts';
import { pgReceivewalOf } from '../support/postgres-programs.ts';
import { withPostgres, type PostgresOptions, type TestPostgres } from '../support/postgres.ts';
import { killIfThere } from '../support/processes.ts';
import { makeArchive, type Archive, type Pass } from './postgres-archive.ts';

/** A server `main` that only streams. Nothing connects in a pass: pg_receivewal is run by the test. */
export const STREAMING_ONLY = {
  archiver: 'off',
  streaming_archiver: 'on',
  streaming_conninfo: 'host=/nowhere user=nobody',
  slot_name: 'walwarden',
} as const;

/** Both ways of delivery. */
export const BOTH = { ...STREAMING_ONLY, archiver: 'on' } as const;

/** One pass over streaming, which may have trouble. */
export interface StreamingPass extends Pass {
  readonly failed: readonly { readonly name: string; readonly reason: string }[];
  readonly overdue: readonly unknown[];
}

/** A real pg_receivewal that writes into the streaming directory of an archive. */
export class Receivewal {
  readonly #pg: TestPostgres;
  readonly directory: string;
  #child: ChildProcess | null = null;
  /** What it said since its last start. */
  output = '';

  constructor(pg: TestPostgres, directory: string) {
    this.#pg = pg;
    this.directory = directory;
  }

  get running(): boolean {
    return this.#child !== null;
  }

  /** Starts it and waits until it streams; `from` another server than the one that it was made for. */
  async start(options: { readonly slot?: string; readonly from?: TestPostgres } = {}): Promise<void> {
    const { slot, from = this.#pg } = options;
    this.output = '';
    const args = ['--no-loop', '--no-password', '--verbose', '--status-interval', '1'];
    args.push('--directory', this.directory, '--dbname', from.conninfo);
    if (slot !== undefined) args.push('--slot', slot);
    const child = spawn(pgReceivewalOf(this.#pg.programs), args, {
      ...this.#pg.owner,
      cwd: this.#pg.directory,
      env: { ...process.env, LC_ALL: 'C' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#child = child;
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    child.once('close', () => (this.#child = null));
    await until('pg_receivewal to stream', async () => {
      if (!this.running) throw new Error(`pg_receivewal ended: ${this.output}`);
      return this.output.includes('starting log streaming');
    });
  }

  /** Where it began: an LSN as it prints it, and the timeline. */
  get startedAt(): string {
    return /starting log streaming at (\S+ \(timeline \d+\))/.exec(this.output)?.[1] ?? 'nowhere';
  }

  async stop(signal: NodeJS.Signals = 'SIGINT'): Promise<void> {
    if (this.#child?.pid !== undefined) killIfThere(this.#child.pid, signal);
    await until('pg_receivewal to end', () => !this.running);
  }

  /** Waits until it has written a complete segment, and nothing of it is missing in the directory. */
  async finished(name: WalName): Promise<void> {
    const position = name.slice(8);
    await until(`pg_receivewal to finish ${name}`, async () => {
      if (!this.running) throw new Error(`pg_receivewal ended: ${this.output}`);
      const names = (await readdir(this.directory)).filter(isWalName);
      return (
        names.some((entry) => entry === name || entry.slice(8, 24) > position) ||
        this.output.includes(finishOf(this.#pg, name))
      );
    });
  }
}

/** What `--verbose` says at the end of a segment. */
function finishOf({ segmentSize }: TestPostgres, name: WalName): string {
  const end = (BigInt(`0x${name.slice(8, 16)}`) << 32n) + (BigInt(`0x${name.slice(16)}`) + 1n) * BigInt(segmentSize);
  const lsn = `${(end >> 32n).toString(16)}/${(end & 0xffff_ffffn).toString(16)}`.toUpperCase();
  return `finished segment at ${lsn} (timeline ${Number.parseInt(name.slice(0, 8), 16)})`;
}

/** A PostgreSQL, an archive beside it, and a pg_receivewal that is not started yet. */
export interface Streamed {
  readonly pg: TestPostgres;
  readonly archive: Archive;
  readonly receivewal: Receivewal;
  readonly streaming: string;
  /** One pass of the streaming archiver, without trouble. */
  readonly pass: () => Promise<StreamingPass>;
  /** What lies in streaming. */
  readonly waiting: () => Promise<string[]>;
}

export interface StreamedOptions extends PostgresOptions {
  readonly server?: Readonly<Record<string, string | number>>;
}

export function withStreamedPostgres<T>(
  options: StreamedOptions,
  body: (streamed: Streamed) => Promise<T>,
): Promise<T> {
  const { server = STREAMING_ONLY, settings = {}, ...rest } = options;
  return withPostgres({ ...rest, settings: { wal_keep_size: '1GB', ...settings } }, async (pg) => {
    if (!pg.programs.complete)
      throw new Error('these tests need pg_receivewal: install Debian package postgresql-client');
    const archive = await makeArchive(pg, server);
    const streaming = join(archive.home, 'main', 'streaming');
    await mkdir(streaming, { recursive: true });
    const receivewal = new Receivewal(pg, streaming);
    try {
      return await body({
        pg,
        archive,
        receivewal,
        streaming,
        pass: () => streamingPass(archive),
        waiting: async () => (await readdir(streaming)).sort(),
      });
    } finally {
      await receivewal.stop('SIGKILL');
    }
  });
}

async function streamingPass(archive: Archive): Promise<StreamingPass> {
  const { status, stdout, stderr } = await archive.walwarden(['-f', 'json', 'archive-wal', 'main']);
  expect(status, stderr + stdout).toBe(0);
  const [report]: { passes: (StreamingPass & { archiver: string })[] }[] = JSON.parse(stdout);
  const pass = report?.passes.find(({ archiver }) => archiver === 'streaming');
  if (pass === undefined) throw new Error(`no pass over streaming: ${stdout}`);
  return pass;
}

/** Every complete segment of a server, from `first` to `last`, is archived with its very bytes. Tells their names. */
export async function expectArchived(
  pg: TestPostgres,
  archive: Archive,
  first: WalName,
  last: WalName,
): Promise<WalName[]> {
  const names = (await readdir(pg.walDir)).filter(isWalName);
  const wanted = names.filter((name) => walKind(name) === 'segment' && name >= first && name <= last).sort();
  expect(wanted).toContain(first);
  expect(wanted).toContain(last);
  for (const name of wanted) {
    const [stored, original] = [archive.stored(name), join(pg.walDir, name)];
    expect((await readFile(stored)).equals(await readFile(original)), name).toBe(true);
  }
  return wanted;
}
