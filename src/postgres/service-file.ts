import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf } from '../errors.ts';
import { isKeyword, type ConninfoKeyword, type ConninfoParameters } from './conninfo-keywords.ts';
import { PostgresError } from './failure.ts';

/** Where PGSYSCONFDIR points when it is not set: Debian's choice, and that of Red Hat's packages. */
const SYSTEM_DIRECTORIES = ['/etc/postgresql-common', '/etc/sysconfig/pgsql', '/etc'];

export interface ServiceFilePlaces {
  /** `servicefile`, or PGSERVICEFILE; it must exist. */
  readonly file: string | undefined;
  /** Null when nobody knows it. */
  readonly home: string | null;
  /** PGSYSCONFDIR */
  readonly systemDirectory: string | undefined;
}

/**
 * The parameters of a service (parseServiceInfo in fe-connect.c): from the
 * user's service file, or when that hasn't it from the system's. Throws
 * `misconfigured`; no value is ever named.
 */
export async function readService(service: string, places: ServiceFilePlaces): Promise<ConninfoParameters> {
  const { file, home, systemDirectory } = places;
  const userFile = file ?? (home === null ? null : join(home, '.pg_service.conf'));
  const looked: string[] = [];
  if (userFile !== null) {
    const text = await readIfThere(userFile);
    if (text === null && file !== undefined) {
      throw new PostgresError('misconfigured', `the service file ${file} does not exist`);
    }
    const found = text === null ? null : parseService(text, service, userFile);
    if (found !== null) return found;
    looked.push(userFile);
  }
  const directories = systemDirectory === undefined ? SYSTEM_DIRECTORIES : [systemDirectory];
  for (const path of directories.map((directory) => join(directory, 'pg_service.conf'))) {
    const text = await readIfThere(path);
    const found = text === null ? null : parseService(text, service, path);
    if (found !== null) return found;
    looked.push(path);
  }
  const where = looked.join(', ');
  throw new PostgresError('misconfigured', `the service ${JSON.stringify(service)} is not defined in ${where}`);
}

/** Null when there is no such section. */
function parseService(text: string, service: string, path: string): ConninfoParameters | null {
  let found: Partial<Record<ConninfoKeyword, string>> | null = null;
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    if (line.startsWith('[')) {
      if (found !== null) break;
      if (line.startsWith(`[${service}]`)) found = {};
      continue;
    }
    if (found === null) continue;
    const bad = (what: string): PostgresError =>
      new PostgresError('misconfigured', `the service file ${path} has ${what} in line ${index + 1}`);
    // As libpq: no blanks around the equals sign.
    const [, keyword = '', value] = /^([^=]*)=(.*)$/.exec(line) ?? [];
    if (line.startsWith('ldap')) throw bad('an LDAP address, which walwarden does not look up,');
    if (value === undefined) throw bad('no "="');
    if (keyword === 'service' || keyword === 'servicefile') throw bad('a service within a service');
    if (!isKeyword(keyword)) throw bad('an unknown parameter');
    // The first one counts there.
    found[keyword] ??= value;
  }
  return found;
}

async function readIfThere(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    if (['ENOENT', 'ENOTDIR'].includes(errnoOf(cause) ?? '')) return null;
    throw new PostgresError('misconfigured', `can't read the service file: ${messageOf(cause)}`, { cause });
  }
}
