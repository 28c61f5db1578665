import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { isThere } from '../durable/durable-file.ts';
import { messageOf } from '../errors.ts';
import { formatLsn, type Lsn } from '../wal/lsn.ts';
import { followRecords } from '../wal/records.ts';
import { judgeContent } from '../wal/verify.ts';
import { parseWalName, segmentName, type WalName } from '../wal/wal-name.ts';
import { keptPath } from './kept-partial.ts';
import { endOfContent } from './partial-content.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { timelineAt, type ServerHistory } from './server-history.ts';
import type { ArchivedRun } from './start-decision.ts';
import type { StreamingFile } from './streaming-directory.ts';
import type { StreamingServer } from './streaming-server.ts';

/** Names of one question to the archive. */
const BATCH = 1_000;

/** Archived segments that were read and found whole, so that a long gap is not read again at every try. */
export type VerifiedSegments = Set<WalName>;

/**
 * How far the archive has, from a position on, every segment of the server's
 * own history: each is read and verified, and the first begins with all that
 * was received of it. Nothing behind `limit` is looked at. What is in
 * `verified` only has to be there still; the first segment is read every time.
 */
export async function archivedRun(
  settings: Pick<ReceiverSettings, 'archivedAmong' | 'readArchived' | 'streamingDirectory' | 'reportPath'>,
  start: { readonly lsn: Lsn; readonly file: StreamingFile | null },
  server: Omit<StreamingServer, 'version' | 'inRecovery' | 'synchronousStandbyNames'>,
  limit: Lsn,
  { verified, signal }: { readonly verified?: VerifiedSegments | undefined; readonly signal?: AbortSignal | undefined },
): Promise<ArchivedRun> {
  const names = await storedFrom(settings, start.lsn, server, limit);
  const size = BigInt(server.segmentSize);
  let end = start.lsn;
  for (const name of names) {
    signal?.throwIfAborted();
    // Where it can't be asked what is there, only reading tells.
    if (end !== start.lsn && settings.archivedAmong !== undefined && verified?.has(name) === true) {
      end += size;
      continue;
    }
    const bytes = await readSegment(settings, name, server);
    if (bytes === null) break;
    if (typeof bytes === 'string') return { end: start.lsn + BigInt(names.length) * size, problem: bytes };
    if (end === start.lsn) {
      const problem = await whatItLacks(settings, start.file, name, bytes, start.lsn);
      if (problem !== null) return { end: end + size, problem };
    }
    verified?.add(name);
    end += size;
  }
  return { end, problem: null };
}

/** The names of the segments from a position on that are stored, up to the first that isn't. */
async function storedFrom(
  { archivedAmong, readArchived }: Pick<ReceiverSettings, 'archivedAmong' | 'readArchived'>,
  from: Lsn,
  server: ServerHistory & Pick<StreamingServer, 'segmentSize'>,
  limit: Lsn,
): Promise<WalName[]> {
  const size = BigInt(server.segmentSize);
  const names: WalName[] = [];
  if (readArchived === undefined) return names;
  for (let at = from; at < limit;) {
    const batch: WalName[] = [];
    // A segment in which the timeline changes is whole on the later one only.
    for (; at < limit && batch.length < BATCH; at += size) {
      batch.push(segmentName(timelineAt(at + size - 1n, server), at / size, server.segmentSize));
    }
    // Where that can't be asked, reading tells.
    const stored = (await archivedAmong?.(batch)) ?? new Set(batch);
    const missing = batch.findIndex((name) => !stored.has(name));
    names.push(...(missing === -1 ? batch : batch.slice(0, missing)));
    if (missing !== -1) break;
  }
  return names;
}

/** The bytes of an archived segment of this server, what is wrong with it, or null: it is not there any more. */
async function readSegment(
  { readArchived }: Pick<ReceiverSettings, 'readArchived'>,
  name: WalName,
  server: Pick<StreamingServer, 'systemIdentifier' | 'segmentSize'>,
): Promise<Buffer | string | null> {
  let bytes: Buffer | null;
  try {
    bytes = (await readArchived?.(name)) ?? null;
  } catch (error) {
    return `${name} is archived, and can't be read: ${messageOf(error)}`;
  }
  const parsed = parseWalName(name);
  if (bytes === null || parsed === undefined) return null;
  const verdict = judgeContent(parsed, bytes);
  if (verdict.verdict !== 'valid') return `the archived ${name} is not what its name says: ${verdict.reason}`;
  const { header } = verdict;
  if (header === null || header.systemIdentifier !== server.systemIdentifier) {
    return `the archived ${name} is of another cluster`;
  }
  if (bytes.length !== server.segmentSize) return `the archived ${name} has another size than the server's segments`;
  const { ending } = followRecords(bytes, header, parsed.timeline);
  if (ending === 'inside') return `the WAL of the archived ${name} ends inside the segment`;
  return ending === 'damaged' ? `the archived ${name} is damaged` : bytes;
}

/** What was received and does not stand in the archived segment, or can't be compared with it; null when all does. */
async function whatItLacks(
  settings: Pick<ReceiverSettings, 'streamingDirectory' | 'reportPath'>,
  file: StreamingFile | null,
  name: WalName,
  archived: Buffer,
  from: Lsn,
): Promise<string | null> {
  if (file?.partial !== true) return null;
  const path = join(settings.streamingDirectory, file.entry);
  if (file.compressed) return `${path} is compressed, and can't be compared with the archived ${name}`;
  for (const received of [path, keptPath(settings, file.entry)]) {
    if (!(await isThere(received))) continue;
    const length = await endOfContent(received);
    await using handle = await open(received);
    const bytes = await handle.readFile();
    if (bytes.subarray(0, length).equals(archived.subarray(0, length))) continue;
    return `${received} holds WAL up to ${formatLsn(from + BigInt(length))} that the archived ${name} does not begin with`;
  }
  return null;
}
