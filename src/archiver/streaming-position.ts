import type { BigIntStats } from 'node:fs';
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { identityOf, type FileIdentity } from '../storage/file-identity.ts';
import type { WalName } from '../wal/wal-name.ts';
import { inspectWaiting } from './waiting-directory.ts';

/** A complete segment as it lay there. Its inode's time of change tells also what leaves size and mtime alone. */
export interface MarkedFile extends FileIdentity {
  readonly name: WalName;
  readonly ctimeNs: bigint;
}

/** What pg_receivewal may have open, and what it would look for after a restart. */
export interface StreamingPosition {
  /** Files that it may be writing into: they must not be moved, linked or removed. */
  readonly partials: ReadonlySet<WalName>;
  /** Complete segments that tell it where to go on: archived as copies, and left where they are. */
  readonly markers: ReadonlyMap<WalName, MarkedFile>;
}

export interface PositionOptions {
  /** Cuts the wait for a file to settle short. */
  readonly signal?: AbortSignal | undefined;
}

// What pg_receivewal recognises (is_xlogfilename in pg_receivewal.c): upper case only.
const SEGMENT = /^[0-9A-F]{24}$/;
const PARTIAL = /^[0-9A-F]{24}\.partial$/;

/** The order of names, timelines first: Barman's "newest". */
const byTimeline = (name: WalName): string => name.slice(0, 24);
/** pg_receivewal's own order (FindStreamingStart in pg_receivewal.c): segment number first, then timeline. */
const bySegment = (name: WalName): string => name.slice(8, 24) + name.slice(0, 8);

/**
 * Finds out which files of a streaming directory belong to pg_receivewal, from
 * the names that lie there.
 *
 * A partial file stays when it is the newest by its name, or by pg_receivewal's
 * own order, or the last one that was written. The file that is open is always
 * one of these: either pg_receivewal found it when it started, and then it is
 * the newest in its order, or it has created (and so written) it since.
 *
 * A complete segment stays until a newer file supersedes it. The two orders
 * differ when a later timeline began at an earlier segment; then the time of
 * writing tells which of the two pg_receivewal follows. What can't be judged
 * stays, and supersedes nothing. pg_receivewal fsyncs a finished file by its new
 * name before it creates the next one, so nothing that is superseded is in use.
 */
export async function findPosition(
  directory: string,
  names: readonly WalName[],
  options: PositionOptions = {},
): Promise<StreamingPosition> {
  const partials = names.filter((name) => PARTIAL.test(name));
  const written = new Map<WalName, bigint>();
  for (const name of partials) written.set(name, (await statIfThere(join(directory, name)))?.mtimeNs ?? -1n);
  const lastName = greatest(partials.map(byTimeline));
  const lastSegment = greatest(partials.map(bySegment));
  const lastWrite = greatest(written.values());
  // Within one tick of the clock several may have been written.
  const kept = partials.filter(
    (name) => byTimeline(name) === lastName || bySegment(name) === lastSegment || written.get(name) === lastWrite,
  );

  // What may supersede a segment, and when it was written.
  const certain = [...written];
  const markers = new Map<WalName, MarkedFile>();
  const segments = names.filter((name) => SEGMENT.test(name)).sort((a, b) => (a < b ? 1 : -1));
  for (const name of segments) {
    const newer = certain.filter(([other]) => byTimeline(other) > name);
    if (newer.some(([other]) => bySegment(other) > bySegment(name))) continue;
    const file = await statIfThere(join(directory, name));
    if (file === null || !file.isFile() || newer.some(([, time]) => time > file.mtimeNs)) continue;
    markers.set(name, { name, ...identityOf(file), ctimeNs: file.ctimeNs });
    const found = await inspectWaiting(directory, name, options);
    if (found.state === 'ready' && found.wal.plain) certain.push([name, file.mtimeNs]);
  }
  return { partials: new Set(kept), markers };
}

function greatest<T extends string | bigint>(values: Iterable<T>): T | undefined {
  let greatestYet: T | undefined;
  for (const value of values) if (greatestYet === undefined || value > greatestYet) greatestYet = value;
  return greatestYet;
}

async function statIfThere(path: string): Promise<BigIntStats | null> {
  try {
    return await lstat(path, { bigint: true });
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw new WalwardenError('storage', `can't look at ${path}: ${messageOf(error)}`, { cause: error });
  }
}
