import { WalwardenError, type ErrorCode } from '../../errors.ts';

/**
 * Why a request to S3 failed, as far as a user has to do different things
 * about it. "The key is not there" is none: that is an answer.
 */
export type S3Failure =
  | 'no-bucket'
  | 'denied' // the credentials are good, but not for this
  | 'no-credentials' // the SDK's chain found none
  | 'wrong-credentials' // unknown key, wrong secret
  | 'expired-credentials'
  | 'clock'
  | 'region' // the bucket is in another one, or none is known
  | 'unreachable' // no such host, refused, reset
  | 'timeout'
  | 'tls'
  | 'busy' // throttled
  | 'server' // 5xx
  | 'full'
  | 'too-large'
  | 'refused' // storage class, encryption, tags, or a request that the endpoint doesn't know
  | 'cold' // in Glacier, to be restored first
  | 'damaged-in-flight' // what arrived is not what was sent
  | 'not-s3' // something else answers
  | 'other';

/** A request to S3 that failed for good. Its text and its cause hold no secrets. */
export class S3Error extends WalwardenError {
  readonly failure: S3Failure;
  /** What the endpoint, or the SDK, calls it. */
  readonly s3Code: string;
  /** Of the HTTP answer; null when there was none. */
  readonly status: number | null;

  constructor(
    failure: S3Failure,
    message: string,
    details: {
      readonly hint?: string;
      readonly cause?: unknown;
      readonly s3Code?: string;
      readonly status?: number | null;
    } = {},
  ) {
    super(codeOf(failure), message, details);
    this.failure = failure;
    this.s3Code = details.s3Code ?? '';
    this.status = details.status ?? null;
  }
}

function codeOf(failure: S3Failure): ErrorCode {
  return failure === 'damaged-in-flight' ? 'damaged' : 'storage';
}

export function isS3Failure(error: unknown, failure: S3Failure): error is S3Error {
  return error instanceof S3Error && error.failure === failure;
}

/** Whether waiting may be enough; otherwise somebody has to do something first. What is not known is given a chance. */
export function s3PassesByItself(failure: S3Failure): boolean {
  switch (failure) {
    case 'unreachable':
    case 'timeout':
    case 'busy':
    case 'server':
    case 'damaged-in-flight':
    case 'not-s3':
    case 'other':
      return true;
    case 'no-bucket':
    case 'denied':
    case 'no-credentials':
    case 'wrong-credentials':
    case 'expired-credentials':
    case 'clock':
    case 'region':
    case 'tls':
    case 'full':
    case 'too-large':
    case 'refused':
    case 'cold':
      return false;
  }
}

/** What an error of the SDK says, without what it drags along: requests, signatures, session tokens. */
export interface SdkFacts {
  /** The endpoint's code (`NoSuchBucket`), else the name of the SDK's error. */
  readonly code: string;
  /** The endpoint named a code: S3 answers, and not a web server or a proxy on the way. */
  readonly isNamed: boolean;
  readonly status: number | null;
  readonly message: string;
  readonly attempts: number;
  readonly requestId: string | null;
  /** The endpoint's clock, in milliseconds since the epoch. */
  readonly serverTime: number | null;
  /** Of the system, or of OpenSSL. */
  readonly errno: string | null;
}

export function factsOf(error: unknown): SdkFacts {
  const metadata = field(error, '$metadata');
  const headers = field(field(error, '$response'), 'headers');
  const errno = text(field(error, 'code')) ?? text(field(field(error, 'cause'), 'code'));
  // HEAD has no body, so its errors have only the name that the SDK gives a status.
  const named = text(field(error, 'Code'));
  const status = field(metadata, 'httpStatusCode') ?? field(field(error, '$response'), 'statusCode');
  const date = Date.parse(text(field(headers, 'date')) ?? '');
  const attempts = field(metadata, 'attempts');
  return {
    code: named ?? text(field(error, 'name')) ?? 'Error',
    isNamed: named !== undefined,
    status: typeof status === 'number' ? status : null,
    message: words(text(field(error, 'message')) ?? ''),
    attempts: typeof attempts === 'number' ? attempts : 1,
    requestId: text(field(metadata, 'requestId')) ?? null,
    serverTime: Number.isNaN(date) ? null : date,
    errno: errno ?? null,
  };
}

/** What goes along as `cause`: enough to look further, nothing to steal. */
export function strippedCause(facts: SdkFacts): Error {
  const { code, status, requestId, message } = facts;
  const details = [status === null ? null : `status ${status}`, requestId === null ? null : `request id ${requestId}`];
  const known = details.filter((detail) => detail !== null);
  return new Error(
    `${code}${known.length === 0 ? '' : ` (${known.join(', ')})`}${message === '' ? '' : `: ${message}`}`,
  );
}

