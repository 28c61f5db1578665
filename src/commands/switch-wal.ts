import { readIdentity } from '../archiver/identity.ts';
import type { ServerConfig } from '../config/config.ts';
import { WalwardenError } from '../errors.ts';
import { hintFor, PostgresError, withHint } from '../postgres/failure.ts';
import { switchWal, type SwitchedWal } from '../postgres/switch-wal.ts';
import { openServer, type Server } from '../server.ts';
import { parseWalName, segmentName, segmentNumber, type WalName } from '../wal/wal-name.ts';
import type { CommandContext, Report } from './command.ts';
import { selectServers } from './select-servers.ts';
import { errorJson, serverError } from './server-error.ts';
import { waitUntilArchived } from './wait-archived.ts';

export interface SwitchWalOptions {
  /** A checkpoint before, so that there is something to close. */
  readonly force?: boolean;
  /** Wait until the closed segment is archived. */
  readonly archive?: boolean;
  /** Seconds; 0 is for ever. */
  readonly archiveTimeout: number;
}

interface ServerReport {
  readonly server: string;
  readonly skipped: string | null;
  /** The segment that was closed; null when there was nothing in it, or the server is a standby. */
  readonly closed: WalName | null;
  readonly isStandby: boolean | null;
  /** With `archive`: what is in the archive now. */
  readonly archived: WalName | null;
  readonly error: WalwardenError | null;
}

/**
 * `switch-wal SERVER...|all`: closes the current segment, so that it can be
 * archived; with `archive`, archives until it is. The words are Barman's.
 */
export async function switchWalCommand(
  context: CommandContext,
  names: readonly string[],
  options: SwitchWalOptions,
): Promise<Report> {
  const reports: ServerReport[] = [];
  for (const server of selectServers(context.config, names)) {
    if (context.drain.aborted) break;
    reports.push(await switchOne(context, server, options));
  }
  const errors = reports.flatMap(({ error }) => (error === null ? [] : [error]));
  // What there is to say was said when it happened: waiting takes its time.
  return { text: '', json: reports.map(toJson), errors, exitCode: errors.length > 0 ? 1 : 0 };
}

/** Never rejects: one server's trouble is not the others'. */
async function switchOne(
  context: CommandContext,
  config: ServerConfig,
  options: SwitchWalOptions,
): Promise<ServerReport> {
  const { name } = config;
  const report = { server: name, skipped: null, closed: null, isStandby: null, archived: null, error: null };
  if (!config.active || config.passive) {
    const skipped = `Skipping ${config.active ? 'passive' : 'inactive'} server '${name}'`;
    context.say(`${skipped}\n`);
    return { ...report, skipped };
  }
  let done: SwitchedWal | null = null;
  let archived: WalName | null = null;
  let error: WalwardenError | null = null;
  try {
    await using server = openServer(context.config, config, context.logger, context);
    done = await switchSegment(context, server, options);
    if (options.archive === true) archived = await archive(context, server, done, options.archiveTimeout);
  } catch (cause) {
    error = serverError(name, cause);
  }
  return { ...report, closed: done?.closed ?? null, isStandby: done?.isStandby ?? null, archived, error };
}

async function switchSegment(context: CommandContext, server: Server, options: SwitchWalOptions): Promise<SwitchedWal> {
  const { name, postgres, logger } = server;
  if (postgres.conninfo === null) {
    throw new WalwardenError('config', 'conninfo is not set, and switch-wal asks PostgreSQL to switch', {
      hint: `set conninfo in [${name}]`,
    });
  }
  const done = await switchIn(server, postgres.conninfo, { force: options.force === true, signal: context.kill });
  const { closed, isStandby } = done;
  const result =
    closed !== null
      ? `The WAL file ${closed} has been closed on server '${name}'`
      : isStandby
        ? `No switch performed because server '${name}' is a standby.`
        : `No switch required for server '${name}'`;
  context.say(`${result}\n`);
  logger.debug({ server: name, closed }, result);
  return done;
}

/** In no other cluster than the archive's: its segments have the same names. */
async function switchIn(
  { name, identity }: Server,
  conninfo: string,
  options: { readonly force: boolean; readonly signal: AbortSignal },
): Promise<SwitchedWal> {
  const context = { option: 'conninfo', server: name };
  const recorded = await readIdentity(identity.path);
  const checkCluster = (systemid: string): void => {
    if (recorded === null || recorded.systemid === systemid) return;
    throw new PostgresError(
      'other-cluster',
      `conninfo of ${name} leads to another cluster: its system identifier is ${systemid}, ` +
        `and this archive belongs to ${recorded.systemid} (${identity.path})`,
      { hint: hintFor('other-cluster', context) },
    );
  };
  try {
    return await switchWal(conninfo, { ...options, checkCluster });
  } catch (error) {
    throw error instanceof PostgresError ? withHint(error, context) : error;
  }
}

/** Where there was nothing to close, the segment before is what should be in the archive; a standby doesn't know. */
async function archive(
  context: CommandContext,
  server: Server,
  { closed, before }: SwitchedWal,
  timeout: number,
): Promise<WalName | null> {
  const wal = closed ?? (before === null ? null : await previous(server, before));
  const timeoutSeconds = timeout === 0 ? null : timeout;
  const max = timeoutSeconds === null ? '' : ` (max: ${timeoutSeconds} seconds)`;
  context.say(
    wal === null
      ? `Waiting for a WAL file from server '${server.name}' to be archived${max}\n`
      : `Waiting for the WAL file ${wal} from server '${server.name}'${max}\n`,
  );
  const archived = await waitUntilArchived(server, wal, { timeoutSeconds, say: context.say, drain: context.drain });
  context.say(`The WAL file ${archived} of server '${server.name}' has been archived\n`);
  return archived;
}

/** The segment before; null when that can't be told, or there is none. */
async function previous(server: Server, name: WalName): Promise<WalName | null> {
  const size = (await server.getRemoteStatus()).server?.segmentSize ?? (await server.segmentSize());
  const parsed = parseWalName(name);
  if (size === null || parsed === undefined) return null;
  const number = segmentNumber(parsed, size);
  // Segment 0 is never used.
  return number > 1n ? segmentName(parsed.timeline, number - 1n, size) : null;
}

function toJson({ error, ...report }: ServerReport): unknown {
  return {
    ...report,
    error: errorJson(error),
  };
}
