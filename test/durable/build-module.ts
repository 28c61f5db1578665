import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../support/run.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Makes one JavaScript file of a module of ours and what it imports, for a child process; returns its path. */
export async function buildModule(source: string, directory: string): Promise<string> {
  const outfile = join(directory, 'built', 'module.mjs');
  const flags = ['--bundle', '--packages=external', '--platform=node', '--format=esm', '--log-level=warning'];
  // The program: the library leaves a service process running.
  const esbuild = join(ROOT, 'node_modules', '.bin', 'esbuild');
  const { status, stderr } = await run(esbuild, [source, ...flags, '--target=node20.19', `--outfile=${outfile}`], {
    cwd: ROOT,
  });
  if (status !== 0) throw new Error(`esbuild fails on ${source}: ${stderr}`);
  return outfile;
}
