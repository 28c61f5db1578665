import { join } from 'node:path';
import { fsyncDirectory, moveUnlessThere } from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { beginBehindArchive } from './first-position.ts';
import type { Connection } from '../postgres/connection.ts';
import { PostgresError } from '../postgres/failure.ts';
import { claimPath } from '../storage/claim.ts';
import { formatLsn } from '../wal/lsn.ts';
import { isWalName, segmentOfLsn } from '../wal/wal-name.ts';
import { releaseKept } from './kept-partial.ts';
import { askStart, goOn, whyNotSent, type StartQuestion } from './next-start.ts';
import { checkIdentity } from './preflight.ts';
import { receivedAhead } from './received-position.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { judgePosition, timelineAt, type TimelinePosition } from './server-history.ts';
import type { StartDecision } from './start-decision.ts';
import { existingSlot, missing, remakeSlot, slotForReset, type ReceiverSlot } from './slot.ts';
import {
  checkStreamingDirectory,
  comesAfter,
  createPosition,
  findStreamingStart,
  listStreamingFiles,
  readHeader,
  setAside,
  type SegmentPlace,
  type StreamingFile,
  type StreamingStart,
} from './streaming-directory.ts';
import { askStreamingServer, connectForStreaming, type StreamingServer } from './streaming-server.ts';

/**
 * Makes pg_receivewal begin anew: at the slot's restart LSN, or where the
 * server is now. Partial files go to errors; complete segments that would tell
 * pg_receivewal another place are left to the archiver, under a name that
 * pg_receivewal does not look at. Nothing is deleted. The caller holds the
 * receive-wal lock. Resolves to what was done, in lines.
 */
export async function resetStreaming(settings: ReceiverSettings): Promise<string> {
  const { streamingDirectory } = settings;
  await checkStreamingDirectory(streamingDirectory);
  await using connection = await connectForStreaming(settings);
  const server = await askStreamingServer(connection, settings);
  await checkIdentity(settings, server);
  const files = await listStreamingFiles(streamingDirectory, server.segmentSize);
  const start = findStreamingStart(files, server.segmentSize);
  const lines = await releaseKept(settings, 'different');
  if (start === null) {
    lines.push(...(await replaceUselessSlot(settings, connection, server)));
    return [...lines, ALIGNED].join('\n');
  }
  const header = await readHeader(streamingDirectory, start.file);
  const ofOtherCluster = header !== null && header.systemIdentifier !== server.systemIdentifier;
  // Before a slot is made there.
  if (!ofOtherCluster) refuseAhead(start, server, settings);
  let slot = await slotForReset(settings, connection);
  if (slot?.created === true) lines.push(`Replication slot '${slot.name}' created`);
  // What the server has lost would be written over.
  const keeps = !ofOtherCluster && (await receivedAhead(settings, start, server)) === null;
  const ask = async (): Promise<Outcome | null> =>
    keeps && slot !== null && judgePosition(start, server).reachable
      ? proveStart({ settings, connection, server, slot }, start)
      : null;
  let outcome = await ask();
  if (slot !== null && (outcome === null || outcome.kind === 'blocked')) {
    const usable = await usableSlot({ settings, connection, server, slot }, slot);
    if (usable !== slot) {
      lines.push(`Replication slot '${slot.name}' made again: ${USELESS}`);
      slot = usable;
      outcome = await ask();
    }
  }
  if (outcome?.kind === 'start') return [...lines, ALIGNED].join('\n');
  if (outcome?.kind === 'go-on') {
    lines.push('Resetting receive-wal directory status', ...(await releaseKept(settings, 'all')));
    try {
      return [...lines, ...(await goOn({ settings, connection, server, slot }, start, outcome))].join('\n');
    } catch (error) {
      if (!(error instanceof PostgresError) || !outcome.moveSlot || slot === null) throw error;
      // Without conninfo, say. Made again it is somewhere else.
      slot = await remakeSlot(settings, slot.name, connection);
      lines.push(`Replication slot '${slot.name}' made again: ${error.message}`);
      outcome = await ask();
      if (outcome?.kind === 'go-on') {
        return [...lines, ...(await goOn({ settings, connection, server, slot }, start, outcome))].join('\n');
      }
    }
  }
  const target = targetOf(slot?.restartLsn ?? null, server);
  if (keeps && slot === null && isAligned(start, target, server)) return [...lines, ALIGNED].join('\n');

  // Before anything is moved: it is shown that streaming works there.
  const refused = await whyNotSent(settings, connection, target, server, slot?.name ?? null);
  if (refused !== null) throw refused;
  lines.push('Resetting receive-wal directory status', ...(await releaseKept(settings, 'all')));
  const place: SegmentPlace = { timeline: target.timeline, segment: target.lsn / size(server), partial: true };
  for (const file of files) {
    if (file.partial) lines.push(await setAside(settings, file, OTHER_PLACE));
    // Also one of the same timeline and number: pg_receivewal prefers it to the partial file.
    else if (file.segment !== 0n && comesAfter(file, place)) lines.push(await leaveToArchiver(settings, file));
  }
  const entry = await createPosition(streamingDirectory, target, server.segmentSize);
  lines.push(`Creating status file ${join(streamingDirectory, entry)}`);
  const gap = ofOtherCluster ? null : gapBetween(start, target, server);
  if (gap !== null) lines.push(gap);
  settings.logger.warn({ server: settings.server, from: start.file.entry, to: entry }, lines.join('; '));
  return lines.join('\n');
}

