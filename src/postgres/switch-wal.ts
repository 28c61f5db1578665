import { walName, type WalName } from '../wal/wal-name.ts';
import { connect, type Connection } from './connection.ts';
import { PostgresError } from './failure.ts';

export interface SwitchWalOptions {
  /** A CHECKPOINT before, so that there is something to close. */
  readonly force?: boolean;
  /** Throws for a cluster that is not the right one; not asked where the role may not know which one it is. */
  readonly checkCluster?: (systemid: string) => void;
  readonly signal?: AbortSignal | undefined;
  /** In place of our own: PG* variables, and HOME. */
  readonly environment?: NodeJS.ProcessEnv;
}

export interface SwitchedWal {
  /** The segment that is complete now; null when there was nothing in it. */
  readonly closed: WalName | null;
  /** The segment that was written to, and the one that is; null on a standby. */
  readonly before: WalName | null;
  readonly after: WalName | null;
  /** It writes no WAL of its own: nothing was done. */
  readonly isStandby: boolean;
}

/** An immediate checkpoint still has to write what is dirty. */
const CHECKPOINT_TIMEOUT_MS = 3_600_000;

/**
 * Ends the current segment, as pg_switch_wal() does: whether there was anything
 * to end, the names before and after tell. Throws {@link PostgresError}; what is
 * missing for a privilege is in its hint.
 */
export async function switchWal(conninfo: string, options: SwitchWalOptions = {}): Promise<SwitchedWal> {
  const { force = false, checkCluster, ...connectOptions } = options;
  await using connection = await connect(conninfo, connectOptions);
  const systemid = checkCluster === undefined ? null : await systemIdentifier(connection);
  if (systemid !== null) checkCluster?.(systemid);
  if (await isInRecovery(connection)) return { closed: null, before: null, after: null, isStandby: true };
  if (force) await checkpoint(connection);
  const before = await currentSegment(connection);
  await withPrivilege(connection, 'GRANT EXECUTE ON FUNCTION pg_switch_wal() TO', () =>
    connection.query('select pg_catalog.pg_switch_wal()'),
  );
  const after = await currentSegment(connection);
  return { closed: before < after ? before : null, before, after, isStandby: false };
}

export async function isInRecovery(connection: Connection): Promise<boolean> {
  const [row] = await connection.query('select pg_catalog.pg_is_in_recovery() as answer');
  return row?.['answer'] === 't';
}

/** Null when the role may not ask. */
async function systemIdentifier(connection: Connection): Promise<string | null> {
  try {
    const [row] = await connection.query('select system_identifier from pg_catalog.pg_control_system()');
    return row?.['system_identifier'] ?? null;
  } catch (error) {
    if (error instanceof PostgresError && error.failure === 'no-privilege') return null;
    throw error;
  }
}

async function checkpoint(connection: Connection): Promise<void> {
  const remedy =
    connection.serverVersion >= 150_000
      ? 'GRANT pg_checkpoint TO'
      : 'only a superuser may CHECKPOINT before PostgreSQL 15:';
  await withPrivilege(connection, remedy, () =>
    connection.query('CHECKPOINT', undefined, { timeoutMs: CHECKPOINT_TIMEOUT_MS }),
  );
}

/** The insert position never lies at the very end of a segment, where names are ambiguous. */
async function currentSegment(connection: Connection): Promise<WalName> {
  const [row] = await connection.query(
    'select pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) as name',
  );
  return walName(row?.['name'] ?? '', 'pg_walfile_name');
}

async function withPrivilege<T>(connection: Connection, remedy: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (!(error instanceof PostgresError) || error.failure !== 'no-privilege') throw error;
    const [row] = await connection.query('select pg_catalog.quote_ident(current_user) as name');
    throw new PostgresError('no-privilege', error.message, {
      cause: error,
      sqlState: error.sqlState,
      hint: `on the server: ${remedy} ${row?.['name'] ?? 'the user of conninfo'}`,
    });
  }
}
