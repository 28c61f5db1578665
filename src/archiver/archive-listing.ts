import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fsyncDirectory, replaceFile } from '../durable/durable-file.ts';
import type { StoredSize } from '../storage/wal-storage-strategy.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { isWalName, type WalName } from '../wal/wal-name.ts';
import { compareCatalogue, type CatalogueComparison, type FoundFiles, type OddSize } from './compare-catalogue.ts';

/**
 * What was stored when the archive was listed last, held against its catalogue.
 * `check` reports it; whoever needs the sizes of stored files finds those that
 * don't fit their lines in `oddSizes`. Times are in milliseconds since the epoch.
 */
export interface ArchiveListing extends CatalogueComparison {
  /** The directory, or the bucket and prefix, that was listed: it tells nothing of another. */
  readonly location: string;
  readonly startedAt: number;
  readonly finishedAt: number;
}

/** Finds that are remembered by name. */
const REMEMBERED = 20;

/** Finds that are looked at again before they are believed. */
const DOUBTED = 1_000;

/** Missing files that are looked for once more. */
const LOOKED_FOR = 100;

export interface ListingParts {
  readonly location: string;
  readonly catalogue: {
    readSorted(): AsyncIterable<readonly WalFileInfo[]>;
    withLock<T>(work: () => Promise<T>): Promise<T>;
  };
  readonly strategy: {
    listSizes(): AsyncIterable<readonly StoredSize[]>;
    sizeOf(name: WalName): Promise<number | null>;
  };
  /** Keeps delete-wals, whose files are gone a while before their lines, from its work. Throws `locked` when it is at work. */
  readonly lockDeletion: () => Promise<AsyncDisposable>;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Lists what is stored, and holds it against the catalogue. Others archive,
 * delete and rebuild meanwhile: what does not fit is looked at again under the
 * catalogue as it is then. Null when so much changed that nothing can be said.
 */
export async function listArchive(parts: ListingParts, now: () => number = Date.now): Promise<ArchiveListing | null> {
  const { location, catalogue, strategy, signal } = parts;
  const startedAt = now();
  async function* stored(): AsyncGenerator<readonly StoredSize[]> {
    for await (const batch of strategy.listSizes()) {
      signal?.throwIfAborted();
      yield batch;
    }
  }
  const found = await compareCatalogue(catalogue.readSorted(), stored(), DOUBTED);
  const certain = await confirm(parts, found);
  return certain === null ? null : { location, startedAt, finishedAt: now(), ...certain };
}

async function confirm(
  { catalogue, strategy, lockDeletion, signal }: ListingParts,
  found: CatalogueComparison,
): Promise<CatalogueComparison | null> {
  const { missing, unlisted, oddSizes } = found;
  if (missing.count + unlisted.count + oddSizes.count === 0) return found;
  const doubted = new Set([...missing.first, ...unlisted.first, ...oddSizes.first.map(({ name }) => name)]);
  const lines = new Map<WalName, WalFileInfo>();
  {
    await using _deletion = missing.count > 0 ? await lockDeletion() : undefined;
    // A Barman deletes, and anyone archives, under this one.
    await catalogue.withLock(async () => {
      for await (const infos of catalogue.readSorted()) {
        for (const info of infos) if (doubted.has(info.name)) lines.set(info.name, info);
      }
    });
  }
  signal?.throwIfAborted();
  const back = new Set<WalName>();
  for (const name of missing.first.filter((each) => lines.has(each)).slice(0, LOOKED_FOR)) {
    if ((await strategy.sizeOf(name)) !== null) back.add(name);
  }
  const certain = {
    missing: keep(missing, (name) => lines.has(name) && !back.has(name)),
    unlisted: keep(unlisted, (name) => !lines.has(name)),
    oddSizes: keep(oddSizes, ({ name, listed }) => lines.get(name)?.size === listed),
  };
  // What is true of the first of so many may be true of the others.
  const doubtful = missing.count > missing.first.length && certain.missing.count < missing.count;
  return doubtful ? null : { ...found, ...certain };
}

function keep<T>({ count, first }: FoundFiles<T>, isSo: (find: T) => boolean): FoundFiles<T> {
  const kept = first.filter(isSo);
  return { count: count - (first.length - kept.length), first: kept };
}

/** The file that remembers the last listing. Only advice: nothing is archived, kept or removed because of it. */
export class RememberedListing {
  readonly path: string;
  readonly #location: string;

  constructor(path: string, location: string) {
    this.path = path;
    this.#location = location;
  }

  /** Null when this archive was never listed, as far as is known. Never rejects. */
  async read(): Promise<ArchiveListing | null> {
    try {
      const listing = parse(JSON.parse(await readFile(this.path, 'utf8')));
      return listing !== null && listing.location === this.#location ? listing : null;
    } catch {
      return null; // none yet, not to be read, or damaged: the next listing makes another
    }
  }

  /** Durable when it resolves. */
  async write(listing: Omit<ArchiveListing, 'location'>): Promise<void> {
    const shortened = {
      location: this.#location,
      startedAt: listing.startedAt,
      finishedAt: listing.finishedAt,
      files: listing.files,
      bytes: listing.bytes,
      missing: firstOf(listing.missing),
      unlisted: firstOf(listing.unlisted),
      oddSizes: firstOf(listing.oddSizes),
    };
    await replaceFile(this.path, Buffer.from(`${JSON.stringify(shortened, null, 2)}\n`), { mode: 0o600 });
    await fsyncDirectory(dirname(this.path));
  }
}

function firstOf<T>({ count, first }: FoundFiles<T>): FoundFiles<T> {
  return { count, first: first.slice(0, REMEMBERED) };
}

function parse(value: unknown): ArchiveListing | null {
  const facts = fieldsOf(value);
  const [location, startedAt, finishedAt] = [facts.get('location'), facts.get('startedAt'), facts.get('finishedAt')];
  const [files, bytes] = [facts.get('files'), facts.get('bytes')];
  const missing = parseFinds(facts.get('missing'), parseName);
  const unlisted = parseFinds(facts.get('unlisted'), parseName);
  const oddSizes = parseFinds(facts.get('oddSizes'), parseOddSize);
  if (typeof location !== 'string' || typeof startedAt !== 'number' || typeof finishedAt !== 'number') return null;
  if (typeof files !== 'number' || typeof bytes !== 'number') return null;
  if (missing === null || unlisted === null || oddSizes === null) return null;
  return { location, startedAt, finishedAt, files, bytes, missing, unlisted, oddSizes };
}

function parseFinds<T>(value: unknown, parseOne: (find: unknown) => T | null): FoundFiles<T> | null {
  const facts = fieldsOf(value);
  const [count, first] = [facts.get('count'), facts.get('first')];
  if (typeof count !== 'number' || !Array.isArray(first)) return null;
  const finds = first.map(parseOne).filter((find) => find !== null);
  return finds.length === first.length ? { count, first: finds } : null;
}

function parseName(value: unknown): WalName | null {
  return typeof value === 'string' && isWalName(value) ? value : null;
}

function parseOddSize(value: unknown): OddSize | null {
  const facts = fieldsOf(value);
  const [name, stored, listed] = [parseName(facts.get('name')), facts.get('stored'), facts.get('listed')];
  return name !== null && typeof stored === 'number' && typeof listed === 'number' ? { name, stored, listed } : null;
}

function fieldsOf(value: unknown): ReadonlyMap<string, unknown> {
  return new Map(typeof value === 'object' && value !== null ? Object.entries(value) : []);
}
