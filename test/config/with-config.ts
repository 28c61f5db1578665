import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** Files in a fresh directory `home`, its name in the place of every `HOME` in them; removed at the end. */
export async function withConfig(
  files: Readonly<Record<string, string>>,
  work: (home: string, main: string) => Promise<void>,
): Promise<void> {
  const home = await realpath(await mkdtemp(join(tmpdir(), 'walwarden-config-')));
  try {
    for (const [name, text] of Object.entries(files)) {
      const file = join(home, name);
      await mkdir(dirname(file), { recursive: true });
      await writeFile(file, text.replaceAll('HOME', home));
    }
    await work(home, join(home, 'barman.conf'));
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}