/** One line, without the SDK's placeholders for "nothing was said". */
function words(message: string): string {
  const line = message.trim().replace(/\s*[\r\n]+\s*/g, ' ');
  return line === 'UnknownError' || line === 'Unknown' ? '' : line.slice(0, 400);
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

/** Whether the endpoint may have done what was asked, though we were not told. */
export function isOutcomeUnknown({ status, s3Code }: S3Error): boolean {
  return status === null || status >= 500 || status === 408 || s3Code === 'RequestTimeout';
}

/** Errors of the connection; the SDK calls some of them timeouts. */
const CONNECTION = new Set([
  'ECONNRESET',
  'ECONNREFUSED',
  'EPIPE',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
]);

const CODES: Readonly<Record<string, S3Failure>> = {
  NoSuchBucket: 'no-bucket',
  AccessDenied: 'denied',
  AllAccessDisabled: 'denied',
  AccountProblem: 'denied',
  UnauthorizedAccess: 'denied',
  Forbidden: 'denied',
  CredentialsProviderError: 'no-credentials',
  TokenProviderError: 'no-credentials',
  ProviderError: 'no-credentials',
  InvalidAccessKeyId: 'wrong-credentials',
  SignatureDoesNotMatch: 'wrong-credentials',
  InvalidSecurity: 'wrong-credentials',
  NotSignedUp: 'wrong-credentials',
  ExpiredToken: 'expired-credentials',
  ExpiredTokenException: 'expired-credentials',
  InvalidToken: 'expired-credentials',
  TokenRefreshRequired: 'expired-credentials',
  RequestExpired: 'clock',
  RequestTimeTooSkewed: 'clock',
  RequestInTheFuture: 'clock',
  PermanentRedirect: 'region',
  TemporaryRedirect: 'region',
  AuthorizationHeaderMalformed: 'region',
  IllegalLocationConstraintException: 'region',
  TimeoutError: 'timeout',
  RequestTimeout: 'timeout',
  SlowDown: 'busy',
  Throttling: 'busy',
  ThrottlingException: 'busy',
  TooManyRequests: 'busy',
  TooManyRequestsException: 'busy',
  RequestLimitExceeded: 'busy',
  BandwidthLimitExceeded: 'busy',
  ServiceUnavailable: 'busy',
  Busy: 'busy',
  ConditionalRequestConflict: 'busy',
  OperationAborted: 'busy',
  QuotaExceeded: 'full',
  InsufficientStorage: 'full',
  XMinioStorageFull: 'full',
  XMinioAdminBucketQuotaExceeded: 'full',
  EntityTooLarge: 'too-large',
  InvalidObjectState: 'cold',
  BadDigest: 'damaged-in-flight',
  XAmzContentSHA256Mismatch: 'damaged-in-flight',
  XAmzContentChecksumMismatch: 'damaged-in-flight',
  IncompleteBody: 'damaged-in-flight',
};

// Node's names for what is wrong with a certificate, and OpenSSL's for what is no TLS at all.
const TLS = /CERT|SELF_SIGNED|UNABLE_TO_(?:VERIFY|GET)|^ERR_(?:TLS|SSL)|^EPROTO$/;

/** Sorts an error of the SDK. */
export function failureOf(facts: SdkFacts): S3Failure {
  const { code, isNamed, status, errno, message } = facts;
  if (status === null && errno !== null && CONNECTION.has(errno)) return 'unreachable';
  const known = CODES[code];
  if (known !== undefined) return known;
  if (/region is missing/i.test(message)) return 'region';
  if (errno !== null && status === null) {
    if (TLS.test(errno)) return 'tls';
    if (errno === 'ETIMEDOUT') return 'timeout';
    // A server that speaks something else than HTTP.
    return errno.startsWith('HPE_') ? 'not-s3' : 'unreachable';
  }
  // A page of a proxy or of a web server, or nothing at all.
  if (/parse error|Deserialization error/i.test(message)) return 'not-s3';
  if (status === null) return 'other';
  if (status === 429) return 'busy';
  if (status === 507) return 'full';
  if (status >= 500) return status === 501 ? 'refused' : 'server';
  if (status === 301 || status === 307) return 'region';
  if (status === 403) return 'denied';
  return status >= 400 && isNamed ? 'refused' : 'not-s3';
}
