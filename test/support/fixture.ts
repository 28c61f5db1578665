import { execFileSync } from 'node:child_process';
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { withTempDir } from './temp-dir.ts';

/** Where the archive of a Barman 3.17 home lies that Barman itself wrote; its README says what is in it. */
export const BARMAN_HOME_ARCHIVE = new URL('../fixtures/barman-3.17-home.tar.zst', import.meta.url).pathname;

/** An unpacked copy, to be read or changed. */
export interface BarmanFixture {
  /** barman_home, with the server `main`. */
  readonly home: string;
  /** The WAL files of `home` before Barman compressed them, under the same names. */
  readonly originals: string;
}

/** Unpacks the fixture into a temporary directory of its own. */
export async function withBarmanFixture<T>(body: (fixture: BarmanFixture) => Promise<T>): Promise<T> {
  return withTempDir((directory) => {
    execFileSync('tar', ['--zstd', '--no-same-owner', '-xf', BARMAN_HOME_ARCHIVE, '-C', directory]);
    return body({ home: join(directory, 'home'), originals: join(directory, 'originals') });
  });
}

/** Real WAL: the seven segments of 1 MiB among the originals, in order, name and bytes. */
export async function realSegments(): Promise<ReadonlyMap<string, Buffer>> {
  return withBarmanFixture(async ({ originals }) => {
    const names = (await readdir(originals)).filter((name) => name.length === 24).sort();
    const entries = names.map(async (name) => [name, await readFile(join(originals, name))] as const);
    return new Map(await Promise.all(entries));
  });
}
