import { lstat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { openDelivered, readDelivered, readWhole, type DeliveredFile } from '../durable/delivered-file.ts';
import { fsyncDirectory, moveUnlessThere, unlinkIfThere } from '../durable/durable-file.ts';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import { placesOf } from '../storage/claim.ts';
import { identityOf } from '../storage/file-identity.ts';
import { S3Error } from '../storage/s3/s3-failure.ts';
import { sha256 } from '../storage/sha256.ts';
import { isOpaque } from '../storage/stored-content.ts';
import { judgeForTaking } from '../storage/taking.ts';
import type { Unpacker } from '../storage/unpacker.ts';
import type { Comparison, WalStorageStrategy } from '../storage/wal-storage-strategy.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { parseWalName, type WalName } from '../wal/wal-name.ts';
import type { ErrorsDirectory } from './errors-directory.ts';
import type { RefusedSegments } from './refused-segments.ts';
import type { ShortSegments } from './short-segments.ts';
import type { WholeDeliveries } from './whole-deliveries.ts';

export interface DepositParts {
  readonly server: string;
  readonly incoming: string;
  /** Where files of incoming are claimed. */
  readonly claims: string;
  readonly strategy: WalStorageStrategy;
  readonly catalogue: { find(name: WalName): Promise<WalFileInfo | undefined> };
  readonly errors: ErrorsDirectory;
  readonly unpacker: Unpacker;
  readonly refused: RefusedSegments;
  readonly shortSegments: Pick<ShortSegments, 'decide'>;
  readonly whole: WholeDeliveries;
}

/** `conflict`: another content is there under this name; a copy of this one is in errors. */
export type Deposited =
  | { readonly outcome: 'deposited' | 'already-there' }
  | { readonly outcome: 'conflict'; readonly reason: string; readonly inErrors: string };

/**
 * Is this the WAL that its name promises, of the cluster that this archive
 * belongs to? Throws `invalid-wal` otherwise. What arrives compressed is judged
 * by what is in it.
 */
export async function verifyDelivery(parts: DepositParts, name: WalName, path: string): Promise<void> {
  const parsed = parseWalName(name);
  if (parsed === undefined) throw new WalwardenError('invalid-wal-name', `not the name of a WAL file: ${name}`);
  const { accept, rules } = parts.strategy.parts;
  const { unpacker } = parts;
  const known = await rules();
  if (known.opaque !== null && known.opaque.segmentSize === null && isOpaque(name, known)) {
    throw new WalwardenError(
      'config',
      `can't take ${name} for server ${parts.server}: verify_wal_header is off, and the size of the server's segments is not known`,
      {
        hint: 'nothing was stored; set wal_segment_size, or let conninfo or streaming_conninfo reach the server, which is asked',
      },
    );
  }
  const refuse = (reason: string, hint = 'PostgreSQL keeps the file and tries again'): WalwardenError =>
    new WalwardenError('invalid-wal', `refused ${name} for server ${parts.server}: ${reason}`, {
      hint: `nothing was stored; ${hint}`,
    });
  await using file = await openDelivered(path);
  const odd = await unpacker.whyNotRead(file, name);
  if (odd !== null) throw refuse(odd.reason);
  const bytes = await readWhole(file);
  const { plain } = await unpacker.unpack(bytes, name);
  const verdict = judgeForTaking(parsed, plain, known);
  if (verdict.verdict !== 'valid') {
    // What an archive took before all pages were looked at is there already, and is so again.
    const broken = verdict.verdict === 'invalid' && verdict.broken !== undefined;
    if (!broken) throw refuse(verdict.reason);
    if ((await compareEverywhere(parts, name, bytes)).result === 'same') return;
    const times = await parts.refused.record(name, sha256(plain), verdict.reason);
    throw times === 1 ? refuse(verdict.reason) : refuse(verdict.reason, asItIs(parts.server, name));
  }
  if (verdict.header === null) return;
  const foreign = await accept(verdict.header);
  if (foreign !== null) throw refuse(foreign);
  await parts.refused.forget(name);
}

/** What leads out when the damage is in pg_wal itself. */
function asItIs(server: string, name: WalName): string {
  return (
    'it came before with the same content, so it is damaged in pg_wal itself, which fills up; ' +
    `to have it archived as it is: walwarden errors resolve --as-it-is ${server} ${name}`
  );
}

/**
 * Puts a delivered file, whole and fsynced under a temporary name in incoming,
 * in place without overwriting anything. Resolves once it would survive power
 * loss, whether it is new or was there before. The temporary is gone afterwards.
 * `checked`: it came with a checksum, which was right.
 */
export async function depositWal(
  parts: DepositParts,
  name: WalName,
  temporary: string,
  { checked }: { readonly checked: boolean },
): Promise<Deposited> {
  const final = join(parts.incoming, name);
  const bytes = await readDelivered(temporary);
  try {
    for (;;) {
      const found = await compareEverywhere(parts, name, bytes);
      if (found.result === 'same') return { outcome: 'already-there' };
      if (found.result === 'different') {
        const inErrors = await keepOnce(parts.errors, name, temporary, bytes, found.reason);
        return { outcome: 'conflict', reason: found.reason, inErrors };
      }
      if (checked && isOpaque(name, await parts.strategy.parts.rules())) {
        await parts.whole.note(name, identityOf(await lstat(temporary, { bigint: true })));
      }
      if (await moveUnlessThere(temporary, final)) {
        await fsyncDirectory(parts.incoming);
        return { outcome: 'deposited' };
      }
    }
  } finally {
    await unlinkIfThere(temporary);
  }
}

/** In the order in which a file moves, so that one that moves meanwhile is met at its next place. */
async function compareEverywhere(parts: DepositParts, name: WalName, bytes: Buffer): Promise<Comparison> {
  for (const path of placesOf(parts.incoming, parts.claims, name)) {
    const found = await compareWaiting(path, name, bytes, parts.unpacker);
    if (found.result !== 'absent') return found;
  }
  return compareArchived(parts, name, bytes);
}

/**
 * A bucket that doesn't answer must not fill PostgreSQL's disk: what our
 * catalogue does not have is new as far as we know, and incoming keeps it. Should
 * another machine have stored another content, the pass that meets it moves this one to errors.
 */
async function compareArchived(parts: DepositParts, name: WalName, bytes: Buffer): Promise<Comparison> {
  try {
    const stored = await parts.strategy.compare(name, bytes);
    if (stored.result === 'different') return await compareAsShort(parts, name, bytes, stored);
    return stored.result === 'same' ? await madeDurable(parts, name) : stored;
  } catch (error) {
    if (!(error instanceof S3Error) || (await parts.catalogue.find(name)) !== undefined) throw error;
    return { result: 'absent' };
  }
}

/** Another process may have stored it, and crashed before the fsync. */
async function madeDurable({ strategy }: DepositParts, name: WalName): Promise<Comparison> {
  return { result: (await strategy.makeDurable(name)) === null ? 'absent' : 'same' };
}

/**
 * What is only the beginning of the archived segment is no conflict: a pass
 * stores it as a partial one, and incoming keeps it until then.
 */
async function compareAsShort(
  parts: DepositParts,
  name: WalName,
  bytes: Buffer,
  different: Comparison,
): Promise<Comparison> {
  const { plain } = await parts.unpacker.unpack(bytes, name);
  const { stored, delivery } = await parts.shortSegments.decide(name, plain);
  if (stored === name) return different;
  const comparison = await parts.strategy.compare(stored, bytes, { asShort: true });
  if (comparison.result !== 'same') return comparison;
  return delivery === null ? madeDurable(parts, stored) : { result: 'absent' };
}

async function compareWaiting(path: string, name: WalName, bytes: Buffer, unpacker: Unpacker): Promise<Comparison> {
  let opened: DeliveredFile;
  let waiting: Buffer;
  try {
    opened = await openDelivered(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return { result: 'absent' };
    throw cantRead(path, error);
  }
  await using file = opened;
  try {
    const odd = await unpacker.whyNotRead(file, name);
    if (odd !== null) return { result: 'different', reason: `${path} can't be compared with it: ${odd.reason}` };
    waiting = await readWhole(file);
  } catch (error) {
    throw cantRead(path, error);
  }
  try {
    const [there, here] = [await unpacker.unpack(waiting, name), await unpacker.unpack(bytes, name)];
    if (!there.plain.equals(here.plain)) {
      return { result: 'different', reason: `its content is another than that of ${path}, which waits to be archived` };
    }
    // Whoever put it there may have crashed before its fsync, and now we vouch for it.
    await file.handle.sync();
    await fsyncDirectory(dirname(path));
    // It may have moved on, or another file may have taken its place.
    return { result: (await lstat(path, { bigint: true })).ino === file.stat.ino ? 'same' : 'absent' };
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return { result: 'absent' }; // it moved on
    // What can't be read back is no copy of it; what can't be looked at right now is no answer.
    if (!isErrorCode(error, 'damaged') && !isErrorCode(error, 'incomplete-wal')) {
      throw new WalwardenError('storage', `can't compare it with ${path}: ${messageOf(error)}`, { cause: error });
    }
    return { result: 'different', reason: `${path} can't be compared with it: ${messageOf(error)}` };
  }
}

function cantRead(path: string, cause: unknown): WalwardenError {
  return new WalwardenError('storage', `can't read ${path}: ${messageOf(cause)}`, { cause });
}

/** PostgreSQL retries a refused file for ever; one copy in errors is enough. */
async function keepOnce(
  errors: ErrorsDirectory,
  name: WalName,
  temporary: string,
  bytes: Buffer,
  reason: string,
): Promise<string> {
  for (const file of await errors.list()) {
    if (file.kind !== 'duplicate' || !file.entry.startsWith(`${name}.`)) continue;
    if (await holds(errors.pathOf(file), bytes)) return file.entry;
  }
  return errors.takeCopy(temporary, name, 'duplicate', reason);
}

/** False also for what can't be read: that is no copy. */
async function holds(path: Buffer, bytes: Buffer): Promise<boolean> {
  try {
    return (await readDelivered(path)).equals(bytes);
  } catch (error) {
    if (error instanceof WalwardenError || errnoOf(error) !== undefined) return false;
    throw error;
  }
}
