import { describe, expect, it, test } from 'vitest';
import {
  failureOfMessage,
  failureOfServerError,
  hintFor,
  passesByItself,
  type PostgresFailure,
} from '../../src/postgres/failure.ts';

const at = 'connection to server at "pg" (10.0.0.1), port 5432 failed:';
const replication = 'could not send replication command "START_REPLICATION": ERROR: ';

/** As libpq, pg_receivewal and servers write them, PostgreSQL 10 to 18. */
const MESSAGES: readonly [failure: PostgresFailure, messages: readonly string[]][] = [
  [
    'unreachable',
    [
      `${at} Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?`,
      `could not connect to server: Connection refused\n\tIs the server running on host "pg" (10.0.0.1) and accepting\n\tTCP/IP connections on port 5432?`,
      'connection to server on socket "/run/postgresql/.s.PGSQL.5432" failed: No such file or directory\n\tIs the server running locally and accepting connections on that socket?',
      'connection to server on socket "/run/postgresql/.s.PGSQL.5432" failed: Permission denied',
      `${at} timeout expired`,
      `${at} No route to host`,
      `${at} server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n\tbefore or while processing the request.`,
      'could not translate host name "pg" to address: Name or service not known',
      'could not receive data from WAL stream: server closed the connection unexpectedly',
      'could not receive data from WAL stream: SSL SYSCALL error: EOF detected',
      'could not receive data from WAL stream: SSL connection has been closed unexpectedly',
      'could not receive data from server: Connection timed out',
      'could not send feedback packet: no COPY in progress\nno connection to the server',
      'unexpected termination of replication stream: ',
      `${at} session is read-only`,
      `${at} server is not in hot standby mode`,
    ],
  ],
  [
    'starting-up',
    [
      'replication stream was terminated before stop point',
      `${at} FATAL:  the database system is starting up`,
      `${at} FATAL:  the database system is shutting down`,
      `${at} FATAL:  the database system is in recovery mode`,
      `${at} FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent recovery state has not been yet reached.`,
      `${at} FATAL:  the database system is not accepting connections\nDETAIL:  Hot standby mode is disabled.`,
      'could not receive data from WAL stream: FATAL:  terminating connection due to administrator command\nSSL connection has been closed unexpectedly',
      'terminating connection because of crash of another server process',
    ],
  ],
  [
    'authentication',
    [
      `${at} FATAL:  password authentication failed for user "me"`,
      `${at} FATAL:  password authentication failed for user "me"\npassword retrieved from file "/root/.pgpass"`,
      `${at} fe_sendauth: no password supplied`,
      `${at} FATAL:  Peer authentication failed for user "me"`,
      `${at} FATAL:  role "me" does not exist`,
      `${at} FATAL:  role "me" is not permitted to log in`,
      `${at} FATAL:  certificate authentication failed for user "me"`,
      `${at} authentication method requirement "scram-sha-256" failed: server requested a cleartext password`,
      `${at} channel binding is required, but server did not offer an authentication method that supports channel binding`,
      `${at} none of the server's SASL authentication mechanisms are supported`,
    ],
  ],
  [
    'pg-hba',
    [
      `${at} FATAL:  no pg_hba.conf entry for replication connection from host "10.0.0.2", user "me", SSL off`,
      `${at} FATAL:  no pg_hba.conf entry for host "10.0.0.2", user "me", database "postgres", no encryption`,
      `${at} FATAL:  pg_hba.conf rejects replication connection for host "10.0.0.2", user "me", SSL encryption`,
      'FATAL:  kein pg_hba.conf-Eintrag für Host »10.0.0.2«, Benutzer »me«, Datenbank »db«, keine Verschlüsselung',
    ],
  ],
  [
    'tls',
    [
      `${at} server does not support SSL, but SSL was required`,
      `${at} SSL error: certificate verify failed`,
      `${at} SSL error: tlsv1 alert unknown ca`,
      `${at} server certificate for "pg" does not match host name "other"`,
      `${at} root certificate file "/root/.postgresql/root.crt" does not exist\nEither provide the file or change sslmode to disable server certificate verification.`,
      `${at} private key file "/root/.postgresql/postgresql.key" has group or world access`,
      `${at} certificate present, but not private key file "/root/.postgresql/postgresql.key"`,
      `${at} FATAL:  connection requires a valid client certificate`,
    ],
  ],
  [
    'no-privilege',
    [
      `${at} FATAL:  must be superuser or replication role to start walsender`,
      `${at} FATAL:  permission denied to start WAL sender\nDETAIL:  Only roles with the REPLICATION attribute may start a WAL sender process.`,
      'ERROR:  permission denied for function pg_switch_wal',
      'must be superuser or replication role to use replication slots',
    ],
  ],
  [
    'too-many-walsenders',
    [`${at} FATAL:  number of requested standby connections exceeds max_wal_senders (currently 10)`],
  ],
  [
    'too-many-connections',
    [
      `${at} FATAL:  sorry, too many clients already`,
      `${at} FATAL:  remaining connection slots are reserved for non-replication superuser connections`,
      `${at} FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute`,
      `${at} FATAL:  too many connections for role "me"`,
    ],
  ],
  [
    'wal-level',
    [
      'replication slots can only be used if wal_level >= replica',
      'WAL streaming (max_wal_senders > 0) requires wal_level "replica" or "logical"',
    ],
  ],
  ['slot-missing', [`${replication} replication slot "ours" does not exist`]],
  [
    'slot-active',
    [`${replication} replication slot "ours" is active for PID 4711`, 'replication slot "ours" is already active'],
  ],
  [
    'slot-exhausted',
    [
      'all replication slots are in use\nHINT:  Free one or increase max_replication_slots.',
      'replication slots can only be used if max_replication_slots > 0',
    ],
  ],
  [
    'wal-removed',
    [
      'could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed',
      `${replication} can no longer access replication slot "ours"\nDETAIL:  This replication slot has been invalidated due to "wal_removed".`,
      'can no longer get changes from replication slot "ours"\nDETAIL:  This slot has been invalidated because it exceeded the maximum reserved size.',
    ],
  ],
  [
    'timeline-diverged',
    [
      `${replication} requested starting point 0/5000000 on timeline 1 is not in this server's history\nDETAIL:  This server's history forked from timeline 1 at 0/4000148.`,
      `${replication} requested starting point 0/5000000 is ahead of the WAL flush position of this server 0/4000000`,
      'starting timeline 3 is not present in the server',
    ],
  ],
  ['other-cluster', ['system identifier does not match between base backup and streaming connection']],
  [
    'server-newer',
    ['incompatible server version 17.2; client does not support streaming from server versions newer than 15.18'],
  ],
  [
    'misconfigured',
    [
      'invalid connection option "sslmod"',
      'missing "=" after "x" in connection info string',
      'unterminated quoted string in connection info string',
      'invalid sslmode value: "x"',
      'weak sslmode "require" may not be used with sslrootcert=system (use "verify-full")',
      'invalid port number: "x"',
      'invalid integer value "x" for connection option "port"',
      'definition of service "main" not found',
      'syntax error in service file "/root/.pg_service.conf", line 2',
      'invalid percent-encoded token: "%zz"',
      `${at} FATAL:  database "nix" does not exist`,
      `${at} FATAL:  unrecognized configuration parameter "nonsense"`,
      `${at} received invalid response to SSL negotiation: H`,
      `${at} expected authentication request from server, but received H`,
    ],
  ],
];

