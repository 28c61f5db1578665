import type { Lsn } from '../wal/lsn.ts';
import { formatBytes } from '../words.ts';
import type { Connection, Row } from './connection.ts';
import { lsnOf, numberOf } from './text-values.ts';

/** A replication slot (pg_replication_slots), who uses it, and what can end it. */
export interface ReplicationSlot {
  readonly name: string;
  readonly type: string;
  readonly active: boolean;
  readonly activePid: number | null;
  /** Null while it reserves no WAL, and once the server has removed what it reserved. */
  readonly restartLsn: Lsn | null;
  /** `reserved`, `extended`, `unreserved`, `lost`; null before PostgreSQL 13. */
  readonly walStatus: string | null;
  /** The application_name of whom it is used by; null when nothing uses it, or this role may not see that. */
  readonly applicationName?: string | null;
  /** Null for a unix socket, too. */
  readonly clientAddress?: string | null;
  /** `wal_removed`, `idle_timeout`, …; null while it is valid, and before PostgreSQL 17. */
  readonly invalidationReason?: string | null;
  /** Bytes that may be written before the slot is in danger of being lost; null when nothing limits them. */
  readonly safeWalSize?: number | null;
  /** The server's max_slot_wal_keep_size as it shows it, `-1` for no limit; null before PostgreSQL 13. */
  readonly maxSlotWalKeepSize?: string | null;
  /** The server's idle_replication_slot_timeout as it shows it, `0` for none; null before PostgreSQL 18. */
  readonly idleTimeout?: string | null;
}

/** Columns that only later versions have are read as keys: a missing one is null. */
const ONE_SLOT = `
  select s.slot_name, s.slot_type, s.active, s.active_pid, s.restart_lsn,
         pg_catalog.to_jsonb(s) ->> 'wal_status' as wal_status,
         pg_catalog.to_jsonb(s) ->> 'safe_wal_size' as safe_wal_size,
         pg_catalog.to_jsonb(s) ->> 'invalidation_reason' as invalidation_reason,
         pg_catalog.current_setting('max_slot_wal_keep_size', true) as max_slot_wal_keep_size,
         pg_catalog.current_setting('idle_replication_slot_timeout', true) as idle_replication_slot_timeout,
         a.application_name, a.client_addr
    from pg_catalog.pg_replication_slots s
    left join pg_catalog.pg_stat_activity a on a.pid = s.active_pid
   where s.slot_name = $1`;

/** The slot of a name; null: there is none. Throws {@link PostgresError}. */
export async function askReplicationSlot(connection: Connection, name: string): Promise<ReplicationSlot | null> {
  const [row] = await connection.query(ONE_SLOT, [name]);
  return row === undefined ? null : slotOf(row);
}

/** A row of that question, as PostgreSQL 10 to 18 answer it. */
export function slotOf(row: Row): ReplicationSlot {
  return {
    name: row['slot_name'] ?? '',
    type: row['slot_type'] ?? 'physical',
    active: row['active'] === 't',
    activePid: numberOf(row['active_pid']),
    restartLsn: lsnOf(row['restart_lsn']),
    walStatus: row['wal_status'] ?? null,
    applicationName: row['application_name'] ?? null,
    clientAddress: row['client_addr'] ?? null,
    invalidationReason: row['invalidation_reason'] ?? null,
    safeWalSize: numberOf(row['safe_wal_size']),
    maxSlotWalKeepSize: row['max_slot_wal_keep_size'] ?? null,
    idleTimeout: row['idle_replication_slot_timeout'] ?? null,
  };
}

/** Whom a slot is used by: `server process 4711, "barman_receive_wal" from 10.0.0.3`. */
export function describeHolder(
  { activePid, applicationName, clientAddress }: ReplicationSlot,
  what = 'server process',
): string {
  const from = (clientAddress ?? null) === null ? '' : ` from ${clientAddress}`;
  const who = (applicationName ?? null) === null ? '' : `, ${JSON.stringify(applicationName)}${from}`;
  return `${what} ${activePid ?? '?'}${who}`;
}

