import { messageOf } from '../errors.ts';
import { planConnection, type ConnectionPlan, type HostPlan, type TargetSession } from './connection-plan.ts';
import { interrupted, PostgresError } from './failure.ts';
import { explainSessionError, Session } from './session.ts';
import { loadTls } from './tls-files.ts';
import type { SslMode } from './tls-settings.ts';
import { addressesOf, askForTls, describeAddress, openSocket, startTls, type Address } from './transport.ts';

export interface SessionRequest {
  readonly replication: boolean;
  /** Where the connection string gives none. */
  readonly applicationName: string;
  /** For each address, where the connection string has no connect_timeout. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal | undefined;
  readonly environment: NodeJS.ProcessEnv;
}

/** Connects and authenticates. Throws {@link PostgresError}, or `aborted`. */
export async function openSession(conninfo: string, request: SessionRequest): Promise<Session> {
  const plan = await planConnection(conninfo, request.environment, { replication: request.replication });
  throwIfAborted(request.signal);
  return new Attempts(plan, request).run();
}

/** What comes after a failure: the same address in another way, the next address, the next host, or nothing. */
type Next = 'way' | 'address' | 'host' | 'stop';

class AttemptFailed extends Error {
  readonly next: Next;
  readonly error: PostgresError;

  constructor(next: Next, error: PostgresError) {
    super(error.message);
    this.next = next;
    this.error = error;
  }
}

/** All hosts and addresses of a plan, in turn (PQconnectPoll in fe-connect.c). */
class Attempts {
  readonly #plan: ConnectionPlan;
  readonly #options: SessionRequest;
  readonly #failures: PostgresError[] = [];

  constructor(plan: ConnectionPlan, options: SessionRequest) {
    this.#plan = plan;
    this.#options = options;
  }

  async run(): Promise<Session> {
    const { target } = this.#plan;
    for (const wanted of target === 'prefer-standby' ? (['standby', 'any'] as const) : [target]) {
      for (const host of this.#plan.hosts) {
        const result = await this.#tryHost(host, wanted);
        if (result instanceof Session) return result;
        if (result === 'stop') throw this.#failure();
      }
    }
    throw this.#failure();
  }

  async #tryHost(host: HostPlan, target: TargetSession): Promise<Session | Next> {
    let addresses: readonly Address[];
    try {
      addresses = await this.#bounded((signal) => addressesOf(host, signal));
    } catch (error) {
      throwIfAborted(this.#options.signal);
      this.#note(host, null, asPostgresError(error));
      return 'host';
    }
    let next: Next = 'address';
    for (const address of addresses) {
      for (const encrypted of waysFor(host, this.#plan.tls.mode)) {
        try {
          return await this.#bounded((signal) => this.#attempt(host, address, encrypted, target, signal));
        } catch (error) {
          throwIfAborted(this.#options.signal);
          const failed = error instanceof AttemptFailed ? error : new AttemptFailed('address', asPostgresError(error));
          next = failed.next;
          this.#note(host, address, failed.error);
          if (next !== 'way') break;
        }
      }
      if (next === 'host') return next;
      // There is no other way any more.
      if (next === 'stop' || next === 'way') return 'stop';
    }
    return next;
  }

  /** Limits one attempt in time, and ends it when the caller's signal fires. */
  async #bounded<T>(attempt: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { signal } = this.#options;
    throwIfAborted(signal);
    const limitMs = this.#plan.connectTimeoutMs ?? this.#options.timeoutMs;
    const end = new AbortController();
    const late = new PostgresError('unreachable', `no answer within ${limitMs / 1000} s (connect_timeout)`);
    const timer = limitMs === 0 ? undefined : setTimeout(() => end.abort(late), limitMs);
    const onAbort = (): void => end.abort(interrupted());
    signal?.addEventListener('abort', onAbort);
    if (signal?.aborted === true) onAbort();
    try {
      return await attempt(end.signal);
    } catch (error) {
      throwIfAborted(signal);
      throw end.signal.aborted ? late : error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** One address in one way, `encrypted` or not. */
  async #attempt(
    host: HostPlan,
    address: Address,
    encrypted: boolean,
    target: TargetSession,
    signal: AbortSignal,
  ): Promise<Session> {
    const { tls, keepAliveIdleMs } = this.#plan;
    let socket = await openSocket(address, keepAliveIdleMs, signal);
    let secured = false;
    try {
      if (encrypted && (tls.negotiation === 'direct' || (await askForTls(socket, signal)))) {
        socket = await startTls(socket, host, tls, await loadTls(tls), signal);
        secured = true;
      } else if (encrypted && tls.mode !== 'prefer' && tls.mode !== 'allow') {
        throw new PostgresError('tls', `the server does not support TLS, and sslmode=${tls.mode} requires it`);
      }
    } catch (error) {
      socket.destroy();
      if (signal.aborted) throw error;
      throw new AttemptFailed(tls.mode === 'prefer' && isTls(error) ? 'way' : 'stop', asPostgresError(error));
    }
    let session: Session;
    try {
      session = await Session.start(
        socket,
        {
          plan: this.#plan,
          host,
          encrypted: secured,
          replication: this.#options.replication,
          applicationName: this.#options.applicationName,
        },
        signal,
      );
    } catch (error) {
      if (signal.aborted) throw error;
      throw this.#refused(error, secured);
    }
    const wrong = await wrongTarget(session, target, this.#options.timeoutMs, signal);
    if (wrong === null) return session;
    await session.close();
    throw new AttemptFailed('host', wrong);
  }

  /** What the server says no to in one way, it may say yes to in another. */
  #refused(error: unknown, encrypted: boolean): AttemptFailed {
    const failed = this.#withNote(asPostgresError(error));
    if (failed.sqlState === null) return new AttemptFailed('stop', failed);
    if (failed.sqlState === CANNOT_CONNECT_NOW) return new AttemptFailed('host', failed);
    const { mode } = this.#plan.tls;
    const other = (mode === 'prefer' && encrypted) || (mode === 'allow' && !encrypted);
    return new AttemptFailed(other ? 'way' : 'stop', failed);
  }

  #withNote(error: PostgresError): PostgresError {
    const { passwordNote } = this.#plan;
    if (error.failure !== 'authentication' || passwordNote === null) return error;
    return new PostgresError(error.failure, `${error.message} (${passwordNote})`, {
      cause: error,
      sqlState: error.sqlState,
    });
  }

  #note(host: HostPlan, address: Address | null, error: PostgresError): void {
    const { failure, message, sqlState } = error;
    const where = describeAddress(host, address);
    const told = message.startsWith('host ') ? message : `connection to ${where} failed: ${message}`;
    this.#failures.push(new PostgresError(failure, told, { cause: error, sqlState }));
  }

