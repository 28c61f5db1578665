import pLimit from 'p-limit';
import { headObject, type ObjectFacts } from './get-object.ts';
import {
  isConflict,
  lookQuickly,
  notStored,
  objectOptions,
  outcomeOf,
  type PutOutcome,
  type Upload,
} from './upload.ts';
import { S3Error } from './s3-failure.ts';
import { backOff, md5Of, type S3Session } from './s3-session.ts';

/** Parts of one object at a time: several objects are uploaded in parallel already. */
const PARTS_AT_A_TIME = 2;
const MAX_PARTS = 10_000;
const TRIES = 3;

/** So long may a program that is stopped still take to take its parts back: what it leaves costs money, and nobody sees it. */
const ABORT_MS = 3_000;

interface Part {
  readonly PartNumber: number;
  readonly ETag: string | undefined;
}

/**
 * Stores an object in parts, after a look that found none. Endpoints that don't
 * honour the condition of the last step (Ceph 16 doesn't) leave a gap between
 * a look and it: it is looked right before that step, and again afterwards.
 */
export async function putInParts(session: S3Session, upload: Upload): Promise<PutOutcome> {
  for (let attempt = 1; ; attempt++) {
    const outcome = await tryInParts(session, upload);
    if (!(outcome instanceof S3Error)) return outcome;
    if (attempt >= TRIES) throw outcome;
    await backOff(session, upload.question, attempt);
  }
}

/** An error that is returned is worth another try; nothing lies there. */
async function tryInParts(session: S3Session, upload: Upload): Promise<PutOutcome | S3Error> {
  const { question } = upload;
  const uploadId = await createUpload(session, upload);
  let parts: Part[];
  let meanwhile: ObjectFacts | null;
  try {
    parts = await sendParts(session, upload, uploadId);
    meanwhile = await headObject(session, question.key, question.signal);
  } catch (error) {
    await abortUpload(session, upload, uploadId);
    throw error;
  }
  // The parts took their time. Whoever was quicker must not be overwritten, which the condition doesn't forbid everywhere.
  if (meanwhile !== null) {
    await abortUpload(session, upload, uploadId);
    return outcomeOf(meanwhile, upload);
  }
  try {
    await completeUpload(session, upload, uploadId, parts);
  } catch (error) {
    // The completion may have been done all the same: its answer was lost, and its repetition finds no such upload.
    const there = await lookQuickly(session, upload);
    if (there !== null && outcomeOf(there, upload).outcome === 'stored') return { outcome: 'stored' };
    await abortUpload(session, upload, uploadId);
    if (there !== null) return { outcome: 'exists', object: there };
    if (error instanceof S3Error && (isConflict(error) || error.status === 412)) return error;
    throw error;
  }
  const there = await headObject(session, question.key, question.signal);
  if (there === null) throw notStored(session, upload);
  return outcomeOf(there, upload);
}

async function createUpload(session: S3Session, upload: Upload): Promise<string> {
  const { question } = upload;
  return session.ask(question, async ({ sdk, client, options }) => {
    const command = new sdk.CreateMultipartUploadCommand({
      Bucket: session.settings.bucket,
      Key: question.key,
      ...objectOptions(session, upload.metadata),
    });
    const { UploadId } = await client.send(command, options);
    if (UploadId === undefined) throw new Error('the endpoint gives the upload no id');
    return UploadId;
  });
}

async function sendParts(session: S3Session, upload: Upload, uploadId: string): Promise<Part[]> {
  const { body, question } = upload;
  const size = Math.max(session.settings.partSize, Math.ceil(body.length / MAX_PARTS));
  const failed = new AbortController();
  const signal = question.signal === undefined ? failed.signal : AbortSignal.any([question.signal, failed.signal]);
  const limit = pLimit(PARTS_AT_A_TIME);
  const sending = Array.from({ length: Math.ceil(body.length / size) }, (_, index) =>
    limit(() => {
      const part = {
        ...upload,
        question: { ...question, signal },
        body: body.subarray(index * size, (index + 1) * size),
      };
      return sendPart(session, part, uploadId, index + 1);
    }),
  );
  try {
    return await Promise.all(sending);
  } catch (error) {
    // The first that fails ends the others; none may still be on its way when the upload is taken back.
    failed.abort();
    await Promise.allSettled(sending);
    throw error;
  }
}

async function sendPart(session: S3Session, part: Upload, uploadId: string, number: number): Promise<Part> {
  const { settings, capabilities } = session;
  const { question, body } = part;
  const md5 = (capabilities?.integrity ?? 'payload-hash') === 'payload-hash' ? null : await md5Of(body);
  return session.ask(question, async ({ sdk, client, options }) => {
    const command = new sdk.UploadPartCommand({
      Bucket: settings.bucket,
      Key: question.key,
      UploadId: uploadId,
      PartNumber: number,
      Body: body,
      ...(md5 === null ? {} : { ContentMD5: md5.toString('base64') }),
    });
    const { ETag } = await client.send(command, options);
    return { PartNumber: number, ETag };
  });
}

async function completeUpload(session: S3Session, upload: Upload, uploadId: string, parts: Part[]): Promise<void> {
  const { settings, capabilities } = session;
  const { question } = upload;
  await session.ask(question, ({ sdk, client, options }) => {
    const command = new sdk.CompleteMultipartUploadCommand({
      Bucket: settings.bucket,
      Key: question.key,
      UploadId: uploadId,
      MultipartUpload: { Parts: parts },
      ...(capabilities?.conditionalWrites === false ? {} : { IfNoneMatch: '*' }),
    });
    return client.send(command, options);
  });
}

/** Best effort: a lifecycle rule of the bucket should remove what stays (AbortIncompleteMultipartUpload). */
async function abortUpload(session: S3Session, { question }: Upload, uploadId: string): Promise<void> {
  const signal = AbortSignal.timeout(ABORT_MS);
  try {
    await session.ask({ ...question, signal }, ({ sdk, client, options }) => {
      const target = { Bucket: session.settings.bucket, Key: question.key };
      const command = new sdk.AbortMultipartUploadCommand({ ...target, UploadId: uploadId });
      return client.send(command, options);
    });
  } catch {
    // The error that brought us here is the one to tell.
  }
}
