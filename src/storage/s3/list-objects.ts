import type { ListObjectsV2CommandInput, ListObjectsV2CommandOutput } from '@aws-sdk/client-s3';
import { plainEtag } from './get-object.ts';
import { endpointName } from './s3-errors.ts';
import { S3Error } from './s3-failure.ts';
import type { Question, S3Session } from './s3-session.ts';
import { formatS3Url } from './wal-object-key.ts';

export interface ListedObject {
  readonly key: string;
  /** Bytes. */
  readonly size: number;
  readonly etag: string | null;
  /** When it was stored, in milliseconds since the epoch. */
  readonly modifiedMs: number | null;
}

export interface ListOptions {
  /** Only keys that come after it, byte by byte. */
  readonly startAfter?: string | undefined;
  /** Keys of one answer; the endpoint's limit (1000) when absent. */
  readonly pageSize?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The objects whose keys begin with a prefix, in the order of their keys.
 * Asks for a page when the last one is used up, so whoever stops early pays for
 * no more. Ends only when the endpoint says that this was all.
 */
export async function* listObjects(
  session: S3Session,
  prefix: string,
  { startAfter, pageSize, signal }: ListOptions = {},
): AsyncGenerator<ListedObject> {
  const question: Question = { verb: 'list', key: prefix, signal };
  let from: Pick<ListObjectsV2CommandInput, 'ContinuationToken' | 'StartAfter'> =
    startAfter === undefined ? {} : { StartAfter: startAfter };
  const size = pageSize === undefined ? {} : { MaxKeys: pageSize };
  let first: string | undefined;
  for (;;) {
    const page = await fetchPage(session, question, { ...from, ...size });
    const keys = page.Contents ?? [];
    for (const { Key: key, Size: bytes, ETag: etag, LastModified: modified } of keys) {
      // Not every service knows StartAfter.
      if (key === undefined || !key.startsWith(prefix) || !isAfter(key, startAfter)) continue;
      yield { key, size: bytes ?? 0, etag: plainEtag(etag), modifiedMs: modified?.getTime() ?? null };
    }
    if (page.IsTruncated !== true) return;
    // The same page for ever, or pages without anything: that would never come to an end.
    const [begin, end] = [keys.at(0)?.Key, keys.at(-1)?.Key];
    if (begin === undefined || end === undefined || begin === first) throw stuck(session, prefix, end ?? '');
    first = begin;
    // Some forget to give a token.
    from =
      page.NextContinuationToken === undefined
        ? { StartAfter: end }
        : { ContinuationToken: page.NextContinuationToken };
  }
}

/** In the order of S3: by bytes of UTF-8. */
function isAfter(key: string, startAfter: string | undefined): boolean {
  return startAfter === undefined || Buffer.compare(Buffer.from(key), Buffer.from(startAfter)) > 0;
}

async function fetchPage(
  session: S3Session,
  question: Question,
  position: Partial<ListObjectsV2CommandInput>,
): Promise<ListObjectsV2CommandOutput> {
  const { settings } = session;
  const page = await session.ask(question, ({ sdk, client, options }) => {
    const command = new sdk.ListObjectsV2Command({ Bucket: settings.bucket, Prefix: question.key, ...position });
    return client.send(command, options);
  });
  // S3 repeats the bucket. Without that it is somebody else's XML, or none, and "nothing there" would be a lie.
  if (page.Name === undefined || page.IsTruncated === undefined) {
    throw new S3Error(
      'not-s3',
      `can't list ${formatS3Url(settings.bucket, question.key)}: what answers at ${endpointName(settings)} is not S3`,
      { hint: 'correct aws_endpoint_url: a proxy, a login page or a web server answers there', status: 200 },
    );
  }
  return page;
}

function stuck({ settings }: S3Session, prefix: string, last: string): S3Error {
  return new S3Error(
    'other',
    `can't list ${formatS3Url(settings.bucket, prefix)}: ${endpointName(settings)} says that there is more after ${JSON.stringify(last)}, and does not tell what`,
    { hint: 'ask whoever runs the endpoint', status: 200 },
  );
}
