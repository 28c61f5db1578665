import { distance } from 'fastest-levenshtein';
import { PostgresError } from './failure.ts';

/**
 * The parameters of a connection string and the environment variables that
 * stand in for them (PostgreSQL 10 to 18: interfaces/libpq/fe-connect.c, PQconninfoOptions).
 */
const VARIABLES = {
  service: 'PGSERVICE',
  servicefile: 'PGSERVICEFILE',
  user: 'PGUSER',
  password: 'PGPASSWORD',
  passfile: 'PGPASSFILE',
  channel_binding: 'PGCHANNELBINDING',
  connect_timeout: 'PGCONNECT_TIMEOUT',
  dbname: 'PGDATABASE',
  host: 'PGHOST',
  hostaddr: 'PGHOSTADDR',
  port: 'PGPORT',
  client_encoding: 'PGCLIENTENCODING',
  options: 'PGOPTIONS',
  application_name: 'PGAPPNAME',
  fallback_application_name: null,
  keepalives: null,
  keepalives_idle: null,
  keepalives_interval: null,
  keepalives_count: null,
  tcp_user_timeout: null,
  sslmode: 'PGSSLMODE',
  sslnegotiation: 'PGSSLNEGOTIATION',
  sslcompression: 'PGSSLCOMPRESSION',
  sslcert: 'PGSSLCERT',
  sslkey: 'PGSSLKEY',
  sslkeylogfile: null,
  sslcertmode: 'PGSSLCERTMODE',
  sslpassword: null,
  sslrootcert: 'PGSSLROOTCERT',
  sslcrl: 'PGSSLCRL',
  sslcrldir: 'PGSSLCRLDIR',
  sslsni: 'PGSSLSNI',
  requirepeer: 'PGREQUIREPEER',
  require_auth: 'PGREQUIREAUTH',
  min_protocol_version: 'PGMINPROTOCOLVERSION',
  max_protocol_version: 'PGMAXPROTOCOLVERSION',
  ssl_min_protocol_version: 'PGSSLMINPROTOCOLVERSION',
  ssl_max_protocol_version: 'PGSSLMAXPROTOCOLVERSION',
  gssencmode: 'PGGSSENCMODE',
  krbsrvname: 'PGKRBSRVNAME',
  gsslib: 'PGGSSLIB',
  gssdelegation: 'PGGSSDELEGATION',
  replication: null,
  target_session_attrs: 'PGTARGETSESSIONATTRS',
  load_balance_hosts: 'PGLOADBALANCEHOSTS',
  scram_client_key: null,
  scram_server_key: null,
  oauth_issuer: null,
  oauth_client_id: null,
  oauth_client_secret: null,
  oauth_scope: null,
  // Accepted, and without effect since long.
  authtype: null,
} as const satisfies Record<string, string | null>;

/** The name of a parameter. */
export type ConninfoKeyword = keyof typeof VARIABLES;

/** What a connection string says; an empty value is one. */
export type ConninfoParameters = Readonly<Partial<Record<ConninfoKeyword, string>>>;

export function isKeyword(name: string): name is ConninfoKeyword {
  return Object.hasOwn(VARIABLES, name);
}

/** All of them, in the order in which a connection string is written. */
export const KEYWORDS: readonly ConninfoKeyword[] = Object.keys(VARIABLES).filter(isKeyword);

/** The environment variable that stands in for a parameter, null where there is none. */
export function variableOf(keyword: ConninfoKeyword): string | null {
  return VARIABLES[keyword];
}

/** What nobody may see: these values are never written into a message, a log or an argument of a program. */
export const SECRETS: readonly ConninfoKeyword[] = [
  'password',
  'sslpassword',
  'scram_client_key',
  'scram_server_key',
  'oauth_client_secret',
];

export function isSecret(name: string): boolean {
  return SECRETS.some((secret) => secret === name);
}

/** Names only what it could have been meant to be: the word itself may be the rest of a password. */
export function unknownParameter(name: string): string {
  const [meant] = KEYWORDS.filter((keyword) => distance(name.toLowerCase(), keyword) <= 2);
  return meant === undefined ? 'unknown parameter' : `unknown parameter (is ${meant} meant?)`;
}

/** An error in a connection string; `at` counts from 0. */
export function conninfoError(what: string, at: number): PostgresError {
  return new PostgresError('misconfigured', `the connection string can't be understood: ${what} at position ${at + 1}`);
}
