import { createHash } from 'node:crypto';
import type { WalwardenError } from '../../errors.ts';
import { s3Error } from './s3-errors.ts';
import { isS3Failure, S3Error } from './s3-failure.ts';
import { backOff, type Question, type S3Session } from './s3-session.ts';

/** What became of one key. A key that was not there counts as deleted. */
export type DeleteResult =
  | { readonly key: string; readonly outcome: 'deleted' }
  | { readonly key: string; readonly outcome: 'failed'; readonly error: WalwardenError };

/** Codes of one key that say "again": S3 may fail a few keys of a batch. */
const PASSING = new Set(['InternalError', 'SlowDown', 'ServiceUnavailable', 'OperationAborted']);

/**
 * Deletes objects, as many in one request as the endpoint takes. Every key of
 * a batch has its result, in order; the next batch is sent when it is asked
 * for.
 *
 * @throws S3Error when a whole request fails; what it was to delete may be there or not
 */
export async function* deleteObjects(
  session: S3Session,
  keys: readonly string[],
  signal?: AbortSignal,
): AsyncGenerator<DeleteResult> {
  const size = session.settings.deleteBatchSize;
  let one = false;
  for (let at = 0; at < keys.length; at += size) {
    const batch = keys.slice(at, at + size);
    if (!one && batch.length > 1) {
      const results = await deleteBatch(session, batch, signal);
      if (results !== null) {
        yield* results;
        continue;
      }
      one = true;
    }
    for (const key of batch) yield await deleteOne(session, key, signal);
  }
}

/** Null when the endpoint has no DeleteObjects. */
async function deleteBatch(
  session: S3Session,
  keys: readonly string[],
  signal: AbortSignal | undefined,
): Promise<DeleteResult[] | null> {
  const results = new Map<string, DeleteResult>();
  let left = keys;
  for (let attempt = 1; ; attempt++) {
    const question: Question = { verb: 'delete', key: left[0] ?? '', signal };
    let answers: readonly DeleteResult[];
    try {
      answers = await sendBatch(session, left, question);
    } catch (error) {
      if (attempt === 1 && isUnknownRequest(error)) return null;
      throw error;
    }
    for (const answer of answers) results.set(answer.key, answer);
    left = left.filter((key) => isPassing(results.get(key)));
    if (left.length === 0 || attempt >= session.settings.maxAttempts) break;
    await backOff(session, question, attempt);
  }
  return keys.map((key) => results.get(key) ?? unanswered(session, key));
}

async function sendBatch(session: S3Session, keys: readonly string[], question: Question): Promise<DeleteResult[]> {
  const { settings } = session;
  const output = await session.ask(question, ({ sdk, client, options }) => {
    const command = new sdk.DeleteObjectsCommand({
      Bucket: settings.bucket,
      // Not quiet: a key is gone when the endpoint says so, not when it says nothing.
      Delete: { Objects: keys.map((Key) => ({ Key })), Quiet: false },
    });
    // The SDK sends a checksum that older services don't know; they insist on this one.
    command.middlewareStack.add(
      (next) => (args) => {
        const md5 = md5OfBody(args.request);
        if (md5 !== null) Object.assign(md5.headers, { 'content-md5': md5.value });
        return next(args);
      },
      { step: 'build', priority: 'low', name: 'walwardenContentMd5' },
    );
    return client.send(command, options);
  });
  const deleted = (output.Deleted ?? []).flatMap(({ Key: key }): DeleteResult[] =>
    key === undefined ? [] : [{ key, outcome: 'deleted' }],
  );
  const failed = (output.Errors ?? []).flatMap(
    ({ Key: key, Code: code = '', Message: message = '' }): DeleteResult[] => {
      if (key === undefined) return [];
      if (code === 'NoSuchKey') return [{ key, outcome: 'deleted' }];
      const error = s3Error(
        { settings, verb: 'delete', key },
        { Code: code, message, $metadata: { httpStatusCode: 200 } },
      );
      return [{ key, outcome: 'failed', error }];
    },
  );
  return [...deleted, ...failed];
}

function md5OfBody(request: unknown): { readonly headers: object; readonly value: string } | null {
  if (typeof request !== 'object' || request === null || !('headers' in request) || !('body' in request)) return null;
  const { headers, body } = request;
  if (typeof headers !== 'object' || headers === null || typeof body !== 'string') return null;
  try {
    return { headers, value: createHash('md5').update(body).digest('base64') };
  } catch {
    return null; // no MD5 (FIPS mode): then the SDK's own checksum has to do
  }
}

async function deleteOne(session: S3Session, key: string, signal: AbortSignal | undefined): Promise<DeleteResult> {
  try {
    await session.ask({ verb: 'delete', key, signal }, ({ sdk, client, options }) =>
      client.send(new sdk.DeleteObjectCommand({ Bucket: session.settings.bucket, Key: key }), options),
    );
    return { key, outcome: 'deleted' };
  } catch (error) {
    if (error instanceof S3Error && error.s3Code === 'NoSuchKey') return { key, outcome: 'deleted' };
    if (!isS3Failure(error, 'denied')) throw error;
    return { key, outcome: 'failed', error };
  }
}

function isUnknownRequest(error: unknown): boolean {
  if (!(error instanceof S3Error)) return false;
  return (
    error.status === 501 ||
    error.status === 405 ||
    error.s3Code === 'NotImplemented' ||
    error.s3Code === 'MethodNotAllowed'
  );
}

function isPassing(result: DeleteResult | undefined): boolean {
  if (result === undefined) return true;
  return result.outcome === 'failed' && result.error instanceof S3Error && PASSING.has(result.error.s3Code);
}

function unanswered({ settings }: S3Session, key: string): DeleteResult {
  const error = s3Error({ settings, verb: 'delete', key }, new Error('the endpoint does not say what became of it'));
  return { key, outcome: 'failed', error };
}
