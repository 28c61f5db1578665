import { existsSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Xlogdb, type XlogdbOptions } from '../../src/catalogue/xlogdb.ts';
import type { EnsureOptions } from '../../src/catalogue/xlogdb-session.ts';
import { toXlogdbLine, type WalFileInfo } from '../../src/wal/wal-file-info.ts';
import { walName, type WalName } from '../../src/wal/wal-name.ts';
import { withTempDir } from '../support/temp-dir.ts';

export interface Logged {
  readonly level: 'warn' | 'info';
  readonly message: string;
  readonly facts: object;
}

/** A catalogue in a directory of its own, and what a test needs to look behind it. */
export interface TestCatalogue {
  readonly xlogdb: Xlogdb;
  readonly directory: string;
  readonly path: string;
  readonly legacyPath: string;
  readonly lockPath: string;
  readonly logged: Logged[];
  /** Another object for the same files, as another process has it. */
  readonly another: (options?: Partial<XlogdbOptions>) => Xlogdb;
  readonly ensure: (infos: readonly WalFileInfo[], options?: EnsureOptions) => Promise<void>;
  /** The bytes of the catalogue; null when there is none. */
  readonly content: () => Promise<string | null>;
  readonly put: (content: string, path?: string) => Promise<void>;
  /** What was put aside, by file. */
  readonly damaged: () => Promise<string[]>;
}

export async function withCatalogue<T>(
  body: (catalogue: TestCatalogue) => Promise<T>,
  options: Partial<XlogdbOptions> = {},
): Promise<T> {
  return withTempDir(async (directory) => {
    const logged: Logged[] = [];
    const paths = {
      path: join(directory, 'main-xlog.db'),
      legacyPath: join(directory, 'xlog.db'),
      lockPath: join(directory, '.main-xlogdb.lock'),
    };
    const another = (more: Partial<XlogdbOptions> = {}): Xlogdb =>
      new Xlogdb({
        ...paths,
        migrate: true,
        logger: {
          warn: (facts, message) => logged.push({ level: 'warn', message, facts }),
          info: (facts, message) => logged.push({ level: 'info', message, facts }),
        },
        ...options,
        ...more,
      });
    const xlogdb = another();
    return body({
      ...paths,
      xlogdb,
      directory,
      logged,
      another,
      ensure: (infos, how) => xlogdb.withLock((session) => session.ensure(infos, how)),
      content: async () => (existsSync(paths.path) ? readFile(paths.path, 'latin1') : null),
      put: (content, path = paths.path) => writeFile(path, content, 'latin1'),
      damaged: async () => {
        const names = (await readdir(directory)).filter((name) => name.startsWith('main-xlog.db.damaged-'));
        return Promise.all(names.sort().map((name) => readFile(join(directory, name), 'latin1')));
      },
    });
  });
}

/** The file of segment `number`, 16 MiB segments, timeline 1. */
export function wal(number: number, facts: Partial<WalFileInfo> = {}): WalFileInfo {
  const digits = number.toString(16).toUpperCase().padStart(8, '0');
  return named(`0000000100000000${digits}`, facts);
}

export function named(name: string, facts: Partial<WalFileInfo> = {}): WalFileInfo {
  return { name: walName(name), size: 1000, mtime: 1_700_000_000.25, compression: 'zstd', encryption: null, ...facts };
}

export function lines(...infos: readonly WalFileInfo[]): string {
  return infos.map(toXlogdbLine).join('');
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** An archive that holds these files. */
export const archiveOf =
  (...infos: readonly WalFileInfo[]) =>
  async (name: WalName): Promise<WalFileInfo | null> =>
    infos.find((info) => info.name === name) ?? null;
