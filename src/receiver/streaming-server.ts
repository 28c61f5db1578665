import type { Connection } from '../postgres/connection.ts';
import { connect } from '../postgres/connection.ts';
import { hintFor, PostgresError } from '../postgres/failure.ts';
import type { PostgresSettings } from '../postgres/remote-status.ts';
import { messageOf } from '../errors.ts';
import { parseLsn } from '../wal/lsn.ts';
import { parseTimelineHistory, type TimelineSwitch } from '../wal/timeline-history.ts';
import { checkSegmentSize, historyName, type WalName } from '../wal/wal-name.ts';
import type { ServerHistory } from './server-history.ts';
import type { ReceiverSettings } from './receiver-settings.ts';

/** What the server that WAL is received from says of itself, over a replication connection. */
export interface StreamingServer extends ServerHistory {
  /** `server_version_num`: 150018. */
  readonly version: number;
  readonly systemIdentifier: bigint;
  /** Bytes. */
  readonly segmentSize: number;
  /** Null before PostgreSQL 14, which does not tell it here. */
  readonly inRecovery: boolean | null;
  readonly synchronousStandbyNames: string;
}

/** Bounds an attempt to connect, and each query, where the conninfo says nothing; milliseconds. */
const TIMEOUT_MS = 15_000;

/** `server_version_num` of the first release that this knows. */
const OLDEST = 100_000;

/** The option that a conninfo comes from, for hints: that of the more special purpose only where it differs. */
export function streamingOption({ streamingConninfo, walStreamingConninfo }: PostgresSettings): string {
  return walStreamingConninfo === streamingConninfo ? 'streaming_conninfo' : 'wal_streaming_conninfo';
}

export function statusOption({ conninfo, walConninfo }: PostgresSettings): string {
  return walConninfo === conninfo ? 'conninfo' : 'wal_conninfo';
}

/** A replication connection to where WAL is received from. Throws {@link PostgresError} with a hint. */
export async function connectForStreaming(settings: ReceiverSettings, signal?: AbortSignal): Promise<Connection> {
  const { server, postgres } = settings;
  if (postgres.walStreamingConninfo === null) {
    throw new PostgresError('misconfigured', `WAL can't be received from ${server}: streaming_conninfo is not set`, {
      hint: `set streaming_conninfo (or conninfo) of [${server}]`,
    });
  }
  try {
    return await connect(postgres.walStreamingConninfo, { replication: true, timeoutMs: TIMEOUT_MS, signal });
  } catch (error) {
    if (!(error instanceof PostgresError)) throw error;
    if (error.failure === 'too-many-walsenders') throw await whyNoWalSender(settings, error, signal);
    throw explained(error, settings, streamingOption(postgres));
  }
}

/** A connection for queries to where the slot is asked for. Throws {@link PostgresError} with a hint. */
export async function connectForStatus(
  settings: ReceiverSettings,
  conninfo: string,
  signal?: AbortSignal,
): Promise<Connection> {
  try {
    return await connect(conninfo, { applicationName: 'walwarden', timeoutMs: TIMEOUT_MS, signal });
  } catch (error) {
    throw explained(error, settings, statusOption(settings.postgres));
  }
}

/** The same error, with the option that it came from and what to do about it. */
export function explained(error: unknown, { server, postgres }: ReceiverSettings, option: string): unknown {
  if (!(error instanceof PostgresError) || error.hint !== undefined) return error;
  return new PostgresError(error.failure, `${option} of ${server}: ${error.message}`, {
    cause: error,
    sqlState: error.sqlState,
    hint: hintFor(error.failure, { option, server, slotName: postgres.slotName, message: error.message }),
  });
}

/** `wal_level = minimal` allows no WAL senders at all, and the server names only the lack of them. */
async function whyNoWalSender(
  settings: ReceiverSettings,
  error: PostgresError,
  signal: AbortSignal | undefined,
): Promise<unknown> {
  const option = streamingOption(settings.postgres);
  const { walConninfo } = settings.postgres;
  if (walConninfo === null) return explained(error, settings, option);
  try {
    await using connection = await connectForStatus(settings, walConninfo, signal);
    const [row] = await connection.query(`select current_setting('wal_level') as wal_level`);
    if (row?.['wal_level'] === 'minimal') return minimalWal(settings);
  } catch {
    // What the first connection said counts.
  }
  return explained(error, settings, option);
}

function minimalWal({ server, postgres }: ReceiverSettings): PostgresError {
  const message = `PostgreSQL of ${server} runs with wal_level = minimal, and sends no WAL to anybody`;
  const context = { option: streamingOption(postgres), server, slotName: postgres.slotName };
  return new PostgresError('wal-level', message, { hint: hintFor('wal-level', context) });
}

