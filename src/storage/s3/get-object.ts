import { Readable } from 'node:stream';
import type { GetObjectCommandOutput } from '@aws-sdk/client-s3';
import { WalwardenError } from '../../errors.ts';
import { MAX_SEGMENT_SIZE } from '../../wal/wal-name.ts';
import { endpointName } from './s3-errors.ts';
import { S3Error } from './s3-failure.ts';
import { backOff, md5Of, sha256Of, type Question, type S3Session } from './s3-session.ts';
import { formatS3Url } from './wal-object-key.ts';

/** What an endpoint tells of an object. */
export interface ObjectFacts {
  readonly key: string;
  /** Bytes. */
  readonly size: number;
  /** Without quotes; the MD5 of the bytes only sometimes. */
  readonly etag: string | null;
  /** When it was stored, in milliseconds since the epoch, by the endpoint's clock. */
  readonly modifiedMs: number | null;
  /** User metadata; names in lower case. */
  readonly metadata: Readonly<Record<string, string>>;
}

export interface StoredObject extends ObjectFacts {
  readonly bytes: Buffer;
}

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined;
  /** Bytes; more are not fetched. Twice the largest segment unless said. */
  readonly maxSize?: number;
  /** The bytes that lie there, also when they are not those that were written. */
  readonly evenDamaged?: boolean;
}

/** SHA-256 of an object's own bytes, which every object that we store has in its metadata. */
export const STORED_SHA256 = 'walwarden-stored-sha256';
/** Their number: metadata that stayed when the bytes did not is found out by it, without a download. */
export const STORED_SIZE = 'walwarden-stored-size';

/** What its metadata says of an object's bytes may be believed: it was written with them, and they are as many. */
export function isAsWritten({ metadata, size }: ObjectFacts): boolean {
  return metadata[STORED_SHA256] !== undefined && metadata[STORED_SIZE] === String(size);
}

/**
 * What the endpoint knows of an object; null only when it is certainly absent.
 *
 * @throws S3Error when that can't be told: no bucket, no permission, no answer
 */
export async function headObject(session: S3Session, key: string, signal?: AbortSignal): Promise<ObjectFacts | null> {
  const question: Question = { verb: 'look at', key, signal };
  const Bucket = session.settings.bucket;
  try {
    const output = await session.ask(question, ({ sdk, client, options }) =>
      client.send(new sdk.HeadObjectCommand({ Bucket, Key: key }), options),
    );
    mustBeS3(session, question, output);
    return factsFrom(key, output.ContentLength ?? 0, output);
  } catch (error) {
    if (!(error instanceof S3Error) || error.status === null || error.status >= 500) throw error;
  }
  // The answer to a HEAD has no body, so 404 may mean the key or the bucket, and 403 anything. A GET says it.
  try {
    return await session.ask(question, async ({ sdk, client, options }) => {
      const command = new sdk.GetObjectCommand({ Bucket, Key: key, Range: 'bytes=0-0' });
      const output = await client.send(command, options);
      if (output.Body instanceof Readable) output.Body.destroy();
      mustBeS3(session, question, output);
      const total = /\/(\d+)$/.exec(output.ContentRange ?? '')?.[1];
      return factsFrom(key, Number(total ?? output.ContentLength ?? 0), output);
    });
  } catch (error) {
    if (isAbsent(error)) return null;
    throw error;
  }
}

/**
 * A whole object; null only when it is certainly absent. The bytes are those
 * that were stored: checked against our SHA-256 in the metadata, else against
 * an ETag that is an MD5. What breaks or is damaged on its way is fetched again.
 *
 * @throws S3Error when it can't be fetched; WalwardenError `damaged` when the
 * stored bytes are not those that were written
 */
export async function getObject(
  session: S3Session,
  key: string,
  { signal, maxSize = 2 * MAX_SEGMENT_SIZE, evenDamaged = false }: ReadOptions = {},
): Promise<StoredObject | null> {
  const question: Question = { verb: 'read', key, signal };
  let seenBefore: string | null = null;
  for (let attempt = 1; ; attempt++) {
    const last = attempt >= session.settings.maxAttempts;
    try {
      const object = await fetchObject(session, question, maxSize);
      const doubt = await doubtOf(object);
      if (doubt === null) return object;
      // The same bytes twice: they were not damaged on the way.
      if (doubt.found === seenBefore) {
        if (doubt.by === 'etag' || evenDamaged) return object;
        throw new WalwardenError(
          'damaged',
          `${formatS3Url(session.settings.bucket, key)} is damaged: its bytes have SHA-256 ${doubt.found}, expected ${doubt.expected}`,
        );
      }
      seenBefore = doubt.found;
      if (last) throw damagedOnItsWay(session, key);
    } catch (error) {
      if (isAbsent(error)) return null;
      if (last || !isBroken(error)) throw error;
    }
    await backOff(session, question, attempt);
  }
}

/** The only answer that means "certainly not there": of the key itself, not of its bucket, and not of a web server. */
export function isAbsent(error: unknown): boolean {
  return error instanceof S3Error && error.status === 404 && error.s3Code === 'NoSuchKey';
}

