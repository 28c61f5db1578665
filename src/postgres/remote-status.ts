import { messageOf, WalwardenError } from '../errors.ts';
import type { Lsn } from '../wal/lsn.ts';
import { connect, type Connection } from './connection.ts';
import { overrideConninfo } from './conninfo.ts';
import { PostgresError, withHint } from './failure.ts';
import { askServer, askSlot, askStreaming, PROBE_NAME } from './remote-facts.ts';
import type { ReplicationSlot } from './replication-slot.ts';
import { UNKNOWN_SERVER, UNKNOWN_SLOT, UNKNOWN_STREAMING } from './unknown-status.ts';

/** How to reach one PostgreSQL, for each purpose; Barman's options of these names, defaults applied. Null: not configured. */
export interface PostgresSettings {
  /** For status and checks. */
  readonly conninfo: string | null;
  /** For replication. */
  readonly streamingConninfo: string | null;
  /** Where the replication slot is asked for. */
  readonly walConninfo: string | null;
  /** Where WAL is received from. */
  readonly walStreamingConninfo: string | null;
  readonly slotName: string | null;
  /** `streaming_archiver_name`: the application_name of pg_receivewal. */
  readonly streamingName: string;
}

/** pg_stat_archiver, and what follows from it. */
export interface ArchiverStatistics {
  readonly archivedCount: number;
  readonly lastArchivedWal: string | null;
  /** Milliseconds since the epoch, as all times here. */
  readonly lastArchivedTime: number | null;
  readonly failedCount: number;
  readonly lastFailedWal: string | null;
  readonly lastFailedTime: number | null;
  readonly statsReset: number | null;
  /** archive_mode is on, and the last attempt did not fail. */
  readonly isArchiving: boolean;
  /** Archived files a second since `statsReset`. */
  readonly archivedPerSecond: number | null;
}

/** A row of pg_stat_replication. */
export interface ReplicationClient {
  readonly pid: number;
  readonly user: string | null;
  readonly applicationName: string;
  readonly clientAddress: string | null;
  readonly clientPort: number | null;
  readonly backendStart: number | null;
  readonly slotName: string | null;
  readonly state: string | null;
  readonly syncState: string | null;
  readonly syncPriority: number | null;
  readonly sentLsn: Lsn | null;
  readonly writeLsn: Lsn | null;
  readonly flushLsn: Lsn | null;
  readonly replayLsn: Lsn | null;
  /** Milliseconds. */
  readonly writeLag: number | null;
  readonly flushLag: number | null;
  readonly replayLag: number | null;
}

/** What a connection of one conninfo told; every value is null where it could not be known, and `error` says why. */
export interface ReachedServer {
  readonly error: PostgresError | null;
  /** `server_version_num`: 150018. */
  readonly serverVersion: number | null;
  readonly systemIdentifier: bigint | null;
}

/** What a role may do, as far as it concerns us. */
export interface RoleStatus {
  readonly name: string;
  readonly superuser: boolean;
  /** It may receive WAL. */
  readonly replication: boolean;
  /** It has the privileges of pg_monitor: it sees everything that is asked here. */
  readonly monitor: boolean;
  /** It may call pg_switch_wal(). */
  readonly switchWal: boolean;
  /** It may CHECKPOINT. */
  readonly checkpoint: boolean;
}

/** What `conninfo` tells. */
export interface ServerStatus extends ReachedServer {
  /** `server_version`: `15.18 (Debian …)`, the first word of it. */
  readonly versionText: string | null;
  readonly isInRecovery: boolean | null;
  readonly walLevel: string | null;
  /** Bytes. */
  readonly segmentSize: number | null;
  readonly timeline: number | null;
  /** Of the primary: the current write position; of a standby: the last replayed one. */
  readonly currentLsn: Lsn | null;
  readonly dataDirectory: string | null;
  readonly archiveMode: string | null;
  readonly archiveCommand: string | null;
  /** PostgreSQL 15 and later. */
  readonly archiveLibrary: string | null;
  /** Seconds. */
  readonly archiveTimeout: number | null;
  readonly maxWalSenders: number | null;
  readonly maxReplicationSlots: number | null;
  readonly synchronousStandbyNames: string | null;
  readonly archiver: ArchiverStatistics | null;
  /** All rows that this role may see. */
  readonly replication: readonly ReplicationClient[] | null;
  /** Whom we are connected as. */
  readonly role?: RoleStatus | null;
}

