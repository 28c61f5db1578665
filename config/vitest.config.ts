import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

/** Real PostgreSQL, S3, gpg and clients, whole processes, every storage, every codec's tools, every byte of a line: minutes. */
const system = [
  'test/{commands,contract,daemon,e2e,encryption,fault,packaging,patroni,support}/**/*.test.ts',
  'test/catalogue/xlogdb-torn-line.test.ts',
  'test/compression/{damage,hostile,lazy-loading,levels,system-tools}.test.ts',
  'test/postgres/{connection{,-limits,-tls},remote-status,switch-wal,synchronous-standby-names}.test.ts',
  'test/receiver/{manage,preflight}.test.ts',
  'test/storage/cloud-*.test.ts',
  'test/storage/s3/!(bandwidth-limit|wal-object-*).test.ts',
];

const setupFiles = ['test/support/leak-check.ts'];

export default defineConfig({
  test: {
    // Vitest would leave one of two processors idle; most of the tests wait for other processes.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    root: new URL('..', import.meta.url).pathname,
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: system,
          setupFiles,
          testTimeout: 60_000,
          // Many files to one process: what a file leaves in a module's variables, the next one finds.
          isolate: false,
        },
      },
      { test: { name: 'system', include: system, setupFiles, testTimeout: 600_000, hookTimeout: 120_000 } },
    ],
  },
});
