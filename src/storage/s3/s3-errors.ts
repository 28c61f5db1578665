import { WalwardenError } from '../../errors.ts';
import { formatSpan, formatTime } from '../../words.ts';
import { failureOf, factsOf, S3Error, strippedCause, type S3Failure, type SdkFacts } from './s3-failure.ts';
import type { EffectiveS3Settings } from './s3-settings.ts';
import { formatS3Url } from './wal-object-key.ts';

/** What was asked of the endpoint, for the words about its failure. */
export type S3Verb = 'store' | 'copy' | 'read' | 'look at' | 'list' | 'delete';

export interface S3Attempt {
  readonly settings: EffectiveS3Settings;
  readonly verb: S3Verb;
  /** The key, or the prefix of a listing. */
  readonly key: string;
}

/**
 * An error of the SDK as one of ours, which says what happened and what to
 * change. Ours pass through. `aborted` when the signal is the reason.
 */
export function s3Error(attempt: S3Attempt, error: unknown, signal?: AbortSignal): WalwardenError {
  const { settings, verb, key } = attempt;
  const what = `${verb} ${formatS3Url(settings.bucket, key)}`;
  if (signal?.aborted === true) {
    return new WalwardenError('aborted', `stopped before it could ${what}`);
  }
  if (error instanceof WalwardenError) return error;
  const facts = factsOf(error);
  const failure = failureOf(facts);
  return new S3Error(failure, `can't ${what}: ${reason(failure, facts, settings)}`, {
    hint: hintFor(failure, facts, attempt),
    cause: strippedCause(facts),
    s3Code: facts.code,
    status: facts.status,
  });
}

/** The endpoint as a user knows it. */
export function endpointName({ endpoint, region }: EffectiveS3Settings): string {
  return endpoint ?? (region === undefined ? 'AWS' : `AWS in ${region}`);
}

function reason(failure: S3Failure, facts: SdkFacts, settings: EffectiveS3Settings): string {
  const { message, attempts, errno } = facts;
  const endpoint = endpointName(settings);
  const tried = attempts > 1 ? `, tried ${attempts} times` : '';
  switch (failure) {
    case 'no-bucket':
      return `${endpoint} has no bucket ${JSON.stringify(settings.bucket)} ${answer(facts)}`;
    case 'no-credentials':
      return `no credentials found${message === '' ? '' : `: ${message}`}`;
    case 'clock':
      return `the clocks differ too much: ${clocks(facts)} ${answer(facts)}`;
    case 'timeout':
      return `no answer from ${endpoint} for ${formatSilence(silence(facts, settings))}${tried}`;
    case 'unreachable':
      return `${unreachable(errno, endpoint)}${tried}`;
    case 'tls':
      return `no secure connection to ${endpoint}: ${message === '' ? errno : message}`;
    case 'damaged-in-flight':
      return `it was damaged on its way ${answer(facts)}`;
    case 'not-s3':
      return `what answers at ${endpoint} is not S3 ${answer({ ...facts, message: '' })}`;
    case 'region':
      if (facts.status === null) return 'the region of the bucket is not known';
      return `the bucket is in another region ${answer(facts)}`;
    case 'denied':
    case 'wrong-credentials':
    case 'expired-credentials':
    case 'busy':
    case 'server':
    case 'full':
    case 'too-large':
    case 'refused':
    case 'cold':
    case 'other':
      return `${SUMMARY[failure]} ${answer(facts)}${tried}`;
  }
}

const SUMMARY = {
  denied: 'access denied',
  'wrong-credentials': 'the endpoint does not accept the credentials',
  'expired-credentials': 'the credentials have expired',
  busy: 'the endpoint asks to slow down',
  server: 'the endpoint failed',
  full: 'there is no space left',
  'too-large': 'the endpoint takes no objects of this size',
  refused: 'the endpoint refuses the request',
  cold: 'the object is in cold storage',
  other: 'the request failed',
} as const satisfies Partial<Record<S3Failure, string>>;

/** `(403 AccessDenied: the endpoint's words)`; these may be missing, as Ceph's are. */
function answer({ status, code, message, requestId }: SdkFacts): string {
  const name = code === 'Unknown' || code === 'UnknownError' ? '' : code;
  const head = [status, name].filter((part) => part !== null && part !== '').join(' ');
  const id = status !== null && status >= 500 && requestId !== null ? `, request id ${requestId}` : '';
  return `(${head}${message === '' ? '' : `: ${message}`}${id})`;
}

function clocks({ serverTime }: SdkFacts): string {
  const now = Date.now();
  const here = `here it is ${formatTime(now)}`;
  if (serverTime === null) return here;
  const ahead = now > serverTime ? 'ahead' : 'behind';
  return `${here}, at the endpoint ${formatTime(serverTime)} (ours is ${formatSpan(Math.abs(now - serverTime))} ${ahead})`;
}

/** How long it was silent: connecting has a limit of its own. */
function silence({ message }: SdkFacts, settings: EffectiveS3Settings): number {
  return /establish a connection/.test(message) ? settings.connectTimeoutMs : settings.readTimeoutMs;
}

function formatSilence(ms: number): string {
  return ms < 1_000 ? `${ms} ms` : formatSpan(ms);
}

const CONNECTION: Readonly<Record<string, string>> = {
  ENOTFOUND: "can't be found: its host name has no address",
  EAI_AGAIN: "can't be found: no name server answers",
  ECONNREFUSED: 'refuses connections: nothing listens there',
  EHOSTUNREACH: "can't be reached: there is no route to it",
  ENETUNREACH: "can't be reached: there is no route to it",
  ECONNRESET: 'cut the connection',
  EPIPE: 'cut the connection',
};

