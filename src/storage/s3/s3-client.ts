import type { S3Client } from '@aws-sdk/client-s3';
import type { Agent as HttpAgent } from 'node:http';
import type { Agent as HttpsAgent } from 'node:https';
import type { BandwidthLimit } from './bandwidth-limit.ts';
import type { EffectiveS3Settings } from './s3-settings.ts';

export type Sdk = typeof import('@aws-sdk/client-s3');

/** A client and the commands that it takes: the SDK is only loaded once there is something to ask. */
export interface S3Connection {
  readonly sdk: Sdk;
  readonly client: S3Client;
}

/** What sends one request. */
export interface S3Sender extends S3Connection {
  /** For `client.send`: the signal of the question. */
  readonly options: { readonly abortSignal?: AbortSignal };
}

/** Connections that stay open between requests, and from one client to the next. */
export interface Agents {
  readonly httpAgent: HttpAgent;
  readonly httpsAgent: HttpsAgent;
}

export async function createAgents(): Promise<Agents> {
  const [http, https] = await Promise.all([import('node:http'), import('node:https')]);
  // No limit of sockets: whoever calls us bounds what runs in parallel, and waiting for a socket would count as a timeout.
  const options = { keepAlive: true, scheduling: 'lifo' } as const;
  return { httpAgent: new http.Agent(options), httpsAgent: new https.Agent(options) };
}

/** Makes a client; sends nothing yet. */
export async function createS3Client(
  settings: EffectiveS3Settings,
  agents: Agents,
  limit: BandwidthLimit | null,
): Promise<S3Connection> {
  // Its advice about versions of Node is for us, not for whoever reads the output of a restore_command.
  process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] ??= 'true';
  const sdk = await import('@aws-sdk/client-s3');
  const checksums = settings.requestChecksum === 'when_supported' ? 'WHEN_SUPPORTED' : 'WHEN_REQUIRED';
  const logger = quietLogger(settings.onWarning);
  const config = {
    ...(settings.profile === undefined ? {} : { profile: settings.profile }),
    ...(settings.endpoint === undefined ? {} : { endpoint: settings.endpoint }),
    ...regionConfig(sdk, settings),
    forcePathStyle: settings.forcePathStyle ?? false,
    // With a wrong region AWS names the right one; others don't.
    followRegionRedirects: settings.endpoint === undefined,
    requestChecksumCalculation: checksums,
    responseChecksumValidation: checksums,
    // Waiting for 100-continue would cost a round trip each, and the SDK would open a connection of its own for every upload.
    expectContinueHeader: false,
    retryMode: 'adaptive',
    maxAttempts: settings.maxAttempts,
    requestHandler: {
      ...agents,
      connectionTimeout: settings.connectTimeoutMs,
      // Without a byte in either direction: a slow upload is none. Not `requestTimeout`, which counts the upload too.
      socketTimeout: settings.readTimeoutMs,
      logger,
    },
    logger,
    // A new client reads rotated keys from the credentials file; handed on to the SDK's provider of profiles.
    ignoreCache: true,
  } as const;
  const client = new sdk.S3Client(config);
  if (limit !== null) limitUploads(client, limit);
  return { sdk, client };
}

function regionConfig(sdk: Sdk, { region, endpoint, profile }: EffectiveS3Settings): object {
  // The first is the SDK's own; boto3, and so Barman, reads the second.
  const known = region ?? process.env['AWS_REGION'] ?? process.env['AWS_DEFAULT_REGION'];
  if (known !== undefined && known !== '') return { region: known };
  if (endpoint === undefined) return {};
  // Most services other than AWS take any region, but a profile may name the one that matters.
  const lookUp = new sdk.S3Client(profile === undefined ? {} : { profile });
  return { region: () => lookUp.config.region().catch(() => 'us-east-1') };
}

/** What the SDK logs of requests is not wanted, and their errors come to us anyway; its warnings are worth a look. */
function quietLogger(onWarning: ((text: string) => void) | undefined) {
  const ignore = (): void => undefined;
  const warn = (...words: unknown[]): void => {
    const text = words.filter((word) => typeof word === 'string').join(' ');
    if (text !== '') onWarning?.(text);
  };
  return { trace: ignore, debug: ignore, info: ignore, warn, error: ignore };
}

/**
 * The body of every attempt passes through the limit. Only between signing
 * and sending: for the steps before, and for the next attempt, it stays what it is.
 */
function limitUploads(client: S3Client, limit: BandwidthLimit): void {
  client.middlewareStack.add(
    (next) => async (args) => {
      const { request } = args;
      if (!hasBody(request)) return next(args);
      const { body } = request;
      const stream = limit.stream(body);
      Object.assign(request, { body: stream });
      try {
        return await next(args);
      } finally {
        Object.assign(request, { body });
        stream.destroy();
      }
    },
    { step: 'deserialize', priority: 'low', name: 'walwardenBandwidthLimit' },
  );
}

export function hasBody(request: unknown): request is { body: Uint8Array } {
  return typeof request === 'object' && request !== null && 'body' in request && request.body instanceof Uint8Array;
}
