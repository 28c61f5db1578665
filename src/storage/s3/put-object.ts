import { randomUUID } from 'node:crypto';
import type { PutObjectCommand, PutObjectCommandInput } from '@aws-sdk/client-s3';
import { headObject, plainEtag, STORED_SHA256, STORED_SIZE } from './get-object.ts';
import { putInParts } from './multipart-upload.ts';
import { isOutcomeUnknown, S3Error } from './s3-failure.ts';
import { backOff, md5Of, sha256Of, type Question, type S3Session } from './s3-session.ts';
import {
  isConflict,
  isOurs,
  lookQuickly,
  notStored,
  objectOptions,
  outcomeOf,
  UPLOAD_ID,
  type PutOutcome,
  type Upload,
} from './upload.ts';
import { formatS3Url } from './wal-object-key.ts';

export interface PutOptions {
  /** User metadata, ASCII. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** SHA-256 of the body in hexadecimal digits, where somebody has it already. */
  readonly sha256?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called when the body was sent with the only request there was: nothing reads it any more. Not always called. */
  readonly onBodyFree?: (() => void) | undefined;
}

/** Another writer of the same key may be at it for a moment; the SDK does not try these again. */
export const TRIES = 6;

/**
 * Stores an object unless there is one under this key. `stored` once the
 * endpoint has it for good, and never before.
 *
 * @throws S3Error when neither is certain; what was sent may or may not be there
 */
export async function putIfAbsent(
  session: S3Session,
  key: string,
  body: Uint8Array,
  options: PutOptions = {},
): Promise<PutOutcome> {
  const { signal } = options;
  const upload = await uploadOf(key, body, options);
  const inParts = body.length >= session.settings.multipartThreshold;
  if (inParts || session.capabilities?.conditionalWrites !== true) {
    const there = await headObject(session, key, signal);
    if (there !== null) return { outcome: 'exists', object: there };
  }
  return inParts ? putInParts(session, upload) : putWhole(session, upload, options.onBodyFree);
}

/** What is sent, with an id of its own. */
export async function uploadOf(key: string, body: Uint8Array, options: PutOptions): Promise<Upload> {
  const question: Question = { verb: 'store', key, signal: options.signal };
  const id = randomUUID();
  const sha256 = options.sha256 ?? (await sha256Of(body));
  const metadata = {
    ...options.metadata,
    [STORED_SHA256]: sha256,
    [STORED_SIZE]: String(body.length),
    [UPLOAD_ID]: id,
  };
  return { question, body, sha256, metadata, id };
}

async function putWhole(session: S3Session, upload: Upload, onBodyFree?: () => void): Promise<PutOutcome> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await sendWhole(session, upload, attempt === 1 ? onBodyFree : undefined);
    } catch (error) {
      const known = await outcomeAfter(session, upload, error);
      if (known !== null) return known;
      if (attempt >= TRIES) throw error;
    }
    // What was in the way is gone, or another request for this key was under way.
    await backOff(session, upload.question, attempt);
  }
}

async function sendWhole(session: S3Session, upload: Upload, onBodyFree?: () => void): Promise<PutOutcome> {
  const { capabilities } = session;
  const condition = capabilities?.conditionalWrites === false ? {} : { IfNoneMatch: '*' };
  const sent = await sendObject(session, upload, condition);
  if (sent.etag === null) {
    const there = await headObject(session, upload.question.key, upload.question.signal);
    if (there === null) throw notStored(session, upload);
    return outcomeOf(there, upload);
  }
  if (sent.damaged) throw await removeDamaged(session, upload);
  // What answered 200 has read all of the body; a request that was given up before may still be sending it.
  if (sent.attempts === 1) onBodyFree?.();
  return { outcome: 'stored' };
}

export interface SentObject {
  /** Null when the answer names none. S3 always does: whatever says 200 without it (a login page, a proxy) may have stored nothing. */
  readonly etag: string | null;
  /** The endpoint checks nothing itself, and what it stored is not what was sent. */
  readonly damaged: boolean;
  readonly attempts: number | undefined;
}

/** One PutObject under a condition. */
export async function sendObject(
  session: S3Session,
  upload: Upload,
  condition: Pick<PutObjectCommandInput, 'IfNoneMatch' | 'IfMatch'>,
): Promise<SentObject> {
  const { settings, capabilities } = session;
  const { question, body, sha256 } = upload;
  const integrity = capabilities?.integrity ?? 'payload-hash';
  const md5 = integrity === 'payload-hash' ? null : await md5Of(body);
  const output = await session.ask(question, ({ sdk, client, options }) => {
    const command = new sdk.PutObjectCommand({
      Bucket: settings.bucket,
      Key: question.key,
      Body: body,
      ...(md5 === null ? {} : { ContentMD5: md5.toString('base64') }),
      ...condition,
      ...objectOptions(session, upload.metadata),
    });
    signWith(command, sha256);
    return client.send(command, options);
  });
  const etag = plainEtag(output.ETag);
  const isMd5 = etag !== null && /^[0-9a-f]{32}$/.test(etag);
  const damaged = integrity === 'none' && isMd5 && etag !== md5?.toString('hex');
  return { etag, damaged, attempts: output.$metadata.attempts };
}

/** The digest of the body is part of what is signed, and the SDK would compute it again. */
function signWith(command: PutObjectCommand, sha256: string): void {
  command.middlewareStack.add(
    (next) => (args) => {
      const { request } = args;
      if (hasHeaders(request)) request.headers['x-amz-content-sha256'] = sha256;
      return next(args);
    },
    { step: 'build', priority: 'low', name: 'walwardenPayloadHash' },
  );
}

function hasHeaders(request: unknown): request is { headers: Record<string, string> } {
  return typeof request === 'object' && request !== null && 'headers' in request;
}

/** The outcome that an error leaves, as far as it can be found out; null to try again. Throws the error when it stands. */
async function outcomeAfter(session: S3Session, upload: Upload, error: unknown): Promise<PutOutcome | null> {
  if (!(error instanceof S3Error)) throw error;
  if (isConflict(error) || error.failure === 'damaged-in-flight') return null;
  if (error.status === 412) {
    // Perhaps by ourselves: the answer to an earlier attempt was lost.
    const there = await headObject(session, upload.question.key, upload.question.signal);
    return there === null ? null : outcomeOf(there, upload);
  }
  if (!isOutcomeUnknown(error)) throw error;
  const there = await lookQuickly(session, upload);
  if (there === null) throw error;
  return outcomeOf(there, upload);
}

/** For endpoints that check nothing themselves: what they stored under our name is not what we sent. */
async function removeDamaged(session: S3Session, upload: Upload): Promise<S3Error> {
  const { key, signal } = upload.question;
  const { bucket } = session.settings;
  if (isOurs(await headObject(session, key, signal), upload)) {
    await session.ask({ verb: 'delete', key, signal }, ({ sdk, client, options }) =>
      client.send(new sdk.DeleteObjectCommand({ Bucket: bucket, Key: key }), options),
    );
  }
  return new S3Error('damaged-in-flight', `can't store ${formatS3Url(bucket, key)}: it was damaged on its way`, {
    hint: 'something between us and the endpoint changes data: a proxy, a network card, memory',
    status: 200,
  });
}
