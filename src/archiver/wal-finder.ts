import { join } from 'node:path';
import type { CompressionName } from '../compression/codec.ts';
import { openDelivered, readWhole, type DeliveredFile } from '../durable/delivered-file.ts';
import { isThere } from '../durable/durable-file.ts';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import { placesOf } from '../storage/claim.ts';
import { S3Error } from '../storage/s3/s3-failure.ts';
import { openStored, type ReadingKeys, type StoredBytes } from '../storage/stored-content.ts';
import type { NotRead, Unpacker } from '../storage/unpacker.ts';
import { holdsMore } from '../wal/inner-end.ts';
import { endOfContent } from '../wal/padding.ts';
import {
  MAX_SEGMENT_SIZE,
  MIN_SEGMENT_SIZE,
  parseWalName,
  partialName,
  segmentsPerLog,
  walDirectory,
  walKind,
  walName,
  type WalName,
} from '../wal/wal-name.ts';
import { checkLostHistory, isGivenUp, type LostHistoryParts } from './lost-history.ts';
import { beginsWith, type ShortDeliveries } from './short-deliveries.ts';

export interface WalFinderParts extends LostHistoryParts {
  readonly keys: ReadingKeys;
  /** What was delivered as a segment, and is stored as a partial one. */
  readonly deliveries: Pick<ShortDeliveries, 'of'>;
  readonly unpacker: Unpacker;
  /** Why a delivered segment of this system identifier is not this archive's; null when it is, or when that can't be told. */
  readonly foreign: (systemIdentifier: bigint) => Promise<string | null>;
  /**
   * Throws `storage` when files that were not found can't be called absent: the
   * archive as a whole is not there, or its catalogue has them.
   */
  readonly checkAbsent: (names: readonly WalName[]) => Promise<void>;
}

/** A WAL file that was found, whole and checked. */
export interface FoundWal {
  readonly name: WalName;
  readonly path: string;
  /** Without encryption, still compressed as it was found. */
  readonly decrypted: Buffer;
  /** With what; null when it is not. */
  readonly compression: CompressionName | null;
  /** Without compression too. */
  readonly plain: Buffer;
}

/** What one place has to say about a name. */
type Look =
  | (StoredBytes & {
      readonly path: string;
      /** It lies where others may write, and nothing has looked whose it is. */
      readonly delivered?: true;
    })
  | null;

/**
 * Finds a WAL file wherever it may be on its way: archive, incoming, streaming,
 * and with `partial` also a partial one. What was delivered as a segment, though
 * it is only the beginning of one, is found without `partial`, too, or what has
 * more of it by now. Null means that it is certainly in none of these places.
 * Throws when that can't be told: `storage`, `damaged`, `incomplete-wal`, `program`.
 */
export async function findWal(parts: WalFinderParts, name: WalName, partial: boolean): Promise<FoundWal | null> {
  const { strategy, streaming, unpacker } = parts;
  const names = [name];
  let problem: unknown = null;
  let givenUp: string | null = null;
  const archived = (wanted: WalName) => async (): Promise<Look> => {
    // An endpoint that gives no answer is not asked again by the same look around.
    if (problem instanceof S3Error && problem.code === 'storage') return null;
    return strategy.read(wanted);
  };
  const waiting = (wanted: WalName): (() => Promise<Look>)[] => {
    const read = walKind(wanted) === 'partial' ? readGrowing : readWaiting;
    return waitingPlaces(parts, wanted).map((path) => () => read(path, (file) => unpacker.whyNotRead(file, wanted)));
  };
  const before = (wanted: WalName): (() => Promise<Look>)[] =>
    formerPlaces(parts, wanted).map((path) => () => readFormer(path));
  // A file that can't be used is remembered: another place may have a good one, but "not found" it is not.
  async function* usable(looks: readonly (() => Promise<Look>)[]): AsyncGenerator<FoundWal> {
    for (const look of looks) {
      let found: Look = null;
      try {
        found = await look();
        if (found !== null) yield await openFound(parts, name, found);
      } catch (error) {
        if (found?.delivered === true && (await isGivenUp(parts, name, found.path, error))) givenUp = found.path;
        else problem ??= error;
      }
    }
  }

  for await (const found of usable([archived(name), ...waiting(name), ...before(name), archived(name)])) return found;
  const deliveries = walKind(name) === 'segment' ? await parts.deliveries.of(name) : [];
  if ((partial && walKind(name) === 'segment') || deliveries.length > 0) {
    const wanted = partialName(name);
    names.push(wanted);
    const received = (): Promise<Look> =>
      readGrowing(join(streaming, wanted), (file) => unpacker.whyNotRead(file, wanted));
    const looks = [received, archived(wanted), ...waiting(wanted), ...before(wanted), archived(wanted)];
    let longest: FoundWal | null = null;
    for await (const found of usable(looks)) {
      if (deliveries.length === 0) return found;
      if (!partial && !deliveries.some((delivery) => beginsWith(found.plain, delivery))) continue;
      // Of two that hold the same WAL, the archived one is as it came.
      longest = longest !== null && holdsMore(longest.plain, found.plain) ? longest : found;
    }
    if (longest !== null) return longest;
    // It may have become whole, and moved, while we looked for the partial one.
    for await (const found of usable([...waiting(name), archived(name)])) return found;
  }
  if (problem !== null) throw problem;
  await parts.checkAbsent(names);
  await checkLostHistory(parts, name, givenUp);
  return null;
}

