import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { isThere } from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { claimPath } from '../storage/claim.ts';
import { decompressStored, decrypt, type ReadingKeys } from '../storage/stored-content.ts';
import type { WalStorageStrategy } from '../storage/wal-storage-strategy.ts';
import { endOfContent } from '../wal/padding.ts';
import { judgeContent } from '../wal/verify.ts';
import { MAX_SEGMENT_SIZE, parseWalName, segmentsPerLog, walKind, walName, type WalName } from '../wal/wal-name.ts';

export interface WalFinderParts {
  readonly strategy: WalStorageStrategy;
  readonly incoming: string;
  readonly streaming: string;
  readonly keys: ReadingKeys;
  /** Throws `storage` when the archive as a whole is not there, so that nothing can be called absent. */
  readonly checkThere: () => Promise<void>;
}

/** A WAL file that was found, whole and checked. */
export interface FoundWal {
  readonly name: WalName;
  readonly path: string;
  /** Without encryption, still compressed as it was found. */
  readonly decrypted: Buffer;
  /** Without compression too. */
  readonly plain: Buffer;
}

/** What one place has to say about a name. */
type Look = { readonly bytes: Buffer; readonly path: string } | null;

/**
 * Finds a WAL file wherever it may be on its way: archive, incoming, streaming,
 * and with `partial` also a partial one. Null means that it is certainly in
 * none of these places. Throws when that can't be told: `storage`, `damaged`,
 * `incomplete-wal`, `program`.
 */
export async function findWal(parts: WalFinderParts, name: WalName, partial: boolean): Promise<FoundWal | null> {
  const { strategy, streaming, keys } = parts;
  const archived = (wanted: WalName) => (): Promise<Look> => strategy.read(wanted);
  const waiting = (wanted: WalName): (() => Promise<Look>)[] => {
    const read = walKind(wanted) === 'partial' ? readGrowing : readWaiting;
    return waitingPlaces(parts, wanted).map((path) => () => read(path));
  };
  const looks = [archived(name), ...waiting(name), archived(name)];
  if (partial && walKind(name) === 'segment') {
    const partialName = walName(`${name}.partial`);
    looks.push(
      () => readGrowing(join(streaming, partialName)),
      archived(partialName),
      ...waiting(partialName),
      archived(partialName),
      // It may have become whole, and moved, while we looked for the partial one.
      ...waiting(name),
      archived(name),
    );
  }

  // A file that can't be used is remembered: another place may have a good one, but "not found" it is not.
  let problem: unknown = null;
  for (const look of looks) {
    try {
      const found = await look();
      if (found !== null) return await openFound(keys, name, found.path, found.bytes);
    } catch (error) {
      problem ??= error;
    }
  }
  if (problem !== null) throw problem;
  await parts.checkThere();
  return null;
}

/** Where a file may wait, in the order in which it can move: a claim is made in its directory, and may be given back. */
function waitingPlaces({ incoming, streaming }: WalFinderParts, name: WalName): readonly string[] {
  return [incoming, streaming].flatMap((directory) => {
    const delivered = join(directory, name);
    return [delivered, claimPath(delivered, name), delivered];
  });
}

async function isWaiting(path: string): Promise<boolean> {
  try {
    return await isThere(path);
  } catch (error) {
    throw new WalwardenError('storage', `can't look at ${path}: ${messageOf(error)}`, { cause: error });
  }
}

async function readWaiting(path: string): Promise<Look> {
  try {
    await using handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    return { path, bytes: await handle.readFile() };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw new WalwardenError('storage', `can't read ${path}: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * A partial file that pg_receivewal may be writing, from the front of a file
 * full of zeros. What we read is what it held at one moment: all that lies
 * before the last byte that is no zero was written before the first reading
 * ended, so the second one finds it complete. Null while there is no WAL in it.
 */
async function readGrowing(path: string): Promise<Look> {
  try {
    await using handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const bytes = await handle.readFile();
    const end = endOfContent(bytes);
    if (end === 0) return null;
    for (let at = 0; at < end;) {
      const { bytesRead } = await handle.read(bytes, at, end - at, at);
      if (bytesRead === 0) throw new WalwardenError('storage', `${path} became shorter while it was read`);
      at += bytesRead;
    }
    return { path, bytes };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw new WalwardenError('storage', `can't read ${path}: ${messageOf(error)}`, { cause: error });
  }
}

async function openFound(keys: ReadingKeys, name: WalName, path: string, bytes: Buffer): Promise<FoundWal> {
  try {
    const decrypted = await decrypt(bytes, keys);
    const plain = await decompressStored(decrypted, keys);
    const parsed = parseWalName(name);
    const verdict = parsed === undefined ? null : judgeContent(parsed, plain);
    if (verdict !== null && verdict.verdict !== 'valid') {
      throw new WalwardenError(verdict.verdict === 'incomplete' ? 'incomplete-wal' : 'damaged', verdict.reason);
    }
    return { name, path, decrypted, plain };
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
  if (parsed === undefined || parsed.kind !== 'segment') return (await isSomewhere(parts, name)) ? [name] : [];
  const found: WalName[] = [];
  const isLogEnd = (segment: number): boolean =>
    segmentSize === null
      ? segment >= segmentsPerLog(MAX_SEGMENT_SIZE) && Number.isInteger(Math.log2(segment))
      : segment === segmentsPerLog(segmentSize);
  let { log, segment } = parsed;
  while (found.length < limit) {
    const candidate = segmentAt(parsed.timeline, log, segment);
    if (await isSomewhere(parts, candidate)) {
      found.push(candidate);
      segment += 1;
    } else if (isLogEnd(segment)) {
      log += 1;
      segment = 0;
    } else {
      break;
    }
  }
  return found;
}

function segmentAt(timeline: number, log: number, segment: number): WalName {
  const hex = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0');
  return walName(`${hex(timeline)}${hex(log)}${hex(segment)}`);
}

async function isSomewhere(parts: WalFinderParts, name: WalName): Promise<boolean> {
  const isArchived = async (): Promise<boolean> => (await parts.strategy.stored([name])).has(name);
  if (await isArchived()) return true;
  for (const path of waitingPlaces(parts, name)) if (await isWaiting(path)) return true;
  return isArchived();
}
