import { accessSync } from 'node:fs';

/** PostgreSQL takes 1 to 125 from restore_command for "there is no such file", and may end the recovery. */
const NOT_FOUND = 1;
const CANT_TELL = 200;

/**
 * The exit status of get-wal that PostgreSQL must see when we can't tell
 * whether a file exists: above 125 it stops a recovery instead of ending it
 * early. A standby asks again by itself and would be stopped for nothing; it is
 * known by its signal file, since restore_command runs in the data directory.
 * `onError` is what the user wants instead.
 */
export function exitStatusForDoubt(onError?: number): number {
  if (onError !== undefined) return onError;
  try {
    accessSync('standby.signal');
    return NOT_FOUND;
  } catch {
    // Whatever keeps us from seeing it: the careful answer.
    return CANT_TELL;
  }
}
