import { hintFor, PostgresError } from '../postgres/failure.ts';
import { formatLsn, type Lsn } from '../wal/lsn.ts';
import { parseWalName, segmentOfLsn, segmentStart, type WalName } from '../wal/wal-name.ts';
import { archivedRun } from './archived-run.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { judgePosition, timelineAt, type TimelinePosition } from './server-history.ts';
import { whyNotSent, type StartQuestion } from './next-start.ts';
import { moveSlotForward, warnOfGap, type ReceiverSlot } from './slot.ts';
import { createPosition } from './streaming-directory.ts';
import { connectForStatus, statusOption, type StreamingServer } from './streaming-server.ts';

/**
 * Decides where receiving begins in an empty directory, which tells nothing:
 * pg_receivewal before 15 would begin at the server's current position, and any
 * without a slot, behind a gap that nobody is told of.
 */
export async function beginReceiving(
  settings: ReceiverSettings,
  slot: ReceiverSlot | null,
  server: StreamingServer,
  signal?: AbortSignal,
): Promise<void> {
  const { server: name, logger, streamingDirectory } = settings;
  if (slot !== null && slot.unknown !== null && !slot.created) throw unknownPosition(settings, slot.name, slot.unknown);
  const archived = await behindArchive(settings, server);
  if (slot !== null && slot.restartLsn !== null) {
    if (slot.created && archived !== null) warnOfGap(settings, slot, archived.lsn, server.segmentSize);
    const at = { timeline: timelineAt(slot.restartLsn, server), lsn: slot.restartLsn };
    const entry = await createPosition(streamingDirectory, at, server.segmentSize);
    logger.info(
      { server: name, slot: slot.name, file: entry },
      `receiving begins where replication slot "${slot.name}" is, at ${formatLsn(slot.restartLsn)}`,
    );
    return;
  }
  const begins = server.lsn - (server.lsn % BigInt(server.segmentSize));
  if (archived === null || archived.lsn >= begins) return;
  const next = segmentOfLsn(archived.timeline, archived.lsn, server.segmentSize);
  if (judgePosition(archived, server).reachable && (await hasSegment(settings, next, signal))) {
    const entry = await createPosition(streamingDirectory, archived, server.segmentSize);
    logger.info(
      { server: name, file: entry },
      `receiving begins where the archive ends, at ${formatLsn(archived.lsn)}`,
    );
    return;
  }
  logger.error(
    { server: name, archived: formatLsn(archived.lsn), begins: formatLsn(begins) },
    `the archive of ${name} ends at ${formatLsn(archived.lsn)}, and receiving begins at ${formatLsn(begins)}: ` +
      `unless archive_command delivers what lies between, it is missing in the archive, and a new base backup is needed`,
  );
}

/**
 * The same where the archive ends elsewhere than the slot stands. Before it, and
 * the server still has what lies between: there. Or the server has not the WAL
 * any more that the slot stands at, and the archive has everything from there
 * on up to what the server has: there, and the slot is moved. Resolves to what
 * was done; null: it begins at the slot. Throws `wal-removed` when nothing leads on.
 */
export async function beginBehindArchive(question: StartQuestion): Promise<string | null> {
  const { settings, connection, server, slot, verified, signal } = question;
  if (slot === null || !('lsn' in slot.place)) return null;
  const { state, lsn } = slot.place;
  const segmentOf = (at: Lsn): Lsn => at - (at % BigInt(server.segmentSize));
  const sends = async (at: Lsn): Promise<boolean> => {
    const place = { timeline: timelineAt(at, server), lsn: segmentOf(at) };
    return (await whyNotSent(settings, connection, place, server, null)) === null;
  };
  if (state === 'at' && (await sends(lsn))) return beginBeforeSlot(question, slot.name, segmentOf(lsn));
  const from = { lsn: segmentOf(lsn), file: null };
  const { end, problem } = await archivedRun(settings, from, server, segmentOf(server.lsn), { verified, signal });
  if (problem !== null) throw misplaced(settings, slot.name, problem);
  if (end === from.lsn) throw misplaced(settings, slot.name, `none of what follows ${formatLsn(end)} is archived`);
  if (!(await sends(end))) throw misplaced(settings, slot.name, `it is archived up to ${formatLsn(end)} only`);
  await moveSlotForward(settings, slot.name, end);
  const at = { timeline: timelineAt(end, server), lsn: end };
  const entry = await createPosition(settings.streamingDirectory, at, server.segmentSize);
  const done = `the server has removed the WAL that replication slot "${slot.name}" stood at: it was moved to where the archive ends, at ${formatLsn(end)}, and receiving begins there`;
  settings.logger.warn({ server: settings.server, slot: slot.name, file: entry }, done);
  return done;
}

