import type { ArchiveFacts } from './health/archive-checks.ts';
import { rememberedListing } from './server-remembered.ts';
import { knownEmptyFiles, withEmptyFiles } from './server-sizes.ts';
import type { Server } from './server.ts';
import type { WalFileInfo } from './wal/wal-file-info.ts';
import { walKind, type WalName } from './wal/wal-name.ts';
import { summariseWals } from './wal/wal-ranges.ts';

/** Reads the whole catalogue once, for everything that `check` wants to know of it. */
export async function archiveFacts(server: Server, signal: AbortSignal): Promise<ArchiveFacts> {
  const listing = await rememberedListing(server).read();
  const doubted = new Set(listing?.missing.first ?? []);
  const stillListed: WalName[] = [];
  const spread = new Spread<WalFileInfo>();
  let files = 0;
  let bytes = 0;
  let newest: WalFileInfo | null = null as WalFileInfo | null;
  let damagedLines = 0;
  async function* batches(): AsyncGenerator<readonly WalFileInfo[]> {
    for await (const infos of server.catalogue.readBatches(() => (damagedLines += 1))) {
      infos.forEach(count);
      signal.throwIfAborted();
      yield infos;
    }
  }
  const count = (info: WalFileInfo): void => {
    files += 1;
    bytes += info.size;
    spread.add(info);
    if (doubted.has(info.name)) stillListed.push(info.name);
    if (newest !== null && info.mtime < newest.mtime) return;
    // Backup labels and history files say nothing of how recent the WAL is.
    if (info.name.length === 24 || walKind(info.name) === 'partial') newest = info;
  };
  const segmentSize = (await server.knownSegmentSize()) ?? segmentSizeByName(await server.catalogue.readLast());
  const timelines = await summariseWals(withEmptyFiles(batches(), await knownEmptyFiles(server)), segmentSize);
  const sample = [newest, spread.at(0), spread.at(1 / 3), spread.at(2 / 3)];
  return {
    files,
    bytes,
    newest,
    damagedLines,
    listing,
    stillListed,
    timelines,
    segmentSize,
    sample: [
      ...new Map(sample.flatMap((info) => (info === null || info === undefined ? [] : [[info.name, info]]))).values(),
    ],
  };
}

/**
 * No segment is opened for its size, which may take a passphrase: names tell of it. At worst it seems too large, and
 * segments that are missing at the end of a log are not seen.
 */
function segmentSizeByName(newest: readonly WalFileInfo[]): number {
  let perLog = 4;
  for (const { name } of newest) {
    if (name.length !== 24) continue;
    while (perLog <= Number.parseInt(name.slice(16), 16) && perLog < 4096) perLog *= 2;
  }
  return 2 ** 32 / perLog;
}

/** Some elements of a sequence whose length is not known before its end, about equally far from each other. */
class Spread<T> {
  #kept: T[] = [];
  #every = 1;
  #length = 0;

  add(element: T): void {
    if (this.#length % this.#every === 0) this.#kept.push(element);
    this.#length += 1;
    if (this.#kept.length < 256) return;
    this.#kept = this.#kept.filter((_, index) => index % 2 === 0);
    this.#every *= 2;
  }

  /** The first for 0, one about in the middle for 1/2; undefined when there is none. */
  at(part: number): T | undefined {
    return this.#kept[Math.floor((part * this.#length) / this.#every)];
  }
}
