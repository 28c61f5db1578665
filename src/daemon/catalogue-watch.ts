import { within } from '../health/patience.ts';
import type { Server } from '../server.ts';
import { walKind } from '../wal/wal-name.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { summariseWals } from '../wal/wal-ranges.ts';

/** What metrics tell of a catalogue. */
export interface CatalogueFacts {
  readonly files: number;
  /** As stored. */
  readonly bytes: number;
  readonly damagedLines: number;
  /** By timeline: the segments that are missing between those that are there. */
  readonly missing: ReadonlyMap<number, number>;
  /** The segment that was written last. */
  readonly newest: WalFileInfo | null;
}

const DEFAULT_SEGMENT_SIZE = 16 * 1024 * 1024;

/** What is known of a large catalogue on a slow disk counts for so many times the time between two looks. */
const STALE_AFTER = 10;

/** Reads a catalogue, which may have a million lines, only when it has changed, and not more often than every `everyMs`. */
export class CatalogueWatch {
  readonly #everyMs: number;
  #known: { readonly version: string | null; readonly at: number; readonly facts: CatalogueFacts } | null = null;
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
      const version = await server.catalogue.version();
      const facts = this.#known?.version === version ? this.#known.facts : await this.#read(server);
      this.#known = { version, at, facts };
    } catch {
      this.#known = null;
    }
  }

  async #read(server: Server): Promise<CatalogueFacts> {
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
    const timelines = await summariseWals(batches(), this.#segmentSize ?? DEFAULT_SEGMENT_SIZE);
    const withSegments = timelines.filter(({ segments }) => segments > 0);
    return {
      files: timelines.reduce((sum, { stored }) => sum + stored.files, 0),
      bytes: timelines.reduce((sum, { stored }) => sum + stored.bytes, 0),
      damagedLines,
      missing: new Map(
        withSegments.map(({ timeline, gaps }) => [timeline, gaps.reduce((sum, { segments }) => sum + segments, 0)]),
      ),
      newest,
    };
  }
}
