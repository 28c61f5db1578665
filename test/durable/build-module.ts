import { buildSync } from 'esbuild';
import { join } from 'node:path';

/** Makes one JavaScript file of a module of ours and what it imports, for a child process; returns its path. */
export async function buildModule(source: string, directory: string): Promise<string> {
  const outfile = join(directory, 'built', 'module.mjs');
  // In one go: the asynchronous form leaves a service process running.
  buildSync({
    entryPoints: [source],
    bundle: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    target: 'node20.19',
    outfile,
    logLevel: 'silent',
  });
  return outfile;
}
