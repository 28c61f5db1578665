import { expect, test } from 'vitest';
import { evaluateWithDescriptors } from '../compression/module-process.ts';
import { buildModule } from '../durable/build-module.ts';
import { withTempDir } from '../support/temp-dir.ts';

test.each([
  ['without descriptors', 0],
  ['with too few for its pipes', 3],
])('%s a script is not started, which is no crash', (_case, free) =>
  withTempDir(async (directory) => {
    const module = await buildModule('src/hooks/script-process.ts', directory);
    const run = `module.runScript({ script: 'true', env: process.env, onLine() {}, killGraceMs: 1000 })`;
    expect(await evaluateWithDescriptors(module, free, run)).toEqual({
      how: 'not-started',
      why: expect.stringContaining('EMFILE'),
    });
  }),
);
