import { headObject, isAbsent } from './get-object.ts';
import { sendObject, TRIES, uploadOf, type PutOptions } from './put-object.ts';
import { isOutcomeUnknown, S3Error } from './s3-failure.ts';
import { backOff, type Question, type S3Session } from './s3-session.ts';
import { isConflict, isOurs, lookQuickly, notStored, objectOptions, type Upload } from './upload.ts';
import { formatS3Url } from './wal-object-key.ts';

export type ReplaceOutcome = 'replaced' | 'changed';

/**
 * Puts an object in the place of the one of this ETag, in one step: one
 * PutObject with If-Match, never in parts, whose last step may ignore the
 * condition. Only where a probe has seen that the endpoint enforces it.
 *
 * @throws S3Error when neither is certain; one of the two objects is there, whole
 */
export async function replaceObject(
  session: S3Session,
  key: string,
  etag: string,
  body: Uint8Array,
  options: PutOptions,
): Promise<ReplaceOutcome> {
  const spelling = session.capabilities?.ifMatch ?? 'none';
  if (spelling === 'none') throw new Error('nothing is replaced without a condition');
  const upload = await uploadOf(key, body, options);
  for (let attempt = 1; ; attempt++) {
    try {
      const sent = await sendObject(session, upload, { IfMatch: spellEtag(etag, spelling) });
      if (sent.damaged) throw damagedOnItsWay(session, upload);
      if (sent.etag !== null || isOurs(await headObject(session, key, options.signal), upload)) return 'replaced';
      throw notStored(session, upload);
    } catch (error) {
      const known = await outcomeAfter(session, upload, error);
      if (known !== null) return known;
      if (attempt >= TRIES) throw error;
    }
    await backOff(session, upload.question, attempt);
  }
}

/** An ETag as `If-Match` has to name it. */
export function spellEtag(etag: string, spelling: 'quoted' | 'bare'): string {
  return spelling === 'quoted' ? `"${etag}"` : etag;
}

/** Null to try again; throws the error when it stands. */
async function outcomeAfter(session: S3Session, upload: Upload, error: unknown): Promise<ReplaceOutcome | null> {
  if (!(error instanceof S3Error)) throw error;
  const { key, signal } = upload.question;
  if (error.status === 412 || isAbsent(error)) {
    // Perhaps by ourselves: the answer to an earlier attempt was lost.
    return isOurs(await headObject(session, key, signal), upload) ? 'replaced' : 'changed';
  }
  // The endpoint refused what arrived; one that checks nothing may have stored it.
  if (isConflict(error) || (error.failure === 'damaged-in-flight' && error.status !== 200)) return null;
  if (isOutcomeUnknown(error) && isOurs(await lookQuickly(session, upload), upload)) return 'replaced';
  throw error;
}

function damagedOnItsWay({ settings }: S3Session, { question }: Upload): S3Error {
  return new S3Error(
    'damaged-in-flight',
    `can't store ${formatS3Url(settings.bucket, question.key)}: it was damaged on its way`,
    {
      hint: 'something between us and the endpoint changes data: a proxy, a network card, memory; then do this again',
      status: 200,
    },
  );
}

/**
 * Copies an object inside its bucket, with its metadata. False when another one than that of this ETag is there, or
 * none. Not every endpoint enforces that condition: look at the copy.
 *
 * @throws S3Error when it could not be copied
 */
export async function copyObject(
  session: S3Session,
  key: string,
  etag: string,
  target: string,
  signal?: AbortSignal,
): Promise<boolean> {
  const { bucket } = session.settings;
  const question: Question = { verb: 'copy', key, signal };
  const source = [bucket, ...key.split('/')].map(encodeURIComponent).join('/');
  // Metadata come along; all else that an object is stored with does not.
  const { Metadata: _metadata, Tagging: _tagging, ...options } = objectOptions(session, {});
  try {
    await session.ask(question, ({ sdk, client, options: sending }) =>
      client.send(
        new sdk.CopyObjectCommand({
          Bucket: bucket,
          Key: target,
          CopySource: source,
          CopySourceIfMatch: `"${etag}"`,
          ...options,
        }),
        sending,
      ),
    );
  } catch (error) {
    if (error instanceof S3Error && (error.status === 412 || isAbsent(error))) return false;
    throw error;
  }
  return true;
}
