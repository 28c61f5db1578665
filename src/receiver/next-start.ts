import { PostgresError } from '../postgres/failure.ts';
import type { Connection } from '../postgres/connection.ts';
import { quoteIdentifier } from '../postgres/replication-slot.ts';
import { formatLsn, type Lsn } from '../wal/lsn.ts';
import { archivedRun, type VerifiedSegments } from './archived-run.ts';
import { blockedStart } from './blocked-start.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { timelineAt, type TimelinePosition } from './server-history.ts';
import { moveSlotForward, warnOfGap, type ReceiverSlot } from './slot.ts';
import { archiveLimit, decideStart, targetOf, type StartDecision, type StartFacts } from './start-decision.ts';
import { createPosition, setAside, type StreamingStart } from './streaming-directory.ts';
import { explained, streamingOption, type StreamingServer } from './streaming-server.ts';

/** What is asked for a decision, and of whom. */
export interface StartQuestion {
  readonly settings: ReceiverSettings;
  readonly connection: Connection;
  readonly server: StreamingServer;
  readonly slot: ReceiverSlot | null;
  /** What of the archive was verified at an earlier try. */
  readonly verified?: VerifiedSegments | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** How pg_receivewal starts. */
export interface NextStart extends TimelinePosition {
  /** As far as that without the slot; null: with it, where there is one. */
  readonly until: Lsn | null;
}

/** Decides where pg_receivewal starts; nothing is changed. `prove`: the server is asked also where its word for the slot would do. */
export async function askStart(
  { settings, connection, server, slot, verified, signal }: StartQuestion,
  start: StreamingStart,
  { prove = false } = {},
): Promise<Exclude<StartDecision, { readonly kind: 'ask' }>> {
  const sends = async (lsn: Lsn): Promise<boolean> =>
    (await whyNotSent(settings, connection, { timeline: timelineAt(lsn, server), lsn }, server, null)) === null;
  let facts: StartFacts = {
    position: { timeline: start.timeline, lsn: start.lsn },
    server,
    segmentSize: server.segmentSize,
    slot: slot?.place ?? { state: 'none' },
  };
  for (;;) {
    const decision = decideStart(facts, { prove });
    if (decision.kind !== 'ask') return decision;
    switch (decision.what) {
      case 'sends':
        facts = {
          ...facts,
          sends: (await whyNotSent(settings, connection, facts.position, server, null)) === null,
        };
        break;
      case 'archived':
        facts = {
          ...facts,
          archived: await archivedRun(settings, start, server, archiveLimit(facts), { verified, signal }),
        };
        break;
      case 'sendsTarget':
        facts = { ...facts, sendsTarget: await sends(targetOf(facts)) };
        break;
    }
  }
}

/** Where pg_receivewal goes on, made so. Throws `wal-removed` while there is no such place. */
export async function settleStart(question: StartQuestion, start: StreamingStart): Promise<NextStart> {
  const { lsn, segmentSize } = question.server;
  // What lies behind the segment that is being written may have been removed by hand, whatever the slot says.
  const decision = await askStart(question, start, { prove: start.lsn + BigInt(segmentSize) <= lsn });
  switch (decision.kind) {
    case 'start':
      return { ...start, until: decision.until };
    case 'blocked': {
      const { why } = decision;
      // Where nothing tells what is archived, the server is left to say it, and the slot where it is.
      const { settings, slot, server } = question;
      if (settings.readArchived === undefined && why.cause === 'not-archived' && why.to !== null) {
        if (slot?.created === true) warnOfGap(settings, slot, start.lsn, server.segmentSize);
        return { ...start, until: why.to };
      }
      throw blockedStart(question, start, why);
    }
    case 'go-on': {
      const lines = await goOn(question, start, decision);
      const { settings, server } = question;
      settings.logger.warn({ server: settings.server, from: start.file.entry }, lines.join('; '));
      return { timeline: timelineAt(decision.at.lsn, server), lsn: decision.at.lsn, until: null };
    }
  }
}

/** Goes on at a reserved place behind what is archived. Resolves to what was done, in lines. */
export async function goOn(
  { settings, connection, server, slot }: StartQuestion,
  start: StreamingStart,
  { at, moveSlot }: Extract<StartDecision, { readonly kind: 'go-on' }>,
): Promise<string[]> {
  if (moveSlot && slot !== null) await moveSlotForward(settings, slot.name, at.lsn);
  // The slot keeps it from now on, so that what is there now stays there.
  const why = await whyNotSent(settings, connection, at, server, slot?.name ?? null);
  if (why !== null) throw why;
  const lines = [
    `The server has removed WAL from ${formatLsn(start.lsn)} on; up to ${formatLsn(at.lsn)} it is archived, and replication slot "${slot?.name}" stands there`,
  ];
  if (start.file.partial)
    lines.push(await setAside(settings, start.file, 'all of it is archived, and receive-wal went on behind it'));
  const entry = await createPosition(settings.streamingDirectory, at, server.segmentSize);
  lines.push(`Creating status file ${entry}`);
  return lines;
}

/**
 * Starts streaming as pg_receivewal would, without writing or confirming
 * anything. Null: WAL comes; an error of `wal-removed`: the server has it no longer. Throws every other refusal.
 */
export async function whyNotSent(
  settings: ReceiverSettings,
  connection: Connection,
  { timeline, lsn }: TimelinePosition,
  server: StreamingServer,
  slotName: string | null,
): Promise<PostgresError | null> {
  const slot = slotName === null ? '' : `SLOT ${quoteIdentifier(slotName)} `;
  const command = `START_REPLICATION ${slot}${formatLsn(lsn)} TIMELINE ${timeline}`;
  try {
    await connection.startReplication(command, lsn < server.lsn);
    return null;
  } catch (error) {
    const told = explained(error, settings, streamingOption(settings.postgres));
    if (told instanceof PostgresError && told.failure === 'wal-removed') return told;
    throw told;
  }
}