const FAILURES: readonly PostgresFailure[] = [...MESSAGES.map(([failure]) => failure), 'other'];

describe('failureOfMessage', () => {
  it.each(MESSAGES.flatMap(([failure, texts]) => texts.map((text) => [failure, text] as const)))(
    'finds %s in %j',
    (failure, text) => {
      expect(failureOfMessage(text)).toBe(failure);
    },
  );

  it.each(['starting log streaming at 0/3000000 (timeline 1)', 'could not open directory "x": Permission denied', ''])(
    'finds nothing in %j',
    (text) => {
      expect(failureOfMessage(text)).toBe('other');
    },
  );

  test('of several addresses counts the one that says most', () => {
    const refused = 'connection to server at "pg" (::1), port 5432 failed: Connection refused';
    expect(failureOfMessage(`${refused}\n${at} FATAL:  password authentication failed for user "me"`)).toBe(
      'authentication',
    );
  });
});

describe('failureOfServerError', () => {
  it.each([
    ['57P03', 'das Datenbanksystem startet', 'starting-up'],
    ['28P01', 'Passwort-Authentifizierung für Benutzer »me« fehlgeschlagen', 'authentication'],
    ['28000', 'Rolle »me« existiert nicht', 'authentication'],
    ['28000', 'kein pg_hba.conf-Eintrag für Host »[local]«', 'pg-hba'],
    ['42501', 'keine Berechtigung, um WAL-Sender zu starten', 'no-privilege'],
    [
      '53300',
      'Anzahl angeforderter Standby-Verbindungen überschreitet max_wal_senders (aktuell 10)',
      'too-many-walsenders',
    ],
    ['53300', 'tut mir leid, schon zu viele Verbindungen', 'too-many-connections'],
    ['53400', 'alle Replikations-Slots sind in Benutzung', 'slot-exhausted'],
    ['55006', 'Replikations-Slot »ours« ist aktiv für PID 4711', 'slot-active'],
    ['42704', 'Replikations-Slot »ours« existiert nicht', 'slot-missing'],
    ['58P01', 'das angeforderte WAL-Segment wurde schon entfernt', 'wal-removed'],
    ['58P01', 'could not open file "pg_wal/00000003.history": No such file or directory', 'history-missing'],
    [
      '58P01',
      'konnte Datei »pg_wal/00000003.history« nicht öffnen: Datei oder Verzeichnis nicht gefunden',
      'history-missing',
    ],
    ['58P01', 'konnte Datei »pg_wal/000000010000000000000003« nicht öffnen', 'wal-removed'],
    ['58P01', 'could not access file "$libdir/pgaudit": No such file or directory', 'other'],
    ['58P01', 'konnte Datei »base/5/1259« nicht öffnen: Datei oder Verzeichnis nicht gefunden', 'other'],
    ['42501', 'could not open file "pg_wal/00000003.history": Permission denied', 'no-privilege'],
    ['57P05', 'terminating connection due to idle-session timeout', 'unreachable'],
    ['3D000', 'Datenbank »nix« existiert nicht', 'misconfigured'],
    ['42703', 'column "x" does not exist', 'other'],
  ])('knows %s %j', (state, text, expected) => {
    expect(failureOfServerError(state, text)).toBe(expected);
  });
});

