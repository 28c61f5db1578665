import { randomUUID } from 'node:crypto';
import { readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fsyncDirectory, unlinkIfThere, writeNewFile } from '../../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../../errors.ts';
import type { EffectiveS3Settings, EndpointCapabilities } from './s3-settings.ts';

/** What answers at an address may be another thing tomorrow, and what it can do decides what may be overwritten. */
const VALID_MS = 24 * 3600 * 1000;

/**
 * What a probe found out about an endpoint and a bucket, in a small file: the
 * next process need not ask again. It holds nothing that can't be found out anew.
 */
export class RememberedEndpoint {
  readonly #path: string;
  readonly #key: string;

  constructor(path: string, { endpoint, region, bucket }: EffectiveS3Settings) {
    this.#path = path;
    // The SDK takes these variables, too.
    const { AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL } = process.env;
    this.#key = [endpoint ?? AWS_ENDPOINT_URL_S3 ?? AWS_ENDPOINT_URL ?? 'AWS', region ?? '', bucket].join(' ');
  }

  /** Null when nothing is remembered of this endpoint, or nothing that is recent or can be understood. */
  async read(now = Date.now()): Promise<EndpointCapabilities | null> {
    let text: string;
    try {
      text = await readFile(this.#path, 'utf8');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return null;
      throw new WalwardenError('storage', `can't read ${this.#path}: ${messageOf(error)}`, { cause: error });
    }
    return understand(text, this.#key, now);
  }

  async write(capabilities: EndpointCapabilities, now = Date.now()): Promise<void> {
    const { conditionalWrites, ifMatch, integrity } = capabilities;
    const found = { conditionalWrites, ifMatch, integrity };
    const content = { endpoint: this.#key, probed: new Date(now).toISOString(), ...found };
    const temporary = `${this.#path}.${randomUUID()}.tmp`;
    await writeNewFile(temporary, Buffer.from(`${JSON.stringify(content, null, 2)}\n`), { mode: 0o600 });
    try {
      await rename(temporary, this.#path);
    } catch (error) {
      await unlinkIfThere(temporary);
      throw error;
    }
    await fsyncDirectory(dirname(this.#path));
  }
}

function understand(text: string, key: string, now: number): EndpointCapabilities | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null; // torn, or edited
  }
  if (typeof value !== 'object' || value === null) return null;
  const endpoint: unknown = Reflect.get(value, 'endpoint');
  const conditionalWrites: unknown = Reflect.get(value, 'conditionalWrites');
  const ifMatch: unknown = Reflect.get(value, 'ifMatch');
  const integrity: unknown = Reflect.get(value, 'integrity');
  const probed = Date.parse(String(Reflect.get(value, 'probed')));
  if (endpoint !== key || typeof conditionalWrites !== 'boolean') return null;
  // An older version did not ask.
  if (ifMatch !== 'quoted' && ifMatch !== 'bare' && ifMatch !== 'none') return null;
  if (integrity !== 'payload-hash' && integrity !== 'content-md5' && integrity !== 'none') return null;
  // One of the future comes of a clock that was set back.
  return probed <= now && now - probed < VALID_MS ? { conditionalWrites, ifMatch, integrity } : null;
}
