import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { setTimeout as delay } from 'node:timers/promises';
import { formatLsn, type Lsn } from '../../src/wal/lsn.ts';
import {
  parseWalName,
  segmentName,
  segmentNumber,
  segmentStart,
  type ParsedWalName,
  type WalName,
} from '../../src/wal/wal-name.ts';
import { until } from '../support/poll.ts';
import { segmentsIn } from './postgres-archive.ts';
import { expectArchived, STREAMING_ONLY, withStreamedPostgres, type Streamed } from './streamed-postgres.ts';

const MIB = 1024 * 1024;

function parse(name: WalName): ParsedWalName {
  const parsed = parseWalName(name);
  if (parsed === undefined) throw new Error(`no WAL name: ${name}`);
  return parsed;
}

const startOf = (name: WalName): Lsn => segmentStart(parse(name), MIB);
const successor = (name: WalName): WalName =>
  segmentName(parse(name).timeline, segmentNumber(parse(name), MIB) + 1n, MIB);

test('passes back to back while pg_receivewal writes: every segment is archived once, as the server has it', () =>
  withStreamedPostgres({}, async ({ pg, archive, receivewal, pass, waiting }) => {
    const first = await pg.switchWal();
    await receivewal.start();
    const written = new AbortController();
    let last = first;
    const load = (async () => {
      try {
        // Long and short segments: some are full of data, some end at once.
        for (let round = 0; round < 10; round += 1) {
          last = await pg.writeSegments(12);
          await pg.sql('insert into filler select i, md5(i::text) from generate_series(1, 60000) i');
        }
        last = await pg.switchWal();
      } finally {
        written.abort();
      }
    })();
    const archived: string[] = [];
    while (!written.signal.aborted) {
      const { archived: names, duplicates, conflicts, unknown, failed, overdue } = await pass();
      archived.push(...names.map(({ name }) => name));
      // The position marker, met again once something newer is there.
      for (const name of duplicates) expect(archived).toContain(name);
      expect({ conflicts, unknown, failed, overdue }).toEqual({ conflicts: [], unknown: [], failed: [], overdue: [] });
      expect((await waiting()).filter((entry) => entry.startsWith('.'))).toEqual([]);
    }
    await load;
    await receivewal.finished(last);
    archived.push(...(await pass()).archived.map(({ name }) => name));
    expect(receivewal.running).toBe(true);
    const names = await expectArchived(pg, archive, successor(first), last);
    expect(names.length).toBeGreaterThan(100);
    expect(archived.filter((name) => name > first).sort()).toEqual(names);
    expect((await archive.timelines())[0]).toMatchObject({ gaps: [], segments: names.length });
    expect((await waiting()).length).toBeLessThanOrEqual(2);
  }));

test('the last segment of an idle server is archived and stays; pg_receivewal goes on from it, without a slot', () =>
  withStreamedPostgres({}, async ({ pg, archive, receivewal, streaming, pass, waiting }) => {
    await receivewal.start();
    // Until the server has nothing of its own to write behind it.
    const last = await until('an idle server', async () => {
      const name = await pg.writeSegments(3);
      await receivewal.finished(name);
      await pass();
      return (await waiting()).join() === name && name;
    });
    for (let again = 0; again < 2; again += 1) {
      expect(await pass()).toMatchObject({ archived: [], duplicates: [], waiting: 0 });
    }
    expect((await readFile(archive.stored(last))).equals(await readFile(join(pg.walDir, last)))).toBe(true);
    const { nlink, ino } = await stat(join(streaming, last));
    expect({ nlink, shared: ino === (await stat(archive.stored(last))).ino }).toEqual({ nlink: 1, shared: false });

    await receivewal.stop();
    const next = await pg.writeSegments(3);
    await receivewal.start();
    expect(receivewal.startedAt).toBe(`${formatLsn(startOf(successor(last)))} (timeline 1)`);
    await receivewal.finished(next);
    await pass();
    await expectArchived(pg, archive, successor(last), next);
    expect((await archive.timelines())[0]).toMatchObject({ gaps: [] });
  }));

test('killed again and again, pg_receivewal and the passes leave out nothing', () =>
  withStreamedPostgres({ server: { ...STREAMING_ONLY, compression: 'zstd' } }, async (streamed) => {
    const { pg, archive, receivewal, pass } = streamed;
    const first = await pg.switchWal();
    await receivewal.start();
    let last = first;
    for (let round = 0; round < 6; round += 1) {
      const passes = [0, 1, 2].map(async (at) => {
        await delay(at * 40);
        await archive.walwarden(['archive-wal', 'main']);
      });
      last = await pg.writeSegments(4);
      await receivewal.stop('SIGKILL');
      await Promise.all(passes);
      last = await pg.writeSegments(2);
      await receivewal.start();
    }
    await receivewal.finished(last);
    await pass();
    const names = await segmentsOf(streamed, successor(first), last);
    expect(names.length).toBeGreaterThan(30);
    expect((await archive.timelines())[0]).toMatchObject({ gaps: [], segments: names.length });
  }));

/** Every segment comes out of the archive as the server has it, compressed or not. */
async function segmentsOf({ pg, archive }: Streamed, first: WalName, last: WalName): Promise<WalName[]> {
  const names = (await segmentsIn(pg.walDir, last)).filter((name) => name >= first);
  for (const name of names) {
    const { status, bytes, stderr } = await archive.getWal(name);
    expect(status, stderr).toBe(0);
    expect(bytes.equals(await readFile(join(pg.walDir, name))), name).toBe(true);
  }
  return names;
}
