import { constants } from 'node:fs';
import { lstat, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf } from '../errors.ts';
import { parseWalName, type WalName } from '../wal/wal-name.ts';
import type { Backup, BackupFacts } from './needed-wal.ts';

/** Where Barman keeps its backups, and what it knows of them. */
export interface BackupDirectories {
  /** `basebackups_directory`: ID/backup.info and ID/annotations/keep; null when backups are in a bucket. */
  readonly base: string | null;
  /** ID-backup.info and ID-keep, from Barman 3.13.2 and 3.13.3 on. */
  readonly meta: string;
}

const INFO = '-backup.info';

/** Much more than Barman writes. */
const MOST_BYTES = 16 * 1024 * 1024;

/**
 * All backups of a server, by their ids. What can't be read is one of which
 * nothing can be said, be it a directory of backups as a whole. Never rejects.
 */
export async function readBackups({ base, meta }: BackupDirectories): Promise<Backup[]> {
  const problems: Backup[] = [];
  const namesIn = async (directory: string): Promise<string[]> => {
    try {
      return (await readdir(directory)).filter((name) => !name.startsWith('.')).sort();
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') problems.push({ id: directory, problem: messageOf(error) });
      return [];
    }
  };
  const inMeta = (await namesIn(meta)).filter((name) => name.endsWith(INFO)).map((name) => name.slice(0, -INFO.length));
  const inBase = base === null ? [] : await namesIn(base);
  const known = new Set(inMeta);
  const backups: Backup[] = [];
  for (const id of [...new Set([...inMeta, ...inBase])].sort()) {
    const directory = base === null ? null : join(base, id);
    // Where Barman has moved it, an older copy may be left.
    const path = known.has(id) || directory === null ? join(meta, `${id}${INFO}`) : join(directory, 'backup.info');
    const backup = await readBackup(id, path, directory, meta);
    if (backup !== null) backups.push(backup);
  }
  return [...problems, ...backups];
}

/** Null for what is no backup. */
async function readBackup(id: string, path: string, directory: string | null, meta: string): Promise<Backup | null> {
  let text: string | null;
  try {
    text = await readSmall(path);
  } catch (error) {
    return { id, problem: `${path} can't be read: ${messageOf(error)}` };
  }
  if (text === null) {
    if (directory === null || !(await hasData(directory))) return null;
    return { id, problem: `${directory} may hold a backup, and there is no ${path}` };
  }
  const facts = parseBackupInfo(text);
  if (typeof facts === 'string') return { id, problem: `${path} can't be read: ${facts}` };
  return { id, ...facts, keep: await readKeep(id, directory, meta) };
}

/** What Barman's `backup.info` says, as far as it matters here; or why it can't be understood. */
export function parseBackupInfo(text: string): Omit<BackupFacts, 'id' | 'keep'> | string {
  const fields = new Map<string, string>();
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '' || line.trimEnd().startsWith('#')) continue;
    const at = line.indexOf('=');
    if (at === -1) return `line ${index + 1} is no "key=value": ${JSON.stringify(line.slice(0, 80))}`;
    fields.set(line.slice(0, at).trim(), line.slice(at + 1).trim());
  }
  const value = (name: string): string | null => {
    const found = fields.get(name);
    return found === undefined || found === 'None' || found === '' ? null : found;
  };
  const status = value('status');
  if (status === null) return 'it has no status';
  return { status, beginWal: segmentIn(value('begin_wal')), endWal: segmentIn(value('end_wal')) };
}

function segmentIn(text: string | null): WalName | null {
  const parsed = text === null ? undefined : parseWalName(text);
  return parsed?.kind === 'segment' ? parsed.name : null;
}

/** The older place goes first: Barman moves from there to the newer one, whatever is there. */
async function readKeep(id: string, directory: string | null, meta: string): Promise<BackupFacts['keep']> {
  const places = [...(directory === null ? [] : [join(directory, 'annotations', 'keep')]), join(meta, `${id}-keep`)];
  for (const path of places) {
    try {
      const text = await readSmall(path);
      if (text !== null) return text.trim() === 'standalone' ? 'standalone' : 'full';
    } catch {
      // Then it may be a full one, which needs most.
      return 'full';
    }
  }
  return null;
}

/** A directory that a backup was written to. One that is empty, or holds annotations alone, is left of a deleted one. */
async function hasData(directory: string): Promise<boolean> {
  try {
    const entries = await readdir(directory);
    return entries.some((entry) => entry === 'data' || entry === 'pgdata');
  } catch (error) {
    if (errnoOf(error) === 'ENOTDIR') return false;
    // A link to a disk that is not mounted leads nowhere.
    return errnoOf(error) === 'ENOENT' ? isLink(directory) : true;
  }
}

/** The text of a regular file; null when there is nothing of this name. */
async function readSmall(path: string): Promise<string | null> {
  try {
    await using handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const found = await handle.stat();
    if (!found.isFile()) throw new Error('it is no regular file');
    if (found.size > MOST_BYTES) throw new Error(`it has ${found.size} bytes`);
    return await handle.readFile('utf8');
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ENOTDIR') throw error;
    // A link that leads nowhere is something of this name.
    if (await isLink(path)) throw new Error('it is a symbolic link that leads nowhere', { cause: error });
    return null;
  }
}

async function isLink(path: string): Promise<boolean> {
  try {
    return (await lstat(path)).isSymbolicLink();
  } catch {
    return false; // nothing of this name
  }
}
