import { join } from 'node:path';
import { isThere } from '../durable/durable-file.ts';
import { messageOf } from '../errors.ts';
import type { CheckStrategy } from '../health/check-strategy.ts';
import type { StatusReport } from '../health/status-report.ts';
import { sameIdentity } from '../storage/file-identity.ts';
import type { WaitingWal } from '../storage/wal-storage-strategy.ts';
import { walKind, type WalName } from '../wal/wal-name.ts';
import { isRemembered, MarkerMemory } from './position-marker.ts';
import {
  checkStreaming,
  fetchStreamingStatus,
  reportStreaming,
  type StreamingArchivalStatus,
  type StreamingHealthSources,
} from './streaming-health.ts';
import { findPosition, type MarkedFile, type StreamingPosition } from './streaming-position.ts';
import { WalArchiver, type WalArchiverParts } from './wal-archiver.ts';
import { WalArchiverQueue, type PassedOver } from './wal-archiver-queue.ts';
import {
  inspectClaim,
  inspectClaimFirst,
  listWaiting,
  type DirectoryListing,
  type Inspection,
} from './waiting-directory.ts';

export interface StreamingWalArchiverSettings {
  readonly streaming: string;
  /** Where files of streaming are claimed. */
  readonly claims: string;
  /** `streaming_archiver_batch_size`; 0 for no limit. */
  readonly batchSize: number;
  /** Remembers the position marker that was archived, across processes. */
  readonly markerFile: string;
  /** Where `check` and `status` find what the receiver does. */
  readonly receiver: StreamingHealthSources;
}

// Open, or to be looked for after a restart, when pg_receivewal runs with --compress.
const COMPRESSED_PARTIAL = /^[0-9A-F]{24}\.(gz|lz4)\.partial$/;

const NOTHING_KNOWN: StreamingPosition = { partials: new Set(), markers: new Map() };

/**
 * Archives what pg_receivewal wrote into the streaming directory. What it has
 * open is left alone; the segment that tells it where to go on is archived as a
 * copy and stays, until something newer is there.
 */
export class StreamingWalArchiver extends WalArchiver {
  override readonly directory: string;
  protected override readonly incompleteAdvice =
    'pg_receivewal gives a segment its name only when it is whole: see who put it there';
  readonly #claims: string;
  readonly #batchSize: number;
  readonly #memory: MarkerMemory;
  readonly #receiver: StreamingHealthSources;
  #position = NOTHING_KNOWN;
  /** Markers of the position that need no second look. */
  #settled: readonly MarkedFile[] = [];

  constructor(parts: WalArchiverParts, settings: StreamingWalArchiverSettings) {
    super('streaming', parts);
    this.directory = settings.streaming;
    this.#claims = settings.claims;
    this.#batchSize = settings.batchSize;
    this.#memory = new MarkerMemory(settings.markerFile);
    this.#receiver = settings.receiver;
  }

  override async getNextBatch(): Promise<WalArchiverQueue> {
    const listing = await listWaiting(this.directory, this.#claims);
    const { names, claims, unknown, ignored } = listing;
    await this.#findPosition(listing);
    const { partials } = this.#position;
    // What was an old one for a pass that was killed may be the newest again: the one after it is complete by now.
    for (const name of partials) await this.parts.strategy.dropPrepared(name);
    const staying = new Set([...partials, ...this.#settled.map(({ name }) => name)]);
    const writing = unknown.filter((entry) => COMPRESSED_PARTIAL.test(entry));
    return new WalArchiverQueue({
      names: names.filter((name) => claims.has(name) || !staying.has(name)),
      inspect: async (name) => this.#judge(name, await this.#inspect(name, claims.get(name), staying.has(name))),
      unknown: unknown.filter((entry) => !writing.includes(entry)),
      failed: writing.map(compressedPartial),
      skip: [...ignored, ...staying],
      batchSize: this.#batchSize,
    });
  }

  async #findPosition({ names, claims }: DirectoryListing): Promise<void> {
    // A claim is no position: pg_receivewal ignores dot files. Whoever made it saw a newer file, or made one (reset).
    const arrived: WalName[] = [];
    for (const name of names) {
      if (!claims.has(name) || (await isThere(join(this.directory, name)))) arrived.push(name);
    }
    this.#position = await findPosition(this.directory, arrived, { signal: this.parts.drain });
    const remembered = await this.#memory.read();
    this.#settled = [...this.#position.markers.values()].filter((marker) => isRemembered(remembered, marker));
  }

  /** `stays`: only the claim of that name may be looked at. */
  async #inspect(name: WalName, claim: string | undefined, stays: boolean): Promise<Inspection> {
    const known = await this.parts.headers.opaque();
    // pg_receivewal gives a segment its name when it is whole.
    const opaque = known === null ? null : { ...known, waitMs: 0, isWhole: () => Promise.resolve(true) };
    const options = { claims: this.#claims, opaque, signal: this.parts.drain };
    if (!stays) return inspectClaimFirst(this.directory, name, claim, options);
    return claim === undefined ? { state: 'gone' } : inspectClaim(this.directory, name, { ...options, claim });
  }

  /** What becomes of a file, by what pg_receivewal needs of it. */
  #judge(name: WalName, found: Inspection): Inspection {
    const isMarker = this.#position.markers.has(name);
    switch (found.state) {
      case 'ready': {
        if (found.wal.claimed) return found;
        // Nobody writes into an older partial file; should that ever be wrong, it is only a copy that is incomplete.
        const handling = isMarker ? 'keep' : walKind(name) === 'partial' ? 'copy' : undefined;
        return { state: 'ready', wal: { ...found.wal, handling } };
      }
      case 'incomplete': {
        const overdue = Date.now() - found.changedMs >= this.parts.incompleteTimeoutMs;
        if (walKind(name) !== 'partial' || !overdue) return found;
        return {
          ...found,
          state: 'unknown',
          reason: `nobody will complete it, there are newer files: ${found.reason}`,
        };
      }
      case 'unknown':
        return isMarker && found.path === undefined ? { ...found, state: 'failed' } : found;
      case 'failed':
      case 'gone':
        return found;
    }
  }

  protected override async remember(wal: WaitingWal): Promise<void> {
    const marker = this.#position.markers.get(wal.name);
    if (marker === undefined || !sameIdentity(marker, wal.identity)) return;
    this.#settled = [...this.#settled, marker];
    try {
      await this.#memory.write(this.#settled);
    } catch (error) {
      const { server, logger } = this.parts;
      logger.warn({ server, wal: wal.name }, `${wal.name} will be compared again: ${messageOf(error)}`);
    }
  }

  /** What is known of pg_receivewal and of the receiver; never rejects. */
  async fetchRemoteStatus(): Promise<StreamingArchivalStatus> {
    return fetchStreamingStatus(this.#receiver, await this.parts.getRemoteStatus());
  }

  override async check(strategy: CheckStrategy): Promise<void> {
    checkStreaming(strategy, await this.fetchRemoteStatus());
  }

  override async status(report: StatusReport): Promise<void> {
    reportStreaming(report, await this.fetchRemoteStatus());
  }
}

function compressedPartial(entry: string): PassedOver {
  const reason = 'pg_receivewal is writing it with --compress, start it without: compression is for the archive';
  return { entry, reason, changedMs: 0 };
}
