import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sha256 } from '../../src/storage/sha256.ts';
import { walDirectory, type WalName } from '../../src/wal/wal-name.ts';
import { runCli, writeConfig, type CliOptions } from '../support/cli.ts';
import type { RunResult } from '../support/run.ts';
import { withHome, type TestHome } from '../support/temp-dir.ts';

/** A home with one server `main` and a configuration file for it. */
export interface TestServer extends TestHome {
  readonly config: string;
  /** Runs `walwarden ARGS` with this configuration. */
  cli(args: readonly string[], options?: CliOptions): Promise<RunResult>;
}

export type ServerOptions = Readonly<Record<string, string | number>>;

/** `options` are the server's; `global` stand in [barman]. */
export async function withServer<T>(
  options: ServerOptions,
  body: (server: TestServer) => Promise<T>,
  global: ServerOptions = {},
): Promise<T> {
  return withHome(async (home) => body(await configured(home, options, global)));
}

/** The same in a home that is there already. */
export async function configured(
  home: TestHome,
  options: ServerOptions,
  global: ServerOptions = {},
): Promise<TestServer> {
  const config = await writeConfig(home.home, { global, servers: { [home.server]: options } });
  return {
    ...home,
    config,
    cli: (args, rest = {}) => runCli(args, { config, ...rest }),
  };
}

/** What a command with `-f json` printed; fails when it printed anything else. */
export function json(result: RunResult): unknown {
  try {
    return JSON.parse(result.stdout);
  } catch (cause) {
    throw new Error(`no JSON: ${JSON.stringify(result.stdout)}, stderr ${result.stderr}`, { cause });
  }
}

/** Every file below a directory: the SHA-256 of its bytes, by its path there. */
export async function digestsOf(directory: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    found.set(path.slice(directory.length + 1), sha256(await readFile(path)));
  }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The names in a directory, sorted; none when it is not there. */
export async function namesIn(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).sort();
  } catch {
    return [];
  }
}

/** Puts a file into the archive as an older version, or Barman, may have; without a catalogue line. */
export async function placeStored(server: TestHome, name: WalName, bytes: Uint8Array): Promise<string> {
  const path = join(server.wals, walDirectory(name), name);
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await writeFile(path, bytes, { mode: 0o600 });
  return path;
}

/** The lines of the server's catalogue, without newlines; none when there is no catalogue. */
export async function catalogueLines(server: TestHome): Promise<string[]> {
  try {
    return (await readFile(join(server.wals, `${server.server}-xlog.db`), 'utf8')).split('\n').slice(0, -1);
  } catch {
    return [];
  }
}
