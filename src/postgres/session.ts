import type { Socket } from 'node:net';
import type { Client, ClientConfig, CustomTypesConfig } from 'pg';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { AuthenticationWatch } from './authentication.ts';
import type { Row } from './connection.ts';
import type { ConnectionPlan, HostPlan } from './connection-plan.ts';
import { failureOfServerError, PostgresError } from './failure.ts';
import { ReplicationStart } from './replication-start.ts';
import { StartupStream } from './startup-stream.ts';

export interface SessionOptions {
  readonly plan: ConnectionPlan;
  readonly host: HostPlan;
  readonly encrypted: boolean;
  readonly replication: boolean;
  /** Where the connection string has none. */
  readonly applicationName: string;
}

interface Limits {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** How long a server may take to hear that we go. */
const FAREWELL_MS = 2_000;

/** An authenticated session on a socket. */
export class Session {
  readonly #client: Client;
  readonly #stream: StartupStream;
  /** What ended it while nobody asked anything. */
  #lost: unknown;
  /** One query after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(client: Client, stream: StartupStream) {
    this.#client = client;
    this.#stream = stream;
    client.on('error', (error) => (this.#lost ??= error));
  }

  /** Begins a session; the socket is destroyed when that fails, or when `signal` fires before. */
  static async start(socket: Socket, options: SessionOptions, signal: AbortSignal): Promise<Session> {
    const { plan, host } = options;
    const { Client } = await import('pg');
    // From here to client.connect() nothing is waited for: an event of the socket would be missed.
    if (socket.destroyed) throw new PostgresError('unreachable', LOST);
    const stream = new StartupStream(socket, new AuthenticationWatch(plan.authentication, options.encrypted));
    // Set in place of everything that pg would look up elsewhere, in its own way.
    const config: ClientConfig & { readonly replication?: string; readonly scramMaxIterations: number } = {
      stream: () => stream,
      ssl: false,
      sslnegotiation: 'postgres',
      // Only to be there: the stream is connected.
      host: 'localhost',
      port: host.port,
      user: plan.user,
      database: plan.dbname,
      password: () => passwordOf(host),
      enableChannelBinding: options.encrypted && plan.authentication.channelBinding !== 'disable',
      scramMaxIterations: MAX_ITERATIONS,
      application_name: plan.applicationName ?? plan.fallbackApplicationName ?? options.applicationName,
      types: AS_TEXT,
      ...(plan.options === null ? {} : { options: plan.options }),
      ...(options.replication ? { replication: 'true' } : {}),
    };
    const client = new Client(config);
    // Without a listener it would end the process.
    client.on('error', () => undefined);
    const onAbort = (): void => void stream.destroy(asError(signal.reason));
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) onAbort();
    try {
      await client.connect();
      return new Session(client, stream);
    } catch (error) {
      stream.destroy();
      throw explainSessionError(stream.errored ?? error);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** What the server reports of itself at the beginning. */
  parameter(name: string): string | null {
    return this.#stream.parameters.get(name) ?? null;
  }

  /**
   * The rows of one statement. After a timeout or an abort the session can't be
   * used any more: its answer could still come.
   */
  query(sql: string, values: readonly (string | null)[] | undefined, limits: Limits): Promise<Row[]> {
    return this.#inTurn(async () => {
      // Without values it is the simple protocol, the only one for replication commands.
      const result = await this.#client.query<Record<string, string | null>>(
        values === undefined ? { text: sql } : { text: sql, values: [...values] },
      );
      return result.rows;
    }, limits);
  }

  /** See {@link Connection.startReplication}. */
  startReplication(command: string, dataExpected: boolean, limits: Limits): Promise<void> {
    return this.#inTurn(() => this.#client.query(new ReplicationStart(command, dataExpected)).done, limits);
  }

  #inTurn<T>(ask: () => Promise<T>, limits: Limits): Promise<T> {
    const answer = this.#turn.then(() => this.#ask(ask, limits));
    this.#turn = answer.catch(() => undefined);
    return answer;
  }

  async #ask<T>(ask: () => Promise<T>, { timeoutMs, signal }: Limits): Promise<T> {
    if (this.#stream.destroyed) throw this.#loss();
    const give = (error: Error): void => void this.#stream.destroy(error);
    const late = new PostgresError('unreachable', `the server gave no answer within ${timeoutMs / 1000} s`);
    const timer = setTimeout(() => give(late), timeoutMs);
    const onAbort = (): void => give(new WalwardenError('aborted', 'interrupted while PostgreSQL was asked'));
    signal?.addEventListener('abort', onAbort);
    if (signal?.aborted === true) onAbort();
    try {
      return await ask();
    } catch (error) {
      throw this.#stream.errored === null ? explainSessionError(error) : this.#loss();
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** What we did to it counts more than what it said last. */
  #loss(): WalwardenError {
    return explainSessionError(this.#stream.errored ?? this.#lost ?? new PostgresError('unreachable', LOST));
  }

  /** Ends the session; never rejects. */
  async close(): Promise<void> {
    if (this.#stream.destroyed) return;
    const timer = setTimeout(() => this.#stream.destroy(), FAREWELL_MS);
    try {
      await this.#client.end();
    } catch {
      // It is gone, which is what we want.
    } finally {
      clearTimeout(timer);
      this.#stream.destroy();
    }
  }
}

/** pg's own limit is what a server may be configured with (scram_iterations); this is about a minute of work. */
const MAX_ITERATIONS = 50_000_000;

/** Every value as PostgreSQL writes it. */
const AS_TEXT: CustomTypesConfig = { getTypeParser: () => (value: string) => value };

const LOST = 'the connection to the server is lost';

function passwordOf({ password }: HostPlan): string {
  if (password !== null && password !== '') return password;
  throw new PostgresError('authentication', 'the server asks for a password, and none is given');
}

/** An error of a session as one of ours; `aborted` ones stay what they are. */
export function explainSessionError(error: unknown): WalwardenError {
  if (error instanceof WalwardenError) return error;
  const message = messageOf(error);
  if (error instanceof Error && 'severity' in error && 'code' in error && typeof error.code === 'string') {
    const detail = 'detail' in error && typeof error.detail === 'string' ? ` (${error.detail})` : '';
    const text = `${message}${detail}`;
    return new PostgresError(failureOfServerError(error.code, text), text, { cause: error, sqlState: error.code });
  }
  if (message.startsWith('SASL')) return new PostgresError('authentication', message, { cause: error });
  // pg: the stream was closed.
  if (/^Connection terminated|not queryable/.test(message))
    return new PostgresError('unreachable', LOST, { cause: error });
  const errno = errnoOf(error);
  if (errno === undefined) return new PostgresError('other', message, { cause: error });
  return new PostgresError('unreachable', NETWORK[errno] ?? message, { cause: error });
}

/** What Node says with a system call in front, and the address once more. */
const NETWORK: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused, nobody listens there',
  ECONNRESET: 'the server closed the connection',
  EPIPE: 'the server closed the connection',
  ENOENT: 'there is no such socket',
  EACCES: 'no permission to use this socket',
  ETIMEDOUT: 'connection timed out',
  EHOSTUNREACH: 'no route to this host',
  EHOSTDOWN: 'the host is down',
  ENETUNREACH: 'the network is unreachable',
};

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}
