import type { Logger } from '../logging.ts';

export type Level = 'debug' | 'info' | 'warn' | 'error';

/** More different messages than one outage has. */
const MAX_TOLD = 500;

/**
 * A log that tells each message once an outage, whatever numbers are in it: a
 * server that is away for the night is a handful of lines, not one a second.
 * Repetitions are there for those who log debug messages.
 */
export class OutageLog {
  readonly #logger: Logger;
  readonly #told = new Set<string>();

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  tell(level: Level, fields: Readonly<Record<string, unknown>>, text: string): void {
    // Process ids, positions, times: another one is no news.
    const message = `${level} ${text.replace(/[0-9A-F]+/g, '0')}`;
    const isNews = !this.#told.has(message) && this.#told.size < MAX_TOLD;
    if (isNews) this.#told.add(message);
    this.#logger[isNews ? level : 'debug'](fields, text);
  }

  /** The outage is over: what happens from now on is news. */
  over(): void {
    this.#told.clear();
  }
}
