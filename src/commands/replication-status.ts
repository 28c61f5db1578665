import pLimit from 'p-limit';
import type { ServerConfig } from '../config/config.ts';
import { WalwardenError } from '../errors.ts';
import {
  describeClients,
  isHidden,
  STAGES,
  type ClientKind,
  type StreamingClient,
} from '../health/replication-clients.ts';
import { formatClients, formatClientsBriefly, type ReplicationTable } from '../health/replication-table.ts';
import {
  fetchRemoteStatus,
  type PostgresSettings,
  type ReplicationClient,
  type ServerStatus,
} from '../postgres/remote-status.ts';
import { postgresSettings } from '../server-settings.ts';
import { formatLsn, type Lsn } from '../wal/lsn.ts';
import type { CommandContext, Report } from './command.ts';
import { selectServers } from './select-servers.ts';
import { errorJson, serverError } from './server-error.ts';

export interface ReplicationStatusOptions {
  /** Which clients: standbys replay what they get, WAL streamers don't. */
  readonly target: ClientKind | 'all';
  /** Whom to ask: the server of `conninfo`, or that of `wal_conninfo`. */
  readonly source: 'backup-host' | 'wal-host';
  /** One line a client. */
  readonly minimal?: boolean;
}

interface ServerReport extends Omit<ReplicationTable, 'target'> {
  readonly skipped: string | null;
  /** Our own receiver should be among the clients, and is not. */
  readonly missing: string | null;
  readonly error: WalwardenError | null;
}

/** Servers asked at a time. */
const PARALLEL = 8;

/**
 * `replication-status SERVER...|all`: who streams from a server, our own
 * receiver first, and how far behind they are. The exit status is 1 when that
 * can't be told.
 */
export async function replicationStatus(
  context: CommandContext,
  names: readonly string[],
  options: ReplicationStatusOptions,
): Promise<Report> {
  const limit = pLimit(PARALLEL);
  const all = names.includes('all');
  const reports = await Promise.all(
    selectServers(context.config, names).map((server) => limit(() => reportOn(server, options, all, context.kill))),
  );
  const errors = reports.flatMap(({ error }) => (error === null ? [] : [error]));
  return {
    text: reports.map((each) => formatReport(each, options)).join(''),
    json: reports.map(toJson),
    errors,
    exitCode: errors.length > 0 ? 1 : 0,
  };
}

/** Never rejects: one server's trouble is not the others'. */
async function reportOn(
  server: ServerConfig,
  options: ReplicationStatusOptions,
  all: boolean,
  signal: AbortSignal,
): Promise<ServerReport> {
  const { name } = server;
  const nothing = { server: name, isInRecovery: null, currentLsn: null, clients: [], missing: null };
  // Named, it can be asked: that only reads.
  if (all && !server.active) return { ...nothing, skipped: `Skipping inactive server '${name}'`, error: null };
  try {
    const settings = settingsOf(server, options.source);
    const status = await askServer(name, settings, signal);
    const { currentLsn, isInRecovery } = status;
    const own = { applicationName: settings.streamingName, slotName: settings.slotName };
    const clients = describeClients(status.replication, currentLsn, own);
    const shown = clients.filter(({ kind }) => options.target === 'all' || options.target === kind);
    const expected = server.active && !server.passive && server.options.streaming_archiver;
    const missing =
      expected && options.target !== 'hot-standby' && !clients.some(({ ours }) => ours)
        ? `receive-wal is not attached: no client has the application_name ${own.applicationName}`
        : null;
    return { ...nothing, skipped: null, isInRecovery, currentLsn, clients: shown, missing, error: null };
  } catch (error) {
    return { ...nothing, skipped: null, error: serverError(name, error) };
  }
}

/** The settings with only that connection, as `conninfo`, that is to be asked. */
function settingsOf(server: ServerConfig, source: ReplicationStatusOptions['source']): PostgresSettings {
  if (server.disabled) {
    throw new WalwardenError(
      'config',
      `server ${server.name} is disabled: ${server.problems.map(({ message }) => message).join('; ')}`,
      {
        hint: 'correct the configuration',
      },
    );
  }
  const settings = postgresSettings(server);
  const [option, conninfo] =
    source === 'wal-host' ? ['wal_conninfo', settings.walConninfo] : ['conninfo', settings.conninfo];
  if (conninfo === null) {
    throw new WalwardenError('config', `${option} is not set`, { hint: `set ${option} in [${server.name}]` });
  }
  return { ...settings, conninfo, streamingConninfo: null, walConninfo: null, walStreamingConninfo: null };
}

async function askServer(
  name: string,
  settings: PostgresSettings,
  signal: AbortSignal,
): Promise<ServerStatus & { readonly replication: readonly ReplicationClient[] }> {
  const { server: status } = await fetchRemoteStatus(settings, { signal });
  if (status === null) throw new WalwardenError('internal', 'no status of its PostgreSQL');
  const { replication } = status;
  if (replication === null) {
    throw status.error ?? new WalwardenError('postgres', 'its PostgreSQL does not tell who streams from it');
  }
  if (replication.some(isHidden)) {
    throw new WalwardenError('postgres', 'the role of conninfo may not see who streams from its PostgreSQL', {
      hint: `GRANT pg_monitor TO the role of conninfo in [${name}]`,
    });
  }
  return { ...status, replication };
}

function formatReport(report: ServerReport, { target, minimal }: ReplicationStatusOptions): string {
  if (report.skipped !== null) return `${report.skipped}\n`;
  // That is for stderr.
  if (report.error !== null) return '';
  const format = minimal === true ? formatClientsBriefly : formatClients;
  return format({ ...report, target }) + (report.missing === null ? '' : `  WARNING: ${report.missing}\n`);
}

function toJson({ server, skipped, isInRecovery, currentLsn, clients, missing, error }: ServerReport): unknown {
  return {
    server,
    skipped,
    isInRecovery,
    currentLsn: lsnText(currentLsn),
    clients: clients.map(clientJson),
    warning: missing,
    error: errorJson(error),
  };
}

function clientJson({ client, ours, kind, syncStage, progress }: StreamingClient): unknown {
  return {
    ours,
    kind,
    applicationName: client.applicationName,
    user: client.user,
    address: client.clientAddress,
    port: client.clientPort,
    slot: client.slotName,
    pid: client.pid,
    startedAt: seconds(client.backendStart),
    state: client.state,
    syncState: client.syncState,
    syncPriority: client.syncPriority,
    syncStage,
    ...Object.fromEntries(
      STAGES.map((stage) => {
        const { lsn, lagBytes, lagMs } = progress[stage];
        return [stage, { lsn: lsnText(lsn), lagBytes, lagSeconds: seconds(lagMs) }];
      }),
    ),
  };
}

function lsnText(lsn: Lsn | null): string | null {
  return lsn === null ? null : formatLsn(lsn);
}

/** As everywhere in JSON, from milliseconds. */
function seconds(ms: number | null): number | null {
  return ms === null ? null : ms / 1_000;
}
