import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { until } from './poll.ts';
import { withPostgres } from './postgres.ts';
import { run } from './run.ts';

describe('withPostgres', () => {
  test('listens on a port of its own, with rules of our own for who may connect', () =>
    withPostgres({ tcp: true, hba: ['host all alice 127.0.0.1/32 reject'] }, async (pg) => {
      await pg.sql('create role alice login');
      const connect = async (): Promise<string> => {
        if (!pg.programs.complete) return 'no psql';
        const psql = join(pg.programs.bin, 'psql');
        const { stdout, stderr } = await run(psql, ['-XAtc', 'select 1', `${pg.tcpConninfo} user=alice`], {});
        return stdout + stderr;
      };
      expect(await connect()).toMatch(/rejects connection|no psql/);
      await pg.setHba(['host all alice 127.0.0.1/32 trust']);
      expect(await connect()).toMatch(/^1|no psql/);
      await pg.stop();
      await pg.start();
      expect(await connect()).toMatch(/^1|no psql/);
    }));

  test('has a standby that follows it, and can be promoted', () =>
    withPostgres({}, async (pg) => {
      const standby = await pg.standby();
      await pg.sql('create table t as select generate_series(1, 10) as i');
      await standby.replayed(await pg.currentLsn());
      expect(await standby.value('select count(*) from t')).toBe('10');
      expect(await pg.value('select application_name from pg_stat_replication')).toBe('standby1');
      await standby.promote();
      expect(await standby.switchWal()).toMatch(/^00000002/);
    }));

  test('has pgbench to work for it', () =>
    withPostgres({}, async (pg) => {
      if (!pg.programs.complete) return;
      const before = await pg.currentLsn();
      await pg.pgbench({ transactions: 10 });
      await until('WAL to be written', async () => (await pg.currentLsn()) > before);
      expect(await readdir(pg.walDir)).not.toHaveLength(0);
    }));
});
