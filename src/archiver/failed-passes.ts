import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fsyncDirectory, replaceFile, unlinkIfThere } from '../durable/durable-file.ts';
import { isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import type { Logger } from '../logging.ts';
import { count, formatSpan } from '../words.ts';
import { isDueAgain, withoutNumbers } from './told.ts';

/** Passes that failed, up to the last one of all. */
export interface PassFailure {
  /** When the first of them ended, in milliseconds since the epoch, as all times here. */
  readonly since: number;
  /** When the last of them ended. */
  readonly last: number;
  readonly passes: number;
  /** Why the last one failed. */
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
}

interface Remembered extends PassFailure {
  /** What the log was told in this outage, numbers aside, and when. */
  readonly told: Readonly<Record<string, number>>;
}

/** More different reasons than one outage has. */
const MAX_TOLD = 50;

/**
 * Remembers, from one process to the next, why nothing could be archived: for
 * `check` and `status`, and so that a log that cron adds to every minute tells
 * each reason once an outage. Only advice: nothing is archived, kept or removed
 * because of it.
 */
export class FailedPasses {
  readonly #path: string;
  readonly #server: string;
  readonly #logger: Logger;

  constructor(path: string, server: string, logger: Logger) {
    this.#path = path;
    this.#server = server;
    this.#logger = logger;
  }

  /**
   * A pass ended early. Returns the error to be thrown on, which knows whether
   * it was told before. That another process archives, or that we were asked to
   * stop, is no failure. Never rejects.
   */
  async failed(error: unknown, now = Date.now()): Promise<unknown> {
    if (isErrorCode(error, 'locked') || isErrorCode(error, 'aborted')) return error;
    const before = await this.#read();
    const known = error instanceof WalwardenError ? error : null;
    const { code, message, hint } = known ?? { code: 'internal', message: messageOf(error), hint: undefined };
    // Another file, process or request id is no news.
    const reason = `${code} ${withoutNumbers(message)}`;
    const toldAt = before?.told[reason];
    const repeated = toldAt !== undefined && !isDueAgain(toldAt, now);
    const told = Object.entries(before?.told ?? {}).filter(([other]) => other !== reason);
    const remembered: Remembered = {
      since: before?.since ?? now,
      last: now,
      passes: (before?.passes ?? 0) + 1,
      code,
      message,
      hint: hint ?? null,
      told: Object.fromEntries([...told.slice(1 - MAX_TOLD), [reason, repeated ? toldAt : now]]),
    };
    await this.#write(remembered);
    if (known === null || !repeated) return error;
    return new WalwardenError(known.code, message, {
      cause: known,
      repeated,
      ...(hint === undefined ? {} : { hint }),
    });
  }

  /** A pass came to its end: what happens from now on is news. Never rejects. */
  async succeeded(now = Date.now()): Promise<void> {
    const before = await this.#read();
    if (before === null) return;
    const { passes, since } = before;
    const text = `archiving of ${this.#server} works again, after ${count(passes, 'failed pass', 'failed passes')} in ${formatSpan(now - since)}`;
    this.#logger.info({ server: this.#server }, text);
    try {
      await unlinkIfThere(this.#path);
      await fsyncDirectory(dirname(this.#path));
    } catch (error) {
      this.#logger.debug({ server: this.#server }, `can't remove ${this.#path}: ${messageOf(error)}`);
    }
  }

  /** Null when the last pass was a good one, as far as is known. Never rejects. */
  async current(): Promise<PassFailure | null> {
    const found = await this.#read();
    if (found === null) return null;
    const { told: _told, ...failure } = found;
    return failure;
  }

  async #read(): Promise<Remembered | null> {
    try {
      return parse(JSON.parse(await readFile(this.#path, 'utf8')));
    } catch {
      // None, not to be read, or damaged: the worst that comes of it is that something is told twice.
      return null;
    }
  }

  /** Durable, so that a machine that comes up again after a crash still knows. A full disk may not take it: then that is the reason. */
  async #write(remembered: Remembered): Promise<void> {
    try {
      await replaceFile(this.#path, Buffer.from(`${JSON.stringify(remembered, null, 2)}\n`), { mode: 0o600 });
      await fsyncDirectory(dirname(this.#path));
    } catch (error) {
      this.#logger.debug({ server: this.#server }, `can't write ${this.#path}: ${messageOf(error)}`);
    }
  }
}

function parse(value: unknown): Remembered | null {
  if (typeof value !== 'object' || value === null) return null;
  const facts = new Map<string, unknown>(Object.entries(value));
  const [since, last, passes] = [facts.get('since'), facts.get('last'), facts.get('passes')];
  const [code, message, hint, told] = [facts.get('code'), facts.get('message'), facts.get('hint'), facts.get('told')];
  if (typeof since !== 'number' || typeof last !== 'number' || typeof passes !== 'number') return null;
  if (typeof code !== 'string' || typeof message !== 'string') return null;
  if (typeof told !== 'object' || told === null) return null;
  const times = Object.entries(told).filter((entry): entry is [string, number] => typeof entry[1] === 'number');
  const advice = typeof hint === 'string' ? hint : null;
  return { since, last, passes, code, message, hint: advice, told: Object.fromEntries(times) };
}
