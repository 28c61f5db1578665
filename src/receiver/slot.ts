import { setTimeout as delay } from 'node:timers/promises';
import type { Connection } from '../postgres/connection.ts';
import { PostgresError } from '../postgres/failure.ts';
import {
  askReplicationSlot,
  createPhysicalSlot,
  describeHolder,
  dropSlot,
  lossOf,
  quoteIdentifier,
  type ReplicationSlot,
  type SlotLoss,
} from '../postgres/replication-slot.ts';
import { lsnOf } from '../postgres/text-values.ts';
import { formatLsn, type Lsn } from '../wal/lsn.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import type { SlotPlace } from './start-decision.ts';
import { connectForStatus, explained, statusOption, streamingOption } from './streaming-server.ts';

/** What is known of the replication slot that `slot_name` names. */
export interface ReceiverSlot {
  readonly name: string;
  /** Null while it reserves no WAL, or where that is not known. */
  readonly restartLsn: Lsn | null;
  /** It was made just now. */
  readonly created: boolean;
  /** Why its position is not known; null when it is. */
  readonly unknown: UnknownReason | null;
  /** What it reserves. */
  readonly place: SlotPlace;
}

/** So long a server may take to notice that a receiver has ended. */
const LINGERS_MS = 5_000;

/** Moves a slot forward, which only a query can. Throws {@link PostgresError}. */
export async function moveSlotForward(settings: ReceiverSettings, name: string, to: Lsn): Promise<void> {
  const { postgres, server } = settings;
  if (postgres.walConninfo === null) {
    throw new PostgresError('misconfigured', `replication slot "${name}" can't be moved forward without conninfo`, {
      hint: `set conninfo of [${server}], or let walwarden receive-wal --reset ${server} make the slot again`,
    });
  }
  await using connection = await connectForStatus(settings, postgres.walConninfo);
  try {
    await connection.query('select pg_catalog.pg_replication_slot_advance($1, $2)', [name, formatLsn(to)]);
  } catch (error) {
    if (!(error instanceof PostgresError) || error.failure !== 'no-privilege') {
      throw explained(error, settings, statusOption(postgres));
    }
    const option = statusOption(postgres);
    const message = `replication slot "${name}" can't be moved forward by the role of ${option}: ${error.message}`;
    throw new PostgresError('no-privilege', message, {
      cause: error,
      sqlState: error.sqlState,
      hint: `ALTER ROLE … REPLICATION for the role of ${option} of [${server}], or let walwarden receive-wal --reset ${server} make the slot again`,
    });
  }
}

/** What came of the attempt to ask. */
export type UnknownReason = PostgresError | 'nobody to ask';

class UnknownSlot {
  readonly reason: UnknownReason;

  constructor(reason: UnknownReason) {
    this.reason = reason;
  }
}

/**
 * The slot, ready to be streamed from as far as anybody can tell; null where
 * `slot_name` is not set. A missing one is made with `create_slot = auto`. Throws {@link PostgresError}: missing, in use, lost, of
 * the wrong type.
 */
export async function prepareSlot(
  settings: ReceiverSettings,
  replication: Connection,
  signal?: AbortSignal,
): Promise<ReceiverSlot | null> {
  const { server, postgres, createSlot } = settings;
  const name = postgres.slotName;
  if (name === null) return null;
  const found = await findSlot(settings, name, replication, signal);
  if (found instanceof UnknownSlot) return unknownSlot(name, found.reason);
  if (found === null) {
    if (createSlot === 'auto') return makeSlot(settings, name, replication, signal);
    throw missing(settings, name);
  }
  checkType(settings, name, found);
  if (found.active) throw inUse(settings, name, found);
  const loss = lossOf(found);
  if (loss?.invalidated === true) throw lost(server, name, loss);
  if (found.walStatus === 'unreserved') {
    settings.logger.warn(
      { server, slot: name },
      `replication slot "${name}" is about to be lost: it holds back more WAL than max_slot_wal_keep_size allows; raise that`,
    );
  }
  return slotAt(name, found);
}

/** As {@link prepareSlot} for a reset: where a slot can't say anything useful, null. Throws {@link PostgresError}: in use, of the wrong type. */
export async function slotForReset(settings: ReceiverSettings, replication: Connection): Promise<ReceiverSlot | null> {
  const name = settings.postgres.slotName;
  if (name === null) return null;
  const slot = await existingSlot(settings, replication);
  if (slot !== null) return slot;
  // Made now, it protects what the new position needs from now on.
  if (settings.createSlot === 'auto') return makeSlot(settings, name, replication);
  throw missing(settings, name, `, then walwarden receive-wal --reset ${settings.server} again`);
}

