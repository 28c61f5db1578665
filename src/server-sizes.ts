import { compareCatalogue, type OddSize } from './archiver/compare-catalogue.ts';
import { isS3Location } from './config/values.ts';
import { messageOf, WalwardenError } from './errors.ts';
import { rememberedListing } from './server-listing.ts';
import type { Server } from './server.ts';
import type { WalFileInfo } from './wal/wal-file-info.ts';

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
export async function knownOddSizes(server: Pick<Server, 'config'>): Promise<readonly OddSize[]> {
  return (await rememberedListing(server).read())?.oddSizes.first ?? [];
}

/** The lines of a catalogue, with the size 0 for files that are stored empty. */
export async function* withEmptyFiles(
  batches: AsyncIterable<readonly WalFileInfo[]>,
  odd: readonly OddSize[],
): AsyncGenerator<readonly WalFileInfo[]> {
  const empty = new Set(odd.filter(({ stored }) => stored === 0).map(({ name }) => name));
  for await (const infos of batches) {
    yield empty.size === 0 ? infos : infos.map((info) => (empty.has(info.name) ? { ...info, size: 0 } : info));
  }
}
