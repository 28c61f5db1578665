import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestPostgres } from '../test/support/postgres.ts';
import { reachableCli } from '../test/support/reachable-cli.ts';
import { run } from '../test/support/run.ts';
import type { Narrator } from './narrator.ts';

export interface StorySettings {
  readonly narrator: Narrator;
  /** Everything happens below it. */
  readonly directory: string;
  /** The clone, with `dist` built. */
  readonly root: string;
  /** The directory will stay: tell how to go on with it. */
  readonly keep: boolean;
}

/** walwarden's side of it. */
export interface Archive {
  readonly config: string;
  readonly home: string;
  readonly incoming: string;
  /** For PostgreSQL's configuration. */
  readonly restoreCommand: string;
  /** How a command has to begin to be run by PostgreSQL's user; empty when that is us. */
  readonly asUser: string;
  /** Shows and runs `walwarden ARGS`; shows and tells what it says. */
  walwarden(...args: string[]): Promise<string>;
  /** Shows and starts `walwarden ARGS &`; ends it, orderly, when it is disposed. */
  background(...args: string[]): AsyncDisposable;
}

/** Configures walwarden for a server `main` with these options, and shows how. */
export async function prepareArchive(
  narrator: Narrator,
  root: string,
  pg: TestPostgres,
  options: readonly string[],
): Promise<Archive> {
  narrator.step('Configure walwarden');
  const home = await pg.makeDirectory(join(pg.directory, 'archive'));
  const config = join(pg.directory, 'walwarden.conf');
  const text = [
    '[barman]',
    `barman_home = ${home}`,
    `log_file = ${join(home, 'walwarden.log')}`,
    '',
    '[main]',
    'description = "The server of the demo"',
    ...options,
    'compression = zstd',
    '',
  ].join('\n');
  await writeFile(config, text, { mode: 0o644 });
  narrator.say(`${config} says, as a barman.conf would:`);
  narrator.output(text);

  const { node, cli } = await reachableCli(root, pg.owner, pg.directory);
  const asUser = await beginningFor(pg);
  const walwarden = async (...args: string[]): Promise<string> => {
    narrator.command(`walwarden ${args.join(' ')}`);
    const { status, stdout, stderr } = await run(node, [cli, '-c', config, ...args], {
      ...pg.owner,
      cwd: pg.directory,
    });
    if (status !== 0) throw new Error(`walwarden ${args.join(' ')} ends with ${status}:\n${stderr}${stdout}`);
    if (stdout !== '') narrator.output(stdout);
    return stdout;
  };
  narrator.say('To type along in another terminal, while this runs:');
  narrator.command(`walwarden() { ${asUser}${node} ${cli} -c ${config} "$@"; }`);
  const background = (...args: string[]): AsyncDisposable => {
    narrator.command(`walwarden ${args.join(' ')} &`);
    const child = spawn(node, [cli, '-c', config, ...args], { ...pg.owner, cwd: pg.directory, stdio: 'ignore' });
    const ended = new Promise<number | null>((resolve) => {
      child.once('error', () => resolve(null));
      child.once('exit', resolve);
    });
    return {
      async [Symbol.asyncDispose]() {
        child.kill('SIGTERM');
        const status = await ended;
        if (status !== 0) throw new Error(`walwarden ${args.join(' ')} ended with ${status ?? 'a signal'}`);
      },
    };
  };
  return {
    config,
    home,
    incoming: join(home, 'main', 'incoming'),
    restoreCommand: `${node} ${cli} -c ${config} get-wal main %f > %p`,
    asUser,
    walwarden,
    background,
  };
}

async function beginningFor(pg: TestPostgres): Promise<string> {
  const { uid } = pg.owner;
  if (uid === undefined) return '';
  const { status, stdout } = await run('id', ['-nu', String(uid)], {});
  return status === 0 ? `runuser -u ${stdout.trim()} -- ` : `setpriv --reuid ${uid} --clear-groups -- `;
}

/** Shows what stands in postgresql.conf. */
export function showSettings(narrator: Narrator, settings: Readonly<Record<string, string>>): void {
  narrator.output(
    Object.entries(settings)
      .map(([name, value]) => `${name} = '${value}'`)
      .join('\n'),
  );
}

/** Shows and runs a statement; shows and tells what it says. */
export async function sql(narrator: Narrator, pg: TestPostgres, text: string): Promise<string> {
  narrator.sql(`${text};`);
  const rows = await pg.sql(text);
  const shown = rows.map((row) => row.map((value) => value ?? '').join(' | ')).join('\n');
  if (shown !== '') narrator.output(shown);
  return shown;
}
