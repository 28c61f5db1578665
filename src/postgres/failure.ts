import { WalwardenError } from '../errors.ts';

/**
 * Why PostgreSQL doesn't do what we ask, as far as a user has to do different
 * things about it. Told from SQLSTATE where there is one, else from libpq's and
 * pg_receivewal's words.
 */
export type PostgresFailure =
  | 'unreachable' // refused, no such host, no socket, timed out, connection lost
  | 'starting-up' // starting up, shutting down, in crash recovery
  | 'authentication' // wrong password, none given, no such role
  | 'pg-hba' // pg_hba.conf rejects us
  | 'tls' // TLS is required, refused, or its certificates don't fit
  | 'no-privilege' // the role lacks REPLICATION, or may not do what was asked
  | 'too-many-walsenders' // max_wal_senders is exhausted
  | 'too-many-connections'
  | 'wal-level' // wal_level = minimal
  | 'slot-missing'
  | 'slot-active' // another receiver has it
  | 'slot-exhausted' // max_replication_slots
  | 'wal-removed' // the server has no longer what we need next
  | 'history-missing' // the server lacks the history file of a timeline
  | 'timeline-diverged' // our position is not in the server's history
  | 'other-cluster' // another system identifier
  | 'server-newer' // than pg_receivewal
  | 'misconfigured' // our own options: conninfo that can't be parsed, ...
  | 'other';

/** An error of PostgreSQL's, or on the way to it. Its text never holds a password. */
export class PostgresError extends WalwardenError {
  readonly failure: PostgresFailure;
  readonly sqlState: string | null;

  constructor(
    failure: PostgresFailure,
    message: string,
    details: { readonly hint?: string; readonly cause?: unknown; readonly sqlState?: string | null } = {},
  ) {
    super('postgres', message, details);
    this.failure = failure;
    this.sqlState = details.sqlState ?? null;
  }
}

/** What a caller's signal turns into while we connect. */
export function interrupted(): WalwardenError {
  return new WalwardenError('aborted', 'interrupted while connecting to PostgreSQL');
}

/** What a hint needs to name. */
export interface FailureContext {
  /** The option whose connection failed: `conninfo`, `wal_streaming_conninfo`, … */
  readonly option: string;
  /** walwarden's name of the server. */
  readonly server?: string | undefined;
  readonly slotName?: string | null | undefined;
  /** What was said, where the failure alone doesn't tell what to do. */
  readonly message?: string | undefined;
}

/**
 * What a message of libpq, of pg_receivewal or of the server says went wrong.
 * Only English is understood, except for names that no translation changes
 * (`pg_hba.conf`, `max_wal_senders`).
 */
export function failureOfMessage(message: string): PostgresFailure {
  return WORDS.find(([, pattern]) => pattern.test(message))?.[0] ?? 'other';
}

/**
 * The same for an error that the server has sent, by its SQLSTATE (PostgreSQL:
 * utils/errcodes.txt); the words decide where one state stands for several things.
 */
export function failureOfServerError(sqlState: string, message: string): PostgresFailure {
  const failure = failureOfMessage(message);
  if (failure !== 'other') return failure;
  // The names of files are the same in every language.
  if (sqlState === '58P01' && HISTORY_FILE.test(message)) return 'history-missing';
  if (sqlState === '58P01' && OTHER_FILE.test(message)) return 'other';
  return STATES.find(([state]) => sqlState.startsWith(state))?.[1] ?? 'other';
}

