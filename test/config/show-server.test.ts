import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { showServer } from '../../src/config/show-server.ts';
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
