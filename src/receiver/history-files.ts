import { join } from 'node:path';
import { readdir } from 'node:fs/promises';
import { readDelivered } from '../durable/delivered-file.ts';
import { fsyncDirectory, isThere, moveUnlessThere, unlinkIfThere, writeNewFile } from '../durable/durable-file.ts';
import { errnoOf, isErrorCode, WalwardenError } from '../errors.ts';
import type { Connection } from '../postgres/connection.ts';
import { PostgresError } from '../postgres/failure.ts';
import { judgeTextFile } from '../wal/verify.ts';
import { historyName, isWalName, parseWalName, walKind, type WalName } from '../wal/wal-name.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import type { ServerHistory } from './server-history.ts';
import { askHistoryFile } from './streaming-server.ts';

/**
 * Puts archived history files where pg_receivewal looks before it asks the
 * server, for the timelines from `timeline` to the server's own whose history
 * file the server has lost: pg_receivewal ends at the first that it can't get.
 */
export async function provideHistoryFiles(
  settings: ReceiverSettings,
  connection: Connection,
  timeline: number,
  server: ServerHistory,
): Promise<void> {
  const { streamingDirectory, logger } = settings;
  const all = [...server.history.map((past) => past.timeline), server.timeline];
  for (const one of all.filter((candidate) => candidate > 1 && candidate >= timeline)) {
    const name = historyName(one);
    const path = join(streamingDirectory, name);
    if (await isThere(path)) continue;
    const { text, from } = await askHistoryFile(connection, settings, one);
    if (from === 'server') continue;
    await writeNewFile(path, Buffer.from(text), { mode: 0o600 });
    await fsyncDirectory(streamingDirectory);
    logger.warn(
      { server: settings.server, file: name },
      `the server lacks ${name}: the archived one is used in its place`,
    );
  }
}

/**
 * Fetches the history files of the server's timelines that were delivered and
 * can't be used, into streaming, from where they are archived. Most of the time
 * there is none, and the server isn't asked.
 */
export async function fetchLostHistories(
  settings: ReceiverSettings,
  connection: Connection,
  timeline: number,
): Promise<void> {
  for (const name of await lostHistories(settings)) {
    const parsed = parseWalName(name);
    if (parsed === undefined || parsed.timeline < 2 || parsed.timeline > timeline) continue;
    if (await isThere(join(settings.streamingDirectory, name))) continue;
    try {
      // What can't be told is as good as archived: nothing is decided here that would not be compared.
      if ((await settings.readArchived?.(name)) !== null) continue;
      const { text, from } = await askHistoryFile(connection, settings, parsed.timeline);
      const content = Buffer.from(text);
      if (from !== 'server' || judgeTextFile(parsed, content).verdict !== 'valid') continue;
      await place(settings, name, content);
    } catch (error) {
      const known = error instanceof WalwardenError;
      if (!known) throw error;
      const { server, logger } = settings;
      const level = error instanceof PostgresError && error.failure === 'history-missing' ? 'debug' : 'warn';
      logger[level]({ server, file: name }, `can't fetch ${name}, which was delivered incomplete: ${error.message}`);
    }
  }
}

/** By their names in errors: one directory read. */
async function lostHistories({ errors }: Pick<ReceiverSettings, 'errors'>): Promise<WalName[]> {
  let entries: string[];
  try {
    entries = await readdir(errors.path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
  const names = entries
    .filter((entry) => entry.endsWith('.unknown'))
    .map((entry) => entry.split('.').slice(0, 2).join('.'));
  return [...new Set(names)].filter(isWalName).filter((name) => walKind(name) === 'history');
}

/** pg_receivewal may write it in the same moment: whoever is first, it has the same content. */
async function place(
  { server, streamingDirectory, logger }: ReceiverSettings,
  name: WalName,
  content: Buffer,
): Promise<void> {
  const path = join(streamingDirectory, name);
  const temporary = join(streamingDirectory, `.${name}.tmp`);
  await unlinkIfThere(temporary);
  await writeNewFile(temporary, content, { mode: 0o600 });
  const placed = await moveUnlessThere(temporary, path);
  await unlinkIfThere(temporary);
  await fsyncDirectory(streamingDirectory);
  if (placed)
    logger.warn({ server, file: name }, `${name} was delivered incomplete: fetched from the server, to be archived`);
}

/**
 * Moves history files to errors that pg_receivewal would take for whole ones: a
 * crash of this machine may have left one empty or cut. It does not run, and
 * fetches them again.
 */
export async function removeTornHistories({
  server,
  streamingDirectory,
  errors,
  logger,
}: ReceiverSettings): Promise<void> {
  for (const entry of await readdir(streamingDirectory)) {
    const parsed = parseWalName(entry);
    if (parsed === undefined || parsed.kind !== 'history') continue;
    const path = join(streamingDirectory, entry);
    let content: Buffer;
    try {
      content = await readDelivered(path);
    } catch (error) {
      // Archived meanwhile; or no file, which a pass tells.
      if (errnoOf(error) === 'ENOENT' || isErrorCode(error, 'invalid-wal')) continue;
      throw error;
    }
    const verdict = judgeTextFile(parsed, content);
    if (verdict.verdict !== 'incomplete') continue;
    const reason = `pg_receivewal had left it incomplete (${verdict.reason}); it is fetched again`;
    const moved = await errors.take(path, entry, 'unknown', reason);
    logger.warn({ server, file: entry }, `${path}: ${reason}; moved to errors as ${moved}`);
  }
}