/** Where a file may wait, in the order in which it can move: a claim may be given back. */
function waitingPlaces({ incoming, streaming, claims }: WalFinderParts, name: WalName): readonly string[] {
  return [placesOf(incoming, claims.incoming, name), placesOf(streaming, claims.streaming, name)].flatMap(
    ([delivered, ...claimed]) => [delivered, ...claimed, delivered],
  );
}

/** Where it may be when the archive moved into a bucket without it. */
function formerPlaces({ before }: WalFinderParts, name: WalName): readonly string[] {
  return before === null || before === undefined ? [] : [join(before, walDirectory(name), name)];
}

async function isWaiting(path: string): Promise<boolean> {
  try {
    return await isThere(path);
  } catch (error) {
    throw new WalwardenError('storage', `can't look at ${path}: ${messageOf(error)}`, { cause: error });
  }
}

/** Why a file need not be read, by its first bytes and its size; null when it must be. */
type Glance = (file: DeliveredFile) => Promise<NotRead | null>;

const noGlance: Glance = async () => null;

/** A file that was delivered; null when there is none. */
export async function readWaiting(path: string, glance = noGlance): Promise<Look> {
  return readPlace(path, glance, readWhole);
}

async function readPlace(
  path: string,
  glance: Glance,
  read: (file: DeliveredFile) => Promise<Buffer | null>,
): Promise<Look> {
  try {
    await using file = await openDelivered(path);
    const odd = await glance(file);
    if (odd !== null) throw unusable(path, odd);
    const bytes = await read(file);
    return bytes === null ? null : { path, bytes, delivered: true };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    if (isErrorCode(error, 'damaged') || isErrorCode(error, 'incomplete-wal')) throw error;
    throw new WalwardenError('storage', `can't read ${path}: ${messageOf(error)}`, { cause: error });
  }
}

/** What was archived before a pg_upgrade is another cluster's, and ours all the same. */
async function readFormer(path: string): Promise<Look> {
  const found = await readWaiting(path);
  return found === null ? null : { path, bytes: found.bytes };
}

/**
 * A partial file that pg_receivewal may be writing, from the front of a file
 * full of zeros. What we read is what it held at one moment: all that lies
 * before the last byte that is no zero was written before the first reading
 * ended, so the second one finds it complete. Null while there is no WAL in it.
 */
export async function readGrowing(path: string, glance = noGlance): Promise<Look> {
  return readPlace(path, glance, async (file) => {
    const bytes = await readWhole(file);
    const end = endOfContent(bytes);
    if (end === 0) return null;
    for (let at = 0; at < end;) {
      const { bytesRead } = await file.handle.read(bytes, at, end - at, at);
      if (bytesRead === 0) throw new WalwardenError('storage', `${path} became shorter while it was read`);
      at += bytesRead;
    }
    return bytes;
  });
}

function unusable(path: string, { verdict, reason }: NotRead): WalwardenError {
  return new WalwardenError(
    verdict === 'incomplete' ? 'incomplete-wal' : 'damaged',
    `${path} can't be used: ${reason}`,
  );
}

