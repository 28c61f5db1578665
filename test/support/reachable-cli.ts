import { cp, mkdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isThere } from '../../src/durable/durable-file.ts';
import { everyoneMayReach, type RunAs } from './postgres-programs.ts';
import { run } from './run.ts';

/** What runs walwarden: `node cli ARGS`. */
export interface ReachableCli {
  readonly node: string;
  readonly cli: string;
}

/**
 * The built program below `root`, so that `user` may run it. A clone, or a
 * node, that lies below a private directory (/root) is copied into `directory`:
 * PostgreSQL runs its archive_command as another user than root.
 */
export async function reachableCli(root: string, user: RunAs, directory: string): Promise<ReachableCli> {
  const dist = join(root, 'dist');
  const mayRun = async (path: string): Promise<boolean> => user.uid === undefined || everyoneMayReach(path);
  const cli = (await mayRun(dist)) ? join(dist, 'cli.js') : join(await copyProgram(root, directory), 'dist', 'cli.js');
  if (await mayRun(dirname(process.execPath))) return { node: process.execPath, cli };
  const node = join(directory, 'node');
  await cp(process.execPath, node);
  return { node, cli };
}

/** dist and what it needs to run: packages that are not only for development. */
async function copyProgram(root: string, directory: string): Promise<string> {
  const copy = join(directory, 'walwarden');
  if (await isThere(copy)) return copy;
  await mkdir(copy);
  const lock: { packages: Record<string, { dev?: boolean; devOptional?: boolean }> } = JSON.parse(
    await readFile(join(root, 'package-lock.json'), 'utf8'),
  );
  const packages = Object.entries(lock.packages)
    .filter(([path, { dev, devOptional }]) => path !== '' && dev !== true && devOptional !== true)
    .map(([path]) => path);
  for (const path of ['package.json', 'dist', ...packages]) {
    // Optional packages of other platforms are in the lock file only.
    if (await isThere(join(root, path))) await cp(join(root, path), join(copy, path), { recursive: true });
  }
  const { status, stderr } = await run('chmod', ['-R', 'a+rX', copy], {});
  if (status !== 0) throw new Error(`chmod of ${copy} failed: ${stderr}`);
  return copy;
}
