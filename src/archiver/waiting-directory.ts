import { lstat, readdir, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { recogniseCompression, RECOGNITION_BYTES } from '../compression/codecs.ts';
import { oddityOf, openDelivered } from '../durable/delivered-file.ts';
import { OUT_OF_RESOURCES, unlinkIfThere } from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { claimedName } from '../storage/claim.ts';
import { identityOf, sameIdentity, type FileIdentity } from '../storage/file-identity.ts';
import type { WaitingWal } from '../storage/wal-storage-strategy.ts';
import { LONG_PAGE_HEADER_SIZE } from '../wal/page-header.ts';
import { judgeSegment, judgeTextFile, MAX_TEXT_FILE_SIZE, type OpaqueWal, type Verdict } from '../wal/verify.ts';
import { isWalName, parseWalName, type WalName } from '../wal/wal-name.ts';

/** What a directory holds, by names alone: nothing was opened, and nothing but the names is in memory. */
export interface DirectoryListing {
  /** Names of WAL files in WAL order, those with a claim among them. */
  readonly names: readonly WalName[];
  /** Where the claim of a name lies; one that an older version made comes first. */
  readonly claims: ReadonlyMap<WalName, string>;
  /** Everything that is no WAL file's name, byte for byte (latin1). */
  readonly unknown: readonly string[];
  /** Temporaries and dot files, for somebody is still at them; and lost+found. */
  readonly ignored: readonly string[];
}

/** What a look at one waiting file says. */
export type Inspection =
  | { readonly state: 'ready'; readonly wal: WaitingWal }
  | {
      readonly state: 'unknown' | 'incomplete' | 'failed';
      readonly reason: string;
      readonly changedMs: number;
      /** Where it is, unless under its name in the directory. */
      readonly path?: string;
    }
  | { readonly state: 'gone' };

/** WAL whose headers can't be read, where it is delivered. */
export interface OpaqueDelivery extends OpaqueWal {
  /** Milliseconds that a file has to be unchanged, unless it is known to be whole. */
  readonly waitMs: number;
  readonly isWhole: (name: WalName, identity: FileIdentity) => Promise<boolean>;
}

export interface InspectOptions {
  /** Look at this claim of that name. */
  readonly claim?: string;
  /** Where it may be claimed. */
  readonly claims?: string | undefined;
  /** `custom_compression_magic`. */
  readonly customMagic?: Uint8Array | undefined;
  /** How WAL is judged whose headers can't be read. */
  readonly opaque?: OpaqueDelivery | null | undefined;
  /** Cuts the wait for a file to settle short. */
  readonly signal?: AbortSignal | undefined;
}

// A directory that is a file system of its own has lost+found, and root's alone.
const IGNORED = /^\.|\.tmp$|^lost\+found$/s;
// basic_archive (PostgreSQL 15+, contrib/basic_archive) writes under this name first.
const BASIC_ARCHIVE_TEMPORARY = /^archtemp\..+\.\d+\.\d+$/;
const PUT_WAL_TEMPORARY = /^\.\d+-[0-9a-f]+-(.+)$/;
const DAY_MS = 86_400_000;
/** A file that has no length of its own is taken once nothing has changed for so long, in milliseconds. */
const SETTLE_MS = 1_000;
const HEAD_BYTES = Math.max(LONG_PAGE_HEADER_SIZE, RECOGNITION_BYTES);

/** Lists a directory that delivers WAL files, and what is claimed of it. Each directory is read once, whatever waits there. */
export async function listWaiting(directory: string, claimDirectory?: string): Promise<DirectoryListing> {
  const names = new Set<WalName>();
  const claims = new Map<WalName, string>();
  const unknown: string[] = [];
  const ignored: string[] = [];
  for (const entry of await entriesOf(directory)) {
    const claimed = claimedName(entry);
    if (claimed !== undefined) {
      names.add(claimed);
      claims.set(claimed, join(directory, entry));
    } else if (isWalName(entry)) names.add(entry);
    else if (IGNORED.test(entry) || BASIC_ARCHIVE_TEMPORARY.test(entry)) ignored.push(entry);
    else unknown.push(entry);
  }
  for (const entry of claimDirectory === undefined ? [] : await entriesOf(claimDirectory)) {
    if (!isWalName(entry)) continue;
    names.add(entry);
    if (!claims.has(entry)) claims.set(entry, join(claimDirectory ?? '', entry));
  }
  return { names: [...names].sort(), claims, unknown: unknown.sort(), ignored };
}

/** Names, byte for byte (latin1); none where there is no directory. */
async function entriesOf(directory: string): Promise<string[]> {
  try {
    return await readdir(directory, 'latin1');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    const code = OUT_OF_RESOURCES.has(errnoOf(error) ?? '') ? 'storage' : 'source';
    throw new WalwardenError(code, `can't read ${directory}: ${messageOf(error)}`, { cause: error });
  }
}

/** Removes what a put-wal that was killed left behind, a day after. */
export async function removeOldTemporaries(directory: string, ignored: readonly string[]): Promise<void> {
  for (const entry of ignored) {
    const [, name = ''] = PUT_WAL_TEMPORARY.exec(entry) ?? [];
    if (!isWalName(name)) continue;
    const path = join(directory, entry);
    try {
      const stat = await lstat(path);
      if (stat.isFile() && Date.now() - stat.ctimeMs > DAY_MS) await unlinkIfThere(path);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  }
}

/**
 * Looks at one waiting file: is it whole, as far as its first bytes and its
 * size tell? What comes compressed is only opened when it is staged.
 */
export async function inspectWaiting(
  directory: string,
  name: WalName,
  options: InspectOptions = {},
): Promise<Inspection> {
  const { claim, claims } = options;
  const path = claim ?? join(directory, name);
  try {
    const found = await lstat(path, { bigint: true });
    const odd = oddityOf(found);
    if (odd !== null) {
      // What is too large for WAL is too large to be moved about as well.
      const state = odd.what === 'size' ? 'failed' : 'unknown';
      return { state, reason: odd.reason, changedMs: changedMsOf(found) };
    }
    await using file = await openDelivered(path);
    const changedMs = changedMsOf(file.stat);
    const claimed = claim !== undefined;
    const claimTo = claims === undefined ? null : join(claims, name);
    const wal = { name, path, identity: identityOf(file.stat), claimed, claimTo, changedMs };
    return await look(wal, file.handle, changedMs, options);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return { state: 'gone' };
    // Not this file's fault: every other one would fail as well.
    if (OUT_OF_RESOURCES.has(errnoOf(error) ?? '')) throw error;
    return { state: 'failed', reason: messageOf(error), changedMs: Date.now() };
  }
}

/** {@link inspectWaiting} of the claim of that name. */
export async function inspectClaim(
  directory: string,
  name: WalName,
  options: InspectOptions & { readonly claim: string },
): Promise<Inspection> {
  const found = await inspectWaiting(directory, name, options);
  return found.state === 'ready' || found.state === 'gone' ? found : { ...found, path: options.claim };
}

/**
 * What an interrupted pass claimed, where it did, is finished first; a new arrival of its name
 * waits for the next pass, unless power loss took the bytes of the claim: then
 * the arrival is the file that PostgreSQL sent again.
 */
export async function inspectClaimFirst(
  directory: string,
  name: WalName,
  claim: string | undefined,
  options: Omit<InspectOptions, 'claim'>,
): Promise<Inspection> {
  if (claim === undefined) return inspectWaiting(directory, name, options);
  const claimed = await inspectClaim(directory, name, { ...options, claim });
  if (claimed.state === 'ready') return claimed;
  const arrival = await inspectWaiting(directory, name, options);
  return arrival.state === 'ready' || claimed.state === 'gone' ? arrival : claimed;
}

async function look(
  wal: Omit<WaitingWal, 'plain'>,
  handle: FileHandle,
  changedMs: number,
  options: InspectOptions,
): Promise<Inspection> {
  const parsed = parseWalName(wal.name);
  if (parsed === undefined) return { state: 'unknown', reason: 'it has not the name of a WAL file', changedMs };
  const size = Number(wal.identity.size);
  const head = await readStart(handle, HEAD_BYTES);
  const isSegment = parsed.kind === 'segment' || parsed.kind === 'partial';
  const opaque = isSegment ? (options.opaque ?? null) : null;
  // Encrypted pages may begin like anything.
  const compressed =
    (opaque === null || opaque.segmentSize !== size) && recogniseCompression(head, options.customMagic) !== null;
  if (opaque !== null && (compressed || opaque.segmentSize === size) && !(await mayBeWhole(wal, opaque, changedMs))) {
    const reason = `verify_wal_header is off, so it waits until it has been unchanged for ${opaque.waitMs / 1000} s`;
    return { state: 'incomplete', reason, changedMs };
  }

  let verdict: Verdict | null = null;
  if (isSegment && !compressed) {
    verdict = judgeSegment(parsed, head, size, opaque);
    // A segment says itself how long it will be, so neither answer needs a second look.
    if (verdict.verdict === 'valid') return { state: 'ready', wal: { ...wal, plain: true } };
    if (verdict.verdict === 'incomplete') return { state: 'incomplete', reason: verdict.reason, changedMs };
  }
  if (size === 0) return { state: 'incomplete', reason: 'it is empty', changedMs };
  await settle(changedMs, options.signal);
  const now = await lstat(wal.path, { bigint: true });
  if (!sameIdentity(identityOf(now), wal.identity))
    return { state: 'incomplete', reason: 'it is still changing', changedMs };
  if (compressed) return { state: 'ready', wal: { ...wal, plain: false } };
  verdict ??= judgeTextFile(parsed, await readStart(handle, Math.min(size, MAX_TEXT_FILE_SIZE + 1)));
  if (verdict.verdict === 'valid') return { state: 'ready', wal: { ...wal, plain: true } };
  return { state: verdict.verdict === 'incomplete' ? 'incomplete' : 'unknown', reason: verdict.reason, changedMs };
}

/** A claim was found whole before it was made. */
async function mayBeWhole(
  { name, identity, claimed }: Omit<WaitingWal, 'plain'>,
  { waitMs, isWhole }: OpaqueDelivery,
  changedMs: number,
): Promise<boolean> {
  return claimed || Date.now() - changedMs >= waitMs || (await isWhole(name, identity));
}

/** By the time of the last change of its inode, which no `cp -p` can set back. */
async function settle(changedMs: number, signal: AbortSignal | undefined): Promise<void> {
  const age = Date.now() - changedMs;
  if (age < 0 || age >= SETTLE_MS) return;
  try {
    await delay(SETTLE_MS - age, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    if (signal?.aborted !== true) throw error;
  }
}

async function readStart(handle: FileHandle, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(buffer, done, length - done, done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}

function changedMsOf({ ctimeNs }: { readonly ctimeNs: bigint }): number {
  return Number(ctimeNs / 1_000_000n);
}
