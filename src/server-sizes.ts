import { compareCatalogue, type OddSize } from './archiver/compare-catalogue.ts';
import { isS3Location } from './config/values.ts';
import { lockOwner } from './durable/lock-file.ts';
import { messageOf, WalwardenError } from './errors.ts';
import { rememberedListing } from './server-remembered.ts';
import type { Server } from './server.ts';
import type { WalFileInfo } from './wal/wal-file-info.ts';
import type { WalName } from './wal/wal-name.ts';

/** Files that are named; more are as much a reason to look. */
const MOST = 10_000;

/**
 * Stored files whose size is not that of their line: of a local archive as it is
 * now, of a bucket as it was listed last. Nothing is said of an archive that can't be seen.
 */
export async function oddSizesOf(server: Server): Promise<readonly OddSize[]> {
  if (isS3Location(server.config.options.wals_directory)) return knownOddSizes(server);
  try {
    const listed = server.catalogue.readSorted();
    return (await compareCatalogue(listed, server.strategy.listSizes(), MOST)).oddSizes.first;
  } catch (error) {
    if (!(error instanceof WalwardenError)) throw error;
    server.logger.warn({ server: server.name }, `the sizes of stored files are not known: ${messageOf(error)}`);
    return [];
  }
}

/** The same as the last listing of the archive found it, at no cost. */
async function knownOddSizes(server: Server): Promise<readonly OddSize[]> {
  return (await rememberedListing(server).read())?.oddSizes.first ?? [];
}

/** Files that were stored empty when the archive was listed last; of a local archive, those that still are. */
export async function knownEmptyFiles(server: Server): Promise<ReadonlySet<WalName>> {
  const empty = emptyFiles(await knownOddSizes(server));
  if (isS3Location(server.config.options.wals_directory)) return empty;
  const still = new Set<WalName>();
  for (const name of empty) if (await isStillEmpty(server, name)) still.add(name);
  return still;
}

async function isStillEmpty({ strategy }: Server, name: WalName): Promise<boolean> {
  try {
    return (await strategy.sizeOf(name)) === 0;
  } catch {
    return true; // it can't be seen now: the listing could
  }
}

/**
 * Of some lines of a local archive, those whose file was just seen with another size. What
 * another process may have put there meanwhile, with its line to come, is left to the next look.
 */
export async function oddSizesAmong(
  server: Server,
  lines: readonly WalFileInfo[],
  stored: ReadonlyMap<WalName, number>,
): Promise<readonly OddSize[]> {
  // Several objects of a bucket may have one name: the listing sees them all.
  if (isS3Location(server.config.options.wals_directory)) return [];
  const odd = lines.flatMap(({ name, size: listed }) => {
    const size = stored.get(name);
    return size === undefined || (size === listed && size > 0) ? [] : [{ name, stored: size, listed }];
  });
  if (odd.length === 0 || (await lockOwner(server.lockPath('xlogdb'))) !== null) return [];
  const confirmed: OddSize[] = [];
  for (const each of odd) {
    const line = await server.catalogue.find(each.name);
    if (line !== undefined && (line.size !== each.stored || each.stored === 0)) confirmed.push(each);
  }
  return confirmed;
}

/** Those of them that hold no WAL, whatever their names say. */
export function emptyFiles(odd: readonly OddSize[]): ReadonlySet<WalName> {
  return new Set(odd.filter(({ stored }) => stored === 0).map(({ name }) => name));
}

/** The lines of a catalogue, with the size 0 for files that are stored empty. */
export async function* withEmptyFiles(
  batches: AsyncIterable<readonly WalFileInfo[]>,
  empty: ReadonlySet<WalName>,
): AsyncGenerator<readonly WalFileInfo[]> {
  for await (const infos of batches) {
    yield empty.size === 0 ? infos : infos.map((info) => (empty.has(info.name) ? { ...info, size: 0 } : info));
  }
}
