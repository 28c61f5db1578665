import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { withPostgres, type TestPostgres } from '../test/support/postgres.ts';
import { findPostgres } from '../test/support/postgres-programs.ts';
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

/** Archive, crash, restore: on a real PostgreSQL. Rejects when anything is not as it should be. */
export async function tellStory({ narrator, directory, root, keep }: StorySettings): Promise<void> {
  const { bin, major } = findPostgres();
  narrator.say(`walwarden archives the WAL of a real PostgreSQL ${major} (${bin}),`);
  narrator.say('and a second one is restored from the archive after the first has crashed.');
  narrator.say(`Everything is in ${directory}${keep ? '.' : ', and gone when this ends; --keep leaves it.'}`);
  await withPostgres({ directory, start: false }, async (pg) => {
    const archive = await prepareArchive(narrator, root, pg);
    await archiveWal(narrator, pg, archive);
    const backup = await takeBackup(narrator, pg, archive);
    const before = await writeAndCrash(narrator, pg);
    const restored = await restore(narrator, pg, archive, backup, before);
    await archiveNewTimeline(narrator, restored, archive);
    await sayWhereEverythingIs(narrator, pg, restored, archive, keep);
  });
}

/** walwarden's side of it. */
interface Archive {
  readonly config: string;
  readonly home: string;
  readonly incoming: string;
  /** For PostgreSQL's configuration. */
  readonly restoreCommand: string;
  /** How a command has to begin to be run by PostgreSQL's user; empty when that is us. */
  readonly asUser: string;
  /** Shows and runs `walwarden ARGS`; shows and tells what it says. */
  walwarden(...args: string[]): Promise<string>;
}

async function prepareArchive(narrator: Narrator, root: string, pg: TestPostgres): Promise<Archive> {
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
    'archiver = on',
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
  await walwarden('list-servers');
  narrator.say('The first pass finds nothing, and makes the directories:');
  await walwarden('archive-wal', 'main');
  return {
    config,
    home,
    incoming: join(home, 'main', 'incoming'),
    restoreCommand: `${node} ${cli} -c ${config} get-wal main %f > %p`,
    asUser,
    walwarden,
  };
}

async function beginningFor(pg: TestPostgres): Promise<string> {
  const { uid } = pg.owner;
  if (uid === undefined) return '';
  const { status, stdout } = await run('id', ['-nu', String(uid)], {});
  return status === 0 ? `runuser -u ${stdout.trim()} -- ` : `setpriv --reuid ${uid} --clear-groups -- `;
}

const archivingTo = (archive: Archive): Record<string, string> => ({
  archive_mode: 'on',
  archive_command: `cp %p ${archive.incoming}/%f`,
});

function showSettings(narrator: Narrator, settings: Readonly<Record<string, string>>): void {
  narrator.output(
    Object.entries(settings)
      .map(([name, value]) => `${name} = '${value}'`)
      .join('\n'),
  );
}

async function sql(narrator: Narrator, pg: TestPostgres, text: string): Promise<string> {
  narrator.sql(`${text};`);
  const rows = await pg.sql(text);
  const shown = rows.map((row) => row.map((value) => value ?? '').join(' | ')).join('\n');
  if (shown !== '') narrator.output(shown);
  return shown;
}

/** Ends the segment, so that all that was written so far is archived; waits for it. */
async function switchAndWait(narrator: Narrator, pg: TestPostgres): Promise<string> {
  const name = await sql(narrator, pg, 'select pg_walfile_name(pg_switch_wal())');
  await pg.archived(name);
  return name;
}

async function archiveWal(narrator: Narrator, pg: TestPostgres, archive: Archive): Promise<void> {
  narrator.step('Start PostgreSQL, and archive its WAL');
  narrator.say(`${join(pg.dataDir, 'postgresql.conf')} says, with segments of 1 MiB to keep this short:`);
  const settings = archivingTo(archive);
  showSettings(narrator, settings);
  await pg.configure(settings);
  await pg.start();
  await sql(narrator, pg, 'create table orders as select i, md5(i::text) as what from generate_series(1, 40000) i');
  const last = await switchAndWait(narrator, pg);
  narrator.say('The files that cp has put into incoming are checked, compressed, stored and catalogued:');
  await archive.walwarden('archive-wal', 'main');
  const waiting = await readdir(archive.incoming);
  if (waiting.includes(last))
    throw new Error(`${last} is still in ${archive.incoming}, archive-wal did not archive it`);
  await archive.walwarden('list-wals', 'main');
}

