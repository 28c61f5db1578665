import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { findEndOfWal, holdSameWal } from '../../src/wal/end-of-wal.ts';
import { isWalName, walKind, walName, type WalName } from '../../src/wal/wal-name.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { BOTH, expectArchived, withStreamedPostgres, type Streamed } from './streamed-postgres.ts';

/** The partial files of a directory. */
async function partialsIn(directory: string): Promise<WalName[]> {
  return (await readdir(directory)).filter(isWalName).filter((name) => walKind(name) === 'partial');
}

/** Waits until the archive has a file, with passes meanwhile. */
async function archived({ archive, pass }: Streamed, name: WalName): Promise<Buffer> {
  return until(`${name} to be archived`, async () => {
    await pass();
    try {
      const path = walKind(name) === 'history' ? join(archive.home, 'main', 'wals', name) : archive.stored(name);
      return await readFile(path);
    } catch {
      return undefined; // not yet
    }
  });
}

/** Waits until pg_receivewal has gone on to timeline 2 and finished the segment in which it began there. */
async function followed({ receivewal }: Streamed, standby: TestPostgres): Promise<WalName> {
  const last = await standby.writeSegments(4);
  expect(last.slice(0, 8)).toBe('00000002');
  await receivewal.finished(last);
  return last;
}

test('pg_receivewal follows a promoted standby: both timelines, the history file and the old partial one are archived', () =>
  withStreamedPostgres({}, async (streamed) => {
    const { pg, archive, receivewal, pass, waiting } = streamed;
    const standby = await pg.standby({ settings: { wal_keep_size: '1GB' } });
    await receivewal.start({ from: standby });
    const before = await pg.writeSegments(5);
    await pg.sql('insert into filler select i, md5(i::text) from generate_series(1, 500) i');
    await standby.replayed(await pg.currentLsn());
    await receivewal.finished(before);
    await pass();
    await until('pg_receivewal to have the rest', async () =>
      (await waiting()).some((name) => name.endsWith('.partial')),
    );
    await pg.stop();
    await standby.promote();
    const last = await followed(streamed, standby);

    const history = await archived(streamed, walName('00000002.history'));
    expect(history.equals(await readFile(join(standby.walDir, '00000002.history')))).toBe(true);
    await archived(streamed, last);
    const [switched = ''] = (await readdir(standby.walDir))
      .filter((name) => /^00000002[0-9A-F]{16}$/.test(name))
      .sort();
    const partial = walName(`00000001${switched.slice(8)}.partial`);
    const old = await archived(streamed, partial);
    // Without archiving, the standby leaves it its name.
    const theirs = await readFile(join(standby.walDir, partial.replace('.partial', '')));
    expect(holdSameWal(old, theirs)).toBe(true);

    await expectArchived(standby, archive, walName(switched), last);
    await expectArchived(pg, archive, before, before);
    expect((await archive.timelines()).map(({ timeline, gaps }) => ({ timeline, gaps }))).toEqual([
      { timeline: 1, gaps: [] },
      { timeline: 2, gaps: [] },
    ]);
    expect(receivewal.running).toBe(true);
    expect((await waiting()).filter((name) => name.startsWith('00000001'))).toEqual([]);

    // It fetches the history file again with every start.
    await receivewal.stop();
    await receivewal.start({ from: standby });
    await until('the history file', async () => (await waiting()).includes('00000002.history'));
    await until('the duplicate', async () => (await pass()).duplicates.includes('00000002.history'));
    expect(await readdir(archive.errors)).toEqual([]);
  }));

test('with both archivers on, every file is archived once, and nothing is an error, over a promotion too', () =>
  withStreamedPostgres({ server: BOTH, settings: { min_wal_size: '2MB', max_wal_size: '4MB' } }, async (streamed) => {
    const { pg, archive, receivewal, pass } = streamed;
    const archiving = { archive_mode: 'on', archive_command: archive.copyCommand };
    // Without a surplus of kept WAL, segments are recycled: what is behind the end of WAL is not zero then.
    const standby = await pg.standby({
      settings: { ...archiving, wal_keep_size: '0', min_wal_size: '8MB', max_wal_size: '16MB' },
    });
    await pg.configure(archiving);
    await pg.stop();
    await pg.start();
    await standby.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
    await receivewal.start({ from: standby, slot: 'walwarden' });
    for (let round = 0; round < 6; round += 1) {
      await pg.writeSegments(6);
      await pg.sql('checkpoint');
      await standby.replayed(await pg.currentLsn());
      await standby.sql('checkpoint');
      expect(await pass()).toMatchObject({ conflicts: [], unknown: [], failed: [] });
    }
    await pg.sql('insert into filler select i, md5(i::text) from generate_series(1, 500) i');
    await standby.replayed(await pg.currentLsn());
    await until('pg_receivewal to have it', async () => (await partialsIn(receivewal.directory)).length > 0);
    await pg.stop();
    await standby.promote();
    const last = await followed(streamed, standby);
    await standby.archived(last);

    await archived(streamed, walName('00000002.history'));
    await archived(streamed, last);
    const partials = await until('the old partial file', async () => {
      await pass();
      const names = (await readdir(join(archive.home, 'main', 'wals', '0000000100000000'))).filter(isWalName);
      const found = names.filter((name) => walKind(name) === 'partial');
      return found.length > 0 && found;
    });
    expect(partials.length).toBe(1);
    await standby.archived(partials[0] ?? '');
    // Whatever is still on its way, by the one way or the other.
    await until('both ways to be empty', async () => {
      expect(await pass()).toMatchObject({ conflicts: [], unknown: [], failed: [] });
      const incoming = await readdir(archive.incoming);
      return (
        incoming.length === 0 && (await readdir(receivewal.directory)).every((name) => !name.startsWith('00000001'))
      );
    });
    expect(await readdir(archive.errors)).toEqual([]);
    // Theirs was recycled: behind the end of WAL it is not what pg_receivewal's is, which is zero there.
    const theirs = await readFile(join(standby.walDir, partials[0] ?? ''));
    expect(theirs.subarray(findEndOfWal(theirs)?.end).some((byte) => byte !== 0)).toBe(true);
    expect(holdSameWal(await readFile(archive.stored(partials[0] ?? '')), theirs)).toBe(true);
    const [first, second] = await archive.timelines();
    expect(first).toMatchObject({ timeline: 1, gaps: [] });
    expect(second).toMatchObject({ timeline: 2, gaps: [] });
    await expectArchived(standby, archive, last, last);
  }));
