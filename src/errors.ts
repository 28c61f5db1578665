/**
 * What went wrong, as far as a caller must tell cases apart. The exit status
 * of the process follows from it, in cli.ts alone.
 */
export type ErrorCode =
  | 'usage' // the command line is wrong
  | 'config' // a configuration file is wrong or missing
  | 'unknown-server'
  | 'invalid-wal-name'
  | 'invalid-wal' // a file is not the WAL that its name promises
  | 'incomplete-wal' // a file that may still be growing
  | 'damaged' // a stored or compressed file does not read back
  | 'wal-not-found' // certainly absent
  | 'storage' // the destination can't be read or written
  | 'source' // where files are delivered can't be read or written; the destination can
  | 'conflict' // another content under the same name
  | 'needed' // a backup needs what was to be deleted
  | 'locked' // somebody else holds the lock
  | 'hook' // a hook script stopped the pass
  | 'program' // an external program is missing or failed
  | 'catalogue'
  | 'postgres' // PostgreSQL can't be reached, or refuses
  | 'pg-backup-api' // it can't be reached, or doesn't answer as it should
  | 'receiver' // pg_receivewal can't run as things are
  | 'aborted' // we were asked to stop
  | 'internal';

/** Extra facts of an error: `hint` says what to do next, in one line. */
export interface ErrorDetails {
  readonly hint?: string;
  readonly cause?: unknown;
  /** An earlier process logged it: no news for a log that many processes write to. */
  readonly repeated?: boolean;
}

/** Every error that walwarden raises on purpose. The message is lower-case and names what, where, expected and found. */
export class WalwardenError extends Error {
  override readonly name = 'WalwardenError';
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly repeated: boolean;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.hint = details.hint;
    this.repeated = details.repeated === true;
  }
}

/** What happens to archives too, though libuv, and so Node, has no name for it; the texts are strerror(3)'s. */
const NAMELESS: Readonly<Record<number, { readonly name: string; readonly text: string }>> = {
  116: { name: 'ESTALE', text: 'stale file handle' },
  117: { name: 'EUCLEAN', text: 'structure needs cleaning' },
  122: { name: 'EDQUOT', text: 'disk quota exceeded' },
};

/** Sync calls say `UNKNOWN: unknown error, write`, others `Unknown system error -122: Unknown system error -122, write`. */
function nameless(error: Error): { readonly name: string; readonly text: string } | undefined {
  if (!('code' in error && 'errno' in error && typeof error.errno === 'number')) return undefined;
  return /^unknown/i.test(String(error.code)) ? NAMELESS[-error.errno] : undefined;
}

/** The errno name (`ENOENT`, …) of a system error, undefined for anything else. */
export function errnoOf(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') {
    return error instanceof WalwardenError ? undefined : (nameless(error)?.name ?? error.code);
  }
  return undefined;
}

/** Narrows an unknown thrown value to a {@link WalwardenError} of one code. */
export function isErrorCode(error: unknown, code: ErrorCode): error is WalwardenError {
  return error instanceof WalwardenError && error.code === code;
}

/** A message for anything that can be thrown. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const known = nameless(error);
  return known === undefined ? error.message : error.message.replace(/^unknown[^,]*/i, `${known.name}: ${known.text}`);
}
