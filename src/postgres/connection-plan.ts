import { access } from 'node:fs/promises';
import { isIP } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { errnoOf } from '../errors.ts';
import { parseAuthenticationRules, type AuthenticationRules } from './authentication.ts';
import { KEYWORDS, variableOf, type ConninfoKeyword, type ConninfoParameters } from './conninfo-keywords.ts';
import { cantHonour, Settings, wrongValue } from './conninfo-settings.ts';
import { parseConninfo } from './conninfo.ts';
import { PostgresError } from './failure.ts';
import { passwordIn, readPasswordFile } from './password-file.ts';
import { readService } from './service-file.ts';
import { parseTlsSettings, type TlsSettings } from './tls-settings.ts';

/** Which servers will do. */
export type TargetSession = 'any' | 'read-write' | 'read-only' | 'primary' | 'standby' | 'prefer-standby';

/** One host of the list; it may have several addresses. */
export interface HostPlan {
  /** A directory: of unix sockets. */
  readonly kind: 'socket' | 'tcp';
  /** As it was given: what a certificate is compared with. Empty when only `hostaddr` was. */
  readonly name: string;
  /** The directory, a name to be looked up, or an IP address. */
  readonly address: string;
  readonly port: number;
  /** Where it came from a file: that of this host. */
  readonly password: string | null;
}

/** Everything that a connection string means, on this machine and in this environment. */
export interface ConnectionPlan {
  readonly hosts: readonly HostPlan[];
  readonly user: string;
  readonly dbname: string;
  /** What to add to the message of a failed authentication: that a password file was used, or ignored. */
  readonly passwordNote: string | null;
  readonly options: string | null;
  readonly applicationName: string | null;
  readonly fallbackApplicationName: string | null;
  /** Null: not given. 0: no limit. */
  readonly connectTimeoutMs: number | null;
  readonly target: TargetSession;
  /** Milliseconds until the first probe; null: no probes. 0: the system's default. */
  readonly keepAliveIdleMs: number | null;
  readonly tls: TlsSettings;
  readonly authentication: AuthenticationRules;
}

/** Where libpq looks for sockets that no host names: Debian's choice, then PostgreSQL's own. */
const SOCKET_DIRECTORIES = ['/var/run/postgresql', '/tmp'] as const;
const DEFAULT_PORT = 5432;

/**
 * Finds out what a connection string means, as libpq does: what it doesn't say
 * comes from the service file, then from PG* variables, then from defaults
 * (conninfo_add_defaults and pqConnectOptions2 in fe-connect.c). Throws
 * `misconfigured`, also for what could only be ignored silently though somebody
 * asked for safety by it. A physical replication connection has no database:
 * password files call it `replication`, as PostgreSQL's own programs do
 * (GetConnection in streamutil.c).
 */
export async function planConnection(
  text: string,
  environment: NodeJS.ProcessEnv,
  { replication = false }: { readonly replication?: boolean } = {},
): Promise<ConnectionPlan> {
  const given = parseConninfo(text);
  const home = homeDirectory(environment);
  const service = given.service ?? environment['PGSERVICE'];
  const fromService =
    service === undefined
      ? {}
      : await readService(service, {
          file: given.servicefile ?? environment['PGSERVICEFILE'],
          home,
          systemDirectory: environment['PGSYSCONFDIR'],
        });
  const settings = new Settings({ ...fromEnvironment(environment), ...fromService, ...given });
  refuseWhatCantBeHonoured(settings);

  const user = settings.text('user') ?? systemUser();
  const dbname = settings.text('dbname') ?? user;
  const tls = parseTlsSettings(settings, home, environment);
  const { hosts, passwordNote } = await addPasswords(await planHosts(settings), settings, {
    user,
    dbname: replication ? 'replication' : dbname,
    home,
  });
  const requirepeer = settings.text('requirepeer');
  if (requirepeer !== null && hosts.some(({ kind }) => kind === 'socket')) {
    throw cantHonour('requirepeer', "walwarden can't see who is at the other end of a socket");
  }
  return {
    hosts: settings.oneOf('load_balance_hosts', ['disable', 'random'], 'disable') === 'random' ? shuffle(hosts) : hosts,
    user,
    dbname,
    passwordNote,
    options: settings.text('options'),
    applicationName: settings.text('application_name'),
    fallbackApplicationName: settings.text('fallback_application_name'),
    connectTimeoutMs: connectTimeout(settings),
    target: settings.oneOf('target_session_attrs', TARGETS, 'any'),
    keepAliveIdleMs:
      (settings.integer('keepalives') ?? 1) === 0 ? null : (settings.integer('keepalives_idle') ?? 0) * 1000,
    tls,
    authentication: parseAuthenticationRules(settings),
  };
}

const TARGETS = ['any', 'read-write', 'read-only', 'primary', 'standby', 'prefer-standby'] as const;

function refuseWhatCantBeHonoured(settings: Settings): void {
  if (settings.oneOf('gssencmode', ['disable', 'prefer', 'require'], 'prefer') === 'require') {
    throw cantHonour('gssencmode', 'walwarden has no GSSAPI; use TLS (sslmode)');
  }
  const protocol = settings.text('min_protocol_version');
  if (protocol !== null && protocol !== '3.0') {
    throw cantHonour('min_protocol_version', 'walwarden speaks version 3.0 of the protocol');
  }
}

