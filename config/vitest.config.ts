import { defineConfig } from 'vitest/config';

// unit: quick, one process, for the inner loop. e2e: real PostgreSQL, real clients, real processes.
export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['test/e2e/**', 'test/fault/**'],
          setupFiles: ['test/support/leak-check.ts'],
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/{e2e,fault}/**/*.test.ts'],
          setupFiles: ['test/support/leak-check.ts'],
          testTimeout: 600_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