/** The slot as it is, free to be used, and made again where it was invalidated; null: there is none. Throws {@link PostgresError}. */
export async function existingSlot(settings: ReceiverSettings, replication: Connection): Promise<ReceiverSlot | null> {
  const name = settings.postgres.slotName;
  if (name === null) return null;
  const found = await findFreeSlot(settings, name, replication);
  if (found instanceof UnknownSlot) return unknownSlot(name, found.reason);
  if (found === null) return null;
  checkType(settings, name, found);
  return lossOf(found)?.invalidated === true ? remakeSlot(settings, name, replication) : slotAt(name, found);
}

/** The slot does not exist, and is not ours to make. */
export function missing({ server }: ReceiverSettings, name: string, then = ''): PostgresError {
  return new PostgresError('slot-missing', `replication slot "${name}" of ${server} does not exist`, {
    hint: `create it with walwarden receive-wal --create-slot ${server}${then}, or set create_slot = auto; slot_name is where its name comes from`,
  });
}

function slotAt(name: string, found: ReplicationSlot): ReceiverSlot {
  return { name, restartLsn: found.restartLsn, created: false, unknown: null, place: placeOf(found) };
}

function placeOf(slot: ReplicationSlot): SlotPlace {
  if (slot.restartLsn === null) return { state: 'empty' };
  return { state: lossOf(slot) === null ? 'at' : 'gone', lsn: slot.restartLsn };
}

const unknownSlot = (name: string, reason: UnknownReason, created = false): ReceiverSlot => ({
  name,
  restartLsn: null,
  created,
  unknown: reason,
  place: { state: 'unknown' },
});

/** A slot that keeps nothing any more is dropped, and made again at a place whose WAL is there. */
export async function remakeSlot(
  settings: ReceiverSettings,
  name: string,
  replication: Connection,
): Promise<ReceiverSlot> {
  try {
    await dropSlot(replication, name);
  } catch (error) {
    throw explained(error, settings, streamingOption(settings.postgres));
  }
  settings.logger.warn(
    { server: settings.server, slot: name },
    `dropped replication slot "${name}", which kept no WAL`,
  );
  return makeSlot(settings, name, replication);
}

/** As {@link findSlot}; what is left of a receiver of ours that has just ended is waited for. Throws `slot-active`. */
async function findFreeSlot(
  settings: ReceiverSettings,
  name: string,
  replication: Connection,
): Promise<ReplicationSlot | null | UnknownSlot> {
  for (const deadline = Date.now() + LINGERS_MS; ; await delay(LINGERS_MS / 50)) {
    const found = await findSlot(settings, name, replication);
    if (found instanceof UnknownSlot || found === null || !found.active) return found;
    const own = found.applicationName === settings.postgres.streamingName;
    if (!own || Date.now() >= deadline) throw inUse(settings, name, found);
  }
}

/** Null: there is none. */
async function findSlot(
  settings: ReceiverSettings,
  name: string,
  replication: Connection,
  signal?: AbortSignal,
): Promise<ReplicationSlot | null | UnknownSlot> {
  const { server, postgres, logger } = settings;
  let reason: UnknownReason = 'nobody to ask';
  if (postgres.walConninfo !== null) {
    try {
      return await selectSlot(settings, postgres.walConninfo, name, signal);
    } catch (error) {
      if (!(error instanceof PostgresError)) throw error;
      reason = error;
      // WAL can be received all the same: whether the slot is free, pg_receivewal will be told.
      const hint = error.hint === undefined ? '' : ` (${error.hint})`;
      logger.warn(
        { server, slot: name },
        `can't ask for the state of replication slot "${name}": ${error.message}${hint}`,
      );
    }
  }
  if (replication.serverVersion < 150_000) return new UnknownSlot(reason);
  return readSlot(settings, name, replication);
}

async function selectSlot(
  settings: ReceiverSettings,
  conninfo: string,
  name: string,
  signal: AbortSignal | undefined,
): Promise<ReplicationSlot | null> {
  await using connection = await connectForStatus(settings, conninfo, signal);
  try {
    return await askReplicationSlot(connection, name);
  } catch (error) {
    throw explained(error, settings, statusOption(settings.postgres));
  }
}

