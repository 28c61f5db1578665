/** What stays the same is told again after a day. */
const REMIND_MS = 24 * 60 * 60 * 1000;

/** Times, ages and sizes are no news. */
export function withoutNumbers(text: string): string {
  return text.replace(/\S*\d\S*/g, '#');
}

/** Has `toldAt` (in milliseconds since the epoch, as `now`) been so long ago that it is to be told again? Also when the clock was set back. */
export function isDueAgain(toldAt: number, now: number): boolean {
  return now < toldAt || now - toldAt >= REMIND_MS;
}

interface ToldFile {
  readonly reason: string;
  readonly at: number;
  /** By the pass that is under way. */
  readonly met: boolean;
}

/**
 * What a process that goes on has told about files that stay as they are: each
 * of its passes meets them again.
 */
export class Told {
  readonly #told = new Map<string, Map<string, ToldFile>>();

  /** True when the log has not been told this of a file: not at all, for another reason, or not since yesterday. */
  isNews(archiver: string, entry: string, reason: string, now = Date.now()): boolean {
    const known = withoutNumbers(reason);
    const files = this.#of(archiver);
    const before = files.get(entry);
    const news = before === undefined || before.reason !== known || isDueAgain(before.at, now);
    files.set(entry, { reason: known, at: news ? now : before.at, met: true });
    return news;
  }

  /** A pass came to its end: a file that it did not meet is another one when it comes again. */
  passOver(archiver: string): void {
    const files = this.#of(archiver);
    for (const [entry, known] of files) {
      if (known.met) files.set(entry, { ...known, met: false });
      else files.delete(entry);
    }
  }

  #of(archiver: string): Map<string, ToldFile> {
    const known = this.#told.get(archiver) ?? new Map<string, ToldFile>();
    this.#told.set(archiver, known);
    return known;
  }
}
