import { stat } from 'node:fs/promises';
import { listArchive, type ArchiveListing } from './archiver/archive-listing.ts';
import { isS3Location } from './config/values.ts';
import { acquireLock, lockOwner } from './durable/lock-file.ts';
import { isErrorCode, messageOf, WalwardenError } from './errors.ts';
import { pause } from './health/patience.ts';
import { reviewGaps } from './server-gaps.ts';
import { rememberedListing } from './server-remembered.ts';
import type { Server } from './server.ts';
import type { WalName } from './wal/wal-name.ts';
import { count, explain, formatSpan } from './words.ts';

/** An archive is listed once a day. */
export const LISTED_EVERY_MS = 24 * 60 * 60 * 1000;

/**
 * Lists a server's archive, and remembers what was found. Throws `locked` while
 * another process lists or deletes, `storage` when the archive can't be seen.
 */
export async function listNow(server: Server, signal?: AbortSignal): Promise<ArchiveListing> {
  const { name, catalogue, strategy, config } = server;
  await using _lock = await acquireLock(server.lockPath('listing'), { waitMs: 1_000, signal });
  await server.checkThere();
  const listing = await listArchive({
    location: config.options.wals_directory,
    catalogue,
    strategy,
    lockDeletion: () => acquireLock(server.lockPath('delete-wals'), { waitMs: 1_000, signal }),
    signal,
  });
  if (listing === null) {
    throw new WalwardenError('locked', `the archive of ${name} changed too much while it was listed`, {
      hint: 'it is listed again later',
    });
  }
  await rememberedListing(server).write(listing);
  await server.rememberSegmentSize();
  await reviewGaps(server);
  const { files, missing, unlisted, startedAt, finishedAt } = listing;
  const facts = { server: name, files, missing: missing.count, unlisted: unlisted.count };
  const found =
    missing.count === 0 ? 'none that the catalogue has is missing' : `${count(missing.count, 'file')} missing`;
  server.logger[missing.count === 0 ? 'info' : 'error'](
    facts,
    `listed ${count(files, 'file')} of ${name} in ${formatSpan(finishedAt - startedAt)}: ${found}`,
  );
  return listing;
}

/** Milliseconds until the archive is to be listed again; 0 when it is due. */
export async function listingDueIn(server: Pick<Server, 'config'>, now = Date.now()): Promise<number> {
  const last = await rememberedListing(server).read();
  // The clock may have been set back.
  if (last === null || last.finishedAt > now) return 0;
  return Math.max(0, last.finishedAt + LISTED_EVERY_MS - now);
}

/**
 * {@link listNow} when that is due; an archive that is younger than a day and was
 * never listed only with `young`: who archives by hand need not wait for it. Never
 * rejects: what kept us from it is logged, and the age of the last listing tells.
 */
export async function listWhenDue(
  server: Server,
  signal?: AbortSignal,
  { young = true }: { readonly young?: boolean } = {},
): Promise<void> {
  const last = await rememberedListing(server).read();
  const tried = await attemptedAt(server);
  try {
    if ((await listingDueIn(server)) > 0) return;
    // Nothing was archived yet; that an archive is gone, others say.
    if (last === null && !(await server.catalogue.exists())) return;
    if (last !== null || young || (await isOlderThan(server, LISTED_EVERY_MS))) await listNow(server, signal);
  } catch (error) {
    if (signal?.aborted === true) return;
    const passes = isErrorCode(error, 'locked') || isErrorCode(error, 'aborted');
    // Cron tries every minute: the log is told once a day.
    const repeated = tried > (last?.finishedAt ?? 0) && Date.now() - tried < LISTED_EVERY_MS;
    server.logger[passes || repeated ? 'debug' : 'warn'](
      { server: server.name },
      `the archive of ${server.name} could not be listed: ${error instanceof WalwardenError ? explain(error) : messageOf(error)}`,
    );
  }
}

/** When a process began to list last, which its lock file tells; 0 when that is not known. */
async function attemptedAt(server: Server): Promise<number> {
  try {
    return (await stat(server.lockPath('listing'))).mtimeMs;
  } catch {
    return 0; // there never was one
  }
}

const NOTHING = { count: 0, first: [] };

/**
 * A catalogue was made anew from what is stored: that was a listing, too, and now the two say the same. Never rejects;
 * a listing that is under way will find it out.
 */