/** All that a replication connection can tell, since PostgreSQL 15: the name quoted as an identifier. */
async function readSlot(
  settings: ReceiverSettings,
  name: string,
  replication: Connection,
): Promise<ReplicationSlot | null> {
  try {
    const [row] = await replication.query(`READ_REPLICATION_SLOT ${quoteIdentifier(name)}`);
    const type = row?.['slot_type'] ?? null;
    if (type === null) return null;
    const restartLsn = lsnOf(row?.['restart_lsn']);
    return { name, type, restartLsn, active: false, activePid: null, walStatus: null };
  } catch (error) {
    throw explained(error, settings, streamingOption(settings.postgres));
  }
}

/** SQLSTATE (PostgreSQL: utils/errcodes.txt). */
export const DUPLICATE_OBJECT = '42710';

async function makeSlot(
  settings: ReceiverSettings,
  name: string,
  replication: Connection,
  signal?: AbortSignal,
): Promise<ReceiverSlot> {
  const { server, logger } = settings;
  try {
    await createPhysicalSlot(replication, name);
  } catch (error) {
    // wal_conninfo has looked at another server than the one that sends the WAL.
    if (error instanceof PostgresError && error.sqlState === DUPLICATE_OBJECT) {
      const there = replication.serverVersion < 150_000 ? null : await readSlot(settings, name, replication);
      return there === null ? unknownSlot(name, 'nobody to ask') : slotAt(name, there);
    }
    throw explained(error, settings, streamingOption(settings.postgres));
  }
  logger.info({ server, slot: name }, `created replication slot "${name}" on ${server}`);
  const made = await findSlot(settings, name, replication, signal);
  if (made instanceof UnknownSlot) return unknownSlot(name, made.reason, true);
  const restartLsn = made?.restartLsn ?? null;
  const place: SlotPlace = restartLsn === null ? { state: 'empty' } : { state: 'at', lsn: restartLsn };
  return { name, restartLsn, created: true, unknown: null, place };
}

function checkType({ server }: ReceiverSettings, name: string, { type }: ReplicationSlot): void {
  if (type === 'physical') return;
  throw new PostgresError('misconfigured', `replication slot "${name}" of ${server} is a ${type} one, not physical`, {
    hint: 'choose another slot_name: this slot belongs to something else',
  });
}

/** The process that has the slot, as far as wal_conninfo tells; null when none has, or it can't be asked. */
export async function findHolder(settings: ReceiverSettings, name: string): Promise<ReplicationSlot | null> {
  const { walConninfo } = settings.postgres;
  if (walConninfo === null) return null;
  try {
    const slot = await selectSlot(settings, walConninfo, name, undefined);
    return slot?.active === true ? slot : null;
  } catch (error) {
    if (error instanceof PostgresError) return null;
    throw error;
  }
}

function inUse({ server, postgres }: ReceiverSettings, name: string, slot: ReplicationSlot): PostgresError {
  const lingering = 'goes away by itself within wal_sender_timeout';
  const own = slot.applicationName === postgres.streamingName;
  return new PostgresError(
    'slot-active',
    `replication slot "${name}" of ${server} is in use by ${describeHolder(slot)}`,
    {
      hint: own
        ? `another receiver of this server runs: end it, or set slot_name of [${server}] to another slot; the rest of a broken connection ${lingering}`
        : `stop the other receiver, or set slot_name of [${server}] to a slot of its own; the rest of a broken connection ${lingering}`,
    },
  );
}

function lost(server: string, name: string, { why, cure }: SlotLoss): PostgresError {
  return new PostgresError('wal-removed', `replication slot "${name}" of ${server} is lost: ${why}`, {
    hint:
      `walwarden receive-wal --reset ${server} makes it usable again, as --drop-slot ${server}, then --create-slot, ` +
      `then --reset would, and says what is missing; against the next time: ${cure}`,
  });
}

/** Tells of the WAL that a new slot came too late for; `received` is where the next segment begins that was not received. */
export function warnOfGap(
  { server, logger }: ReceiverSettings,
  { name, restartLsn }: ReceiverSlot,
  received: Lsn,
  segmentSize: number,
): void {
  if (restartLsn === null || received + BigInt(segmentSize) > restartLsn) return;
  logger.error(
    { server, slot: name, received: formatLsn(received), restartLsn: formatLsn(restartLsn) },
    `replication slot "${name}" stands at ${formatLsn(restartLsn)}, and WAL was received up to ${formatLsn(received)} only: ` +
      `should the server have removed what lies between, it is missing in the archive; ` +
      `then walwarden receive-wal --reset ${server} goes on behind the gap, and a new base backup is needed`,
  );
}