async function takeBackup(narrator: Narrator, pg: TestPostgres, archive: Archive): Promise<string> {
  narrator.step('Take a base backup, and write more');
  const backup = await pg.baseBackup();
  narrator.say(`${pg.dataDir} was copied, without its WAL, to ${backup},`);
  narrator.say('between pg_backup_start() and pg_backup_stop().');
  await sql(narrator, pg, 'insert into orders select i, md5(i::text) from generate_series(40001, 60000) i');
  await switchAndWait(narrator, pg);
  await archive.walwarden('archive-wal', 'main');
  return backup;
}

const CONTENT = 'select count(*), md5(string_agg(what, null order by i)) from orders';

/** Resolves with what must be there after the restore. */
async function writeAndCrash(narrator: Narrator, pg: TestPostgres): Promise<string> {
  narrator.step('Write still more, and crash');
  await sql(narrator, pg, 'update orders set what = md5(what) where i % 3 = 0');
  await switchAndWait(narrator, pg);
  const content = await sql(narrator, pg, CONTENT);
  narrator.say('The last segments only are in incoming yet. Now kill -9 for all of its processes.');
  await pg.kill9();
  return content;
}

async function restore(
  narrator: Narrator,
  pg: TestPostgres,
  archive: Archive,
  backup: string,
  before: string,
): Promise<TestPostgres> {
  narrator.step('Restore to a second PostgreSQL');
  narrator.say('A copy of the base backup, with recovery.signal and');
  const { restoreCommand } = archive;
  showSettings(narrator, { restore_command: restoreCommand });
  narrator.say('fetches WAL from the archive, and from incoming what is not archived yet.');
  const restored = await pg.restore(backup, { restoreCommand, settings: archivingTo(archive) });
  await restored.writable();
  narrator.say(`It is up, in ${restored.dataDir}:`);
  const after = await sql(narrator, restored, CONTENT);
  if (after !== before) throw new Error(`the restored table differs: ${before} before the crash, ${after} after it`);
  narrator.say('Every row is there, as it was before the crash.');
  return restored;
}

async function archiveNewTimeline(narrator: Narrator, pg: TestPostgres, archive: Archive): Promise<void> {
  narrator.step('Archive the new timeline');
  await sql(narrator, pg, `insert into orders values (0, 'after the restore')`);
  await switchAndWait(narrator, pg);
  await pg.archived('00000002.history');
  await archive.walwarden('archive-wal', 'main');
  const listed = await archive.walwarden('list-wals', 'main');
  if (!/Timeline 1:.*Timeline 2:/s.test(listed)) throw new Error('list-wals does not show both timelines');
}

async function sayWhereEverythingIs(
  narrator: Narrator,
  pg: TestPostgres,
  restored: TestPostgres,
  archive: Archive,
  keep: boolean,
): Promise<void> {
  narrator.step(keep ? 'Where everything is' : 'Where everything was');
  narrator.places({
    configuration: archive.config,
    'archived WAL': join(archive.home, 'main', 'wals'),
    catalogue: join(archive.home, 'main', 'wals', 'main-xlog.db'),
    log: join(archive.home, 'walwarden.log'),
    'first server': pg.dataDir,
    'second server': `${restored.dataDir}, log ${restored.logFile}`,
  });
  await restored.stop();
  if (!keep) {
    narrator.say('\nAll of it is being removed. To look around in it: npm run demo -- --keep');
    return;
  }
  // We opened it; PostgreSQL's user will want to write on.
  await restored.giveToServer(restored.logFile);
  const { bin, complete } = restored.programs;
  narrator.say('\nBoth servers are stopped. To start the second one again, use it and stop it:');
  const pgCtl = `${archive.asUser}${join(bin, 'pg_ctl')} -D ${restored.dataDir}`;
  narrator.command(`${pgCtl} -l ${restored.logFile} start`);
  if (complete) narrator.command(`${join(bin, 'psql')} -h ${restored.socketDir} -U postgres -c "${CONTENT}"`);
  narrator.command(`${pgCtl} stop`);
  narrator.say('And to remove everything:');
  narrator.command(`rm -r ${pg.directory}`);
}
