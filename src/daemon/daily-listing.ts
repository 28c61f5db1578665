import { pause } from '../health/patience.ts';
import type { Logger } from '../logging.ts';
import { messageOf } from '../errors.ts';
import { listingDueIn, listWhenDue } from '../server-listing.ts';
import type { Server } from '../server.ts';

export interface DailyListingSettings {
  readonly server: string;
  /** The server's parts, for one listing. */
  readonly open: () => Server;
  readonly logger: Logger;
}

/** After a listing that could not be made, and while another process makes it, in milliseconds. */
const RETRY_MS = 10 * 60 * 1000;

/** Lists one server's archive once a day, for as long as the daemon runs, beside everything else. */
export class DailyListing {
  readonly #settings: DailyListingSettings;

  constructor(settings: DailyListingSettings) {
    this.#settings = settings;
  }

  /** Ends soon after `drain`, in the middle of a listing too. Never rejects. */
  async run(drain: AbortSignal): Promise<void> {
    while (!drain.aborted) await pause(await this.#once(drain), drain);
  }

  /** Milliseconds until the next look. */
  async #once(drain: AbortSignal): Promise<number> {
    const { server: name, open, logger } = this.#settings;
    try {
      await using server = open();
      await listWhenDue(server, drain);
      return (await listingDueIn(server)) || RETRY_MS;
    } catch (error) {
      logger.warn({ server: name }, `can't see when the archive of ${name} was listed: ${messageOf(error)}`);
      return RETRY_MS;
    }
  }
}