function unreachable(errno: string | null, endpoint: string): string {
  const words = CONNECTION[errno ?? ''] ?? "can't be reached";
  return `${endpoint} ${words}${errno === null ? '' : ` (${errno})`}`;
}

const CHAIN =
  'the SDK looks into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile (aws_profile, AWS_PROFILE) in ~/.aws, web identity, container and instance';

/** What to do about it, in one line that names the option, or the permission. */
function hintFor(failure: S3Failure, facts: SdkFacts, attempt: S3Attempt): string {
  const { settings } = attempt;
  const profile = settings.profile === undefined ? 'the SDK found' : `of aws_profile = ${settings.profile}`;
  switch (failure) {
    case 'no-bucket':
      return 'create it, or correct the bucket in wals_directory; aws_endpoint_url and aws_region say where it is looked for';
    case 'denied':
      return `allow ${permissions(attempt)} to the credentials ${profile}${facts.code === 'AccessDenied' ? '' : ', or see what stands between us and the endpoint'}`;
    case 'no-credentials':
      return `${CHAIN}; they must be readable for the user that walwarden runs as`;
    case 'wrong-credentials':
      return facts.code === 'SignatureDoesNotMatch'
        ? `the secret key ${profile} does not belong to the access key, or something on the way changes the request (a proxy that rewrites Host)`
        : `the access key ${profile} is not known there: is it for this endpoint (aws_endpoint_url), and still active?`;
    case 'expired-credentials':
      return `renew the credentials ${profile}: temporary ones are best taken from a role or a credential_process, which the SDK renews by itself`;
    case 'clock':
      return 'set the clock of this machine (chrony, systemd-timesyncd); S3 takes requests that are at most 15 minutes off';
    case 'region':
      return 'set aws_region to the region of the bucket';
    case 'unreachable':
      return `check aws_endpoint_url, DNS and the firewall${settings.endpoint === undefined ? ', and aws_region' : ''}; it is tried again`;
    case 'timeout':
      return 'is the endpoint overloaded or full (some hang then)? A firewall that drops packets looks the same; aws_read_timeout is how long we wait';
    case 'tls':
      return tlsHint(facts, settings);
    case 'busy':
      return 'it is tried again later; if that goes on, lower cloud_wal_archive_parallel';
    case 'server':
      return 'it is tried again later; if that goes on, ask whoever runs the endpoint';
    case 'full':
      return 'make room, or raise the quota; WAL files stay where they are meanwhile';
    case 'too-large':
      return 'raise the limit of the endpoint, or of the proxy before it';
    case 'refused':
      return refusedHint(attempt);
    case 'cold':
      return 'restore it first (aws s3api restore-object), and let no lifecycle rule move WAL to a class that has to be restored';
    case 'damaged-in-flight':
      return 'something between us and the endpoint changes data: a proxy, a network card, memory';
    case 'not-s3':
      return 'correct aws_endpoint_url: a proxy, a login page or a web server answers there';
    case 'other':
      return `check aws_endpoint_url, aws_region and the credentials ${profile}`;
  }
}

function permissions({ verb, settings, key }: S3Attempt): string {
  const objects = formatS3Url(settings.bucket, key);
  switch (verb) {
    case 'store': {
      const also = [
        settings.tags === undefined ? null : 's3:PutObjectTagging',
        settings.serverSideEncryption === 'aws:kms' ? 'kms:GenerateDataKey and kms:Decrypt' : null,
      ].filter((permission) => permission !== null);
      return ['s3:PutObject', 's3:AbortMultipartUpload', ...also].join(', ');
    }
    case 'read':
    case 'look at':
      return `s3:GetObject on ${objects} and s3:ListBucket on the bucket, without which S3 denies what is not there`;
    case 'copy':
      return `s3:GetObject on ${objects}, and s3:PutObject beside it`;
    case 'list':
      return 's3:ListBucket';
    case 'delete':
      return 's3:DeleteObject';
  }
}

function refusedHint({ verb, settings }: S3Attempt): string {
  if (verb !== 'store') return `see whether ${endpointName(settings)} has what was asked of it`;
  const options = [
    settings.storageClass === undefined ? null : `aws_storage_class = ${settings.storageClass}`,
    settings.serverSideEncryption === undefined ? null : `aws_encryption = ${settings.serverSideEncryption}`,
    settings.kmsKeyId === undefined ? null : 'aws_sse_kms_key_id',
    settings.tags === undefined ? null : 'aws_tags',
    `aws_request_checksum = ${settings.requestChecksum}`,
  ].filter((option) => option !== null);
  return `not every endpoint has them: ${options.join(', ')}`;
}

function tlsHint({ errno }: SdkFacts, { endpoint, forcePathStyle }: EffectiveS3Settings): string {
  if (errno === 'ERR_TLS_CERT_ALTNAME_INVALID' && forcePathStyle !== true) {
    return 'the certificate has another name: with aws_force_path_style = on the bucket is no part of it';
  }
  if (errno === 'EPROTO' || errno?.startsWith('ERR_SSL') === true) {
    return `does the endpoint speak TLS at this port? aws_endpoint_url = ${endpoint ?? ''} says https`;
  }
  if (errno === 'CERT_HAS_EXPIRED' || errno === 'CERT_NOT_YET_VALID') return 'renew its certificate, or set the clock';
  return 'let NODE_EXTRA_CA_CERTS name the certificate of your own CA, in the environment of walwarden';
}
