import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { decodeLongPageHeader, type LongPageHeader } from '../../src/wal/page-header.ts';
import { pagesOfSegment } from '../../src/wal/pages.ts';
import { followRecords, rightRecords, type RecordsEnd } from '../../src/wal/records.ts';
import { withPostgres, type PostgresOptions, type TestPostgres } from '../support/postgres.ts';

const PAGE = 8192;
const MIB = 1024 * 1024;

function headerOf(bytes: Buffer): LongPageHeader {
  const decoded = decodeLongPageHeader(bytes);
  if (!decoded.ok) throw new Error(decoded.reason);
  return decoded.header;
}

function follow(name: string, bytes: Buffer): RecordsEnd {
  return followRecords(bytes, headerOf(bytes), Number.parseInt(name.slice(0, 8), 16));
}

/** Runs a server whose archive_command copies into a directory. */
async function withArchive(
  settings: PostgresOptions['settings'],
  body: (pg: TestPostgres, archived: () => Promise<Map<string, Buffer>>) => Promise<void>,
): Promise<void> {
  await withPostgres({ start: false, settings: { ...settings } }, async (pg) => {
    const directory = await pg.makeDirectory(join(pg.directory, 'archive'));
    await pg.configure({ archive_mode: 'on', archive_command: `cp %p ${directory}/%f` });
    await pg.start();
    await body(pg, async () => {
      const names = (await readdir(directory)).filter((name) => name.length === 24).sort();
      return new Map(
        await Promise.all(names.map(async (name) => [name, await readFile(join(directory, name))] as const)),
      );
    });
  });
}

/** All segments but what a crash or a timeline's end has cut are whole, and none counts as damaged. */
function expectWhole(segments: ReadonlyMap<string, Buffer>): Map<string, number> {
  const endings = new Map<string, number>();
  for (const [name, bytes] of segments) {
    const found = follow(name, bytes);
    expect({ name, found }).toMatchObject({
      name,
      found: { ending: expect.stringMatching(/^(segment-end|switch|goes-on)$/) },
    });
    endings.set(found.ending, (endings.get(found.ending) ?? 0) + 1);
  }
  return endings;
}

test('every segment of a busy server is followed to its end, its switch, or into the record that goes on in the next', () =>
  withArchive({ wal_level: 'logical', min_wal_size: '2MB', max_wal_size: '8MB' }, async (pg, archived) => {
    await pg.pgbench({ transactions: 1_500 });
    // Records that fill whole segments, and begin and end in the middle of others.
    for (const size of [3_000_000, 500_000, 2_097_152]) {
      await pg.sql(`select pg_logical_emit_message(false, 'test', repeat('x', ${size}))`);
      await pg.sql('checkpoint');
    }
    await pg.pgbench({ transactions: 500 });
    const last = await pg.writeSegments(6);
    await pg.archived(last);
    const segments = await archived();
    expect(segments.size).toBeGreaterThan(20);
    const endings = expectWhole(segments);
    expect(endings.get('switch')).toBeGreaterThan(5);
    expect(endings.get('goes-on')).toBeGreaterThan(10);
    // Some are nothing but the middle of a record.
    expect([...segments].filter(([name, bytes]) => follow(name, bytes).end === 0).length).toBeGreaterThan(2);
  }));

test('a segment whose server crashed in the middle of a record, and went on behind it, is whole', () =>
  withArchive({ wal_level: 'logical' }, async (pg, archived) => {
    await pg.sql('create table t as select 1');
    const [segment, offset] = [
      await pg.value('select pg_walfile_name(pg_current_wal_insert_lsn())'),
      Number(await pg.value('select file_offset from pg_walfile_name_offset(pg_current_wal_insert_lsn())')),
    ];
    expect(offset).toBeLessThan(MIB / 2);
    await pg.sql(`select pg_logical_emit_message(false, 'test', repeat('y', 100000))`);
    // The message alone would not be written yet.
    await pg.sql('create table u as select 1');
    await pg.stop('immediate');
    // Its first pages reached the disk, the rest did not.
    const path = join(pg.walDir, segment);
    const bytes = await readFile(path);
    const from = Math.ceil(offset / PAGE) * PAGE + 3 * PAGE;
    await writeFile(path, bytes.fill(0, from));
    await pg.start();
    await pg.pgbench({ transactions: 50 });
    await pg.archived(await pg.switchWal());
    const segments = await archived();
    const crashed = segments.get(segment) ?? Buffer.alloc(0);
    expect(crashed.readUInt16LE(from + 2) & 0x0008).toBe(0x0008);
    expectWhole(segments);
    // The record that was given up is none of those that are right.
    const given = [...rightRecords(crashed, headerOf(crashed), 1)];
    expect(given.some(({ start, end }) => start <= from && end > from)).toBe(false);
  }));

test('a segment in which a timeline begins is whole, and the last one of the old timeline ends inside', () =>
  withPostgres({}, async (pg) => {
    const standby = await pg.standby();
    await pg.writeSegments(3);
    await pg.sql('insert into filler select i, md5(i::text) from generate_series(1, 300) i');
    await standby.replayed(await pg.currentLsn());
    await pg.stop();
    await standby.promote();
    await standby.switchWal();
    const names = (await readdir(standby.walDir)).sort();
    const history = names.find((name) => name.endsWith('.history'));
    expect(history).toBe('00000002.history');
    const [first = ''] = names.filter((name) => /^00000002[0-9A-F]{16}$/.test(name));
    const bytes = await readFile(join(standby.walDir, first));
    expect(headerOf(bytes).timeline).toBe(1);
    expect(follow(first, bytes).ending).toBe('switch');
    const old = await readFile(join(pg.walDir, `00000001${first.slice(8)}`));
    const ended = follow(`00000001${first.slice(8)}`, old);
    expect(ended).toMatchObject({ ending: 'inside' });
    expect(ended.end).toBeGreaterThan(PAGE);
  }));

test('a flipped byte in a record is found wherever it lies, unless its page is the last one', () =>
  withArchive({}, async (pg, archived) => {
    await pg.pgbench({ transactions: 300 });
    await pg.archived(await pg.switchWal());
    let flips = 0;
    for (const [name, bytes] of await archived()) {
      const header = headerOf(bytes);
      const { end } = pagesOfSegment(bytes, header, 1);
      const records = [...rightRecords(bytes, header, 1)].filter((record) => record.end < end - PAGE);
      for (const { start, end: behind } of records.filter((_record, index) => index % 151 === 7)) {
        // Not a byte of a page's header, which a long record has inside.
        const at =
          start + 24 < behind && Math.floor((start + 24) / PAGE) === Math.floor(start / PAGE) ? start + 24 : start;
        const spoiled = Buffer.from(bytes);
        spoiled.writeUInt8((spoiled[at] ?? 0) ^ 0x10, at);
        expect({ name, at, found: follow(name, spoiled) }).toMatchObject({ name, at, found: { ending: 'damaged' } });
        flips += 1;
      }
    }
    expect(flips).toBeGreaterThan(30);
  }));