/** A slot that was made late, say, reserves WAL from its place on only. Null: the archive does not end before it, or the server can't send that. */
async function beginBeforeSlot(
  { settings, connection, server }: StartQuestion,
  slot: string,
  place: Lsn,
): Promise<string | null> {
  const archived = await behindArchive(settings, server);
  if (archived === null || archived.lsn >= place || !judgePosition(archived, server).reachable) return null;
  if ((await whyNotSent(settings, connection, archived, server, null)) !== null) return null;
  const entry = await createPosition(settings.streamingDirectory, archived, server.segmentSize);
  const done = `receiving begins where the archive ends, at ${formatLsn(archived.lsn)}, which the server still has, and goes on with replication slot "${slot}" at ${formatLsn(place)}`;
  settings.logger.info({ server: settings.server, slot, file: entry }, done);
  return done;
}

function misplaced({ server }: ReceiverSettings, slot: string, why: string): PostgresError {
  return new PostgresError(
    'wal-removed',
    `the server has removed the WAL that replication slot "${slot}" of ${server} stands at, and nothing was received yet that would tell where else to begin: ${why}`,
    {
      hint: `should archive_command still deliver it, receiving begins by itself; otherwise walwarden receive-wal --reset ${server} makes the slot again, at WAL that is there; walwarden list-wals --gaps ${server} tells what is missing in the archive, and a new base backup is needed where something is`,
    },
  );
}

/** Where the WAL begins that comes next after the newest archived segment; null when none is archived, or nobody tells. */
async function behindArchive(settings: ReceiverSettings, server: StreamingServer): Promise<TimelinePosition | null> {
  const newest = await settings.newestArchived?.();
  const parsed = newest === undefined || newest === null ? undefined : parseWalName(newest);
  if (parsed === undefined || parsed.kind !== 'segment') return null;
  return { timeline: parsed.timeline, lsn: segmentStart(parsed, server.segmentSize) + BigInt(server.segmentSize) };
}

/** Whether the server still has a segment; false also where it can't be asked, or we may not (pg_monitor may). */
async function hasSegment(
  settings: ReceiverSettings,
  segment: WalName,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const { walConninfo } = settings.postgres;
  if (walConninfo === null) return false;
  try {
    await using connection = await connectForStatus(settings, walConninfo, signal);
    const rows = await connection.query('select 1 from pg_catalog.pg_ls_waldir() where name = $1', [segment]);
    return rows.length > 0;
  } catch (error) {
    if (error instanceof PostgresError) return false;
    throw error;
  }
}

/** To begin where the server is now would leave out what the slot keeps, and have it removed. */
function unknownPosition(
  settings: ReceiverSettings,
  slot: string,
  why: PostgresError | 'nobody to ask',
): PostgresError {
  const { server, postgres } = settings;
  const message = `can't find out where replication slot "${slot}" of ${server} is, and nothing was received yet that would tell where to begin`;
  if (why === 'nobody to ask') {
    return new PostgresError('misconfigured', message, {
      hint: `set conninfo of [${server}] to the server that the slot is on: before PostgreSQL 15 only a query tells it`,
    });
  }
  const option = statusOption(postgres);
  return new PostgresError(why.failure, `${message}: ${why.message}`, {
    cause: why,
    hint: why.hint ?? hintFor(why.failure, { option, server, slotName: slot }),
  });
}
