import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { continuationOf, endInside } from '../../src/wal/inner-end.ts';
import { partialName, walName } from '../../src/wal/wal-name.ts';
import { until } from '../support/poll.ts';
import { BOTH, withStreamedPostgres } from './streamed-postgres.ts';

test('the last segment of a timeline, as a standby with archive_mode = always delivers it, gives way to what was received', () =>
  withStreamedPostgres({ server: BOTH }, async ({ pg, archive, receivewal, streaming, pass }) => {
    const delivered = await pg.makeDirectory(join(pg.directory, 'delivered'));
    const upstream = await pg.standby({ settings: { wal_keep_size: '1GB' } });
    const standby = await upstream.standby({
      settings: { archive_mode: 'always', archive_command: `cp %p ${delivered}/%f` },
    });
    await receivewal.start();
    const before = await pg.writeSegments(3);
    const fill = 'insert into filler select i, md5(i::text) from generate_series(1, 300) i';
    await pg.sql(fill);
    const reached = await pg.currentLsn();
    for (const server of [upstream, standby]) await server.replayed(reached);
    await receivewal.finished(before);
    // From here on the standbys get nothing more, and pg_receivewal does.
    await upstream.stop();
    await pg.sql(fill);
    const last = walName(await pg.value('select pg_walfile_name(pg_current_wal_insert_lsn())'));
    const partial = partialName(last);
    await pg.stop();
    await receivewal.stop();
    await upstream.start();
    await upstream.promote();
    await upstream.writeSegments(2);
    await standby.archived(last);
    const short = await readFile(join(delivered, last));
    const end = endInside(short) ?? 0;
    expect(end).toBeGreaterThan(0);
    const received = await readFile(join(streaming, partial));
    expect(continuationOf(received, short, end)).toBe('goes on');

    await writeFile(join(archive.incoming, last), short);
    await until('the delivery to be archived', async () => {
      await pass();
      return (await readdir(archive.incoming)).length === 0;
    });
    const names = await readdir(join(archive.home, 'main', 'wals', last.slice(0, 16)));
    expect(names).toContain(partial);
    expect(names).not.toContain(last);
    expect(await readdir(archive.errors)).toEqual([]);
    const handedOut = await archive.walwarden(['get-wal', 'main', last]);
    expect(handedOut.bytes.subarray(0, end).equals(short.subarray(0, end))).toBe(true);
  }));
