import { within } from '../health/patience.ts';
import { rememberedGaps } from '../server-gaps.ts';
import { knownEmptyFiles, withEmptyFiles } from '../server-sizes.ts';
import type { Server } from '../server.ts';
import { walKind, type WalName } from '../wal/wal-name.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { summariseWals, type TimelineSummary } from '../wal/wal-ranges.ts';

/** What metrics tell of a catalogue. */
export interface CatalogueFacts {
  readonly files: number;
  /** As stored. */
  readonly bytes: number;
  readonly damagedLines: number;
  /** By timeline: the segments that are missing between those that are there, and were not acknowledged. */
  readonly missing: ReadonlyMap<number, number>;
  /** Timelines without their history file, where that was not acknowledged. */
  readonly missingHistories: number;
  /** The segment that was written last. */
  readonly newest: WalFileInfo | null;
}

const DEFAULT_SEGMENT_SIZE = 16 * 1024 * 1024;

/** What is known of a large catalogue on a slow disk counts for so many times the time between two looks. */
const STALE_AFTER = 10;

type Read = CatalogueFacts & { readonly timelines: readonly TimelineSummary[] };

/** Reads a catalogue, which may have a million lines, only when it has changed, and not more often than every `everyMs`. */
export class CatalogueWatch {
  readonly #everyMs: number;
  #known: { readonly version: string; readonly at: number; readonly facts: Read } | null = null;
  #reading: { readonly began: number; readonly done: Promise<void> } | null = null;
  #segmentSize: number | null = null;

  constructor(everyMs: number) {
    this.#everyMs = everyMs;
  }

  /**
   * Undefined when it can't be read. Waits no longer than the limit for a reading that is under way, which everybody
   * shares: then what was known before has to do. Never rejects.
   */
  async facts(server: Server, limitMs: number): Promise<CatalogueFacts | undefined> {
    if (this.#reading === null && (this.#known === null || performance.now() - this.#known.at >= this.#everyMs)) {
      const done = this.#refresh(server).finally(() => (this.#reading = null));
      this.#reading = { began: performance.now(), done };
    }
    if (this.#reading !== null) {
      const { began, done } = this.#reading;
      await within(done, Math.max(0, limitMs - (performance.now() - began)));
    }
    const known = this.#known;
    const stale = known === null || performance.now() - known.at > STALE_AFTER * Math.max(this.#everyMs, limitMs);
    return stale ? undefined : known.facts;
  }

  async #refresh(server: Server): Promise<void> {
    const at = performance.now();
    try {
      // A listing may find stored files empty while the catalogue stays the same.
      const empty = await knownEmptyFiles(server);
      const version = [await server.catalogue.version(), ...empty].join(' ');
      const known = this.#known?.version === version ? this.#known.facts : await this.#read(server, empty);
      // What is acknowledged meanwhile is no alarm any more, though the catalogue is the same.
      const facts = { ...known, ...(await this.#gaps(server, known.timelines)) };
      this.#known = { version, at, facts };
    } catch {
      this.#known = null;
    }
  }

  async #gaps(
    server: Server,
    timelines: readonly TimelineSummary[],
  ): Promise<Pick<CatalogueFacts, 'missing' | 'missingHistories'>> {
    const found = await rememberedGaps(server, timelines, this.#segmentSize ?? DEFAULT_SEGMENT_SIZE);
    const missing = new Map<number, number>();
    let missingHistories = 0;
    for (const { timeline, segments } of timelines) {
      const open = (found.get(timeline) ?? []).filter(({ acknowledged }) => acknowledged === undefined);
      missingHistories += open.filter((gap) => gap.segments === 0).length;
      if (segments > 0)
        missing.set(
          timeline,
          open.reduce((sum, gap) => sum + gap.segments, 0),
        );
    }
    return { missing, missingHistories };
  }

  async #read(server: Server, empty: ReadonlySet<WalName>): Promise<Read> {
    const { catalogue } = server;
    this.#segmentSize ??= await server.segmentSize();
    let damagedLines = 0;
    let newest: WalFileInfo | null = null;
    async function* batches(): AsyncGenerator<readonly WalFileInfo[]> {
      for await (const infos of catalogue.readBatches(() => (damagedLines += 1))) {
        for (const info of infos) {
          if ((newest === null || info.mtime >= newest.mtime) && walKind(info.name) === 'segment') newest = info;
        }
        yield infos;
      }
    }
    const timelines = await summariseWals(withEmptyFiles(batches(), empty), this.#segmentSize ?? DEFAULT_SEGMENT_SIZE);
    return {
      files: timelines.reduce((sum, { stored }) => sum + stored.files, 0),
      bytes: timelines.reduce((sum, { stored }) => sum + stored.bytes, 0),
      damagedLines,
      missing: new Map(),
      missingHistories: 0,
      timelines,
      newest,
    };
  }
}
