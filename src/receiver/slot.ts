import type { Connection, Row } from '../postgres/connection.ts';
import { PostgresError } from '../postgres/failure.ts';
import { createPhysicalSlot } from '../postgres/replication-slot.ts';
import { formatLsn, parseLsn, type Lsn } from '../wal/lsn.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
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
}

/** What came of the attempt to ask. */
export type UnknownReason = PostgresError | 'nobody to ask';

class UnknownSlot {
  readonly reason: UnknownReason;

  constructor(reason: UnknownReason) {
    this.reason = reason;
  }
}

/** A row of pg_replication_slots, or what READ_REPLICATION_SLOT tells of it. */
interface FoundSlot {
  readonly type: string | null;
  readonly restartLsn: Lsn | null;
  readonly active: boolean;
  readonly activePid: string | null;
  readonly applicationName: string | null;
  readonly clientAddress: string | null;
  readonly walStatus: string | null;
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
  if (found instanceof UnknownSlot) return { name, restartLsn: null, created: false, unknown: found.reason };
  if (found === null) {
    if (createSlot === 'auto') return makeSlot(settings, name, replication, signal);
    throw new PostgresError('slot-missing', `replication slot "${name}" of ${server} does not exist`, {
      hint: `create it with walwarden receive-wal --create-slot ${server}, or set create_slot = auto; slot_name is where its name comes from`,
    });
  }
  checkType(settings, name, found);
  if (found.active) throw inUse(settings, name, found);
  if (found.walStatus === 'lost') throw lost(server, name);
  if (found.walStatus === 'unreserved') {
    settings.logger.warn(
      { server, slot: name },
      `replication slot "${name}" is about to be lost: it holds back more WAL than max_slot_wal_keep_size allows; raise that`,
    );
  }
  return { name, restartLsn: found.restartLsn, created: false, unknown: null };
}

/** As {@link prepareSlot} for a reset: where a slot can't say anything useful, null, and nothing but a wrong type is an error. */
export async function slotForReset(settings: ReceiverSettings, replication: Connection): Promise<ReceiverSlot | null> {
  const name = settings.postgres.slotName;
  if (name === null) return null;
  const found = await findSlot(settings, name, replication);
  if (found instanceof UnknownSlot) return null;
  // Made now, it protects what the new position needs from now on.
  if (found === null) return settings.createSlot === 'auto' ? makeSlot(settings, name, replication) : null;
  checkType(settings, name, found);
  return { name, restartLsn: found.restartLsn, created: false, unknown: null };
}

/** Null: there is none. */
async function findSlot(
  settings: ReceiverSettings,
  name: string,
  replication: Connection,
  signal?: AbortSignal,
): Promise<FoundSlot | null | UnknownSlot> {
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
): Promise<FoundSlot | null> {
  await using connection = await connectForStatus(settings, conninfo, signal);
  const walStatus = connection.serverVersion >= 130_000 ? 's.wal_status' : 'null';
  let rows: Row[];
  try {
    rows = await connection.query(
      `select s.slot_type, s.active, s.active_pid, s.restart_lsn, ${walStatus} as wal_status,
              r.application_name, r.client_addr
         from pg_catalog.pg_replication_slots s
         left join pg_catalog.pg_stat_replication r on r.pid = s.active_pid
        where s.slot_name = $1`,
      [name],
    );
  } catch (error) {
    throw explained(error, settings, statusOption(settings.postgres));
  }
  const [row] = rows;
  if (row === undefined) return null;
  return {
    type: row['slot_type'] ?? null,
    restartLsn: lsnOf(row['restart_lsn']),
    active: row['active'] === 't',
    activePid: row['active_pid'] ?? null,
    applicationName: row['application_name'] ?? null,
    clientAddress: row['client_addr'] ?? null,
    walStatus: row['wal_status'] ?? null,
  };
}

/** All that a replication connection can tell, since PostgreSQL 15: the name quoted as an identifier. */
async function readSlot(settings: ReceiverSettings, name: string, replication: Connection): Promise<FoundSlot | null> {
  try {
    const [row] = await replication.query(`READ_REPLICATION_SLOT "${name.replaceAll('"', '""')}"`);
    const type = row?.['slot_type'] ?? null;
    if (type === null) return null;
    const restartLsn = lsnOf(row?.['restart_lsn']);
    return { ...NOT_TOLD, type, restartLsn };
  } catch (error) {
    throw explained(error, settings, streamingOption(settings.postgres));
  }
}

const NOT_TOLD = { active: false, activePid: null, applicationName: null, clientAddress: null, walStatus: null };

function lsnOf(text: string | null | undefined): Lsn | null {
  return text === null || text === undefined ? null : parseLsn(text);
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
      const unknown = there === null ? 'nobody to ask' : null;
      return { name, restartLsn: there?.restartLsn ?? null, created: false, unknown };
    }
    throw explained(error, settings, streamingOption(settings.postgres));
  }
  logger.info({ server, slot: name }, `created replication slot "${name}" on ${server} (create_slot = auto)`);
  const made = await findSlot(settings, name, replication, signal);
  if (made instanceof UnknownSlot) return { name, restartLsn: null, created: true, unknown: made.reason };
  return { name, restartLsn: made?.restartLsn ?? null, created: true, unknown: null };
}

function checkType({ server }: ReceiverSettings, name: string, { type }: FoundSlot): void {
  if (type === 'physical') return;
  throw new PostgresError('misconfigured', `replication slot "${name}" of ${server} is a ${type} one, not physical`, {
    hint: 'choose another slot_name: this slot belongs to something else',
  });
}

function inUse({ server, postgres }: ReceiverSettings, name: string, slot: FoundSlot): PostgresError {
  const { activePid, applicationName, clientAddress } = slot;
  const from = clientAddress === null ? '' : ` from ${clientAddress}`;
  const who = applicationName === null ? '' : `, ${JSON.stringify(applicationName)}${from}`;
  const lingering = 'goes away by itself within wal_sender_timeout';
  const own = applicationName === postgres.streamingName;
  return new PostgresError(
    'slot-active',
    `replication slot "${name}" of ${server} is in use by server process ${activePid ?? '?'}${who}`,
    {
      hint: own
        ? `another receiver of this server runs: end it, or set slot_name of [${server}] to another slot; the rest of a broken connection ${lingering}`
        : `stop the other receiver, or set slot_name of [${server}] to a slot of its own; the rest of a broken connection ${lingering}`,
    },
  );
}

function lost(server: string, name: string): PostgresError {
  return new PostgresError(
    'wal-removed',
    `replication slot "${name}" of ${server} is lost: the server has removed WAL that was not received yet`,
    {
      hint:
        `walwarden receive-wal --drop-slot ${server}, then --create-slot, then --reset; take a new base backup; ` +
        'raise max_slot_wal_keep_size of the server',
    },
  );
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
    `replication slot "${name}" keeps WAL from ${formatLsn(restartLsn)} on, and WAL was received up to ${formatLsn(received)} only: ` +
      `should the server have removed what lies between, it is missing in the archive; ` +
      `then walwarden receive-wal --reset ${server} goes on behind the gap, and a new base backup is needed`,
  );
}
