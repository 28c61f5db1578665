import { defineConfig } from 'vitest/config';

/** Real PostgreSQL, real clients, whole processes, every level of every codec: minutes. */
const system = ['test/{e2e,fault,commands}/**/*.test.ts', 'test/compression/{damage,levels}.test.ts'];

const setupFiles = ['test/support/leak-check.ts'];

export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    projects: [
      { test: { name: 'unit', include: ['test/**/*.test.ts'], exclude: system, setupFiles, testTimeout: 60_000 } },
      { test: { name: 'system', include: system, setupFiles, testTimeout: 600_000, hookTimeout: 120_000 } },
    ],
  },
});
