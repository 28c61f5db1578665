import { readdir, readFile, rename } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fsyncDirectory, moveUnlessThere, unlinkIfThere, writeNewFile } from '../durable/durable-file.ts';
import { isAlive } from '../durable/lock-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import type { Logger } from '../logging.ts';
import { S3Error } from '../storage/s3/s3-failure.ts';
import { plainBytes, type ReadingKeys } from '../storage/stored-content.ts';
import type { WalStorageStrategy } from '../storage/wal-storage-strategy.ts';
import { decodeLongPageHeader, type LongPageHeader } from '../wal/page-header.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { walKind } from '../wal/wal-name.ts';

/** The cluster that a server's archive belongs to (Barman's identity.json). */
export interface Identity {
  readonly systemid: string;
  /** PostgreSQL's major version, when it was first known; null, as Barman writes it, when the server could not be asked and its WAL doesn't tell. */
  readonly version: string | null;
}

/** Reads identity.json; null when there is none yet. Throws `storage` when it can't be understood. */
export async function readIdentity(path: string): Promise<Identity | null> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw new WalwardenError('storage', `can't read ${path}: ${messageOf(error)}`, { cause: error });
  }
  const identity = parseIdentity(text);
  if (identity === null) {
    throw new WalwardenError(
      'storage',
      `${path} is damaged: expected {"systemid": "<digits>", "version": "<major>"} (or null)`,
      {
        hint: 'put the right system identifier into it (pg_controldata shows it), or remove it to have it found out again',
      },
    );
  }
  return identity;
}

function parseIdentity(text: string): Identity | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null; // no JSON at all
  }
  if (typeof value !== 'object' || value === null || !('systemid' in value) || !('version' in value)) return null;
  const { systemid, version } = value;
  return typeof systemid === 'string' && /^\d+$/.test(systemid) && (typeof version === 'string' || version === null)
    ? { systemid, version }
    : null;
}

/** Writes identity.json as Barman does, unless somebody was quicker; resolves to what stands there then. */
async function recordIdentity(path: string, identity: Identity): Promise<Identity> {
  await writeIdentity(path, identity, async (temporary) => {
    if (!(await moveUnlessThere(temporary, path))) await unlinkIfThere(temporary);
  });
  const recorded = await readIdentity(path);
  if (recorded === null) throw new WalwardenError('storage', `${path} disappeared while it was written`);
  return recorded;
}

function replaceIdentity(path: string, identity: Identity): Promise<void> {
  return writeIdentity(path, identity, (temporary) => rename(temporary, path));
}

/** In this process, which may record for two deliveries at a time. */
let writes = 0;

async function writeIdentity(
  path: string,
  identity: Identity,
  publish: (temporary: string) => Promise<void>,
): Promise<void> {
  writes += 1;
  const temporary = `${path}.${process.pid}-${writes}.tmp`;
  await unlinkIfThere(temporary);
  // Barman: four spaces, sorted keys.
  const text = `${JSON.stringify({ systemid: identity.systemid, version: identity.version }, null, 4)}\n`;
  await writeNewFile(temporary, Buffer.from(text), { mode: 0o600 });
  try {
    await publish(temporary);
  } catch (error) {
    await unlinkIfThere(temporary);
    throw error;
  }
  await fsyncDirectory(dirname(path));
}

/** The identity that a segment's first page tells. */
export function identityIn(header: LongPageHeader | null): Identity | null {
  return header === null ? null : identityOf(header.systemIdentifier, header.majorVersion);
}

function identityOf(systemIdentifier: bigint, majorVersion: number | null): Identity {
  return { systemid: String(systemIdentifier), version: majorVersion === null ? null : String(majorVersion) };
}

export interface IdentitySources {
  /** What the archive itself says of the cluster; null when it is empty. */
  readonly archived: () => Promise<Identity | null>;
  /** What the server says that it is connected to; null when it can't be asked. */
  readonly connected: () => Promise<Identity | null>;
  /** Runs before an identity is recorded, which says from then on that there is an archive. */
  readonly beforeRecording: () => Promise<void>;
}

/**
 * Keeps foreign segments out of an archive. Who belongs here is told by
 * identity.json; while there is none, by the newest archived segment, in an empty
 * archive by the connected server, and without one by the first segment that arrives.
 */
export class SystemIdentity {
  readonly path: string;
  readonly #sources: IdentitySources;
  readonly #logger: Logger;
  readonly #readOnly: boolean;

