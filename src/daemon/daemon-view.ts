import type { ServerConfig, WalwardenConfig } from '../config/config.ts';
import type { ErrorCode } from '../errors.ts';
import type { Server } from '../server.ts';
import type { DaemonMetrics } from './metrics.ts';

// What the daemon shows of itself to those who ask it: HTTP and metrics.

/** Where the archiving of one server stands. */
export interface ArchivingState {
  readonly state:
    | 'starting'
    | 'archiving'
    | 'idle' // until something arrives
    | 'failing' // until the next try
    | 'elsewhere' // another process archives for this server
    | 'stopped';
  /** Passes that failed in a row. */
  readonly failures: number;
  /** Why the last one failed; null when it didn't. */
  readonly error: { readonly code: ErrorCode; readonly message: string; readonly hint: string | null } | null;
  /** When the last pass ended, in milliseconds since the epoch; null before the first. */
  readonly lastPass: number | null;
  /** Files that it left, for whatever reason. */
  readonly waiting: number;
  /** Arrivals are told by the kernel; false while only looking every now and then helps. */
  readonly watching: boolean;
}

/** Where the receive-wal process of one server stands. */
export interface ReceivingState {
  readonly state:
    | 'starting'
    | 'running'
    | 'waiting' // until the next start
    | 'elsewhere' // another receive-wal process runs for this server
    | 'stopped';
  /** Of the receive-wal process; null while none of ours runs. */
  readonly pid: number | null;
  /** Starts after the first one. */
  readonly restarts: number;
}

/** One configured server in the daemon. */
export interface ServerView {
  readonly name: string;
  readonly config: ServerConfig;
  /** Null for a server that this daemon does not archive: inactive, passive or disabled. */
  readonly archiving: ArchivingState | null;
  /** Null where nothing is streamed. */
  readonly receiving: ReceivingState | null;
  /**
   * The server's parts, for finding and delivering WAL and for looking at its state; never to archive with. Opened with
   * the first use, closed by the daemon. Throws `config` for a disabled server.
   */
  use(): Server;
}

/** The daemon as it is right now; asked anew for each request, because a reload changes it. */
export interface DaemonView {
  readonly phase: 'starting' | 'running' | 'stopping';
  readonly config: WalwardenConfig;
  /** All that are configured. */
  readonly servers: ReadonlyMap<string, ServerView>;
  readonly metrics: DaemonMetrics;
  /** Aborted when everything has to end at once. */
  readonly kill: AbortSignal;
}
