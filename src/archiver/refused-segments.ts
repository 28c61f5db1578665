import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  fsyncDirectory,
  isThere,
  makeDirectory,
  replaceFile,
  unlinkIfThere,
  writeNewFile,
} from '../durable/durable-file.ts';
import { errnoOf, messageOf } from '../errors.ts';
import type { Logger } from '../logging.ts';
import { isWalName, type WalName } from '../wal/wal-name.ts';

/** A segment that was delivered and refused, because a page behind its first one is not its own. */
export interface RefusedSegment {
  readonly name: WalName;
  /** Of its plain bytes, in hexadecimal. */
  readonly sha256: string;
  readonly reason: string;
  /** How often it came. */
  readonly times: number;
  /** When it came first and last, in milliseconds since the epoch. */
  readonly first: number;
  readonly last: number;
}

/** Nothing was stored of any of them, so these are only notes; a client must not fill our disk with them. */
const MOST_NOTES = 100;
/** A segment that has not come again for so long, in milliseconds, is not delivered any more. */
const FORGET_MS = 7 * 24 * 60 * 60 * 1000;

const NOTE = /^(.+)\.([0-9a-f]{64})\.(refused|as-it-is)$/;

/**
 * Remembers which segments were refused, in a directory of small files: one that
 * comes again with the same content has its damage in pg_wal itself, and would
 * be refused for ever. And which of them a person has decided to take as they are.
 */
export class RefusedSegments {
  readonly #path: string;
  readonly #server: string;
  readonly #logger: Logger;

  constructor(path: string, server: string, logger: Logger) {
    this.#path = path;
    this.#server = server;
    this.#logger = logger;
  }

  /** Notes a refusal, and tells how often this content was refused by now. Never rejects. */
  async record(name: WalName, sha256: string, reason: string, now = Date.now()): Promise<number> {
    try {
      const path = this.#pathOf(name, sha256, 'refused');
      const before = await this.#read(name, sha256);
      const times = (before?.times ?? 0) + 1;
      const note = { reason, times, first: before?.first ?? now, last: now };
      await makeDirectory(this.#path);
      if (before === null) await this.#makeRoom(now);
      await replaceFile(path, Buffer.from(`${JSON.stringify(note)}\n`), { mode: 0o600 });
      await fsyncDirectory(this.#path);
      return times;
    } catch (error) {
      this.#logger.warn(
        { server: this.#server, wal: name },
        `can't note in ${this.#path} that ${name} was refused: ${messageOf(error)}`,
      );
      return 1;
    }
  }

  /** A whole segment of this name was taken: what was refused before does not matter any more. Never rejects. */
  async forget(name: WalName): Promise<void> {
    try {
      for (const note of await this.#notes('refused')) {
        if (note.name === name) await unlinkIfThere(this.#pathOf(name, note.sha256, 'refused'));
      }
    } catch (error) {
      this.#logger.debug({ server: this.#server }, `can't forget refusals of ${name}: ${messageOf(error)}`);
    }
  }

  /** Those that came more than once with the same content, and that no person has decided about. */
  async repeated(now = Date.now()): Promise<RefusedSegment[]> {
    const decided = new Set(await this.takenAsTheyAre());
    const all = await this.#all();
    return all.filter(({ sha256, times, last }) => times > 1 && now - last < FORGET_MS && !decided.has(sha256));
  }

  /** What was refused under a name, the last delivery first. */
  async of(name: WalName): Promise<RefusedSegment[]> {
    return (await this.#all()).filter((found) => found.name === name).sort((a, b) => b.last - a.last);
  }

  /** Has a content taken as it is from now on; durable when it resolves. */
  async takeAsItIs(name: WalName, sha256: string): Promise<void> {
    await makeDirectory(this.#path);
    const path = this.#pathOf(name, sha256, 'as-it-is');
    if (!(await isThere(path))) await writeNewFile(path, Buffer.alloc(0), { mode: 0o600 });
    await fsyncDirectory(this.#path);
  }

  /** SHA-256 of what a person has decided to take. */
  async takenAsTheyAre(): Promise<string[]> {
    return (await this.#notes('as-it-is')).map(({ sha256 }) => sha256);
  }

  async #makeRoom(now: number): Promise<void> {
    const all = (await this.#all()).sort((a, b) => b.last - a.last);
    for (const [index, { name, sha256, last }] of all.entries()) {
      if (index < MOST_NOTES - 1 && now - last < FORGET_MS) continue;
      await unlinkIfThere(this.#pathOf(name, sha256, 'refused'));
    }
  }

  async #all(): Promise<RefusedSegment[]> {
    const found: RefusedSegment[] = [];
    for (const { name, sha256 } of await this.#notes('refused')) {
      const note = await this.#read(name, sha256);
      if (note !== null) found.push({ name, sha256, ...note });
    }
    return found;
  }

  async #notes(kind: 'refused' | 'as-it-is'): Promise<{ name: WalName; sha256: string }[]> {
    let entries: string[];
    try {
      entries = await readdir(this.#path);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return [];
      throw error;
    }
    return entries.flatMap((entry) => {
      const [, name = '', sha256 = '', found] = NOTE.exec(entry) ?? [];
      return found === kind && isWalName(name) ? [{ name, sha256 }] : [];
    });
  }

  async #read(name: WalName, sha256: string): Promise<Omit<RefusedSegment, 'name' | 'sha256'> | null> {
    try {
      const note: unknown = JSON.parse(await readFile(this.#pathOf(name, sha256, 'refused'), 'utf8'));
      if (typeof note !== 'object' || note === null) return null;
      const facts = new Map<string, unknown>(Object.entries(note));
      const [reason, times, first, last] = ['reason', 'times', 'first', 'last'].map((key) => facts.get(key));
      if (typeof reason !== 'string' || typeof times !== 'number') return null;
      return typeof first === 'number' && typeof last === 'number' ? { reason, times, first, last } : null;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return null;
      throw error;
    }
  }

  #pathOf(name: WalName, sha256: string, kind: 'refused' | 'as-it-is'): string {
    return join(this.#path, `${name}.${sha256}.${kind}`);
  }
}