describe('hintFor', () => {
  test('has one line for every failure', () => {
    for (const failure of FAILURES) {
      const hint = hintFor(failure, { option: 'conninfo', server: 'main', slotName: 'ours' });
      expect(hint).toMatch(/^\S.{10,}\S$/);
      expect(hint).not.toMatch(/undefined|null/);
      expect(hintFor(failure, { option: 'conninfo' })).not.toMatch(/undefined|null/);
    }
  });

  it.each([
    ['authentication', 'user and password in streaming_conninfo of [main]'],
    ['pg-hba', 'host replication USER'],
    ['no-privilege', 'REPLICATION, for the user of streaming_conninfo of [main]'],
    ['too-many-walsenders', 'max_wal_senders'],
    ['slot-missing', 'walwarden receive-wal --create-slot main'],
    ['slot-active', 'slot "ours", or set slot_name of [main]'],
    ['wal-level', 'wal_level = replica'],
    ['server-newer', 'path_prefix'],
    ['misconfigured', 'correct streaming_conninfo of [main]'],
  ] as const)('names what to change for %s', (failure, words) => {
    expect(hintFor(failure, { option: 'streaming_conninfo', server: 'main', slotName: 'ours' })).toContain(words);
  });

  const socket = '/run/postgresql/.s.PGSQL.5432';
  test.each([
    ['unreachable', `connection to ${socket} failed: there is no such socket`, 'unix_socket_directories'],
    [
      'unreachable',
      `connection to server on socket "${socket}" failed: No such file or directory`,
      'socket_directories',
    ],
    ['unreachable', `connection to ${socket} failed: no permission to use this socket`, 'unix_socket_permissions'],
    ['unreachable', 'host "pg": there is no such host', 'getent hosts'],
    ['unreachable', 'could not translate host name "pg" to address: Name or service not known', 'getent hosts'],
    ['unreachable', 'the server is no standby, and target_session_attrs is standby', 'change target_session_attrs'],
    ['unreachable', `${at} session is read-only`, 'change target_session_attrs'],
    ['starting-up', 'replication stream was terminated before stop point', 'it was shut down'],
    ['starting-up', 'FATAL:  terminating connection due to administrator command', 'pg_terminate_backend'],
    ['tls', `${at} root certificate file "system" does not exist`, 'needs pg_receivewal 16 or later'],
  ] as const)('says for %s in %j what fits', (failure, message, words) => {
    const hint = hintFor(failure, { option: 'conninfo', server: 'main', message });
    expect(hint).toContain(words);
    expect(hint).not.toMatch(/listen_addresses|firewall/);
  });

  test.each([
    `${at} Connection refused`,
    'connection to pg (10.0.0.1):5432 failed: connection refused, nobody listens there',
    `connection to ${socket} failed: there is no such socket; connection to pg:5432 failed: connection timed out`,
  ])('speaks of the network for %j', (message) => {
    expect(hintFor('unreachable', { option: 'conninfo', message })).toContain('listen_addresses');
  });

  const lost = (reason: string): string =>
    `can no longer access replication slot "ours"; DETAIL:  This replication slot has been invalidated due to "${reason}".`;
  test.each([
    ['wal-removed', lost('wal_removed'), 'raise max_slot_wal_keep_size', 'idle_'],
    ['wal-removed', lost('idle_timeout'), 'set idle_replication_slot_timeout', 'max_slot'],
    ['wal-removed', lost('wal_level_insufficient'), 'wal_level', 'max_slot'],
    ['wal-removed', 'can no longer access replication slot "ours"', 'invalidation_reason', 'max_slot'],
    [
      'wal-removed',
      'requested WAL segment 000000010000000000000003 has already been removed',
      'unless archive_command has delivered what is missing',
      'invalidation_reason',
    ],
    ['history-missing', 'could not open file "pg_wal/00000003.history"', 'copy it into pg_wal', '--reset'],
    ['no-privilege', 'permission denied for function pg_switch_wal', 'GRANT EXECUTE', 'pg_monitor'],
    ['no-privilege', 'permission denied for database "postgres"', 'GRANT CONNECT', 'pg_monitor'],
    ['no-privilege', 'permission denied to use replication slots', 'REPLICATION', 'pg_monitor'],
    ['authentication', 'role "me" does not exist', 'CREATE ROLE', 'pgpass'],
    ['authentication', 'role "me" is not permitted to log in', 'LOGIN', 'pgpass'],
    ['too-many-connections', 'too many connections for role "me"', 'ALTER ROLE', 'max_connections'],
    ['too-many-connections', 'too many connections for database "db"', 'ALTER DATABASE', 'max_connections'],
    ['too-many-connections', 'sorry, too many clients already', 'max_connections', 'ALTER'],
    ['starting-up', 'DETAIL:  Hot standby mode is disabled.', 'hot_standby = on', 'wait'],
  ] as const)('gives each cause of %s its own cure: %j', (failure, message, words, not) => {
    const hint = hintFor(failure, { option: 'conninfo', server: 'main', slotName: 'ours', message });
    expect(hint).toContain(words);
    expect(hint).not.toContain(not);
  });

  test('asks for the other rights where it is not about replication', () => {
    expect(hintFor('no-privilege', { option: 'conninfo' })).toContain('GRANT pg_monitor');
    expect(hintFor('pg-hba', { option: 'wal_conninfo' })).toContain('host DATABASE USER');
  });
});

test('what waiting may cure is told from what somebody must cure', () => {
  expect(FAILURES.filter(passesByItself).sort()).toEqual([
    'other',
    'slot-active',
    'starting-up',
    'too-many-connections',
    'too-many-walsenders',
    'unreachable',
  ]);
});
