import { findServer } from '../config/config.ts';
import { interval } from '../config/values.ts';
import { acquireLock } from '../durable/lock-file.ts';
import { WalwardenError } from '../errors.ts';
import { firstNeeded, isNeeded, neededWal } from '../retention/needed-wal.ts';
import { readBackups } from '../retention/read-backups.ts';
import { backupDirectories } from '../server-settings.ts';
import { reviewGaps } from '../server-gaps.ts';
import { openServer, type Server } from '../server.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { parseWalName, walDirectory, walKind, walName, type WalName } from '../wal/wal-name.ts';
import { count, formatBytes, type CommandContext, type Report } from './command.ts';

export interface DeleteWalsOptions {
  readonly before?: string;
  readonly beforeBackup?: string;
  readonly olderThan?: string;
  readonly dryRun?: boolean;
  readonly force?: boolean;
}

/** After so many files their lines are dropped: each time the catalogue is written anew. */
const BATCH = 1000;

/**
 * `delete-wals SERVER`: deletes archived files, oldest first. History files
 * stay: they are small, and needed to find a way between timelines. What a backup
 * of Barman's needs stays, too, unless `force` is given.
 */
export async function deleteWals(context: CommandContext, name: string, options: DeleteWalsOptions): Promise<Report> {
  await using server = openServer(context.config, findServer(context.config, name), context.logger, context);
  const isOld = chooser(options);
  const doomed: WalFileInfo[] = [];
  for await (const info of server.catalogue.read()) if (isOld(info)) doomed.push(info);
  const neededBy = await refuseWhatIsNeeded(server, doomed, options.force === true);
  const bytes = doomed.reduce((sum, { size }) => sum + size, 0);
  const dryRun = options.dryRun === true;
  const deleted: WalName[] = dryRun ? doomed.map((info) => info.name) : await deleteAll(server, doomed, context);
  const verb = dryRun ? 'Would delete' : 'Deleted';
  const text = `${verb} ${count(deleted.length, 'file')} of server ${name} (${formatBytes(bytes)})\n${dryRun ? deleted.map((wal) => `\t${wal}\n`).join('') : ''}`;
  return { text, json: { server: name, dryRun, deleted, ...(neededBy.length === 0 ? {} : { neededBy }) } };
}

/** A backup that needs some of the files that are to be deleted. */
interface Need {
  readonly backup: string;
  readonly first: WalName;
  readonly files: number;
}

/** Backups that are named in an error; all are counted. */
const NAMED = 5;

/**
 * Throws `needed` when a backup of Barman's needs what is to be deleted, or may
 * need it; with `force` that is logged only, and returned.
 */
async function refuseWhatIsNeeded(server: Server, doomed: readonly WalFileInfo[], force: boolean): Promise<Need[]> {
  const { name, config, logger } = server;
  if (doomed.length === 0) return [];
  const { ranges, unknown } = neededWal(await readBackups(backupDirectories(config)));
  const needs = ranges.flatMap((range): Need[] => {
    const needed = doomed.filter((info) => isNeeded(info.name, range));
    const [first] = needed;
    return first === undefined ? [] : [{ backup: range.backup, first: first.name, files: needed.length }];
  });
  const reasons = [
    ...unknown.map(({ id, problem }) => `what backup ${id} needs is not known: ${problem}`),
    ...needs.map(
      ({ backup, first, files }) => `backup ${backup} needs ${count(files, 'file')} of them, from ${first} on`,
    ),
  ];
  if (reasons.length === 0) return [];
  const more = reasons.length > NAMED ? `; and ${reasons.length - NAMED} more` : '';
  const why = `${count(doomed.length, 'file')} of ${name} were to be deleted, but ${reasons.slice(0, NAMED).join('; ')}${more}`;
  if (force) {
    logger.warn({ server: name, backups: needs.map(({ backup }) => backup) }, `${why}; --force deletes them`);
    return needs;
  }
  const first = firstNeeded(ranges);
  const less = first === null ? '' : `walwarden delete-wals --before ${first} ${name} deletes what no backup needs; `;
  throw new WalwardenError('needed', `nothing is deleted: ${why}`, {
    hint:
      (unknown.length > 0
        ? 'let barman list-backups and show-backup say what that backup is, and mend or delete it; '
        : less) + 'to delete them nevertheless: --force',
  });
}

