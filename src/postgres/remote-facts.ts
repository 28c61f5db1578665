import type { Connection, Row } from './connection.ts';
import { PostgresError } from './failure.ts';
import { askReplicationSlot } from './replication-slot.ts';
import type {
  ArchiverStatistics,
  ReachedServer,
  ReplicationClient,
  RoleStatus,
  ServerStatus,
  SlotStatus,
  StreamingStatus,
} from './remote-status.ts';
import { bigintOf, lsnOf, numberOf, shownSize, sizeOf, type Setting } from './text-values.ts';
import { UNKNOWN_SERVER } from './unknown-status.ts';

// What is asked over one connection. Each fact has a question of its own: what this role may not ask, or this
// version does not know, is missing without the others.

/** The oldest server that these questions are meant for. */
const OLDEST = 100_000;

/** The application_name of the replication connection that only asks. */
export const PROBE_NAME = 'walwarden status';

/** Collects facts, and why some are missing. */
class Questions {
  readonly #connection: Connection;
  readonly #denied: string[] = [];
  #error: PostgresError | null = null;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** The rows, or null when they could not be had; `what` is their name for people. */
  rows(what: string, sql: string, values?: readonly string[]): Promise<Row[] | null> {
    return this.answer(what, () => this.#connection.query(sql, values));
  }

  /** The same for a question that another module knows how to ask. */
  async answer<T>(what: string, ask: () => Promise<T>): Promise<T | null> {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof PostgresError)) throw error;
      if (error.failure === 'no-privilege') this.deny(what);
      else this.#error ??= error;
      return null;
    }
  }

  async row(what: string, sql: string, values?: readonly string[]): Promise<Row | null> {
    return (await this.rows(what, sql, values))?.[0] ?? null;
  }

  /** Notes what the role may not see though nobody refused it. */
  deny(what: string): void {
    if (!this.#denied.includes(what)) this.#denied.push(what);
  }

  /** A lost connection before what is not allowed. */
  error(role: string | null): PostgresError | null {
    if (this.#error !== null || this.#denied.length === 0) return this.#error;
    const who = role === null ? 'this user' : `user ${JSON.stringify(role)}`;
    return new PostgresError('no-privilege', `${who} may not see ${this.#denied.join(', ')}`, {
      hint: `on the server: GRANT pg_monitor TO ${role === null ? 'that user' : `"${role.replaceAll('"', '""')}"`}`,
    });
  }
}

/** Everything that `conninfo` tells. */
export async function askServer(connection: Connection): Promise<ServerStatus> {
  const { serverVersion } = connection;
  const versionText = connection.versionText.split(' ')[0] ?? null;
  const questions = new Questions(connection);
  if (serverVersion < OLDEST) return { ...UNKNOWN_SERVER, serverVersion, versionText };
  const role = await askRole(questions, serverVersion);
  const settings = await askSettings(questions);
  const position = await questions.row('the WAL position', POSITION);
  const isInRecovery = position === null ? null : position['in_recovery'] === 't';
  const archiveMode = settings.get('archive_mode')?.setting ?? null;
  const found = {
    versionText,
    isInRecovery,
    systemIdentifier: await askSystemIdentifier(questions),
    walLevel: settings.get('wal_level')?.setting ?? null,
    segmentSize: sizeOf(settings.get('wal_segment_size')),
    timeline: await askTimeline(questions, isInRecovery),
    currentLsn: lsnOf(position?.['lsn']),
    dataDirectory: settings.get('data_directory')?.setting ?? null,
    archiveMode,
    archiveCommand: settings.get('archive_command')?.setting ?? null,
    archiveLibrary: settings.get('archive_library')?.setting ?? null,
    archiveTimeout: numberOf(settings.get('archive_timeout')?.setting),
    maxWalSenders: numberOf(settings.get('max_wal_senders')?.setting),
    maxReplicationSlots: numberOf(settings.get('max_replication_slots')?.setting),
    synchronousStandbyNames: settings.get('synchronous_standby_names')?.setting ?? null,
    archiver: await askArchiver(questions, archiveMode, isInRecovery),
    replication: await askReplication(questions),
    role,
  };
  return { ...found, serverVersion, error: questions.error(role?.name ?? null) };
}

/** Everything that a replication connection tells. */
export async function askStreaming(connection: Connection): Promise<StreamingStatus> {
  const questions = new Questions(connection);
  const system = await questions.row('IDENTIFY_SYSTEM', 'IDENTIFY_SYSTEM');
  const size = await questions.row('wal_segment_size', 'SHOW wal_segment_size');
  const level = await questions.row('wal_level', 'SHOW wal_level');
  return {
    serverVersion: connection.serverVersion,
    systemIdentifier: bigintOf(system?.['systemid']),
    timeline: numberOf(system?.['timeline']),
    currentLsn: lsnOf(system?.['xlogpos']),
    segmentSize: shownSize(size?.['wal_segment_size']),
    walLevel: level?.['wal_level'] ?? null,
    error: questions.error(null),
  };
}

/** What `wal_conninfo` tells of the slot. */
export async function askSlot(connection: Connection, slotName: string | null): Promise<SlotStatus> {
  const questions = new Questions(connection);
  const names = await questions.row(
    'synchronous_standby_names',
    `select pg_catalog.current_setting('synchronous_standby_names') as names`,
  );
  const reached: ReachedServer = {
    serverVersion: connection.serverVersion,
    systemIdentifier: await askSystemIdentifier(questions),
    error: null,
  };
  const slot =
    slotName === null
      ? null
      : await questions.answer('pg_replication_slots', () => askReplicationSlot(connection, slotName));
  return { ...reached, slot, synchronousStandbyNames: names?.['names'] ?? null, error: questions.error(null) };
}

/** A standby has no write position of its own: what it has replayed. */
const POSITION = `
  select pg_catalog.pg_is_in_recovery() as in_recovery,
         case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
              else pg_catalog.pg_current_wal_lsn() end as lsn`;

async function askSystemIdentifier(questions: Questions): Promise<bigint | null> {
  const sql = 'select system_identifier from pg_catalog.pg_control_system()';
  return bigintOf((await questions.row('pg_control_system()', sql))?.['system_identifier']);
}

/**
 * The timeline in use. After a promotion pg_control tells the old one until the
 * next checkpoint, but the name of a WAL file, which a standby can't tell, is right.
 */
async function askTimeline(questions: Questions, isInRecovery: boolean | null): Promise<number | null> {
  if (isInRecovery === null) return null;
  const sql = isInRecovery
    ? `select greatest((select timeline_id from pg_catalog.pg_control_checkpoint()),
                       (select min_recovery_end_timeline from pg_catalog.pg_control_recovery())) as timeline`
    : `select pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) as name`;
  const row = await questions.row('the timeline', sql);
  const name = row?.['name'];
  return typeof name === 'string' ? Number.parseInt(name.slice(0, 8), 16) : numberOf(row?.['timeline']);
}

const SETTINGS = [
  'archive_command',
  'archive_library',
  'archive_mode',
  'archive_timeout',
  'data_directory',
  'max_replication_slots',
  'max_wal_senders',
  'synchronous_standby_names',
  'wal_level',
  'wal_segment_size',
];

/** This view leaves out what the role may not see, and what this version doesn't know. */
async function askSettings(questions: Questions): Promise<ReadonlyMap<string, Setting>> {
  const rows = await questions.rows(
    'pg_settings',
    'select name, setting, unit from pg_catalog.pg_settings where name = any ($1::text[])',
    [`{${SETTINGS.join(',')}}`],
  );
  const found = new Map<string, Setting>();
  for (const { name, setting, unit } of rows ?? []) {
    if (typeof name === 'string') found.set(name, { setting: setting ?? null, unit: unit ?? null });
  }
  if (rows !== null && !found.has('data_directory')) questions.deny('data_directory');
  return found;
}

async function askRole(questions: Questions, version: number): Promise<RoleStatus | null> {
  const checkpoint = version >= 150_000 ? `pg_catalog.pg_has_role('pg_checkpoint', 'USAGE')` : 'false';
  const row = await questions.row(
    'pg_roles',
    `select rolname, rolsuper, rolreplication,
            pg_catalog.pg_has_role('pg_monitor', 'USAGE') as monitor,
            pg_catalog.has_function_privilege('pg_catalog.pg_switch_wal()', 'EXECUTE') as switch_wal,
            rolsuper or ${checkpoint} as checkpoint
       from pg_catalog.pg_roles where rolname = current_user`,
  );
  if (row === null) return null;
  return {
    name: row['rolname'] ?? '',
    superuser: row['rolsuper'] === 't',
    replication: row['rolsuper'] === 't' || row['rolreplication'] === 't',
    monitor: row['monitor'] === 't',
    switchWal: row['switch_wal'] === 't',
    checkpoint: row['checkpoint'] === 't',
  };
}

async function askArchiver(
  questions: Questions,
  archiveMode: string | null,
  isInRecovery: boolean | null,
): Promise<ArchiverStatistics | null> {
  const row = await questions.row(
    'pg_stat_archiver',
    `select archived_count, last_archived_wal, ${ms('last_archived_time')},
            failed_count, last_failed_wal, ${ms('last_failed_time')}, ${ms('stats_reset')}, ${ms('now', 'now()')}
       from pg_catalog.pg_stat_archiver`,
  );
  if (row === null) return null;
  const archivedCount = numberOf(row['archived_count']) ?? 0;
  const lastArchivedTime = numberOf(row['last_archived_time']);
  const lastFailedTime = numberOf(row['last_failed_time']);
  const statsReset = numberOf(row['stats_reset']);
  const seconds = statsReset === null ? 0 : ((numberOf(row['now']) ?? statsReset) - statsReset) / 1000;
  const statistics = {
    archivedCount,
    lastArchivedWal: row['last_archived_wal'] ?? null,
    lastArchivedTime,
    failedCount: numberOf(row['failed_count']) ?? 0,
    lastFailedWal: row['last_failed_wal'] ?? null,
    lastFailedTime,
    statsReset,
    archivedPerSecond: seconds > 0 ? archivedCount / seconds : null,
  };
  // On a standby only `always` archives.
  const wanted = archiveMode === 'always' || (archiveMode === 'on' && isInRecovery === false);
  return { ...statistics, isArchiving: wanted && !hasFailedLast(statistics) };
}

/**
 * Whether the last attempt failed. An old history file that could not be
 * archived when a standby was promoted was archived since without a trace, when
 * WAL of its timeline was.
 */
function hasFailedLast({
  lastArchivedWal,
  lastArchivedTime,
  lastFailedWal,
  lastFailedTime,
}: Omit<ArchiverStatistics, 'isArchiving'>): boolean {
  if (lastFailedTime === null) return false;
  if (lastArchivedTime !== null && lastArchivedTime >= lastFailedTime) return false;
  const [history] = /^[0-9A-F]{8}(?=\.history$)/.exec(lastFailedWal ?? '') ?? [];
  return history === undefined || lastArchivedWal === null || history > lastArchivedWal.slice(0, 8);
}

async function askReplication(questions: Questions): Promise<ReplicationClient[] | null> {
  const rows = await questions.rows(
    'pg_stat_replication',
    `select r.pid, r.usename, r.application_name, r.client_addr, r.client_port, ${ms('backend_start')},
            s.slot_name, r.state, r.sync_state, r.sync_priority, r.sent_lsn, r.write_lsn, r.flush_lsn, r.replay_lsn,
            ${ms('write_lag')}, ${ms('flush_lag')}, ${ms('replay_lag')}
       from pg_catalog.pg_stat_replication r
       left join pg_catalog.pg_replication_slots s on s.active_pid = r.pid
      where r.application_name is distinct from '${PROBE_NAME}'
      order by r.pid`,
  );
  const clients = rows?.map(toReplicationClient) ?? null;
  // Then the role sees only that somebody is there.
  if (clients?.some(({ state, backendStart }) => state === null && backendStart === null) === true) {
    questions.deny('pg_stat_replication');
  }
  return clients;
}

function toReplicationClient(row: Row): ReplicationClient {
  const port = numberOf(row['client_port']);
  return {
    pid: numberOf(row['pid']) ?? 0,
    user: row['usename'] ?? null,
    applicationName: row['application_name'] ?? '',
    clientAddress: row['client_addr'] ?? null,
    // -1: a unix socket.
    clientPort: port === -1 ? null : port,
    backendStart: numberOf(row['backend_start']),
    slotName: row['slot_name'] ?? null,
    state: row['state'] ?? null,
    syncState: row['sync_state'] ?? null,
    syncPriority: numberOf(row['sync_priority']),
    sentLsn: lsnOf(row['sent_lsn']),
    writeLsn: lsnOf(row['write_lsn']),
    flushLsn: lsnOf(row['flush_lsn']),
    replayLsn: lsnOf(row['replay_lsn']),
    writeLag: numberOf(row['write_lag']),
    flushLag: numberOf(row['flush_lag']),
    replayLag: numberOf(row['replay_lag']),
  };
}

/** A time, or a span of it, in milliseconds. */
function ms(column: string, expression = column): string {
  return `round(extract(epoch from ${expression}) * 1000) as ${column}`;
}
