import { errnoOf, messageOf, WalwardenError, type ErrorCode } from '../../errors.ts';

/** What is wrong with a request itself; everything else has the code that the command line would show. */
export type RequestErrorCode =
  | 'bad-request'
  | 'unauthorized' // no token, or one that we don't know
  | 'forbidden' // the token does not cover it
  | 'method-not-allowed'
  | 'too-large'
  | 'unsupported' // an encoding that we don't undo
  | 'busy' // too many wait already
  | 'stopping';

/** An answer that is no success. */
export class HttpError extends Error {
  override readonly name = 'HttpError';
  readonly status: number;
  readonly code: ErrorCode | RequestErrorCode;
  readonly hint: string | undefined;

  constructor(
    status: number,
    code: ErrorCode | RequestErrorCode,
    message: string,
    details: { readonly hint?: string | undefined; readonly cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.status = status;
    this.code = code;
    this.hint = details.hint;
  }
}

/** What clients read instead of a result. */
export interface ErrorBody {
  readonly error: { readonly code: string; readonly message: string; readonly hint: string | null };
}

export function errorBody(error: HttpError): ErrorBody {
  return { error: { code: error.code, message: error.message, hint: error.hint ?? null } };
}

/**
 * 404 is none of these: it says that a WAL file is certainly absent, which ends
 * a recovery, and is said in one place only.
 */
const STATUS: Readonly<Record<ErrorCode, number>> = {
  usage: 400,
  config: 503,
  'unknown-server': 400,
  'invalid-wal-name': 400,
  'invalid-wal': 422,
  'incomplete-wal': 503,
  damaged: 503,
  'wal-not-found': 503,
  storage: 503,
  source: 503,
  conflict: 409,
  needed: 409,
  locked: 503,
  hook: 503,
  program: 503,
  catalogue: 503,
  postgres: 503,
  'pg-backup-api': 503,
  receiver: 503,
  aborted: 503,
  internal: 500,
};

/** The answer that tells of anything that can be thrown. */
export function asHttpError(error: unknown): HttpError {
  if (error instanceof HttpError) return error;
  if (error instanceof WalwardenError) {
    const { code, message, hint } = error;
    return new HttpError(STATUS[code], code, message, { hint, cause: error });
  }
  // Fastify's own, which say what was wrong with the request.
  if (error instanceof Error && 'statusCode' in error && typeof error.statusCode === 'number') {
    const { statusCode, message } = error;
    if (statusCode === 413) return new HttpError(413, 'too-large', message, { cause: error });
    if (statusCode === 415) return new HttpError(415, 'unsupported', message, { cause: error });
    if (statusCode >= 400 && statusCode < 500) return new HttpError(400, 'bad-request', message, { cause: error });
  }
  if (/^E[A-Z0-9]+$/.test(errnoOf(error) ?? '')) {
    return new HttpError(503, 'storage', messageOf(error), { cause: error });
  }
  // A mistake of ours: what it is stands in the log.
  return new HttpError(500, 'internal', 'internal error', { hint: "see walwarden's log", cause: error });
}

/** Whether a disk, or a quota, is full. */
export function isDiskFull(error: unknown): boolean {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    const errno = errnoOf(cause);
    if (errno === 'ENOSPC' || errno === 'EDQUOT') return true;
  }
  return false;
}
