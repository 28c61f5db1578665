import { createHash } from 'node:crypto';
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises';
import { WalwardenError } from '../../errors.ts';
import type { S3Sender } from './s3-client.ts';
import { s3Error, type S3Verb } from './s3-errors.ts';
import type { EffectiveS3Settings, EndpointCapabilities } from './s3-settings.ts';

/** What the operations on a bucket share. */
export interface S3Session {
  readonly settings: EffectiveS3Settings;
  /** Null while nobody has looked: then nothing is relied on. */
  readonly capabilities: EndpointCapabilities | null;
  /** Runs requests; what goes wrong comes out as {@link s3Error}. */
  ask<T>(question: Question, work: (connection: S3Sender) => Promise<T>): Promise<T>;
}

export interface Question {
  readonly verb: S3Verb;
  /** The key, or the prefix of a listing. */
  readonly key: string;
  /** Ends the request now. */
  readonly signal?: AbortSignal | undefined;
}

/** Waits longer after every attempt, and never as long as another process that waits, too. */
export async function backOff(session: S3Session, question: Question, attempt: number): Promise<void> {
  const { signal } = question;
  const ms = Math.min(100 * 2 ** attempt, 5_000) * (0.5 + Math.random() / 2);
  try {
    await delay(ms, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    throw s3Error({ settings: session.settings, ...question }, error, signal);
  }
}

/** In pieces, so that a large object doesn't keep everybody else waiting. */
export async function sha256Of(bytes: Uint8Array): Promise<string> {
  return (await digestOf('sha256', bytes)).toString('hex');
}

export async function md5Of(bytes: Uint8Array): Promise<Buffer> {
  try {
    return await digestOf('md5', bytes);
  } catch (error) {
    throw new WalwardenError('storage', 'this Node.js has no MD5 (FIPS mode), and the endpoint checks nothing better', {
      hint: 'use an endpoint that checks the signed SHA-256 of an upload',
      cause: error,
    });
  }
}

const PIECE = 8 * 1024 * 1024;

async function digestOf(algorithm: string, bytes: Uint8Array): Promise<Buffer> {
  const hash = createHash(algorithm);
  for (let at = 0; at < bytes.length; at += PIECE) {
    if (at > 0) await turn();
    hash.update(bytes.subarray(at, at + PIECE));
  }
  return hash.digest();
}