  /** All that went wrong; it is called by what somebody has to do something about. */
  #failure(): PostgresError {
    const telling = this.#failures.findLast(({ failure }) => failure !== 'unreachable') ?? this.#failures.at(-1);
    const messages = new Set(this.#failures.map(({ message }) => message));
    return new PostgresError(telling?.failure ?? 'other', [...messages].join('; '), {
      cause: telling,
      sqlState: telling?.sqlState ?? null,
    });
  }
}

/** utils/errcodes.txt */
const CANNOT_CONNECT_NOW = '57P03';

/** With or without TLS, in the order in which it is tried. Sockets of this machine have none. */
function waysFor({ kind }: HostPlan, mode: SslMode): readonly boolean[] {
  if (kind === 'socket' || mode === 'disable') return [false];
  if (mode === 'allow') return [false, true];
  return mode === 'prefer' ? [true, false] : [true];
}

function isTls(error: unknown): boolean {
  return error instanceof PostgresError && error.failure === 'tls';
}

/** Null when the session is of the kind that target_session_attrs asks for. */
async function wrongTarget(
  session: Session,
  target: TargetSession,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<PostgresError | null> {
  if (target === 'any') return null;
  // Before PostgreSQL 14 it does not report what it is.
  const reported = session.parameter('in_hot_standby');
  const ask = async (sql: string): Promise<boolean> => {
    const [row] = await session.query(sql, undefined, { timeoutMs, signal });
    return ['on', 't'].includes(Object.values(row ?? {})[0] ?? '');
  };
  try {
    if (target === 'primary' || target === 'standby') {
      const standby = reported === null ? await ask('SELECT pg_catalog.pg_is_in_recovery()') : reported === 'on';
      return standby === (target === 'standby') ? null : wrongOne(standby ? 'a standby' : 'no standby', target);
    }
    const readOnly =
      reported === null
        ? await ask('SHOW transaction_read_only')
        : reported === 'on' || session.parameter('default_transaction_read_only') === 'on';
    return readOnly === (target === 'read-only') ? null : wrongOne(readOnly ? 'read-only' : 'not read-only', target);
  } catch (error) {
    await session.close();
    throw error;
  }
}

function wrongOne(what: string, target: TargetSession): PostgresError {
  return new PostgresError('unreachable', `the server is ${what}, and target_session_attrs is ${target}`);
}

function asPostgresError(error: unknown): PostgresError {
  if (error instanceof PostgresError) return error;
  const explained = explainSessionError(error);
  if (explained instanceof PostgresError) return explained;
  return new PostgresError('other', messageOf(error), { cause: error });
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw interrupted();
}