  /** `readOnly`: what is found out is not recorded. */
  constructor(path: string, sources: IdentitySources, logger: Logger, readOnly = false) {
    this.#readOnly = readOnly;
    this.path = path;
    this.#sources = sources;
    this.#logger = logger;
  }

  /** The identity as far as it is known; null for an archive that never saw a segment. Read anew: another process may have made it another one. */
  async current(): Promise<Identity | null> {
    return (await readIdentity(this.path)) ?? (await this.#adopt(await this.#find()));
  }

  async #find(): Promise<Identity | null> {
    return (await this.#sources.archived()) ?? (await this.#sources.connected());
  }

  async #adopt(found: Identity | null): Promise<Identity | null> {
    if (found === null) return null;
    const identity = await this.#withVersion(found);
    if (this.#readOnly) return identity;
    await this.#sources.beforeRecording();
    const recorded = await recordIdentity(this.path, identity);
    this.#logger.info(
      { systemid: recorded.systemid },
      `this archive belongs to system identifier ${recorded.systemid}, recorded in ${this.path}`,
    );
    return recorded;
  }

  /** WAL of a release that we don't know doesn't tell its version; its server does. */
  async #withVersion(found: Identity): Promise<Identity> {
    if (found.version !== null) return found;
    const connected = await this.#sources.connected();
    return connected?.systemid === found.systemid ? connected : found;
  }

  /** Drops what a process left behind that was killed while it recorded the identity. */
  async removeLeftovers(): Promise<void> {
    const directory = dirname(this.path);
    const prefix = `${basename(this.path)}.`;
    for (const entry of await readdir(directory)) {
      if (!entry.startsWith(prefix)) continue;
      const [, pid] = /^(\d+)(?:-\d+)?\.tmp$/.exec(entry.slice(prefix.length)) ?? [];
      if (pid !== undefined && !isAlive(Number(pid))) await unlinkIfThere(join(directory, entry));
    }
  }

  /** Makes another cluster this archive's, after pg_upgrade gave it a new system identifier. */
  async replace(identity: Identity): Promise<void> {
    await replaceIdentity(this.path, await this.#withVersion(identity));
  }

  /** Null when a segment belongs here, or when nothing tells whose this archive is, else why it doesn't. Records nothing. */
  async foreign(systemIdentifier: bigint): Promise<string | null> {
    try {
      const ours = (await readIdentity(this.path)) ?? (await this.#find());
      return ours === null ? null : this.#difference(ours, String(systemIdentifier));
    } catch {
      return null; // a damaged identity.json, say: what waits is handed out all the same, and PostgreSQL looks as well
    }
  }

  /** Null when a segment belongs here, else why it doesn't. The first one of all is taken as ours, and recorded. */
  async accept(systemIdentifier: bigint, majorVersion: number | null): Promise<string | null> {
    const found = identityOf(systemIdentifier, majorVersion);
    const ours = (await this.current()) ?? (await this.#adopt(found));
    return ours === null ? null : this.#difference(ours, found.systemid);
  }

  #difference(ours: Identity, systemid: string): string | null {
    if (ours.systemid === systemid) return null;
    return (
      `it is WAL of another cluster: its system identifier is ${systemid}, ` +
      `and this archive belongs to ${ours.systemid} (${this.path})`
    );
  }
}

/** Archived segments to try before giving up on a header: some may be damaged. */
const TRIES = 5;

/** The first page header of the newest archived segment that can be read; null when there is none. Throws when a bucket can't be asked. */
export async function newestHeader(
  catalogue: { readLast(): Promise<readonly WalFileInfo[]> },
  strategy: WalStorageStrategy,
  keys: ReadingKeys,
  logger: Logger,
): Promise<LongPageHeader | null> {
  const known = (await catalogue.readLast()).map(({ name }) => name).filter((name) => walKind(name) === 'segment');
  const names = known.length > 0 ? known : await strategy.sampleSegments();
  for (const name of names.slice(-TRIES).toReversed()) {
    try {
      const stored = await strategy.read(name);
      if (stored === null) continue;
      const decoded = decodeLongPageHeader(await plainBytes(stored, name, keys));
      if (decoded.ok) return decoded.header;
    } catch (error) {
      // An endpoint that gives no answer gives none about the others, and the first segment to come must not decide then.
      if (error instanceof S3Error && error.code === 'storage' && error.failure !== 'cold') throw error;
      logger.debug({ wal: name }, `can't read the page header of ${name}: ${messageOf(error)}`);
    }
  }
  return null;
}
