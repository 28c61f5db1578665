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
  | 'source' // one source file can't be read; the others can
  | 'conflict' // another content under the same name
  | 'locked' // somebody else holds the lock
  | 'hook' // a hook script stopped the pass
  | 'program' // an external program is missing or failed
  | 'catalogue'
  | 'aborted' // we were asked to stop
  | 'internal';

/** Extra facts of an error: `hint` says what to do next, in one line. */
export interface ErrorDetails {
  readonly hint?: string;
  readonly cause?: unknown;
}

/** Every error that walwarden raises on purpose. The message is lower-case and names what, where, expected and found. */
export class WalwardenError extends Error {
  override readonly name = 'WalwardenError';
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.hint = details.hint;
  }
}

/** The errno name (`ENOENT`, …) of a system error, undefined for anything else. */
export function errnoOf(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') {
    return error instanceof WalwardenError ? undefined : error.code;
  }
  return undefined;
}

/** Narrows an unknown thrown value to a {@link WalwardenError} of one code. */
export function isErrorCode(error: unknown, code: ErrorCode): error is WalwardenError {
  return error instanceof WalwardenError && error.code === code;
}

/** A message for anything that can be thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