/** Raised while the body was read, which the SDK does not try again. */
class BrokenDownload extends Error {}

function isBroken(error: unknown): boolean {
  return error instanceof S3Error && error.cause instanceof BrokenDownload;
}

async function fetchObject(session: S3Session, question: Question, maxSize: number): Promise<StoredObject> {
  const { key } = question;
  const { bucket } = session.settings;
  let broken: unknown = null;
  try {
    return await session.ask(question, async ({ sdk, client, options }) => {
      const output = await client.send(new sdk.GetObjectCommand({ Bucket: bucket, Key: key }), options);
      if (!(output.Body instanceof Readable)) throw new Error('the answer has no body');
      if (output.ETag === undefined) output.Body.destroy();
      mustBeS3(session, question, output);
      const size = output.ContentLength ?? null;
      if (size !== null && size > maxSize) {
        output.Body.destroy();
        throw tooLarge(bucket, key, size);
      }
      try {
        const bytes = await collect(output.Body, size, maxSize, () => tooLarge(bucket, key, maxSize));
        return { ...factsFrom(key, bytes.length, output), bytes };
      } catch (error) {
        if (!(error instanceof WalwardenError)) broken = error;
        throw error;
      }
    });
  } catch (error) {
    if (broken === null || !(error instanceof S3Error)) throw error;
    const { failure, message, hint } = error;
    throw new S3Error(failure === 'other' ? 'damaged-in-flight' : failure, message, {
      ...(hint === undefined ? {} : { hint }),
      cause: new BrokenDownload(message),
    });
  }
}

async function collect(
  body: Readable,
  size: number | null,
  maxSize: number,
  onTooLarge: () => WalwardenError,
): Promise<Buffer> {
  if (size === null) return collectUnsized(body, maxSize, onTooLarge);
  const bytes = Buffer.allocUnsafeSlow(size);
  let at = 0;
  for await (const chunk of body) {
    if (!(chunk instanceof Uint8Array) || at + chunk.length > size) throw new Error('more bytes than were announced');
    bytes.set(chunk, at);
    at += chunk.length;
  }
  if (at < size) throw Object.assign(new Error(`${at} of ${size} bytes`), { code: 'ECONNRESET' });
  return bytes;
}

async function collectUnsized(body: Readable, maxSize: number, onTooLarge: () => WalwardenError): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of body) {
    if (!(chunk instanceof Uint8Array)) throw new Error('the body is no bytes');
    length += chunk.length;
    if (length > maxSize) throw onTooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, length);
}

/** S3 gives every object an ETag. Whatever says 200 without it (a login page, a proxy) has not got our object. */
function mustBeS3(session: S3Session, question: Question, { ETag }: Output): void {
  if (ETag === undefined) throw notS3(session, question);
}

export function notS3({ settings }: S3Session, { verb, key }: Question): S3Error {
  return new S3Error(
    'not-s3',
    `can't ${verb} ${formatS3Url(settings.bucket, key)}: what answers at ${endpointName(settings)} is not S3`,
    { hint: 'correct aws_endpoint_url: a proxy, a login page or a web server answers there', status: 200 },
  );
}

function tooLarge(bucket: string, key: string, size: number): WalwardenError {
  return new WalwardenError('damaged', `${formatS3Url(bucket, key)} has ${size} bytes or more, and no WAL file has`);
}

/** What speaks against the bytes, and how sure that is; null for nothing. */
interface Doubt {
  readonly by: 'sha256' | 'etag';
  readonly expected: string;
  readonly found: string;
}

async function doubtOf(object: StoredObject): Promise<Doubt | null> {
  const expected = object.metadata[STORED_SHA256];
  if (expected !== undefined && /^[0-9a-f]{64}$/.test(expected)) {
    const found = await sha256Of(object.bytes);
    return found === expected ? null : { by: 'sha256', expected, found };
  }
  // With parts it has a dash; encrypted with KMS, and on some endpoints always, it only looks like an MD5.
  if (object.etag === null || !/^[0-9a-f]{32}$/.test(object.etag)) return null;
  const found = (await md5Of(object.bytes)).toString('hex');
  return found === object.etag ? null : { by: 'etag', expected: object.etag, found };
}

function damagedOnItsWay({ settings }: S3Session, key: string): S3Error {
  return new S3Error(
    'damaged-in-flight',
    `can't read ${formatS3Url(settings.bucket, key)}: it arrives damaged, and never twice the same`,
    {
      hint: 'something between us and the endpoint changes data: a proxy, a network card, memory',
    },
  );
}

type Output = Pick<GetObjectCommandOutput, 'ETag' | 'LastModified' | 'Metadata'>;

function factsFrom(key: string, size: number, output: Output): ObjectFacts {
  const metadata = Object.entries(output.Metadata ?? {}).map(([name, value]) => [name.toLowerCase(), value] as const);
  return {
    key,
    size,
    etag: plainEtag(output.ETag),
    modifiedMs: output.LastModified?.getTime() ?? null,
    metadata: Object.fromEntries(metadata),
  };
}

export function plainEtag(etag: string | undefined): string | null {
  const plain = (etag ?? '').replaceAll('"', '');
  return plain === '' ? null : plain;
}
