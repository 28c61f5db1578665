import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withTempDir } from '../support/temp-dir.ts';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const UNITS = [
  'walwarden.service',
  'walwarden-receive-wal@.service',
  'walwarden-cron.service',
  'walwarden-cron.timer',
] as const;
export const SERVICES = UNITS.filter((name) => name.endsWith('.service'));

export const fileOf = (name: string): Promise<string> => readFile(join(ROOT, name), 'utf8');

/** The values of a unit file's option, in their order. */
export async function valuesOf(unit: string, option: string): Promise<string[]> {
  const lines = (await fileOf(`config/${unit}`)).split('\n').filter((line) => line.startsWith(`${option}=`));
  return lines.map((line) => line.slice(option.length + 1));
}

/** The units in a directory, starting a program that is there. */
export async function withUnits<T>(body: (directory: string) => Promise<T>): Promise<T> {
  return withTempDir(async (directory) => {
    const program = join(directory, 'walwarden');
    await writeFile(program, '#!/bin/sh\n');
    await chmod(program, 0o755);
    for (const unit of UNITS) {
      const text = await fileOf(`config/${unit}`);
      await writeFile(join(directory, unit), text.replaceAll('/usr/bin/walwarden', program));
    }
    return body(directory);
  });
}
