#!/usr/bin/env node
import { readFileSync } from 'node:fs';

// Before anything else is loaded: scripts ask for the version often, and it must be quick.
const [first, ...rest] = process.argv.slice(2);
if (rest.length === 0 && (first === '--version' || first === '-v')) {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  process.stdout.write(`walwarden ${version}\n`);
} else {
  const { main } = await import('./command-line.ts');
  process.exitCode = await main(process.argv);
}
