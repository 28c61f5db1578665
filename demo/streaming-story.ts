import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from '../test/support/poll.ts';
import { withPostgres, type TestPostgres } from '../test/support/postgres.ts';
import { findPostgres } from '../test/support/postgres-programs.ts';
import type { Narrator } from './narrator.ts';
import { prepareArchive, showSettings, sql, type Archive, type StorySettings } from './stage.ts';

const CONTENT = 'select count(*), md5(string_agg(what, null order by i)) from orders';

/** Stream, crash, restore to the last transaction: on a real PostgreSQL. Rejects when anything is not as it should be. */
export async function tellStreamingStory({ narrator, directory, root, keep }: StorySettings): Promise<void> {
  const { bin, major } = findPostgres();
  narrator.say(`walwarden receives the WAL of a real PostgreSQL ${major} (${bin}) as it is written,`);
  narrator.say('the server crashes in the middle of a segment, and a second one is restored to its last transaction.');
  narrator.say(`Everything is in ${directory}${keep ? '.' : ', and gone when this ends; --keep leaves it.'}`);
  await withPostgres({ directory, start: false }, async (pg) => {
    const archive = await prepareArchive(narrator, root, pg, [
      'streaming_archiver = on',
      `conninfo = ${pg.conninfo}`,
      'slot_name = walwarden',
      'create_slot = auto',
      'streaming_archiver_name = walwarden',
    ]);
    await startServer(narrator, pg);
    const [backup, before] = await receive(narrator, pg, archive);
    await restore(narrator, pg, archive, backup, before);
    narrator.step(keep ? 'Where everything is' : 'Where everything was');
    narrator.places({
      configuration: archive.config,
      'archived WAL': join(archive.home, 'main', 'wals'),
      'received WAL': join(archive.home, 'main', 'streaming'),
      log: join(archive.home, 'walwarden.log'),
      'first server': pg.dataDir,
    });
  });
}

async function startServer(narrator: Narrator, pg: TestPostgres): Promise<void> {
  narrator.step('Start PostgreSQL, with walwarden as its synchronous standby');
  narrator.say(`${join(pg.dataDir, 'postgresql.conf')} says, with segments of 1 MiB to keep this short:`);
  const settings = { synchronous_standby_names: 'walwarden' };
  showSettings(narrator, settings);
  await pg.start();
  await sql(narrator, pg, 'create table orders as select i, md5(i::text) as what from generate_series(1, 40000) i');
  // Only now: until somebody receives, no commit would return.
  await pg.configure(settings);
}

/** Resolves with the base backup and with what must be there after the restore. */
async function receive(narrator: Narrator, pg: TestPostgres, archive: Archive): Promise<readonly [string, string]> {
  narrator.step('Receive its WAL');
  await using _receiver = archive.background('receive-wal', 'main');
  const streaming = `select count(*) from pg_stat_replication where application_name = 'walwarden' and sync_state = 'sync'`;
  await until('walwarden to be the synchronous standby', async () => (await pg.value(streaming)) === '1');
  narrator.say(
    'The replication slot was made (create_slot = auto), and every commit waits until its WAL is on our disk:',
  );
  await archive.walwarden('replication-status', 'main');
  const backup = await pg.baseBackup();
  narrator.say(`A base backup, without WAL, is in ${backup}. Then:`);
  await sql(narrator, pg, 'insert into orders select i, md5(i::text) from generate_series(40001, 60000) i');
  narrator.say('Segments that are complete are archived, and leave streaming; the one being received stays:');
  await archive.walwarden('archive-wal', 'main');
  narrator.output((await readdir(join(archive.home, 'main', 'streaming'))).sort().join('\n'));
  narrator.say('switch-wal ends a segment; --archive waits until it is archived:');
  await archive.walwarden('switch-wal', '--archive', 'main');
  await archive.walwarden('check', 'main');

  narrator.step('Crash, in the middle of a segment');
  await sql(narrator, pg, 'update orders set what = md5(what) where i % 300 = 0');
  const content = await sql(narrator, pg, CONTENT);
  narrator.say(
    'No archive_command could have saved this: the segment is not complete. kill -9 for all of its processes.',
  );
  await pg.kill9();
  return [backup, content];
}

async function restore(
  narrator: Narrator,
  pg: TestPostgres,
  archive: Archive,
  backup: string,
  before: string,
): Promise<void> {
  narrator.step('Restore, with what was received of the unfinished segment');
  narrator.say('A copy of the base backup, with recovery.signal and');
  const restoreCommand = archive.restoreCommand.replace('get-wal', 'get-wal --partial');
  showSettings(narrator, { restore_command: restoreCommand });
  const restored = await pg.restore(backup, { restoreCommand });
  await restored.writable();
  narrator.say(`It is up, in ${restored.dataDir}:`);
  const after = await sql(narrator, restored, CONTENT);
  if (after !== before) throw new Error(`the restored table differs: ${before} before the crash, ${after} after it`);
  narrator.say('Every transaction that was told to be committed is there.');
  await restored.stop();
}