function chooser(options: DeleteWalsOptions): (info: WalFileInfo) => boolean {
  const given = [options.before, options.beforeBackup, options.olderThan].filter((value) => value !== undefined);
  if (given.length !== 1) {
    throw new WalwardenError('usage', 'delete-wals needs exactly one of --before, --before-backup and --older-than');
  }
  if (options.olderThan !== undefined) return olderThan(options.olderThan);
  const limit = walName(options.before ?? options.beforeBackup ?? '');
  const expected = options.before === undefined ? 'backup' : 'segment';
  if (walKind(limit) !== expected) {
    throw new WalwardenError(
      'usage',
      `expected the name of a ${expected === 'backup' ? 'backup label file' : 'segment'}, found ${limit}`,
    );
  }
  return before(limit);
}

/**
 * By position in the WAL, on the limit's timeline and those that it may come
 * from; a later timeline may have begun earlier, so it stays.
 */
function before(limit: WalName): (info: WalFileInfo) => boolean {
  const position = limit.slice(8, 24).toUpperCase();
  const timeline = parseWalName(limit)?.timeline ?? 0;
  return ({ name }) => {
    const parsed = parseWalName(name);
    if (parsed === undefined || parsed.kind === 'history' || parsed.timeline > timeline) return false;
    return name.slice(8, 24).toUpperCase() < position;
  };
}

function olderThan(duration: string): (info: WalFileInfo) => boolean {
  const milliseconds = interval.parse(duration);
  if (milliseconds === undefined) {
    throw new WalwardenError('usage', `--older-than: expected ${interval.expected}, found ${JSON.stringify(duration)}`);
  }
  const limit = (Date.now() - milliseconds) / 1000;
  return ({ name, mtime }) => walKind(name) !== 'history' && mtime < limit;
}

async function deleteAll(
  server: Server,
  doomed: readonly WalFileInfo[],
  { drain, kill }: CommandContext,
): Promise<WalName[]> {
  // Files are gone a while before their lines: a listing must not take them for lost.
  await using _lock = await acquireLock(server.lockPath('delete-wals'), { wait: true, signal: kill });
  // A gap that was filled, and is one again without these files, is acknowledged no more.
  await reviewGaps(server);
  const deleted: WalName[] = [];
  for (let at = 0; at < doomed.length && !drain.aborted; at += BATCH) {
    const batch: WalName[] = [];
    try {
      await server.strategy.delete(byDirectory(doomed.slice(at, at + BATCH)), (name) => batch.push(name));
    } finally {
      await dropLines(server, batch);
      deleted.push(...batch);
    }
  }
  server.logger.info({ server: server.name, files: deleted.length }, `deleted ${count(deleted.length, 'WAL file')}`);
  return deleted;
}

/** The hooks ran without the catalogue's lock, so a file may have been archived again meanwhile: it keeps its line. */
async function dropLines({ catalogue, strategy }: Server, names: readonly WalName[]): Promise<void> {
  if (names.length === 0) return;
  await catalogue.withLock(async (session) => {
    const stored = await strategy.stored(names);
    await session.remove(new Set(names.filter((name) => !stored.has(name))));
  });
}

function byDirectory(infos: readonly WalFileInfo[]): Map<string, WalFileInfo[]> {
  const directories = new Map<string, WalFileInfo[]>();
  for (const info of infos) {
    const directory = walDirectory(info.name);
    const list = directories.get(directory) ?? [];
    list.push(info);
    directories.set(directory, list);
  }
  return directories;
}