/** What a replication connection of `wal_streaming_conninfo` tells (IDENTIFY_SYSTEM, SHOW). */
export interface StreamingStatus extends ReachedServer {
  readonly timeline: number | null;
  readonly currentLsn: Lsn | null;
  /** Bytes. */
  readonly segmentSize: number | null;
  readonly walLevel: string | null;
}

/** What `wal_conninfo` tells of the slot; `slot` is null also when it does not exist: then `error` is null. */
export interface SlotStatus extends ReachedServer {
  readonly slot: ReplicationSlot | null;
  readonly synchronousStandbyNames: string | null;
}

/** Everything that is known of one PostgreSQL. Null for a connection that is not configured. */
export interface RemoteStatus {
  readonly server: ServerStatus | null;
  readonly streaming: StreamingStatus | null;
  readonly slot: SlotStatus | null;
}

/** The options that the connections come from, for messages: the more special one only where it differs. */
export function optionNames(settings: PostgresSettings): {
  readonly server: 'conninfo';
  readonly streaming: 'streaming_conninfo' | 'wal_streaming_conninfo';
  readonly slot: 'conninfo' | 'wal_conninfo';
} {
  const { conninfo, streamingConninfo, walConninfo, walStreamingConninfo } = settings;
  return {
    server: 'conninfo',
    streaming: walStreamingConninfo === streamingConninfo ? 'streaming_conninfo' : 'wal_streaming_conninfo',
    slot: walConninfo === conninfo ? 'conninfo' : 'wal_conninfo',
  };
}

export interface RemoteStatusOptions {
  /** Bounds each attempt to connect where the conninfo has no connect_timeout, and each query; milliseconds. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
  /** In place of our own: PG* variables, and HOME. */
  readonly environment?: NodeJS.ProcessEnv;
}

/** Less than check_timeout's default, so that there is something to tell when it is up. */
const DEFAULT_TIMEOUT_MS = 15_000;

/**
 * Asks for everything that these connections tell, in parallel. Never rejects
 * for what PostgreSQL does or doesn't: missing values are null, and `error` says
 * why. A role that may see everything has pg_monitor.
 */
export async function fetchRemoteStatus(
  settings: PostgresSettings,
  options: RemoteStatusOptions = {},
): Promise<RemoteStatus> {
  const { walConninfo, walStreamingConninfo, slotName } = settings;
  const names = optionNames(settings);
  const ask = async <T extends ReachedServer>(
    text: string | null,
    option: string,
    unknown: T,
    question: (connection: Connection) => Promise<T>,
    replication = false,
  ): Promise<T | null> => {
    if (text === null) return null;
    try {
      // The server shows this connection among those that receive WAL: it is recognised by its name.
      const conninfo = replication ? overrideConninfo(text, { application_name: PROBE_NAME }) : text;
      await using connection = await connect(conninfo, { timeoutMs: DEFAULT_TIMEOUT_MS, ...options, replication });
      const { error, ...found } = await question(connection);
      return { ...unknown, ...found, error: error === null ? null : explain(error, option) };
    } catch (error) {
      if (!(error instanceof WalwardenError)) throw error;
      return { ...unknown, error: explain(error, option) };
    }
  };
  // The same server need not be connected to twice.
  const together = walConninfo !== null && settings.conninfo === walConninfo;
  let slotOfServer: SlotStatus | null = null;
  const [server, streaming, slot] = await Promise.all([
    ask(settings.conninfo, names.server, UNKNOWN_SERVER, async (connection) => {
      const status = await askServer(connection);
      if (together) slotOfServer = await askSlot(connection, slotName);
      return status;
    }),
    ask(walStreamingConninfo, names.streaming, UNKNOWN_STREAMING, askStreaming, true),
    together ? null : ask(walConninfo, names.slot, UNKNOWN_SLOT, (connection) => askSlot(connection, slotName)),
  ]);
  if (!together) return { server, streaming, slot };
  return { server, streaming, slot: slotOfServer ?? { ...UNKNOWN_SLOT, error: server?.error ?? null } };
}

function explain(error: WalwardenError, option: string): PostgresError {
  if (error instanceof PostgresError) return withHint(error, { option });
  return new PostgresError('unreachable', messageOf(error), { cause: error });
}
