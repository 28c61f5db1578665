import type { ArchiveListing } from '../archiver/archive-listing.ts';
import type { ServerConfig } from '../config/config.ts';
import { claimDirectories } from '../storage/claim.ts';
import { isS3Location } from '../config/values.ts';
import { within } from '../health/patience.ts';
import { readReceiverReport, type ReceiverReport } from '../receiver/receiver-report.ts';
import { diskSpace, errorNames, queueFacts } from '../server-facts.ts';
import { rememberedListing } from '../server-remembered.ts';
import type { Server } from '../server.ts';
import { CatalogueWatch, type CatalogueFacts } from './catalogue-watch.ts';
import type { ServerView } from './daemon-view.ts';
import { LagWatch, type LagFacts } from './lag-watch.ts';

/** Limits of what is looked at for metrics, in milliseconds. */
export interface LookLimits {
  /** A look takes no longer; what it has not found by then is left out. */
  readonly lookMs: number;
  /** The catalogue is read no more often. */
  readonly catalogueMs: number;
  /** PostgreSQL is asked no more often. */
  readonly postgresMs: number;
}

export const DEFAULT_LIMITS: LookLimits = { lookMs: 3_000, catalogueMs: 60_000, postgresMs: 10_000 };

/** The parts of a look, in their order. */
export const LOOKED_AT = ['incoming', 'streaming', 'errors', 'receiver', 'disks', 'catalogue'] as const;
export type LookedAt = (typeof LOOKED_AT)[number];

export interface Waiting {
  readonly files: number;
  /** When the first of them came, in milliseconds since the epoch. */
  readonly since: number | null;
}

export interface Space {
  readonly free: number;
  readonly total: number;
}

/** What is found of a server at one moment; what is undefined could not be looked at. */
interface Found {
  incoming?: Waiting;
  streaming?: Waiting;
  /** The files in errors, by the last part of their names. */
  errors?: ReadonlyMap<string, number>;
  receiver?: ReceiverReport | null;
  /** Free and total bytes by directory. */
  disks?: ReadonlyMap<string, Space>;
  /** The last listing of the archive; null when there was none. */
  listing?: ArchiveListing | null;
}

export interface LookFacts extends Found {
  catalogue?: CatalogueFacts;
  lag?: LagFacts | null;
  readonly failed: Set<LookedAt>;
}

/** One look under way, or done. */
interface Look {
  readonly config: ServerConfig;
  readonly began: number;
  readonly facts: Found;
  readonly done: Promise<void>;
  ended: boolean;
}

/**
 * Looks at one server for those who ask for metrics. There is one look at a time, which everybody shares: a file system
 * that doesn't answer keeps one thread waiting (another one for the catalogue), not one for every scrape.
 */
export class ServerLook {
  readonly #limits: LookLimits;
  readonly #catalogue: CatalogueWatch;
  readonly #lag: LagWatch;
  #look: Look | null = null;

  constructor(limits: LookLimits) {
    this.#limits = limits;
    this.#catalogue = new CatalogueWatch(limits.catalogueMs);
    this.#lag = new LagWatch(limits.postgresMs, limits.lookMs);
  }

  /** Never rejects, and takes no longer than the limit. */
  async facts(view: ServerView, kill: AbortSignal): Promise<LookFacts> {
    if (view.config.disabled) return { failed: new Set() };
    const { lookMs } = this.#limits;
    let server: Server;
    try {
      server = view.use();
    } catch {
      // Why, the log and `check` say.
      return { failed: new Set(LOOKED_AT) };
    }
    const look = this.#current(view, server);
    const left = Math.max(0, lookMs - (performance.now() - look.began));
    const [lag, catalogue] = await Promise.all([
      view.receiving === null ? undefined : this.#lag.facts(server.postgres, kill),
      this.#catalogue.facts(server, lookMs),
      within(look.done, left),
    ]);
    // One that hangs found what it has found long ago.
    const stale = !look.ended && performance.now() - look.began > 2 * lookMs;
    const found: LookFacts = stale ? { failed: new Set() } : { ...look.facts, failed: new Set() };
    if (catalogue !== undefined) found.catalogue = catalogue;
    for (const what of LOOKED_AT) if (found[what] === undefined) found.failed.add(what);
    return lag === undefined ? found : { ...found, lag };
  }

  #current(view: ServerView, server: Server): Look {
    const current = this.#look;
    if (current !== null && !current.ended && current.config === view.config) return current;
    const facts: Found = {};
    const look: Look = {
      config: view.config,
      began: performance.now(),
      facts,
      done: this.#lookAt(server, facts).finally(() => (look.ended = true)),
      ended: false,
    };
    this.#look = look;
    return look;
  }

  /** One after the other: each may hold a thread for as long as its file system likes. Never rejects. */
  async #lookAt(server: Server, facts: Found): Promise<void> {
    const { options } = server.config;
    const steps: readonly (() => Promise<void>)[] = [
      async () => void (facts.incoming = await waitingIn(options, 'incoming')),
      async () => void (facts.streaming = await waitingIn(options, 'streaming')),
      async () => void (facts.errors = countErrors(await errorNames(options.errors_directory))),
      async () => void (facts.receiver = await readReceiverReport(server.receiver.reportPath)),
      async () => void (facts.disks = await disksOf(options)),
      async () => void (facts.listing = await rememberedListing(server).read()),
    ];
    for (const step of steps) {
      try {
        await step();
      } catch {
        // What is missing in the end is told.
      }
    }
  }
}

async function waitingIn(options: ServerConfig['options'], kind: 'incoming' | 'streaming'): Promise<Waiting> {
  const claims = claimDirectories(options.backup_directory)[kind];
  const { waiting, first } = await queueFacts(options[`${kind}_wals_directory`], claims, kind);
  return { files: waiting, since: first?.arrived ?? null };
}

/** As the errors directory calls its kinds; `other` is what somebody else put there. */
export const ERROR_KINDS = ['duplicate', 'unknown', 'reset', 'error', 'other'] as const;

function countErrors(names: readonly string[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>(ERROR_KINDS.map((kind) => [kind, 0]));
  for (const name of names) {
    const kind = ERROR_KINDS.find((each) => name.endsWith(`.${each}`)) ?? 'other';
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return counts;
}

async function disksOf(options: ServerConfig['options']): Promise<ReadonlyMap<string, Space>> {
  const directories = {
    archive: options.wals_directory,
    incoming: options.incoming_wals_directory,
    streaming: options.streaming_wals_directory,
  };
  const found = new Map<string, Space>();
  for (const [name, directory] of Object.entries(directories)) {
    const space = isS3Location(directory) ? null : await diskSpace(directory);
    if (space !== null) found.set(name, space);
  }
  return found;
}
