import { mkdir, readdir, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ReadingKeys } from '../../src/storage/stored-content.ts';
import { historyName, walName, type WalName } from '../../src/wal/wal-name.ts';
import { runCli, writeConfig } from '../support/cli.ts';
import { makeWal } from '../support/make-wal.ts';
import type { RunResult } from '../support/run.ts';
import { withHome } from '../support/temp-dir.ts';
import { withGpgKey } from '../storage/with-gpg-key.ts';
import { violations, type Deliveries } from './invariants.ts';

export type FaultOptions = Readonly<Record<string, string | number>>;

/** One server, what was delivered to it, and passes over it. */
export interface FaultHome extends Deliveries {
  readonly config: string;
  readonly produced: Map<WalName, () => Buffer>;
  /** Puts a file into incoming in one step. */
  readonly deliver: (name: WalName, content: () => Buffer) => Promise<void>;
  /** Puts a file into streaming in one step; `stays`: it is pg_receivewal's as well, or only. */
  readonly stream: (name: WalName, content: () => Buffer, stays?: 'too' | 'only') => Promise<void>;
  readonly staying: Map<string, () => Buffer>;
  readonly cameAs: Map<WalName, WalName>;
  /** Segments, as small as they may be. */
  readonly deliverSegments: (from: number, to: number) => Promise<void>;
  readonly archive: () => Promise<RunResult>;
  /** Everything as it was before the first delivery, but the configuration. */
  readonly reset: () => Promise<void>;
  readonly violations: (state: 'crashed' | 'healed') => Promise<string[]>;
}

/** `options` are the server's; `global` stand in [barman]. */
export async function withFaultHome<T>(
  options: FaultOptions,
  body: (fault: FaultHome) => Promise<T>,
  global: FaultOptions = {},
): Promise<T> {
  return withHome(async (home) => {
    const config = await writeConfig(home.home, {
      global: { log_file: '%(barman_home)s/walwarden.log', ...global },
      servers: { main: options },
    });
    const { gnupg_home } = options;
    const keys: ReadingKeys = gnupg_home === undefined ? {} : { gnupgHome: String(gnupg_home) };
    const produced = new Map<WalName, () => Buffer>();
    const staying = new Map<string, () => Buffer>();
    const cameAs = new Map<WalName, WalName>();
    const deliver = async (name: WalName, content: () => Buffer): Promise<void> => {
      await writeFile(join(home.incoming, name), content(), { mode: 0o600 });
      produced.set(name, content);
    };
    return body({
      home,
      keys,
      config,
      produced,
      staying,
      cameAs,
      deliver,
      async stream(name, content, stays) {
        await writeFile(join(home.streaming, `${name}.tmp`), content(), { mode: 0o600 });
        // In the order of their writing, which files of one moment don't show.
        const written = 1_700_000_000 + (await readdir(home.streaming)).length;
        await utimes(join(home.streaming, `${name}.tmp`), written, written);
        await rename(join(home.streaming, `${name}.tmp`), join(home.streaming, name));
        if (stays !== undefined) staying.set(name, content);
        if (stays !== 'only') produced.set(name, content);
      },
      async deliverSegments(from, to) {
        for (let segment = from; segment <= to; segment += 1) {
          await deliver(
            makeWal({ segment, content: 'zeros' }).name,
            () => makeWal({ segment, content: 'zeros' }).bytes,
          );
        }
      },
      archive: () => runCli(['archive-wal', 'main'], { config }),
      async reset() {
        produced.clear();
        staying.clear();
        cameAs.clear();
        await rm(join(home.home, home.server), { recursive: true });
        await rm(join(home.home, `.${home.server}-catalogue.json`), { force: true });
        for (const path of [home.incoming, home.streaming, home.wals, home.errors])
          await mkdir(path, { recursive: true });
      },
      violations: (state) => violations({ home, keys, produced, staying, cameAs }, state),
    });
  });
}

/** The configurations whose steps differ: what is linked, what is written by us, what has a journal. */
export const CONFIGURATIONS = ['none', 'zstd', 'gpg'] as const;
export type Configuration = (typeof CONFIGURATIONS)[number];

/** Options of a server whose streaming directory is archived. Nothing connects: a pass doesn't need PostgreSQL. */
export const STREAMING: FaultOptions = {
  streaming_archiver: 'on',
  streaming_conninfo: 'host=/nowhere user=nobody',
  slot_name: 'walwarden',
};

/**
 * What pg_receivewal has in its directory after a promotion: complete segments,
 * the partial one of the old timeline, the one that it has open, and a segment
 * that is newer than that, which is its position.
 */
export async function streamAfterPromotion({ stream }: FaultHome): Promise<void> {
  const whole = (timeline: number, segment: number) => (): Buffer =>
    makeWal({ timeline, segment, content: 'zeros' }).bytes;
  const name = (timeline: number, segment: number): WalName => makeWal({ timeline, segment, content: 'zeros' }).name;
  for (const segment of [1, 2]) await stream(name(1, segment), whole(1, segment));
  await stream(walName(`${name(1, 3)}.partial`), whole(1, 3));
  await stream(walName(`${name(2, 3)}.partial`), whole(2, 3), 'only');
  await stream(name(2, 4), whole(2, 4), 'too');
}

/** Runs `body` with the options of a configuration; gpg gets a throw-away key. */
export async function withConfiguration<T>(
  configuration: Configuration,
  body: (options: FaultOptions) => Promise<T>,
): Promise<T> {
  if (configuration === 'none') return body({});
  if (configuration === 'zstd') return body({ compression: 'zstd' });
  return withGpgKey(({ keyId, homedir }) =>
    body({ compression: 'gzip', encryption: 'gpg', encryption_key_id: keyId, gnupg_home: homedir }),
  );
}

export function historyFile(timeline: number): { name: WalName; content: () => Buffer } {
  return {
    name: historyName(timeline),
    content: () => Buffer.from(`${timeline - 1}\t0/${timeline.toString(16)}00000\tno recovery target specified\n`),
  };
}

export function backupLabel(segment: number): { name: WalName; content: () => Buffer } {
  const { name } = makeWal({ segment, content: 'zeros' });
  return {
    name: walName(`${name}.00000028.backup`),
    content: () =>
      Buffer.from(
        `START WAL LOCATION: 0/${segment.toString(16)}00028 (file ${name})\nSTOP TIME: 2026-11-21 08:55:15 UTC\nSTOP TIMELINE: 1\n`,
      ),
  };
}