const HISTORY_FILE = /\b[0-9A-F]{8}\.history\b/;
/** A path that holds no name of a segment. */
const OTHER_FILE = /^(?!.*\b[0-9A-F]{24}\b).*["»„'«][^"»„'«]*\//s;

/** States, or classes of them, for servers that don't speak English. */
const STATES: readonly [state: string, failure: PostgresFailure][] = [
  ['08', 'unreachable'],
  ['28', 'authentication'],
  ['3D000', 'misconfigured'], // no such database
  ['42501', 'no-privilege'],
  ['42704', 'slot-missing'], // undefined_object
  ['53300', 'too-many-connections'],
  ['53400', 'slot-exhausted'],
  ['55006', 'slot-active'],
  ['57P01', 'starting-up'], // admin_shutdown
  ['57P02', 'starting-up'], // crash_shutdown
  ['57P03', 'starting-up'], // cannot_connect_now
  ['57P04', 'misconfigured'], // database_dropped
  ['57P05', 'unreachable'], // idle_session_timeout
  ['58P01', 'wal-removed'], // undefined_file: where no other file is named, WAL
];

/**
 * The words, most telling first: one message of libpq may hold the failures of
 * several addresses, and a lost connection is the least of what it can say.
 * From PostgreSQL 10 to 18: interfaces/libpq/fe-*.c, bin/pg_basebackup/{streamutil,receivelog}.c,
 * backend/{libpq,postmaster,replication,utils/init}.
 */
const WORDS: readonly [failure: PostgresFailure, pattern: RegExp][] = [
  ['history-missing', /could not open file "[^"]*\b[0-9A-F]{8}\.history": No such file/],
  ['other-cluster', /system identifier (?:does not match|differs)/],
  ['server-newer', /does not support streaming from server versions newer/],
  [
    'wal-removed',
    /requested WAL segment \S+ has already been removed|can no longer (?:get changes from|access) replication slot|slot has been invalidated/,
  ],
  [
    'timeline-diverged',
    /is not in this server's history|is not a child of this server's history|is not present in the server|is ahead of the WAL flush position|history forked from timeline|unexpected next timeline|but reported next timeline|highest timeline \d+ of the primary is behind/,
  ],
  ['wal-level', /wal_level/],
  ['too-many-walsenders', /max_wal_senders/],
  ['slot-exhausted', /all replication slots are in use|max_replication_slots/],
  ['slot-active', /replication slot .* is (?:already )?active/],
  ['slot-missing', /replication slot .* does not exist/],
  [
    'too-many-connections',
    /too many clients already|connection slots are reserved|too many connections for|connection limit exceeded|no more connections allowed/,
  ],
  [
    'starting-up',
    /replication stream was terminated before stop point|the database system is (?:starting up|shutting down|in recovery mode|not (?:yet )?accepting connections)|terminating (?:connection|walsender process) (?:due to administrator command|because of crash of another server process)/,
  ],
  ['pg-hba', /pg_hba\.conf/],
  [
    'misconfigured',
    /received invalid response to (?:SSL|GSSAPI) negotiation|expected authentication request from server/, // no PostgreSQL
  ],
  // An established connection that breaks says SSL, too, when it has TLS.
  ['unreachable', /SSL SYSCALL error|SSL connection has been closed unexpectedly/],
  [
    'tls',
    /\bSSL\b|valid client certificate|certificate verify failed|server certificate for|root certificate|certificate file|private key file|certificate present|GSSAPI encryption/,
  ],
  [
    'no-privilege',
    /permission denied (?:to|for)|must be (?:a )?superuser|must have (?:the )?(?:privileges|replication)|only roles with/i,
  ],
  [
    'authentication',
    /authentication failed|no password supplied|empty password|role ".*" (?:does not exist|is not permitted to log in)|authentication method|SASL authentication|SCRAM|channel binding|could not look up local user/,
  ],
  [
    'misconfigured',
    /connection option|connection info string|weak sslmode|invalid \S+ value:|invalid port number|could not match \d+|definition of service|service file|invalid URI|percent-encoded|in URI\b|URI query parameter|socket path .* is too long|could not parse network address|requirepeer|database ".*" does not exist|unrecognized configuration parameter|invalid value for parameter|invalid command-line argument/,
  ],
  [
    'unreachable',
    /Connection (?:refused|timed out|reset)|could not connect|could not translate host name|timeout expired|server closed the connection|No route to host|Host is (?:down|unreachable)|Network is (?:down|unreachable)|Broken pipe|connection to server on socket .* failed: (?:No such file|Permission denied)|could not (?:receive data from|send data to) (?:server|WAL stream)|could not (?:read|send) .*COPY|no connection to the server|termination of replication stream|connection not open|lost synchronization|invalid socket|session is (?:not )?read-only|server is (?:not )?in hot standby mode|Is the server running/,
  ],
];

/** What to do about it, in one line that names the option or the setting to change. */
export function hintFor(failure: PostgresFailure, context: FailureContext): string {
  const { option, server, slotName, message = '' } = context;
  const of = server === undefined ? '' : ` of [${server}]`;
  const command = (words: string): string => `walwarden ${words} ${server ?? 'SERVER'}`;
  const slot = slotName === undefined || slotName === null ? 'the slot' : `slot "${slotName}"`;
  switch (failure) {
    case 'unreachable':
      return hintForUnreachable(`${option}${of}`, message);
    case 'starting-up':
      if (SHUT_DOWN.test(message)) return 'wait until it runs again, or start it: it was shut down, see its log';
      if (TERMINATED.test(message)) {
        return 'the server ended this connection: it was shut down, or somebody called pg_terminate_backend, see its log';
      }
      if (/[Hh]ot standby mode is disabled/.test(message)) {
        return `it is a standby that takes no connections: set hot_standby = on there and restart it, or name another server in ${option}${of}`;
      }
      return 'wait: it is starting, stopping or recovering, see its log';
    case 'authentication':
      if (/role ".*" does not exist/.test(message)) {
        return `on the server: CREATE ROLE … LOGIN REPLICATION, for the user of ${option}${of}, or correct user there`;
      }
      if (/is not permitted to log in/.test(message))
        return `on the server: ALTER ROLE … LOGIN, for the user of ${option}${of}`;
      return `check user and password in ${option}${of}; a password belongs into ~/.pgpass (mode 0600) of the user that walwarden runs as`;
    case 'pg-hba':
      return option.includes('streaming')
        ? `add a line like "host replication USER ADDRESS/32 scram-sha-256" to pg_hba.conf of the server and reload it: the database "all" does not include replication`
        : `add a line like "host DATABASE USER ADDRESS/32 scram-sha-256" to pg_hba.conf of the server and reload it; USER and DATABASE are those of ${option}${of}`;
    case 'tls':
      if (/root certificate file "system" does not exist/.test(message)) {
        return `sslrootcert=system needs pg_receivewal 16 or later: let path_prefix${of} name its directory, or set sslrootcert in ${option}${of} to a file, like /etc/ssl/certs/ca-certificates.crt`;
      }
      return `check sslmode, sslrootcert, sslcert and sslkey in ${option}${of}, and ssl on the server`;
    case 'no-privilege':
      if (/for function/.test(message)) {
        return `on the server: GRANT EXECUTE ON FUNCTION (the one that it names) TO the user of ${option}${of}`;
      }
      if (/for database/.test(message))
        return `on the server: GRANT CONNECT ON DATABASE … TO the user of ${option}${of}`;
      return option.includes('streaming') || /replication/i.test(message)
        ? `on the server: ALTER ROLE … REPLICATION, for the user of ${option}${of}`
        : `on the server: GRANT pg_monitor TO the user of ${option}${of}`;
    case 'too-many-walsenders':
      return 'raise max_wal_senders on the server and restart it (0 means that wal_level is minimal), or end a receiver that is not needed: see pg_stat_replication';
    case 'too-many-connections':
      if (/too many connections for role/.test(message)) {
        return `on the server: raise the limit with ALTER ROLE … CONNECTION LIMIT, for the user of ${option}${of}, or end sessions of it`;
      }
      if (/too many connections for database/.test(message)) {
        return `on the server: raise the limit with ALTER DATABASE … CONNECTION LIMIT, for the database of ${option}${of}`;
      }
      if (/connection slots are reserved|too many clients/.test(message)) {
        return 'raise max_connections on the server and restart it, or end sessions that are not needed: see pg_stat_activity';
      }
      return `raise max_connections on the server, or the CONNECTION LIMIT of the role or database of ${option}${of}`;
    case 'wal-level':
      return 'set wal_level = replica and max_wal_senders = 10 on the server, and restart it';
    case 'slot-missing':
      return `create it: ${command('receive-wal --create-slot')}, or set create_slot = auto; slot_name${of} must be its name`;
    case 'slot-active':
      return `stop whoever uses ${slot}, or set slot_name${of} to another one; a broken connection gives it back within wal_sender_timeout`;
    case 'slot-exhausted':
      return 'raise max_replication_slots on the server and restart it, or drop a slot that nobody needs: see pg_replication_slots';
    case 'wal-removed':
      if (SLOT_LOST.test(message)) return hintForLostSlot(slot, command('receive-wal --reset'), message);
      return `WAL is missing from here on: ${command('receive-wal --reset')}, then, unless archive_command has delivered what is missing, take a new base backup; ${slotName === null ? 'where it has, a slot (slot_name, create_slot = auto) is enough, and leads on without a reset: it' : 'a slot (slot_name, create_slot = auto)'} keeps the server from removing what was not received, as far as its max_slot_wal_keep_size and idle_replication_slot_timeout allow`;
    case 'history-missing':
      return `the server lacks a history file that descends to its timeline: copy it into pg_wal of the server from another standby or from an archive; once ${server === undefined ? 'our archive' : `the archive of ${server}`} has it (deliver it with put-wal, say), it is used by itself`;
    case 'timeline-diverged':
      return `the server has left the timeline that was received (failover, or recovery to a point in time): if it is the right server, ${command('receive-wal --reset')}, then take a new base backup`;
    case 'other-cluster':
      return `another cluster answers at ${option}${of}: correct it; after pg_upgrade or a new initdb: ${command('errors resolve --accept-identity')}`;
    case 'server-newer':
      return 'install the client programs of the version of the server, or a later one, and let path_prefix name their directory';
    case 'misconfigured':
      return `correct ${option}${of}`;
    case 'other':
      return 'see the log of PostgreSQL';
  }
}

/** START_REPLICATION's words for a slot that was invalidated. */
const SLOT_LOST = /replication slot|slot has been invalidated/;

/** The cause stands in the detail (PostgreSQL: replication/slot.c). */
function hintForLostSlot(slot: string, reset: string, message: string): string {
  const again = `${reset} makes ${slot} usable again, and says what is missing`;
  if (/idle_timeout|idle_replication_slot_timeout/.test(message)) {
    return `${again}; against the next time set idle_replication_slot_timeout of the server to 0, or to more than receive-wal may ever be away`;
  }
  if (/wal_level/.test(message)) return `${again}; wal_level of the server was too low for it`;
  if (/wal_removed|max_slot_wal_keep_size|maximum reserved size/.test(message)) {
    return `${again}; against the next time raise max_slot_wal_keep_size of the server`;
  }
  return `${again}; why the server ended it, pg_replication_slots (invalidation_reason) and its log say`;
}

/** pg_receivewal's words for a server that ended the stream as it should be ended, which it does when it is shut down. */
export const SHUT_DOWN = /replication stream was terminated before stop point/;
const TERMINATED = /due to administrator command/;

function hintForUnreachable(option: string, message: string): string {
  if (/target_session_attrs is|session is (?:not )?read-only|server is (?:not )?in hot standby mode/.test(message)) {
    return `name a server of that kind in ${option}, or change target_session_attrs there; a failover in progress passes`;
  }
  // Of several hosts, one by TCP is enough for the general words.
  if (
    /\.s\.PGSQL\.\d/.test(message) &&
    !/connection to (?:server at|[^/@\s]\S*(?: \(\S+\))?:\d+ failed)/.test(message)
  ) {
    return /permission/i.test(message)
      ? 'the user that walwarden runs as may not use that socket: see unix_socket_permissions on the server, and who may enter its directory'
      : `is PostgreSQL running, with its socket there (unix_socket_directories, port), and are host and port in ${option} right?`;
  }
  if (/no such host|can't be looked up|could not translate host name/.test(message)) {
    return `is host in ${option} right, and does this machine know that name (getent hosts NAME)?`;
  }
  return `is PostgreSQL running, does it listen there (listen_addresses, port), and are host and port in ${option} right? A firewall in between shows as a timeout`;
}

/** The same error with what to do about it, where it doesn't say so yet. */
export function withHint(error: PostgresError, context: FailureContext): PostgresError {
  const { failure, message, sqlState } = error;
  if (error.hint !== undefined) return error;
  return new PostgresError(failure, message, {
    cause: error,
    sqlState,
    hint: hintFor(failure, { ...context, message }),
  });
}

/** Whether waiting may be enough; otherwise somebody has to do something first. What is not known is given a chance. */
export function passesByItself(failure: PostgresFailure): boolean {
  switch (failure) {
    case 'unreachable':
    case 'starting-up':
    case 'too-many-walsenders':
    case 'too-many-connections':
    case 'slot-active':
    case 'other':
      return true;
    case 'authentication':
    case 'pg-hba':
    case 'tls':
    case 'no-privilege':
    case 'wal-level':
    case 'slot-missing':
    case 'slot-exhausted':
    case 'wal-removed':
    case 'history-missing':
    case 'timeline-diverged':
    case 'other-cluster':
    case 'server-newer':
    case 'misconfigured':
      return false;
  }
}
