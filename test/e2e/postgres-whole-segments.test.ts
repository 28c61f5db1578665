import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { judgeForTaking, STRICT } from '../../src/storage/taking.ts';
import { decodeLongPageHeader, type LongPageHeader } from '../../src/wal/page-header.ts';
import { pagesOfSegment, type PagesOfSegment } from '../../src/wal/pages.ts';
import type { Verdict } from '../../src/wal/verify.ts';
import { parseWalName, segmentName } from '../../src/wal/wal-name.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { run } from '../support/run.ts';
import { segmentsIn, withArchivedPostgres } from './postgres-archive.ts';

const PAGE = 8192;
const OVERWRITE_CONTRECORD = 0x0008;

function judge(name: string, bytes: Buffer): Verdict {
  const parsed = parseWalName(name);
  if (parsed === undefined) throw new Error(`no WAL name: ${name}`);
  return judgeForTaking(parsed, bytes, STRICT);
}

function headerOf(bytes: Buffer): LongPageHeader {
  const decoded = decodeLongPageHeader(bytes);
  if (!decoded.ok) throw new Error(decoded.reason);
  return decoded.header;
}

function pagesOf(name: string, bytes: Buffer): PagesOfSegment {
  return pagesOfSegment(bytes, headerOf(bytes), Number.parseInt(name.slice(0, 8), 16));
}

async function inPgWal(pg: TestPostgres, name: string): Promise<Buffer> {
  return readFile(join(pg.walDir, name));
}

describe('the rule for whole segments takes what PostgreSQL writes:', () => {
  test('switched segments, of which the pages behind the switch are zeros, and none of it with a hole', () =>
    withArchivedPostgres({ server: { compression: 'zstd' } }, async (pg, archive) => {
      const last = await pg.writeSegments(4);
      await pg.archived(last);
      const { archived } = await archive.pass();
      expect(archived.map(({ name }) => name)).toContain(last);
      const bytes = await inPgWal(pg, last);
      const { end, broken } = pagesOf(last, bytes);
      expect(broken).toBeNull();
      expect(end).toBeLessThan(bytes.length);
      expect(bytes.subarray(end).equals(Buffer.alloc(bytes.length - end))).toBe(true);

      // PostgreSQL 10 leaves page headers there.
      const asTen = Buffer.from(bytes);
      for (let at = end; at < bytes.length; at += PAGE) {
        bytes.copy(asTen, at, PAGE, PAGE + 24);
        asTen.writeBigUInt64LE(headerOf(bytes).pageAddress + BigInt(at), at + 8);
      }
      expect(judge(last, asTen).verdict).toBe('valid');
      expect(pagesOf(last, asTen).end).toBe(bytes.length);

      const hole = Buffer.from(asTen);
      hole.fill(0, PAGE, 2 * PAGE);
      expect(judge(last, hole)).toMatchObject({ verdict: 'invalid', broken: { page: 1, offset: PAGE } });
      expect(judge(`${last}.partial`, hole).verdict).toBe('valid');
    }));

  test('what a crash leaves of a record that goes on in the next segment, which is written again from its first page', () =>
    withArchivedPostgres({ archiving: async () => ({ archive_command: 'false' }) }, async (pg, archive) => {
      await pg.switchWal();
      const torn = segmentName(1, (await pg.currentLsn()) / BigInt(pg.segmentSize), pg.segmentSize);
      await pg.sql(`select pg_logical_emit_message(true, 'torn', repeat('x', ${2 * pg.segmentSize}))`);
      await pg.stop('immediate');
      // As if the next segments had not reached the disk.
      for (const name of await segmentsIn(pg.walDir)) if (name > torn) await rm(join(pg.walDir, name));
      await pg.configure({ archive_command: archive.copyCommand });
      await pg.start();
      const last = await pg.switchWal();
      await pg.archived(last);
      const { archived } = await archive.pass();
      const names = archived.map(({ name }) => name);
      const next = segmentName(
        1,
        headerOf(await inPgWal(pg, torn)).pageAddress / BigInt(pg.segmentSize) + 1n,
        pg.segmentSize,
      );
      expect(names).toEqual(expect.arrayContaining([torn, next]));
      expect((await inPgWal(pg, next)).readUInt16LE(2) & OVERWRITE_CONTRECORD).toBe(OVERWRITE_CONTRECORD);
      expect(await readdir(archive.errors)).toEqual([]);
    }));

  test('a timeline that begins inside a segment, a last segment under its full name, stale pages, and pg_resetwal', () =>
    withArchivedPostgres({}, async (pg, archive) => {
      const between = await pg.standby({ settings: { wal_keep_size: '1GB' } });
      const always = await between.standby({
        settings: { archive_mode: 'always', archive_command: archive.copyCommand, wal_keep_size: '1GB' },
      });
      await pg.archived(await pg.writeSegments(2));
      await pg.sql('insert into filler select i, md5(i::text) from generate_series(1, 1000) i');
      const at = await pg.currentLsn();
      await always.replayed(at);
      const left = segmentName(1, at / BigInt(pg.segmentSize), pg.segmentSize);
      await pg.stop('immediate');
      await between.promote();
      await between.sql('insert into filler select i, md5(i::text) from generate_series(1, 1000) i');
      const last = await between.switchWal();
      expect(last.slice(0, 8)).toBe('00000002');
      await always.archived(left);
      await until('the standby to follow', async () => (await segmentsIn(always.walDir)).includes(last));

      const both = await inPgWal(between, `00000002${left.slice(8)}`);
      const timelines = new Set<number>();
      for (let page = 0; page < pagesOf('00000002', both).end; page += PAGE) timelines.add(both.readUInt32LE(page + 4));
      expect([...timelines]).toEqual([1, 2]);
      expect(judge(`00000002${left.slice(8)}`, both).verdict).toBe('valid');
      await archive.pass();
      expect((await archive.getWal(left)).status).toBe(0);

      // Of a segment that was recycled without being filled, the old pages stay: these would fit but for their timeline.
      const old = await inPgWal(pg, left);
      const { end } = pagesOf(left, old);
      expect(end).toBeGreaterThan(3 * PAGE);
      const begun = Buffer.from(old);
      begun.writeUInt32LE(2, 4);
      begun.writeUInt32LE(2, PAGE + 4);
      expect(judge(`00000002${left.slice(8)}`, begun).verdict).toBe('valid');
      expect(pagesOf('00000002', begun)).toEqual({ end: 2 * PAGE, broken: null });

      const before = new Set(await segmentsIn(pg.walDir));
      const { status, stderr } = await run(join(pg.programs.bin, 'pg_resetwal'), ['-f', '-D', pg.dataDir], {
        ...pg.owner,
        cwd: pg.directory,
      });
      expect(status, stderr).toBe(0);
      const made = (await segmentsIn(pg.walDir)).filter((name) => !before.has(name));
      expect(made).toHaveLength(1);
      for (const name of made) {
        const bytes = await inPgWal(pg, name);
        expect(judge(name, bytes).verdict).toBe('valid');
        expect(pagesOf(name, bytes)).toEqual({ end: PAGE, broken: null });
      }
    }));
});
