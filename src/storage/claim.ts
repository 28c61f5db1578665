import { lstat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { makeDirectory } from '../durable/durable-file.ts';
import { errnoOf } from '../errors.ts';
import { isWalName, type WalName } from '../wal/wal-name.ts';

// A file whose own inode becomes the archive's is claimed before: it is renamed into a directory where no other user can
// touch its name. Where it was delivered, another process may put a different file under any name at any moment.

const PREFIX = '.walwarden-';

/** Where files are claimed that were delivered to incoming and streaming: below one directory that is ours alone. */
export interface ClaimDirectories {
  readonly incoming: string;
  readonly streaming: string;
}

/** The claim directories of a server. */
export function claimDirectories(backupDirectory: string): ClaimDirectories {
  const root = join(backupDirectory, '.claimed');
  return { incoming: join(root, 'incoming'), streaming: join(root, 'streaming') };
}

/**
 * The name under which a file of streaming is left to the archiver, because
 * pg_receivewal would take it for its position; and under which older versions
 * claimed files inside incoming and streaming.
 */
export function claimPath(path: string, name: WalName): string {
  return join(dirname(path), PREFIX + name);
}

/** The WAL name of a file that is called so, undefined for other names. */
export function claimedName(entry: string): WalName | undefined {
  if (!entry.startsWith(PREFIX)) return undefined;
  const name = entry.slice(PREFIX.length);
  return isWalName(name) ? name : undefined;
}

/** Every path that a delivered file may have until it is archived, in the order in which it moves. */
export function placesOf(directory: string, claims: string, name: WalName): readonly [string, string, string] {
  const delivered = join(directory, name);
  return [delivered, claimPath(delivered, name), join(claims, name)];
}

/**
 * Makes a claim directory. False when others may change what lies there, or
 * rename it away: each of the directories down from the server's own has to be
 * ours, and closed to others.
 */
export async function makeClaimDirectory(claims: string): Promise<boolean> {
  if (!(await isOurs(dirname(dirname(claims)), 0o022))) return false;
  try {
    return await areOurs(claims);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
  await makeDirectory(claims);
  return areOurs(claims);
}

async function areOurs(claims: string): Promise<boolean> {
  return (await isOurs(dirname(claims), 0o077)) && (await isOurs(claims, 0o077));
}

async function isOurs(directory: string, closed: number): Promise<boolean> {
  const found = await lstat(directory);
  return found.isDirectory() && found.uid === process.geteuid?.() && (found.mode & closed) === 0;
}
