import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { claimPath } from '../storage/claim.ts';
import { decompressStored, decrypt, type ReadingKeys } from '../storage/stored-content.ts';
import type { WalStorageStrategy } from '../storage/wal-storage-strategy.ts';
import { judgeContent } from '../wal/verify.ts';
import { parseWalName, walKind, walName, type WalName } from '../wal/wal-name.ts';

export interface WalFinderParts {
  readonly strategy: WalStorageStrategy;
  readonly incoming: string;
  readonly streaming: string;
  readonly keys: ReadingKeys;
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
 * with `partial` also a partial one, and the archive once more, because a file
 * can move there meanwhile. Null means that it is certainly in none of these
 * places. Throws when that can't be told: `storage`, `damaged`,
 * `incomplete-wal`, `program`.
 */
export async function findWal(parts: WalFinderParts, name: WalName, partial: boolean): Promise<FoundWal | null> {
  const { strategy, incoming, streaming } = parts;
  const archived = async (wanted: WalName): Promise<Look> => strategy.read(wanted);
  const looks: (() => Promise<Look>)[] = [
    () => archived(name),
    () => readWaiting(join(incoming, name)),
    () => readWaiting(claimPath(join(incoming, name), name)),
    () => readWaiting(join(streaming, name)),
  ];
  if (partial && walKind(name) === 'segment') {
    const partialName = walName(`${name}.partial`);
    looks.push(
      () => readWaiting(join(streaming, partialName)),
      () => archived(partialName),
      () => readWaiting(join(incoming, partialName)),
    );
  }
  looks.push(() => archived(name));

  // A file that can't be used is remembered: another place may have a good one, but "not found" it is not.
  let problem: unknown = null;
  for (const look of looks) {
    try {
      const found = await look();
      if (found !== null) return await openFound(parts.keys, name, found.path, found.bytes);
    } catch (error) {
      problem ??= error;
    }
  }
  if (problem !== null) throw problem;
  return null;
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
 * the places. The segment size isn't known: after a number that may be a log's
 * last, the next log's first is tried too.
 */
export async function peekWals(parts: WalFinderParts, name: WalName, limit: number): Promise<WalName[]> {
  const parsed = parseWalName(name);
  if (parsed === undefined || parsed.kind !== 'segment') return (await isSomewhere(parts, name)) ? [name] : [];
  const found: WalName[] = [];
  let { log, segment } = parsed;
  while (found.length < limit) {
    const candidate = segmentAt(parsed.timeline, log, segment);
    if (await isSomewhere(parts, candidate)) {
      found.push(candidate);
      segment += 1;
    } else if (segment >= 4 && Number.isInteger(Math.log2(segment))) {
      // 4 GiB of the largest segments are 4; any log ends at a power of two.
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

async function isSomewhere({ strategy, incoming, streaming }: WalFinderParts, name: WalName): Promise<boolean> {
  if (await strategy.exists(strategy.getFullPath(name))) return true;
  for (const path of [join(incoming, name), claimPath(join(incoming, name), name), join(streaming, name)]) {
    if (await strategy.exists(path)) return true;
  }
  return false;
}