const ALIGNED = 'Nothing to do. Position of receive-wal is aligned.';

const size = ({ segmentSize }: StreamingServer): bigint => BigInt(segmentSize);

function targetOf(restartLsn: bigint | null, server: StreamingServer): TimelinePosition {
  const at = restartLsn ?? server.lsn;
  return { timeline: timelineAt(at, server), lsn: at - (at % size(server)) };
}

/** Whether pg_receivewal can go on from where it is without leaving out anything that the new position would have. */
function isAligned(start: StreamingStart, target: TimelinePosition, server: StreamingServer): boolean {
  return start.lsn >= target.lsn && judgePosition(start, server).reachable;
}

/** Files from the future mean, more often than not, that this is the wrong server. */
function refuseAhead(start: StreamingStart, server: StreamingServer, settings: ReceiverSettings): void {
  const laterTimeline = start.timeline > server.timeline;
  const standing = judgePosition(start, server);
  if (!laterTimeline && (standing.reachable || standing.why !== 'ahead')) return;
  const current = segmentOfLsn(server.timeline, server.lsn, server.segmentSize);
  throw new WalwardenError(
    'receiver',
    `The receive-wal position is ahead of PostgreSQL current WAL lsn (${start.file.entry} > ${current})`,
    {
      hint:
        server.inRecovery === true
          ? 'the server is a standby that lags behind: wait until it has caught up'
          : `make sure that this is the right server, and not an old primary; if it lost WAL (restored from a snapshot), move the files of ${settings.streamingDirectory} away`,
    },
  );
}

type Outcome = Exclude<StartDecision, { readonly kind: 'ask' }>;

const USELESS = 'it kept no WAL that the server still has';

/** What {@link askStart} says; a start is shown to work as it would be made, with the slot where that is used. */
async function proveStart(question: StartQuestion, start: StreamingStart): Promise<Outcome> {
  const { settings, connection, server, slot } = question;
  const decision = await askStart(question, start, { prove: true });
  if (decision.kind !== 'start' || decision.until !== null || slot === null) return decision;
  const refused = await whyNotSent(settings, connection, start, server, slot.name);
  return refused === null ? decision : { kind: 'blocked', why: { cause: 'not-usable', problem: refused.message } };
}

const OTHER_PLACE = 'receive-wal --reset began at another place';

/** The slot, or one made again in its place where it keeps no WAL, or keeps what is not there. */
async function usableSlot({ settings, connection, server }: StartQuestion, slot: ReceiverSlot): Promise<ReceiverSlot> {
  const { place, name } = slot;
  // What can't be asked for can't be judged; whether it works is seen in the end.
  if (place.state === 'unknown' || place.state === 'none') return slot;
  if (place.state === 'at') {
    if ((await whyNotSent(settings, connection, targetOf(place.lsn, server), server, name)) === null) return slot;
  }
  return remakeSlot(settings, name, connection);
}

/** In an empty directory receiving begins where the slot is: that has to be a place whose WAL is there. */
async function replaceUselessSlot(
  settings: ReceiverSettings,
  connection: Connection,
  server: StreamingServer,
): Promise<string[]> {
  const slot = await existingSlot(settings, connection);
  if (slot === null && settings.postgres.slotName !== null && settings.createSlot === 'manual') {
    throw missing(settings, settings.postgres.slotName);
  }
  if (slot === null || slot.place.state === 'empty') return [];
  try {
    const done = await beginBehindArchive({ settings, connection, server, slot });
    if (done !== null) return [done];
  } catch (error) {
    if (!(error instanceof PostgresError)) throw error;
  }
  const usable = await usableSlot({ settings, connection, server, slot }, slot);
  return usable === slot ? [] : [`Replication slot '${slot.name}' made again: ${USELESS}`];
}

/** Under a claim's name; where that is taken by a claim of an interrupted pass, to errors. */
async function leaveToArchiver(settings: ReceiverSettings, file: StreamingFile): Promise<string> {
  const { streamingDirectory } = settings;
  const path = join(streamingDirectory, file.entry);
  if (!isWalName(file.entry)) return setAside(settings, file, OTHER_PLACE);
  const claim = claimPath(path, file.entry);
  try {
    if (!(await moveUnlessThere(path, claim))) return await setAside(settings, file, OTHER_PLACE);
    await fsyncDirectory(streamingDirectory);
  } catch (cause) {
    if (errnoOf(cause) === undefined) throw cause;
    throw new WalwardenError('storage', `can't rename ${path}: ${messageOf(cause)}`, {
      cause,
      hint: 'it is streaming_wals_directory: see its owner and the space there',
    });
  }
  return `Leaving ${file.entry} to archive-wal, as ${claim}`;
}

/** What will not be received: from where both histories are still the same, to where it begins anew. */
function gapBetween(start: TimelinePosition, target: TimelinePosition, server: StreamingServer): string | null {
  const standing = judgePosition(start, server);
  if (!standing.reachable && standing.why !== 'diverged') return null;
  const from = standing.reachable ? start.lsn : standing.switchPoint;
  if (from >= target.lsn) return null;
  return (
    `WAL from ${formatLsn(from)} to ${formatLsn(target.lsn)} will not be received: ` +
    'unless archive_command delivers it, take a new base backup'
  );
}
