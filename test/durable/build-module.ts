import { join } from 'node:path';
import { build } from 'vite';

/** Makes one JavaScript file of a module of ours and what it imports, for a child process; returns its path. */
export async function buildModule(source: string, directory: string): Promise<string> {
  const outDir = join(directory, 'built');
  await build({
    configFile: false,
    logLevel: 'silent',
    build: { ssr: source, outDir, target: 'node20', rollupOptions: { output: { entryFileNames: 'module.mjs' } } },
  });
  return join(outDir, 'module.mjs');
}
