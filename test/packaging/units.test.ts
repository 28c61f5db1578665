import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { withConfig } from '../config/with-config.ts';
import { run } from '../support/run.ts';
import { fileOf, SERVICES, UNITS, valuesOf, withUnits } from './packaged.ts';

// systemd-analyze is in Debian's package systemd; it needs no systemd that runs.

describe('the units', () => {
  it('are what systemd understands', () =>
    withUnits(async (directory) => {
      const names = UNITS.map((unit) => join(directory, unit.replace('@.', '@main.')));
      const { status, stdout, stderr } = await run('systemd-analyze', ['verify', ...names], { cwd: directory });
      expect(`${stdout}${stderr}`).toBe('');
      expect(status).toBe(0);
    }));

  it.each(SERVICES)('give away little: %s is exposed below 3.0', (unit) =>
    withUnits(async (directory) => {
      const args = ['security', '--offline=true', '--threshold=29', '--no-pager', join(directory, unit)];
      const { status, stdout, stderr } = await run('systemd-analyze', args, { cwd: directory });
      expect(stdout).toMatch(/Overall exposure level for \S+: [0-2]\.\d/);
      expect(status, `${stdout.split('\n').slice(-5).join('\n')}${stderr}`).toBe(0);
    }),
  );

  it.each(SERVICES)('let %s write what the sample configuration names, and nothing else', async (unit) => {
    expect(await valuesOf(unit, 'ProtectSystem')).toEqual(['strict']);
    const writable = await valuesOf(unit, 'ReadWritePaths');
    expect(writable).toEqual(['/var/lib/barman', '-/var/log/barman']);
    const logs = (await valuesOf(unit, 'LogsDirectory')).map((name) => `/var/log/${name}`);
    const sample = (await fileOf('config/walwarden.conf')).replace(/^;(?=log_file = )/m, '');
    await withConfig({ 'barman.conf': sample.replaceAll('/etc/walwarden.d', 'HOME/d') }, async (_home, main) => {
      const { options } = (await loadConfig(main)).global;
      expect(options.barman_home).toBe('/var/lib/barman');
      expect(options.barman_lock_directory).toMatch(/^\/var\/lib\/barman/);
      expect(options.http_listen).toBe('unix:/var/lib/barman/walwarden.sock');
      expect(options.log_file).toMatch(new RegExp(`^${logs[0] ?? 'nothing'}/`));
    });
  });

  it('let the daemon finish before systemd loses patience', async () => {
    const [limit = ''] = await valuesOf('walwarden.service', 'TimeoutStopSec');
    await withConfig({ 'barman.conf': '[barman]\nbarman_home = HOME\n' }, async (_home, main) => {
      const { shutdown_timeout: ours } = (await loadConfig(main)).global.options;
      expect(Number(limit) * 1000).toBeGreaterThanOrEqual(ours + 15_000);
    });
  });

  it.each(['walwarden.service', 'walwarden-receive-wal@.service'])(
    'ask %s alone to stop: it ends its own processes',
    async (unit) => expect(await valuesOf(unit, 'KillMode')).toEqual(['mixed']),
  );

  it('are all in the page about them', async () => {
    const page = await fileOf('docs/packaging.md');
    for (const unit of UNITS) expect(page).toContain(`(../config/${unit})`);
  });

  it('leave what cron has started in the background alone, and its temporary files', async () => {
    expect(await valuesOf('walwarden-cron.service', 'KillMode')).toEqual(['process']);
    expect(await valuesOf('walwarden-cron.service', 'PrivateTmp')).toEqual([]);
  });
});
