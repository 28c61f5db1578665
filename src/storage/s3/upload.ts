import type { StorageClass } from '@aws-sdk/client-s3';
import { headObject, type ObjectFacts } from './get-object.ts';
import { S3Error } from './s3-failure.ts';
import type { Question, S3Session } from './s3-session.ts';
import { formatS3Url } from './wal-object-key.ts';

/** What became of a put: ours is there, or something was there before, ours or not. */
export type PutOutcome = { readonly outcome: 'stored' } | { readonly outcome: 'exists'; readonly object: ObjectFacts };

/** Something to store, and how to recognise it afterwards. */
export interface Upload {
  readonly question: Question;
  readonly body: Uint8Array;
  readonly sha256: string;
  readonly metadata: Readonly<Record<string, string>>;
  /** In the metadata of what this very call stored: an answer may be lost, and the request sent again. */
  readonly id: string;
}

/** The name of {@link Upload.id} in the metadata. */
export const UPLOAD_ID = 'walwarden-upload';

/** An endpoint that doesn't answer is not asked for long whether it has what it was sent. */
const LOOK_MS = 10_000;

/** What lies there after a request that went wrong; null also when that can't be told now. */
export async function lookQuickly(session: S3Session, { question }: Upload): Promise<ObjectFacts | null> {
  const soon = AbortSignal.timeout(LOOK_MS);
  const signal = question.signal === undefined ? soon : AbortSignal.any([question.signal, soon]);
  try {
    return await headObject(session, question.key, signal);
  } catch {
    return null; // the first error is the one to tell
  }
}

export function outcomeOf(there: ObjectFacts, upload: Upload): PutOutcome {
  return isOurs(there, upload) ? { outcome: 'stored' } : { outcome: 'exists', object: there };
}

export function isOurs(there: ObjectFacts | null, { body, id }: Upload): boolean {
  return there !== null && there.metadata[UPLOAD_ID] === id && there.size === body.length;
}

export function isConflict({ s3Code }: S3Error): boolean {
  return s3Code === 'ConditionalRequestConflict' || s3Code === 'OperationAborted';
}

export function notStored({ settings }: S3Session, { question }: Upload): S3Error {
  return new S3Error(
    'not-s3',
    `can't store ${formatS3Url(settings.bucket, question.key)}: it is not there after it was stored`,
    {
      hint: 'does a proxy or a web server answer at aws_endpoint_url, or does something delete objects there?',
      status: 200,
    },
  );
}

/** What PutObject and CreateMultipartUpload both take. */
export function objectOptions({ settings }: S3Session, metadata: Readonly<Record<string, string>>) {
  const tags = Object.entries(settings.tags ?? {});
  const encode = ([name, value]: [string, string]): string =>
    `${encodeURIComponent(name)}=${encodeURIComponent(value)}`;
  return {
    Metadata: { ...metadata },
    ...(settings.serverSideEncryption === undefined ? {} : { ServerSideEncryption: settings.serverSideEncryption }),
    ...(isStorageClass(settings.storageClass) ? { StorageClass: settings.storageClass } : {}),
    ...(settings.kmsKeyId === undefined ? {} : { SSEKMSKeyId: settings.kmsKeyId }),
    ...(tags.length === 0 ? {} : { Tagging: tags.map(encode).join('&') }),
  };
}

/** Any: services have classes that the SDK has never heard of. */
function isStorageClass(name: string | undefined): name is StorageClass {
  return name !== undefined;
}