function fromEnvironment(environment: NodeJS.ProcessEnv): ConninfoParameters {
  const found: Partial<Record<ConninfoKeyword, string>> = {};
  for (const keyword of KEYWORDS) {
    const variable = variableOf(keyword);
    const value = variable === null ? undefined : environment[variable];
    if (value !== undefined) found[keyword] = value;
  }
  if (found.sslmode === undefined && environment['PGREQUIRESSL']?.startsWith('1') === true) found.sslmode = 'require';
  return found;
}

function homeDirectory(environment: NodeJS.ProcessEnv): string | null {
  const home = environment['HOME'];
  if (home !== undefined && home !== '') return home;
  try {
    return userInfo().homedir;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

function systemUser(): string {
  try {
    return userInfo().username;
  } catch (cause) {
    if (errnoOf(cause) !== 'ENOENT') throw cause;
    throw new PostgresError(
      'misconfigured',
      `no user is given, and user ${process.geteuid?.()} of the system has no name`,
      {
        cause,
      },
    );
  }
}

type PlannedHost = Omit<HostPlan, 'password'>;

async function planHosts(settings: Settings): Promise<readonly PlannedHost[]> {
  const names = settings.text('host')?.split(',') ?? null;
  const addresses = settings.text('hostaddr')?.split(',') ?? null;
  const ports = settings.text('port')?.split(',') ?? [''];
  if (names !== null && addresses !== null && names.length !== addresses.length) {
    const found = `${names.length} hosts and ${addresses.length} addresses`;
    throw new PostgresError('misconfigured', `host and hostaddr are lists of the same length: found ${found}`);
  }
  const count = Math.max(names?.length ?? 0, addresses?.length ?? 0, 1);
  if (ports.length !== 1 && ports.length !== count) {
    throw new PostgresError(
      'misconfigured',
      `expected one port, or one for each of ${count} hosts: found ${ports.length}`,
    );
  }
  const hosts: PlannedHost[] = [];
  for (let at = 0; at < count; at++) {
    const name = names?.[at] ?? '';
    const port = parsePort(ports[ports.length === 1 ? 0 : at] ?? '');
    hosts.push(await planHost(name, addresses?.[at] ?? '', port));
  }
  return hosts;
}

async function planHost(name: string, address: string, port: number): Promise<PlannedHost> {
  if (address !== '') {
    if (isIP(address) === 0) throw wrongValue('hostaddr', 'IP addresses');
    return { kind: 'tcp', name, address, port };
  }
  if (name.startsWith('@')) {
    throw new PostgresError('misconfigured', 'host names an abstract socket (@…), which walwarden does not support');
  }
  if (name !== '' && !name.startsWith('/')) return { kind: 'tcp', name, address: name, port };
  const directory = name === '' ? await defaultSocketDirectory(port) : name;
  if (Buffer.byteLength(socketPath(directory, port)) > MAX_SOCKET_PATH) {
    throw wrongValue('host', `a path of a socket of at most ${MAX_SOCKET_PATH} bytes`);
  }
  return { kind: 'socket', name: directory, address: directory, port };
}

/** sun_path of Linux, without its last zero byte. */
const MAX_SOCKET_PATH = 107;

export function socketPath(directory: string, port: number): string {
  return `${directory}/.s.PGSQL.${port}`;
}

async function defaultSocketDirectory(port: number): Promise<string> {
  for (const directory of SOCKET_DIRECTORIES) {
    try {
      await access(socketPath(directory, port));
      return directory;
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
    }
  }
  return SOCKET_DIRECTORIES[0];
}

function parsePort(text: string): number {
  if (text === '') return DEFAULT_PORT;
  const port = /^\s*\d{1,5}\s*$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65_535) throw wrongValue('port', 'numbers from 1 to 65535');
  return port;
}

/** libpq: seconds; less than 1 is no limit, and 1 is too little for anything. */
function connectTimeout(settings: Settings): number | null {
  const seconds = settings.integer('connect_timeout');
  if (seconds === null) return null;
  return seconds <= 0 ? 0 : Math.max(2, seconds) * 1000;
}

async function addPasswords(
  hosts: readonly PlannedHost[],
  settings: Settings,
  { user, dbname, home }: { readonly user: string; readonly dbname: string; readonly home: string | null },
): Promise<{ readonly hosts: readonly HostPlan[]; readonly passwordNote: string | null }> {
  const password = settings.text('password');
  const path = settings.text('passfile') ?? (home === null ? null : join(home, '.pgpass'));
  if (password !== null || path === null) {
    return { hosts: hosts.map((host) => ({ ...host, password })), passwordNote: null };
  }
  const { text, ignored } = await readPasswordFile(path);
  const found = hosts.map((host) => {
    const { name, address, kind, port } = host;
    const names = [name === '' ? address : name];
    if (kind === 'socket' && isDefaultDirectory(address)) names.push('localhost');
    return { ...host, password: text === null ? null : passwordIn(text, { hosts: names, port, dbname, user }) };
  });
  if (ignored !== null) return { hosts: found, passwordNote: `the password file ${path} is ignored: ${ignored}` };
  const used = found.some((host) => host.password !== null);
  return { hosts: found, passwordNote: used ? `the password is from ${path}` : null };
}

function isDefaultDirectory(directory: string): boolean {
  return [...SOCKET_DIRECTORIES, '/run/postgresql'].includes(directory.replace(/\/+$/, ''));
}

function shuffle<T>(items: readonly T[]): readonly T[] {
  return items
    .map((item) => ({ item, rank: Math.random() }))
    .sort((a, b) => a.rank - b.rank)
    .map(({ item }) => item);
}
