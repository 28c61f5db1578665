import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { continuationOf, endInside } from '../../src/wal/inner-end.ts';
import { partialName, walName } from '../../src/wal/wal-name.ts';
import { until } from '../support/poll.ts';
import { BOTH, withStreamedPostgres } from './streamed-postgres.ts';

test('what a standby with archive_mode = always delivers of a segment that it restored from a partial file does not keep the whole one out', () =>
  withStreamedPostgres({ server: BOTH }, async ({ pg, archive, receivewal, streaming, pass }) => {
    const archived = async (): Promise<string[]> => readdir(join(archive.home, 'main', 'wals', last.slice(0, 16)));
    await receivewal.start();
    const backup = await pg.baseBackup();
    const before = await pg.writeSegments(2);
    const fill = 'insert into filler select i, md5(i::text) from generate_series(1, 300) i';
    await pg.sql(fill);
    const reached = await pg.currentLsn();
    const last = walName(await pg.value('select pg_walfile_name(pg_current_wal_insert_lsn())'));
    const partial = partialName(last);
    await receivewal.finished(before);
    await pass();
    const standby = await pg.restore(backup, {
      mode: 'standby',
      restoreCommand: `${archive.command('get-wal', '--partial', 'main', '%f')} > %p`,
      settings: { archive_mode: 'always', archive_command: archive.copyCommand },
    });
    await standby.replayed(reached);
    await until('the standby to deliver it', async () => (await readdir(archive.incoming)).includes(last));
    // It asks for the segment again and again, and delivers what it gets.
    await standby.stop();
    const short = await readFile(join(archive.incoming, last));
    const end = endInside(short) ?? 0;
    expect(end).toBeGreaterThan(0);

    await pg.sql(fill);
    const further = async (): Promise<boolean> =>
      continuationOf(await readFile(join(streaming, partial)), short, end) === 'goes on';
    await until('pg_receivewal to receive more', further);
    await pass();
    expect(await readdir(archive.incoming)).toEqual([]);
    expect(await archived()).toContain(partial);
    expect(await archived()).not.toContain(last);

    const after = await pg.writeSegments(2);
    await receivewal.finished(after);
    await pass();
    expect(await archived()).toContain(last);
    const whole = await readFile(join(pg.walDir, last));
    expect((await archive.getWal(last)).bytes.equals(whole)).toBe(true);
    // Now it restores the whole one, and delivers that.
    await pg.sql(fill);
    const now = await pg.currentLsn();
    await standby.start();
    await standby.replayed(now);
    await standby.archived(after);
    await standby.stop();
    expect((await readFile(join(archive.incoming, last))).equals(whole)).toBe(true);
    await pass();
    expect((await archive.getWal(last)).bytes.equals(whole)).toBe(true);
    expect(await readdir(archive.errors)).toEqual([]);
  }));
