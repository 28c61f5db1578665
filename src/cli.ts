#!/usr/bin/env node
import { readFileSync } from 'node:fs';

// Before anything else is loaded: scripts ask for the version often, and it must be quick.
const [first, ...rest] = process.argv.slice(2);
if (rest.length === 0 && (first === '--version' || first === '-v')) {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  process.stdout.write(`walwarden ${version}\n`);
} else {
  // Whatever goes wrong from here on, even a missing module: PostgreSQL must not take it for the end of the archive.
  const failed = (error: unknown): never => {
    try {
      process.stderr.write(`ERROR: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    } finally {
      process.exit(process.argv.includes('get-wal') ? 200 : 1);
    }
  };
  process.on('uncaughtException', failed);
  try {
    const { main } = await import('./command-line.ts');
    process.exitCode = await main(process.argv);
  } catch (error) {
    failed(error);
  }
}