/** What can end a slot without its being dropped, and with it the WAL that it keeps; null when nothing is known to. */
export function endsBy({ maxSlotWalKeepSize, safeWalSize, idleTimeout }: ReplicationSlot): string | null {
  const limits: string[] = [];
  if (isSet(maxSlotWalKeepSize, '-1')) {
    const left = typeof safeWalSize === 'number' ? `, ${formatBytes(Math.max(0, safeWalSize))} to go` : '';
    limits.push(`max_slot_wal_keep_size (${maxSlotWalKeepSize}${left})`);
  }
  if (isSet(idleTimeout, '0')) limits.push(`idle_replication_slot_timeout (${idleTimeout})`);
  return limits.length === 0 ? null : limits.join(' or ');
}

const isSet = (limit: string | null | undefined, off: string): boolean =>
  limit !== null && limit !== undefined && limit !== off;

/** Why a slot keeps no WAL any more, and what prevents that the next time. */
export interface SlotLoss {
  /** A clause: "the server has removed …". */
  readonly why: string;
  readonly cure: string;
  /** The slot itself is of no more use. Else only the WAL at its place is gone, and it can be moved forward. */
  readonly invalidated: boolean;
}

/** Whether, and by what, a slot is lost; null while it is not. */
export function lossOf(slot: ReplicationSlot): SlotLoss | null {
  const { invalidationReason, walStatus, restartLsn } = slot;
  if ((invalidationReason ?? null) === null) {
    if (walStatus !== 'lost') return null;
    // Until PostgreSQL 16 nothing else takes a physical slot its place away.
    if (restartLsn === null) return lossBy('wal_removed', slot);
    return {
      why: 'the WAL at its place is not on the server any more',
      cure: 'something other than a slot had it removed, or moved the slot back there',
      invalidated: false,
    };
  }
  return lossBy(invalidationReason ?? '', slot);
}

/** By the names that PostgreSQL has for the causes (replication/slot.c, SlotInvalidationCauses). */
function lossBy(reason: string, { maxSlotWalKeepSize, idleTimeout }: ReplicationSlot): SlotLoss {
  const invalidated = true;
  switch (reason) {
    case 'wal_removed': {
      const limit = isSet(maxSlotWalKeepSize, '-1') ? `, now ${maxSlotWalKeepSize}` : '';
      return {
        why: 'the server has removed WAL that it held (max_slot_wal_keep_size)',
        cure: `raise max_slot_wal_keep_size of the server${limit}`,
        invalidated,
      };
    }
    case 'idle_timeout': {
      const limit = isSet(idleTimeout, '0') ? `, now ${idleTimeout}` : '';
      return {
        why: 'nothing received with it for longer than idle_replication_slot_timeout allows',
        cure: `set idle_replication_slot_timeout of the server${limit}, to 0, or to more than receive-wal may ever be away`,
        invalidated,
      };
    }
    case 'wal_level_insufficient':
      return {
        why: 'wal_level of the server, or of its primary, does not allow it',
        cure: 'set wal_level = replica or higher there',
        invalidated,
      };
    case 'rows_removed':
      return {
        why: 'the server has removed rows that it was to keep, as only a logical slot needs them',
        cure: 'see the log of PostgreSQL',
        invalidated,
      };
    default:
      return {
        why: `the server has invalidated it: ${reason}`,
        cure: 'see the log of PostgreSQL',
        invalidated,
      };
  }
}

/**
 * Creates a physical slot that keeps WAL from now on, over a replication
 * connection. Throws {@link PostgresError}: SQLSTATE 42710 when there is one of
 * that name, `slot-exhausted`, `no-privilege`.
 */
export async function createPhysicalSlot(replication: Connection, name: string): Promise<void> {
  await replication.query(`CREATE_REPLICATION_SLOT ${quoteIdentifier(name)} PHYSICAL RESERVE_WAL`);
}

/**
 * Drops a slot, over a replication connection; the server keeps no WAL for it
 * any more. Throws {@link PostgresError}: `slot-missing`, `slot-active`.
 */
export async function dropSlot(replication: Connection, name: string): Promise<void> {
  await replication.query(`DROP_REPLICATION_SLOT ${quoteIdentifier(name)}`);
}

/** As the grammar of replication commands takes any name (PostgreSQL: replication/repl_scanner.l). */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
