import { randomUUID } from 'node:crypto';
import type { PutObjectCommand, PutObjectCommandInput } from '@aws-sdk/client-s3';
import { hasBody } from './s3-client.ts';
import { headObject, isAbsent, notS3 } from './get-object.ts';
import { spellEtag } from './replace-object.ts';
import { S3Error } from './s3-failure.ts';
import type { EndpointCapabilities } from './s3-settings.ts';
import type { Question, S3Session } from './s3-session.ts';
import { isConflict, objectOptions } from './upload.ts';

export interface ProbeResult extends EndpointCapabilities {
  /** The probe's object, where the credentials may not delete it; the next probe uses it again. */
  readonly leftover: string | null;
}

const TEXT = Buffer.from(
  'walwarden looked here whether the endpoint honours If-None-Match and If-Match. This may be deleted.\n',
);
const OTHER_TEXT = Buffer.from(TEXT.toString().toUpperCase());

type Answer = 'stored' | 'exists' | 'refused' | 'busy';

/**
 * Finds out what an endpoint does by doing it, on an object of our own. One
 * key for all probes: where nothing may be deleted, one small object stays, not one
 * for every start.
 *
 * @throws S3Error when it can't be told: no bucket, no permission, no answer
 */
export async function probeEndpoint(session: S3Session, key: string, signal?: AbortSignal): Promise<ProbeResult> {
  const probe = new Probe(session, signal);
  try {
    return { ...(await probe.run(key)), leftover: await probe.tidyUp() };
  } catch (error) {
    await probe.tidyUp().catch(() => undefined);
    throw error;
  }
}

class Probe {
  readonly #session: S3Session;
  readonly #signal: AbortSignal | undefined;
  readonly #made = new Set<string>();

  constructor(session: S3Session, signal: AbortSignal | undefined) {
    this.#session = session;
    this.#signal = signal;
  }

  async run(key: string): Promise<EndpointCapabilities> {
    // Another probe may have deleted the object between our two requests: a "no" is asked again where nobody else is.
    const conditionalWrites =
      (await this.#honoursCondition(key)) || (await this.#honoursCondition(`${key}-${randomUUID()}`));
    let ifMatch = await this.#honouredMatch(key);
    if (ifMatch === 'none') ifMatch = await this.#honouredMatch(`${key}-${randomUUID()}`);
    return { conditionalWrites, ifMatch, integrity: await this.#integrity(key) };
  }

  /** Deletes what was made; returns what had to stay. */
  async tidyUp(): Promise<string | null> {
    let leftover: string | null = null;
    for (const key of this.#made) {
      try {
        await this.#session.ask({ verb: 'delete', key, signal: this.#signal }, ({ sdk, client, options }) =>
          client.send(new sdk.DeleteObjectCommand({ Bucket: this.#session.settings.bucket, Key: key }), options),
        );
      } catch (error) {
        if (!(error instanceof S3Error) || error.failure !== 'denied') throw error;
        leftover ??= key;
      }
    }
    return leftover;
  }

  async #honoursCondition(key: string): Promise<boolean> {
    const first = await this.#put(key, { IfNoneMatch: '*' });
    if (first !== 'stored') return first === 'exists';
    return (await this.#put(key, { IfNoneMatch: '*' })) === 'exists';
  }

  /** Replaces what it names, and nothing else. */
  async #honouredMatch(key: string): Promise<EndpointCapabilities['ifMatch']> {
    // So that there is one, whoever put it there.
    await this.#put(key, { IfNoneMatch: '*' });
    for (const spelling of ['quoted', 'bare'] as const) {
      const there = await headObject(this.#session, key, this.#signal);
      if (there === null || there.etag === null) return 'none';
      const other = spellEtag('0'.repeat(there.etag.length), spelling);
      if ((await this.#put(key, { IfMatch: other })) !== 'exists') return 'none';
      if ((await this.#put(key, { IfMatch: spellEtag(there.etag, spelling) })) === 'stored') return spelling;
    }
    return 'none';
  }

  async #integrity(key: string): Promise<EndpointCapabilities['integrity']> {
    if ((await this.#put(key, {}, replaceBody)) === 'refused') return 'payload-hash';
    const md5 = '1B2M2Y8AsgTpgAmY7PhCfg=='; // of no bytes at all
    return (await this.#put(key, { ContentMD5: md5 })) === 'refused' ? 'content-md5' : 'none';
  }

  async #put(
    key: string,
    extra: Partial<PutObjectCommandInput>,
    spoil?: (command: PutObjectCommand) => void,
  ): Promise<Answer> {
    const question: Question = { verb: 'store', key, signal: this.#signal };
    try {
      const { ETag } = await this.#session.ask(question, ({ sdk, client, options }) => {
        const command = new sdk.PutObjectCommand({
          Bucket: this.#session.settings.bucket,
          Key: key,
          Body: TEXT,
          ...objectOptions(this.#session, {}),
          ...extra,
        });
        spoil?.(command);
        return client.send(command, options);
      });
      // A login page says 200 to everything, and would be remembered as an endpoint that can do nothing.
      if (ETag === undefined) throw notS3(this.#session, question);
      // What is replaced was there before.
      if (extra.IfMatch === undefined) this.#made.add(key);
      return 'stored';
    } catch (error) {
      if (!(error instanceof S3Error) || error.status === null) throw error;
      if (error.status === 412) return 'exists';
      // Of a condition on an object that another probe has just deleted.
      if (extra.IfMatch !== undefined && isAbsent(error)) return 'busy';
      // Somebody else is at this very key, which says nothing of the condition.
      if (isConflict(error)) return 'busy';
      const isCondition = extra.IfNoneMatch !== undefined || extra.IfMatch !== undefined;
      const asked = isCondition ? isNotImplemented(error) : isDigestRefused(error);
      if (!asked) throw error;
      return 'refused';
    }
  }
}

/** The endpoint says that it doesn't know the condition. */
function isNotImplemented({ status, s3Code }: S3Error): boolean {
  return status === 501 || s3Code === 'NotImplemented';
}

/** Refused for its digest: only asked after the same request went through with the right one. */
function isDigestRefused({ failure, s3Code, status }: S3Error): boolean {
  return (
    failure === 'damaged-in-flight' ||
    s3Code === 'InvalidDigest' ||
    s3Code === 'SignatureDoesNotMatch' ||
    // Not that the credentials have just expired, which is 400, too.
    (status === 400 && (failure === 'refused' || failure === 'not-s3'))
  );
}

/** After signing: what arrives is then not what was signed. */
function replaceBody(command: PutObjectCommand): void {
  command.middlewareStack.add(
    (next) => (args) => {
      if (hasBody(args.request)) args.request.body = OTHER_TEXT;
      return next(args);
    },
    { step: 'deserialize', priority: 'low', name: 'walwardenSpoiledBody' },
  );
}
