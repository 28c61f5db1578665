import { setMaxListeners } from 'node:events';
import type { ServerConfig, WalwardenConfig } from '../config/config.ts';
import { Told } from '../archiver/told.ts';
import { WalwardenError } from '../errors.ts';
import type { Logger } from '../logging.ts';
import { PATIENCE_FOR_POSTGRES, receiverReportPath, serverLock } from '../server-settings.ts';
import { openServer, type Server } from '../server.ts';
import { ArchiveLoop } from './archive-loop.ts';
import { DailyListing } from './daily-listing.ts';
import type { ArchivingState, ReceivingState, ServerView } from './daemon-view.ts';
import type { DaemonMetrics } from './metrics.ts';
import { ReceiverChild } from './receiver-child.ts';

/** What every server of the daemon shares. */
export interface RunnerParts {
  readonly metrics: DaemonMetrics;
  /** Program and arguments of one of our own commands. */
  readonly command: (...args: readonly string[]) => readonly [program: string, ...args: string[]];
  /** A line that a child says where there is no log file. */
  readonly onLine: (line: string) => void;
  readonly logger: Logger;
  /** Stop now. */
  readonly kill: AbortSignal;
}

/**
 * Files of one pass at most: then whatever else waits for this server has its
 * turn, and a backlog holds no more memory than this many results.
 */
const PASS_FILES = 1_000;

/** One configured server in the daemon: its archive loop, its receive-wal process, and its parts for everybody else. */
export class ServerRunner implements ServerView {
  readonly name: string;
  readonly config: ServerConfig;
  readonly #global: WalwardenConfig;
  readonly #parts: RunnerParts;
  readonly #drain = new AbortController();
  readonly #loop: ArchiveLoop | null;
  readonly #receiver: ReceiverChild | null;
  readonly #listing: DailyListing | null;
  #running: Promise<unknown> = Promise.resolve();
  #used: Server | null = null;
  #isClosed = false;
  readonly #seenCatalogues = new Set<string>();

  constructor(global: WalwardenConfig, config: ServerConfig, parts: RunnerParts) {
    this.name = config.name;
    this.config = config;
    this.#global = global;
    this.#parts = parts;
    setMaxListeners(0, this.#drain.signal);
    const works = config.active && !config.passive && !config.disabled;
    this.#loop = works ? this.#archiveLoop() : null;
    this.#receiver = works && config.options.streaming_archiver ? this.#receiverChild() : null;
    this.#listing = works ? this.#dailyListing() : null;
  }

  get archiving(): ArchivingState | null {
    return this.#loop?.state ?? null;
  }

  get receiving(): ReceivingState | null {
    return this.#receiver?.state ?? null;
  }

  use(): Server {
    if (this.#isClosed) throw new WalwardenError('aborted', `server ${this.name} was configured anew`);
    const { logger, kill } = this.#parts;
    return (this.#used ??= openServer(this.#global, this.config, logger, {
      patience: PATIENCE_FOR_POSTGRES,
      kill,
      seenCatalogues: this.#seenCatalogues,
    }));
  }

  start(): void {
    const { signal } = this.#drain;
    this.#running = Promise.all([
      this.#loop?.run(signal),
      this.#receiver?.run(signal, this.#parts.kill),
      this.#listing?.run(signal),
    ]);
  }

  /** Resolves once the files in hand are done with, the receiver has ended and everything is closed. Never rejects. */
  async stop(): Promise<void> {
    this.#drain.abort();
    await this.#running;
  }

  /** To be called when nobody uses what {@link use} gave. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const used = this.#used;
    this.#used = null;
    await used?.[Symbol.asyncDispose]();
  }

  #archiveLoop(): ArchiveLoop {
    const { metrics, logger, kill } = this.#parts;
    const { name, config } = this;
    const { options } = config;
    const observer = metrics.archiving(name);
    const told = new Told();
    const directories: string[] = [];
    if (options.archiver) directories.push(options.incoming_wals_directory);
    if (options.streaming_archiver) directories.push(options.streaming_wals_directory);
    return new ArchiveLoop({
      server: name,
      open: () =>
        openServer(this.#global, config, logger, {
          drain: this.#drain.signal,
          kill,
          observer,
          told,
          seenCatalogues: this.#seenCatalogues,
          resident: true,
          batchLimit: PASS_FILES,
        }),
      directories,
      pollMs: options.archiver_poll_interval,
      onFailure: ({ code }) => metrics.passFailed(name, code),
      logger,
    });
  }

  #dailyListing(): DailyListing {
    const { logger, kill } = this.#parts;
    const stop = AbortSignal.any([kill, this.#drain.signal]);
    const open = (): Server =>
      openServer(this.#global, this.config, logger, { kill: stop, seenCatalogues: this.#seenCatalogues });
    return new DailyListing({ server: this.name, open, logger });
  }

  #receiverChild(): ReceiverChild {
    const { metrics, command, onLine, logger } = this.#parts;
    return new ReceiverChild({
      server: this.name,
      command: command('receive-wal', this.name),
      lockPath: serverLock(this.#global, this.name, 'receive-wal'),
      reportPath: receiverReportPath(this.config),
      onLine,
      onRestart: () => metrics.receiverRestarted(this.name),
      logger,
    });
  }
}
