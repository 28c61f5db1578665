import { readFileSync } from 'node:fs';

/** Of this program, as package.json says. */
export function ownVersion(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  return version;
}
