import { setMaxListeners } from 'node:events';
import { BandwidthLimit } from './bandwidth-limit.ts';
import { deleteObjects, type DeleteResult } from './delete-objects.ts';
import { getObject, headObject, type ObjectFacts, type ReadOptions, type StoredObject } from './get-object.ts';
import { listObjects, type ListedObject, type ListOptions } from './list-objects.ts';
import { probeEndpoint, type ProbeResult } from './probe-endpoint.ts';
import { putIfAbsent, type PutOptions } from './put-object.ts';
import { copyObject, replaceObject, type ReplaceOutcome } from './replace-object.ts';
import { createAgents, createS3Client, type Agents, type S3Connection, type S3Sender } from './s3-client.ts';
import { s3Error } from './s3-errors.ts';
import { S3Error } from './s3-failure.ts';
import type { Question, S3Session } from './s3-session.ts';
import type { PutOutcome } from './upload.ts';
import { withDefaults, type EffectiveS3Settings, type EndpointCapabilities, type S3Settings } from './s3-settings.ts';

/**
 * A bucket: whole objects, which are never overwritten. Outcomes that are
 * expected are values; whatever leaves a doubt is thrown, so null and
 * `stored` can be relied on. Nothing is loaded or connected before the first
 * request. Every method takes a signal that ends it now (`aborted`).
 */
export class ObjectStore implements S3Session, AsyncDisposable {
  readonly settings: EffectiveS3Settings;
  readonly #limit: BandwidthLimit | null;
  #capabilities: EndpointCapabilities | null;
  #agents: Promise<Agents> | null = null;
  #connection: Promise<S3Connection> | null = null;

  /** `capabilities`: what a probe of this endpoint once found out. Without it nothing is relied on. */
  constructor(settings: S3Settings, capabilities: EndpointCapabilities | null = null) {
    this.settings = withDefaults(settings);
    this.#limit = settings.bandwidthLimit === undefined ? null : new BandwidthLimit(settings.bandwidthLimit);
    this.#capabilities = capabilities;
  }

  get capabilities(): EndpointCapabilities | null {
    return this.#capabilities;
  }

  /** Null only when the object is certainly absent. */
  head(key: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<ObjectFacts | null> {
    return headObject(this, key, options.signal);
  }

  /** The bytes as they were stored; null only when the object is certainly absent. */
  get(key: string, options: ReadOptions = {}): Promise<StoredObject | null> {
    return getObject(this, key, options);
  }

  /** `stored` once it is there for good; `exists` when something is, under this key, that this call did not store. */
  putIfAbsent(key: string, body: Uint8Array, options: PutOptions = {}): Promise<PutOutcome> {
    return putIfAbsent(this, key, body, options);
  }

  /** `replaced` once the new object is there for good; `changed` when another object than the one of this ETag is there, or none. */
  replaceObject(key: string, etag: string, body: Uint8Array, options: PutOptions = {}): Promise<ReplaceOutcome> {
    return replaceObject(this, key, etag, body, options);
  }

  /** Copies an object of this ETag inside the bucket; false when another one is there, or none. */
  copyObject(
    key: string,
    etag: string,
    target: string,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<boolean> {
    return copyObject(this, key, etag, target, options.signal);
  }

  /** In the order of the keys' bytes, page by page. */
  list(prefix: string, options: ListOptions = {}): AsyncGenerator<ListedObject> {
    return listObjects(this, prefix, options);
  }

  /** One result a key, in their order. */
  deleteObjects(
    keys: readonly string[],
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<DeleteResult> {
    return deleteObjects(this, keys, options.signal);
  }

  /** Throws when the bucket can't be listed: then nothing in it can be called absent. */
  async checkThere(prefix: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    await this.list(prefix, { ...options, pageSize: 1 }).next();
  }

  /** Loads the SDK, while something else is done. What goes wrong is said to whoever asks something. */
  warmUp(): void {
    this.#connect().catch(() => {});
  }

  /** Relies on what a probe of this endpoint once found out. */
  rely(capabilities: EndpointCapabilities): void {
    this.#capabilities = capabilities;
  }

  /** Finds out what the endpoint can do, with an object under this key, and relies on it from now on. */
  async probe(key: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<ProbeResult> {
    const result = await probeEndpoint(this, key, options.signal);
    const { leftover: _leftover, ...capabilities } = result;
    this.#capabilities = capabilities;
    return result;
  }

  async ask<T>(question: Question, work: (sender: S3Sender) => Promise<T>): Promise<T> {
    const { signal } = question;
    let connection: Promise<S3Connection> | null = null;
    try {
      signal?.throwIfAborted();
      // One signal ends many requests; Node would take that for a leak.
      if (signal !== undefined) setMaxListeners(0, signal);
      connection = this.#connect();
      return await work({ ...(await connection), options: signal === undefined ? {} : { abortSignal: signal } });
    } catch (error) {
      const explained = s3Error({ settings: this.settings, ...question }, error, signal);
      if (explained instanceof S3Error && isAboutCredentials(explained)) this.#forget(connection);
      throw explained;
    }
  }

  /** Closes the connections. Requests under way fail. */
  async close(): Promise<void> {
    const [connection, agents] = [this.#connection, this.#agents];
    this.#connection = null;
    this.#agents = null;
    if (connection !== null) {
      const { client } = await connection;
      client.destroy();
    }
    if (agents !== null) {
      const { httpAgent, httpsAgent } = await agents;
      httpAgent.destroy();
      httpsAgent.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #connect(): Promise<S3Connection> {
    if (this.#connection === null) {
      const connection = this.#create();
      this.#connection = connection;
      // What can't be made now may be made later.
      connection.catch(() => this.#forget(connection));
    }
    return this.#connection;
  }

  async #create(): Promise<S3Connection> {
    this.#agents ??= createAgents();
    return createS3Client(this.settings, await this.#agents, this.#limit);
  }

  /** The next request takes a new client, which asks the chain anew: keys may have been renewed meanwhile. */
  #forget(connection: Promise<S3Connection> | null): void {
    if (this.#connection === connection) this.#connection = null;
  }
}

function isAboutCredentials({ failure }: S3Error): boolean {
  return failure === 'no-credentials' || failure === 'wrong-credentials' || failure === 'expired-credentials';
}
