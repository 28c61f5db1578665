import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { withConfig } from './with-config.ts';

const sample = async (name: string): Promise<string> => {
  const text = await readFile(new URL(`../../config/${name}`, import.meta.url), 'utf8');
  return text.replaceAll('/etc/walwarden.d', 'HOME/d');
};

/** With every commented option in effect. */
const uncommented = (text: string): string => text.replaceAll(/^;(?=\w+ = )/gm, '');

describe('the sample files', () => {
  it.each([
    ['as they are', (text: string) => text],
    ['with every commented option in effect', uncommented],
  ])('load without warnings and problems %s', async (_how, change) => {
    const files = {
      'barman.conf': change(await sample('walwarden.conf')),
      'd/main.conf': change(await sample('server.conf.template')),
    };
    await withConfig(files, async (_home, main) => {
      const config = await loadConfig(main);
      expect(config.warnings).toEqual([]);
      expect([...config.servers.values()].map(({ name, problems }) => [name, problems])).toEqual([['main', []]]);
    });
  });
});
