import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { decodeLongPageHeader } from '../../src/wal/page-header.ts';
import { parseWalName, segmentStart } from '../../src/wal/wal-name.ts';
import { isThere } from '../../src/durable/durable-file.ts';
import { runCli, writeConfig } from './cli.ts';
import { makeWal } from './make-wal.ts';
import { until } from './poll.ts';
import { withPostgres } from './postgres.ts';
import { withHome } from './temp-dir.ts';

describe('withPostgres', () => {
  test('archives a segment with cp, dies, comes back, and is restored from what it archived', () =>
    withPostgres({}, async (pg) => {
      const archive = await pg.makeDirectory(join(pg.directory, 'archive'));
      await pg.configure({ archive_mode: 'on', archive_command: `cp %p ${archive}/%f` });
      await pg.stop();
      await pg.start();
      const backup = await pg.baseBackup();
      await pg.sql('create table t as select generate_series(1, 10) as i');
      const name = await pg.switchWal();
      await pg.archived(name);
      const header = decodeLongPageHeader(await readFile(join(archive, name)));
      expect(header).toMatchObject({
        ok: true,
        header: { majorVersion: pg.programs.major, segmentSize: pg.segmentSize, timeline: 1 },
      });
      expect(header.ok && header.header.systemIdentifier).toBe(await pg.systemIdentifier());

      await pg.kill9();
      expect(pg.running).toBe(false);
      await pg.start();
      expect(await pg.value('select count(*) from t')).toBe('10');

      const restored = await pg.restore(backup, { restoreCommand: `cp ${archive}/%f %p`, mode: 'standby' });
      await until(
        'the standby to catch up',
        async () => (await restored.value(`select to_regclass('t') is not null`)) === 't',
      );
      await restored.promote();
      expect(await restored.value('select timeline_id from pg_control_checkpoint()')).not.toBe('');
      expect(await restored.switchWal()).toMatch(/^00000002/);
    }));

  test('makes segments of any size', () =>
    withPostgres({ segmentSizeMb: 4 }, async (pg) => {
      const name = await pg.switchWal();
      expect((await stat(join(pg.walDir, name))).size).toBe(4 * 1024 * 1024);
      await expect(pg.sql('select nonsense')).rejects.toThrow('column "nonsense" does not exist');
    }));
});

describe('makeWal', () => {
  test.each([10, 11, 12, 13, 14, 15, 16, 17, 18, 19])('makes a valid segment of PostgreSQL %i', (major) => {
    const { name, bytes } = makeWal({ major, timeline: 3, segment: 5_000n, size: 2 * 1024 * 1024 });
    const parsed = parseWalName(name);
    expect(decodeLongPageHeader(bytes)).toMatchObject({
      ok: true,
      header: {
        majorVersion: major,
        timeline: 3,
        segmentSize: bytes.length,
        pageAddress: parsed && segmentStart(parsed, bytes.length),
      },
    });
  });

  test('makes content that compresses, or does not, and differs by seed', () => {
    const ratio = (bytes: Buffer): number => gzipSync(bytes).length / bytes.length;
    expect(ratio(makeWal().bytes)).toBeLessThan(0.6);
    expect(ratio(makeWal({ content: 'random' }).bytes)).toBeGreaterThan(0.95);
    expect(ratio(makeWal({ content: 'zeros' }).bytes)).toBeLessThan(0.05);
    expect(makeWal({ seed: 1 }).bytes.equals(makeWal({ seed: 2 }).bytes)).toBe(false);
    expect(makeWal().bytes.equals(makeWal().bytes)).toBe(true);
  });
});

test('withHome makes the directories and removes them', async () => {
  const home = await withHome(async (layout) => {
    expect(await isThere(layout.incoming)).toBe(true);
    const config = await writeConfig(layout.home, { servers: { main: { compression: 'zstd' } } });
    expect(await readFile(config, 'utf8')).toContain('[main]\ndescription = main\narchiver = on\ncompression = zstd\n');
    return layout.home;
  });
  expect(await isThere(home)).toBe(false);
});

test('runCli runs the built program in a process of its own', async () => {
  const { status, stdout } = await runCli(['--version']);
  expect(status).toBe(0);
  expect(stdout).toMatch(/\d+\.\d+\.\d+/);
});
