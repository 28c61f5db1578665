import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { maskConninfo, showServer } from '../../src/config/show-server.ts';
import { withConfig } from './with-config.ts';

describe('showServer', () => {
  it('lists every option with value and source, passwords masked', async () => {
    const text =
      '[barman]\nbarman_home = HOME\ncompression = gzip\n[main]\narchiver = on\nconninfo = host=pg password=secret\nprimary_conninfo = password=secret\nlast_wal_maximum_age = 1 DAY\n';
    await withConfig({ 'barman.conf': text }, async (home, main) => {
      const rows = showServer(await loadConfig(main), 'main');
      const row = (option: string) => rows.find((candidate) => candidate.option === option);
      expect(row('compression')).toEqual({ option: 'compression', value: 'gzip', source: `${main}:3` });
      expect(row('wals_directory')).toEqual({
        option: 'wals_directory',
        value: `${home}/main/wals`,
        source: 'default',
      });
      expect(row('conninfo')?.value).toBe('host=pg password=********');
      expect(row('wal_conninfo')).toEqual({
        option: 'wal_conninfo',
        value: 'host=pg password=********',
        source: 'same as conninfo',
      });
      expect(row('last_wal_maximum_age')?.value).toBe('1 DAY');
      expect(row('slot_name')).toEqual({ option: 'slot_name', value: null, source: 'default' });
      expect(JSON.stringify(rows)).not.toContain('secret');
    });
  });
});

describe('maskConninfo', () => {
  it.each([
    ['host=pg user=me', 'host=pg user=me'],
    ["host=pg password='se cr\\'et' user=me", 'host=pg password=******** user=me'],
    ['password = se\\ cret user=me', 'password = ******** user=me'],
    ["password='unclosed secret", 'password=********'],
    ['sslpassword=secret PASSWORD=secret', 'sslpassword=******** PASSWORD=********'],
    ['postgresql://me:secret@pg:5432/db?sslmode=require', 'postgresql://me:********@pg:5432/db?sslmode=require'],
    ['postgres://me:se@cret@pg/db', 'postgres://me:********@pg/db'],
    ['postgresql://pg/db?user=me&password=secret&x=1', 'postgresql://pg/db?user=me&password=********&x=1'],
    ['postgresql://me@pg/db', 'postgresql://me@pg/db'],
  ])('of %j', (text, masked) => {
    expect(maskConninfo(text)).toBe(masked);
  });
});
