import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { withPostgres, type TestPostgres } from '../test/support/postgres.ts';
import { findPostgres } from '../test/support/postgres-programs.ts';
import type { Narrator } from './narrator.ts';
import { prepareArchive, showSettings, sql, type Archive, type StorySettings } from './stage.ts';

/** Archive, crash, restore: on a real PostgreSQL. Rejects when anything is not as it should be. */
export async function tellStory({ narrator, directory, root, keep }: StorySettings): Promise<void> {
  const { bin, major } = findPostgres();
  narrator.say(`walwarden archives the WAL of a real PostgreSQL ${major} (${bin}),`);
  narrator.say('and a second one is restored from the archive after the first has crashed.');
  narrator.say(`Everything is in ${directory}${keep ? '.' : ', and gone when this ends; --keep leaves it.'}`);
  await withPostgres({ directory, start: false }, async (pg) => {
    const archive = await prepareArchive(narrator, root, pg, ['archiver = on']);
    await archive.walwarden('list-servers');
    narrator.say('The first pass finds nothing, and makes the directories:');
    await archive.walwarden('archive-wal', 'main');
    await archiveWal(narrator, pg, archive);
    const backup = await takeBackup(narrator, pg, archive);
    const before = await writeAndCrash(narrator, pg);
    const restored = await restore(narrator, pg, archive, backup, before);
    await archiveNewTimeline(narrator, restored, archive);
    await sayWhereEverythingIs(narrator, pg, restored, archive, keep);
  });
}

const archivingTo = (archive: Archive): Record<string, string> => ({
  archive_mode: 'on',
  archive_command: `cp %p ${archive.incoming}/%f`,
});

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
