import { unlessAborted } from '../health/patience.ts';
import { isOwnReceiver } from '../health/replication-clients.ts';
import { fetchRemoteStatus, type PostgresSettings, type RemoteStatus } from '../postgres/remote-status.ts';
import type { Lsn } from '../wal/lsn.ts';

/** How far the received WAL is behind the server. */
export interface LagFacts {
  /** PostgreSQL answered. */
  readonly up: boolean;
  /** Null when that can't be told. */
  readonly lagBytes: number | null;
}

/** Asks the server that WAL is received from for its position and ours, not more often than every `everyMs`. */
export class LagWatch {
  readonly #everyMs: number;
  readonly #limitMs: number;
  #known: { readonly askedAt: number; readonly answer: Promise<LagFacts> } | null = null;
  /** Where the receiver was when it was attached last. */
  #received: Lsn | null = null;

  constructor(everyMs: number, limitMs: number) {
    this.#everyMs = everyMs;
    this.#limitMs = limitMs;
  }

  /** Never rejects, and takes no longer than the limit. Null where no connection for questions is configured. */
  async facts(postgres: PostgresSettings, kill: AbortSignal): Promise<LagFacts | null> {
    // A standby, say, may be where WAL is received from.
    const conninfo = postgres.walConninfo ?? postgres.conninfo;
    if (conninfo === null) return null;
    if (this.#known === null || performance.now() - this.#known.askedAt >= this.#everyMs) {
      const asked = {
        ...postgres,
        conninfo,
        walConninfo: conninfo,
        streamingConninfo: null,
        walStreamingConninfo: null,
      };
      this.#known = { askedAt: performance.now(), answer: this.#ask(asked, kill) };
    }
    return this.#known.answer;
  }

  async #ask(postgres: PostgresSettings, kill: AbortSignal): Promise<LagFacts> {
    // Not AbortSignal.any: what lives as long as the daemon would remember each of them.
    const ended = new AbortController();
    const { signal } = ended;
    const stop = (): void => ended.abort();
    const timer = setTimeout(stop, this.#limitMs);
    kill.addEventListener('abort', stop);
    if (kill.aborted) stop();
    try {
      const asked = fetchRemoteStatus(postgres, { timeoutMs: this.#limitMs, signal });
      const status = await unlessAborted(asked, signal);
      return status === undefined ? DOWN : this.#judge(status, postgres);
    } catch {
      // What keeps us from asking, `check` and `status` say.
      return DOWN;
    } finally {
      clearTimeout(timer);
      kill.removeEventListener('abort', stop);
    }
  }

  #judge({ server, slot }: RemoteStatus, own: PostgresSettings): LagFacts {
    if (server === null || server.serverVersion === null) return DOWN;
    const client = server.replication?.find((each) =>
      isOwnReceiver(each, { applicationName: own.streamingName, slotName: own.slotName }),
    );
    // What the slot keeps back is what a receiver that is away has not got.
    const received = client?.writeLsn ?? slot?.slot?.restartLsn ?? this.#received;
    this.#received = received;
    const { currentLsn } = server;
    if (currentLsn === null || received === null) return { up: true, lagBytes: null };
    return { up: true, lagBytes: received > currentLsn ? 0 : Number(currentLsn - received) };
  }
}

const DOWN: LagFacts = { up: false, lagBytes: null };