/** Asks the server for what decides whether, and from where, WAL can be received. Throws {@link PostgresError}. */
export async function askStreamingServer(connection: Connection, settings: ReceiverSettings): Promise<StreamingServer> {
  const option = streamingOption(settings.postgres);
  if (connection.serverVersion < OLDEST) {
    const message = `PostgreSQL of ${settings.server} is older than 10, whose WAL is the first that can be archived here`;
    throw new PostgresError('misconfigured', message, { hint: 'upgrade PostgreSQL' });
  }
  try {
    const [system] = await connection.query('IDENTIFY_SYSTEM');
    const timeline = Number(system?.['timeline']);
    const [systemid, position] = [system?.['systemid'], system?.['xlogpos']];
    if (!Number.isSafeInteger(timeline) || typeof systemid !== 'string' || typeof position !== 'string') {
      throw new PostgresError('other', 'IDENTIFY_SYSTEM answered something else than PostgreSQL does', {
        hint: `is ${option} the address of a PostgreSQL, without a pooler in between?`,
      });
    }
    if ((await show(connection, 'wal_level')) === 'minimal') throw minimalWal(settings);
    const hotStandby = connection.serverVersion >= 140_000 ? await show(connection, 'in_hot_standby') : null;
    return {
      version: connection.serverVersion,
      systemIdentifier: BigInt(systemid),
      timeline,
      lsn: parseLsn(position),
      history: await askHistory(connection, settings, timeline),
      segmentSize: parseSize(await show(connection, 'wal_segment_size')),
      inRecovery: hotStandby === null ? null : hotStandby === 'on',
      synchronousStandbyNames: await show(connection, 'synchronous_standby_names'),
    };
  } catch (error) {
    throw explained(error, settings, option);
  }
}

async function show(connection: Connection, name: string): Promise<string> {
  const [row] = await connection.query(`SHOW ${name}`);
  return row?.[name] ?? '';
}

/** The first timeline descends from none, and has no history file. */
async function askHistory(
  connection: Connection,
  settings: ReceiverSettings,
  timeline: number,
): Promise<readonly TimelineSwitch[]> {
  if (timeline === 1) return [];
  const { text, from } = await askHistoryFile(connection, settings, timeline);
  const name = historyName(timeline);
  try {
    return parseTimelineHistory(text, name);
  } catch (cause) {
    const hint = from === 'server' ? `look at pg_wal/${name} of the server` : `look at ${name} in the archive`;
    throw new PostgresError('other', `the ${from}'s ${name} can't be understood: ${messageOf(cause)}`, { cause, hint });
  }
}

/** The text of a history file, and where it is from. */
export interface HistoryFile {
  readonly text: string;
  readonly from: 'server' | 'archive';
}

/** The server's history file of a timeline; where the server has lost it, the archived one. Throws {@link PostgresError}. */
export async function askHistoryFile(
  connection: Connection,
  settings: ReceiverSettings,
  timeline: number,
): Promise<HistoryFile> {
  try {
    const [row] = await connection.query(`TIMELINE_HISTORY ${timeline}`);
    return { text: row?.['content'] ?? '', from: 'server' };
  } catch (error) {
    if (!(error instanceof PostgresError) || error.failure !== 'history-missing') {
      throw explained(error, settings, streamingOption(settings.postgres));
    }
    const archived = await readArchivedHistory(settings, historyName(timeline));
    if (archived === null) throw explained(error, settings, streamingOption(settings.postgres));
    return { text: archived.toString('utf8'), from: 'archive' };
  }
}

async function readArchivedHistory(
  { server, logger, readArchived }: ReceiverSettings,
  name: WalName,
): Promise<Buffer | null> {
  try {
    return (await readArchived?.(name)) ?? null;
  } catch (error) {
    logger.warn(
      { server, file: name },
      `the server lacks ${name}, and the archived one can't be read: ${messageOf(error)}`,
    );
    return null;
  }
}

const UNITS: Readonly<Record<string, number>> = { '': 1, B: 1, kB: 1024, MB: 1024 ** 2, GB: 1024 ** 3 };

/** A size as SHOW prints it: `16MB`. */
function parseSize(text: string): number {
  const [, digits, unit = ''] = /^(\d+)\s*(\w*)$/.exec(text) ?? [];
  const size = Number(digits) * (UNITS[unit] ?? Number.NaN);
  checkSegmentSize(size);
  return size;
}
