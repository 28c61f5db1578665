import { interrupted } from './failure.ts';

/** A row; all values as PostgreSQL's text form. */
export type Row = Readonly<Record<string, string | null>>;

export interface ConnectOptions {
  /** A physical replication connection: only replication commands and SHOW. */
  readonly replication?: boolean;
  /** Where the connection string, or PGAPPNAME, gives none. */
  readonly applicationName?: string;
  /**
   * Bounds the attempt to connect to each address where the conninfo has no
   * connect_timeout, and every query; milliseconds. Half a minute when not given.
   */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
  /** In place of our own: PG* variables, and HOME. */
  readonly environment?: NodeJS.ProcessEnv;
}

/** A session. Dispose it. */
export interface Connection extends AsyncDisposable {
  /** `server_version_num`: 150018. */
  readonly serverVersion: number;
  /** `server_version`: `15.18 (Debian …)`. */
  readonly versionText: string;
  /** The rows of one statement; with values `$1`, … are replaced. Throws {@link PostgresError}, or `aborted`. */
  query(
    sql: string,
    values?: readonly (string | null)[],
    limits?: { readonly timeoutMs?: number; readonly signal?: AbortSignal | undefined },
  ): Promise<Row[]>;
  /**
   * Has WAL sent over a replication connection, and ends that with the first
   * of it; nothing is confirmed. `dataExpected`: there is WAL behind the
   * position, else the server's consent has to do. Throws {@link PostgresError}.
   */
  startReplication(command: string, dataExpected: boolean): Promise<void>;
}

const DEFAULT_TIMEOUT_MS = 30_000;

/**
 * Connects as libpq would: conninfo in keyword form or as a URI, service file,
 * environment, password file, TLS by sslmode, one host after the other. Throws
 * {@link PostgresError} without a hint, since only the caller knows where the
 * conninfo is from; `aborted` when the signal fires.
 */
export async function connect(conninfo: string, options: ConnectOptions = {}): Promise<Connection> {
  const { timeoutMs = DEFAULT_TIMEOUT_MS, signal } = options;
  if (signal?.aborted === true) throw interrupted();
  // Loaded when it is needed: TLS and pg take longer than some commands as a whole.
  const { openSession } = await import('./attempts.ts');
  const session = await openSession(conninfo, {
    replication: options.replication ?? false,
    applicationName: options.applicationName ?? 'walwarden',
    timeoutMs,
    signal,
    environment: options.environment ?? process.env,
  });
  const versionText = session.parameter('server_version') ?? '';
  return {
    serverVersion: versionNumber(versionText),
    versionText,
    query: (sql, values, limits) =>
      session.query(sql, values, { timeoutMs: limits?.timeoutMs ?? timeoutMs, signal: limits?.signal ?? signal }),
    startReplication: (command, dataExpected) => session.startReplication(command, dataExpected, { timeoutMs, signal }),
    [Symbol.asyncDispose]: () => session.close(),
  };
}

/** `15.18 (Debian …)`: 150018, `17beta1`: 170000, as libpq counts (fe-exec.c, pqSaveParameterStatus). */
function versionNumber(text: string): number {
  const [, major = '0', minor = '0'] = /^(\d+)(?:\.(\d+))?/.exec(text) ?? [];
  return Number(major) * 10_000 + Number(minor);
}