async function openFound(
  { keys, foreign, unpacker }: WalFinderParts,
  name: WalName,
  found: NonNullable<Look>,
): Promise<FoundWal> {
  const { path, bytes } = found;
  try {
    const opened =
      found.delivered === true
        ? { ...(await unpacker.unpack(bytes, name)), decrypted: bytes }
        : await openStored(found, name, keys);
    const { verdict, decrypted, compression, plain } = opened;
    if (verdict.verdict !== 'valid') {
      throw new WalwardenError(verdict.verdict === 'incomplete' ? 'incomplete-wal' : 'damaged', verdict.reason);
    }
    const reason =
      found.delivered === true && verdict.header !== null ? await foreign(verdict.header.systemIdentifier) : null;
    if (reason !== null) throw new WalwardenError('invalid-wal', reason);
    return { name, path, decrypted, compression, plain };
  } catch (error) {
    if (!(error instanceof WalwardenError)) throw error;
    throw new WalwardenError(error.code, `${path} can't be used: ${error.message}`, {
      cause: error,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
}

/**
 * Up to `limit` consecutive names, from `name` on, of files that are in one of
 * the places. Where the segment size (in bytes) isn't known, the next log's
 * first is tried after a number that may be a log's last.
 */
export async function peekWals(
  parts: WalFinderParts,
  name: WalName,
  limit: number,
  segmentSize: number | null,
): Promise<WalName[]> {
  const parsed = parseWalName(name);
  if (parsed === undefined || parsed.kind !== 'segment') {
    const isArchived = (await parts.strategy.stored([name])).has(name);
    return isArchived || (await isSomewhere(parts, name)) ? [name] : [];
  }
  const found: WalName[] = [];
  const archive = new ArchiveAhead(parts);
  const isLogEnd = (segment: number): boolean =>
    segmentSize === null
      ? segment >= segmentsPerLog(MAX_SEGMENT_SIZE) && Number.isInteger(Math.log2(segment))
      : segment === segmentsPerLog(segmentSize);
  let { log, segment } = parsed;
  while (found.length < limit) {
    if (segmentSize !== null && isLogEnd(segment)) [log, segment] = [log + 1, 0];
    const candidate = segmentAt(parsed.timeline, log, segment);
    if ((await archive.has(candidate, limit - found.length)) || (await isSomewhere(parts, candidate))) {
      found.push(candidate);
      segment += 1;
    } else if (isLogEnd(segment)) {
      [log, segment] = [log + 1, 0];
    } else {
      break;
    }
  }
  return found;
}

/** Names that are looked up in the archive together. */
const AHEAD = 64;

/** Asks the archive for a row of names at once: of a bucket that is one request, as it is for a single name. */
class ArchiveAhead {
  readonly #parts: WalFinderParts;
  #asked = new Set<WalName>();
  #stored: ReadonlySet<WalName> = new Set();

  constructor(parts: WalFinderParts) {
    this.#parts = parts;
  }

  /** False also for a name that may have moved there since. `wanted`: names, this one included. */
  async has(name: WalName, wanted: number): Promise<boolean> {
    if (!this.#asked.has(name)) {
      const row = rowOf(name, Math.min(wanted, AHEAD));
      this.#stored = await this.#parts.strategy.stored(row);
      this.#asked = new Set(row);
    }
    return this.#stored.has(name);
  }
}

/** Consecutive names of one log. */
function rowOf(name: WalName, length: number): WalName[] {
  const parsed = parseWalName(name);
  if (parsed === undefined || parsed.kind !== 'segment') return [name];
  const { timeline, log, segment } = parsed;
  const last = Math.min(segment + length, segmentsPerLog(MIN_SEGMENT_SIZE));
  return Array.from({ length: Math.max(1, last - segment) }, (_, index) => segmentAt(timeline, log, segment + index));
}

function segmentAt(timeline: number, log: number, segment: number): WalName {
  const hex = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0');
  return walName(`${hex(timeline)}${hex(log)}${hex(segment)}`);
}

/** Once it was not seen in the archive. */
async function isSomewhere(parts: WalFinderParts, name: WalName): Promise<boolean> {
  for (const path of [...waitingPlaces(parts, name), ...formerPlaces(parts, name)]) {
    if (await isWaiting(path)) return true;
  }
  if ((await parts.strategy.stored([name])).has(name)) return true;
  if (walKind(name) !== 'segment' || (await parts.deliveries.of(name)).length === 0) return false;
  const partial = partialName(name);
  return (await parts.strategy.stored([partial])).has(partial);
}