export async function rememberRebuilt(
  server: Server,
  found: { readonly startedAt: number; readonly files: number; readonly bytes: number },
): Promise<void> {
  try {
    await using _lock = await acquireLock(server.lockPath('listing'), { waitMs: 1_000 });
    const finds = { missing: NOTHING, unlisted: NOTHING, oddSizes: NOTHING };
    await rememberedListing(server).write({ ...found, finishedAt: Date.now(), ...finds });
    await reviewGaps(server);
  } catch (error) {
    server.logger.debug(
      { server: server.name },
      `the listing of ${server.name} is not remembered: ${messageOf(error)}`,
    );
  }
}

/**
 * A good copy took the place of an archived one: what the last listing found wrong with its size is over. Never rejects;
 * the next listing finds it out.
 */
export async function rememberReplaced(server: Server, name: WalName): Promise<void> {
  try {
    await using _lock = await acquireLock(server.lockPath('listing'), { waitMs: 1_000 });
    const memory = rememberedListing(server);
    const listing = await memory.read();
    const first = listing?.oddSizes.first.filter((odd) => odd.name !== name);
    if (listing === null || first === undefined || first.length === listing.oddSizes.first.length) return;
    await memory.write({ ...listing, oddSizes: { count: listing.oddSizes.count - 1, first } });
  } catch (error) {
    server.logger.debug(
      { server: server.name },
      `the listing of ${server.name} still has ${name} as it was: ${messageOf(error)}`,
    );
  }
}

/** `check` waits no longer for an endpoint, in milliseconds, … */
const ENDPOINT_MS = 500;
/** … nor for a file system, which only a machine at its limit, or a server that is away, keeps from an answer. */
const FILES_MS = 3_000;

/** What a look at some stored files shows. */
export interface Sight {
  /** With their bytes. */
  readonly stored: ReadonlyMap<WalName, number>;
  /** They have a line, and are certainly not stored. */
  readonly missing: readonly WalName[];
  /** Why nothing is said of the others; null when all are told of. */
  readonly untold: string | null;
}

/** Looks whether files that the catalogue has are stored. `certain`: those that a listing found missing. Waits for no answer for long, and never rejects. */
export async function seeFiles(
  server: Server,
  names: readonly WalName[],
  certain: ReadonlySet<WalName>,
): Promise<Sight> {
  const stored = new Map<WalName, number>();
  const absent: WalName[] = [];
  let missing: readonly WalName[] = [];
  let problem: string | null = null;
  const look = async (name: WalName): Promise<void> => {
    const size = await server.strategy.sizeOf(name);
    if (size === null) absent.push(name);
    else stored.set(name, size);
  };
  const all = async (): Promise<void> => {
    try {
      await Promise.all(names.map(look));
      if (absent.length === 0) return;
      if (await isDeletedFrom(server)) problem = `${absent.join(', ')} not stored, and a deletion is under way`;
      else missing = await stillMissing(server, absent, certain);
    } catch (error) {
      problem = error instanceof WalwardenError ? explain(error) : messageOf(error);
    }
  };
  const over = new AbortController();
  const limitMs = isS3Location(server.config.options.wals_directory) ? ENDPOINT_MS : FILES_MS;
  const late = `no answer within ${formatSpan(limitMs)} about ${count(names.length, 'stored file')}`;
  const inTime = await Promise.race([all().then(() => true), pause(limitMs, over.signal).then(() => false)]);
  over.abort();
  return { stored: new Map(stored), missing, untold: inTime ? problem : late };
}

/** Who deletes drops the lines after the files: walwarden under one lock, a Barman under the other. */
async function isDeletedFrom(server: Server): Promise<boolean> {
  for (const what of ['delete-wals', 'xlogdb'] as const) {
    if ((await lockOwner(server.lockPath(what))) !== null) return true;
  }
  return false;
}

/** Those that have a line now, and are not stored now. */
async function stillMissing(
  { catalogue, strategy }: Server,
  names: readonly WalName[],
  certain: ReadonlySet<WalName>,
): Promise<WalName[]> {
  const missing: WalName[] = [];
  for (const name of names) {
    const hasLine = certain.has(name) || (await catalogue.mentions(name));
    if (hasLine && (await strategy.sizeOf(name)) === null) missing.push(name);
  }
  return missing.sort();
}

/** Has there been an archive for so many milliseconds? */
export async function isOlderThan({ identity }: Server, ms: number, now = Date.now()): Promise<boolean> {
  try {
    // Written once, with the first segment.
    return now - (await stat(identity.path)).mtimeMs > ms;
  } catch {
    return false; // nothing archived that tells
  }
}
