// Makes dist/: start-up counts, because PostgreSQL starts us for every segment.
import { chmodSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { build } from 'esbuild';

const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8'));
const executables = ['cli', 'patroni-cli'];

// Hundreds of small files, which take as long to find as a segment takes to upload.
const bundled = ['@aws-sdk/client-s3'];

rmSync('dist.new', { recursive: true, force: true });
await build({
  entryPoints: [...executables.map((name) => `src/${name}.ts`), 'src/storage/stage-worker.ts'],
  bundle: true,
  splitting: true,
  external: Object.keys(dependencies).filter((name) => !bundled.includes(name)),
  platform: 'node',
  format: 'esm',
  // Bundled CommonJS can't require() what is in Node from an ES module.
  mainFields: ['module', 'main'],
  target: 'node20.19',
  entryNames: '[name]',
  outdir: 'dist.new',
  legalComments: 'linked',
  logLevel: 'warning',
});
for (const name of executables) chmodSync(`dist.new/${name}.js`, 0o755);
// Whoever runs us meanwhile sees the old one or the new one for the blink of an eye in between.
rmSync('dist', { recursive: true, force: true });
renameSync('dist.new', 'dist');
