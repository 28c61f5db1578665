import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { defaultConfigFiles, findConfigFile, loadConfig } from '../../src/config/load.ts';
import { isErrorCode } from '../../src/errors.ts';
import { withConfig } from './with-config.ts';

describe('finding the file', () => {
  it('takes the named one, relative to the working directory', async () => {
    expect(await findConfigFile('some/where.conf')).toBe(join(process.cwd(), 'some/where.conf'));
  });

  it('takes the first of the known places that exists', async () => {
    await withConfig({ '.barman.conf': '', '.walwarden.conf': '' }, async (home) => {
      expect(await findConfigFile(undefined, defaultConfigFiles(home))).toBe(join(home, '.walwarden.conf'));
    });
    await withConfig({ '.barman.conf': '' }, async (home) => {
      const candidates = defaultConfigFiles(home).filter((file) => file.startsWith(home));
      expect(await findConfigFile(undefined, candidates)).toBe(join(home, '.barman.conf'));
    });
  });

  it('looks in the order of our names, then of Barman', () => {
    expect(defaultConfigFiles('/home/me')).toEqual([
      '/home/me/.walwarden.conf',
      '/etc/walwarden.conf',
      '/etc/walwarden/walwarden.conf',
      '/home/me/.barman.conf',
      '/etc/barman.conf',
      '/etc/barman/barman.conf',
    ]);
  });

  it('says where it looked when there is none', async () => {
    await expect(findConfigFile(undefined, ['/no/a', '/no/b'])).rejects.toThrow('expected one of /no/a, /no/b');
  });
});

describe('a file that can not be read', () => {
  it.each([
    ['missing.conf', "missing.conf: can't read the configuration: no such file"],
    ['directory.conf/x', 'directory.conf: '],
    ['latin1.conf', 'latin1.conf:2: expected UTF-8 text'],
    ['huge.conf', 'huge.conf: expected a configuration file of at most'],
    ['nothing.conf', 'nothing.conf: expected a [barman] section, found none'],
  ])('is a clear error: %s', async (name, message) => {
    await withConfig({ 'directory.conf/x': '', 'nothing.conf': '' }, async (home) => {
      await writeFile(join(home, 'latin1.conf'), Buffer.from('[barman]\na = \xe4\n', 'latin1'));
      await writeFile(join(home, 'huge.conf'), '#'.repeat(5 * 1024 * 1024));
      const file = name === 'directory.conf/x' ? 'directory.conf' : name;
      const error = await loadConfig(join(home, file)).catch((caught: unknown) => caught);
      expect(isErrorCode(error, 'config')).toBe(true);
      expect(String(error)).toContain(message);
    });
  });

  it('is a clear error in the directory of includes too', async () => {
    await withConfig(
      { 'barman.conf': `[barman]\nbarman_home = HOME\nconfiguration_files_directory = HOME/d\n` },
      async (home, main) => {
        await mkdir(join(home, 'd'));
        await symlink('a.conf', join(home, 'd/a.conf'));
        await expect(loadConfig(main)).rejects.toThrow("a.conf: can't read the configuration: ELOOP");
      },
    );
  });
});
