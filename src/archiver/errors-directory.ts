import { createHash } from 'node:crypto';
import { lstat, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fsyncDirectory, isThere, makeDirectory, unlinkIfThere, writeNewFile } from '../durable/durable-file.ts';
import { acquireLock } from '../durable/lock-file.ts';
import { copyNoReplace, moveNoReplace } from '../durable/move-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';

/** Why a file is there: Barman's two ways to say it, and what `receive-wal --reset` set aside. */
export type ErrorKind = 'duplicate' | 'unknown' | 'reset';

/** What is known of a file in the errors directory. */
export interface ErrorFile {
  /** Its name there, as text; other bytes than UTF-8 are replaced. */
  readonly entry: string;
  /** The same byte for byte, as latin1. */
  readonly raw: string;
  /** The name that it arrived under. */
  readonly name: string;
  readonly kind: ErrorKind | 'error' | null;
  /** Why it was moved there; null when Barman or a person did it. */
  readonly reason: string | null;
}

/** The longest name that Linux file systems take, in bytes. */
const MAX_NAME = 255;
/** In the directory of the reasons: every writer of the errors directory takes it. */
const LOCK = '.lock';
const ENTRY = /^(.+)\.(\d{8}T\d{6}Z)\.(duplicate|unknown|reset|error)$/s;

/**
 * Where files go that can't be archived: `<name>.<UTC stamp>.<kind>`, as Barman
 * names them. The reasons are kept in another directory under the same names,
 * because Barman counts every file in this one as an archiver error.
 */
export class ErrorsDirectory {
  readonly path: string;
  readonly #reasons: string;

  constructor(path: string, reasons: string) {
    this.path = path;
    this.#reasons = reasons;
  }

  /**
   * Moves a file there, whatever it is, and never replaces anything. Resolves
   * to its new name once both directories are durable. `name` is the one that
   * it arrived under, byte for byte (latin1).
   */
  async take(source: string | Buffer, name: string, kind: ErrorKind, reason: string): Promise<string> {
    return this.#place(name, kind, reason, (target) => moveNoReplace(source, target, { locked: true }));
  }

  /** Puts a durable copy of a file there, leaving the original; for a writer that will come again. */
  async takeCopy(source: string | Buffer, name: string, kind: ErrorKind, reason: string): Promise<string> {
    return this.#place(name, kind, reason, (target) => copyNoReplace(source, target));
  }

  async #place(
    name: string,
    kind: ErrorKind,
    reason: string,
    put: (target: Buffer) => Promise<boolean>,
  ): Promise<string> {
    await makeDirectory(this.path);
    await makeDirectory(this.#reasons);
    // put-wal, PUT and the receiver come without the archive-wal lock.
    await using _lock = await acquireLock(join(this.#reasons, LOCK), { wait: true });
    // Stamps have a resolution of one second: a taken name means the next one.
    for (let seconds = Math.floor(Date.now() / 1000); ; seconds += 1) {
      const entry = errorEntry(name, new Date(seconds * 1000), kind);
      const target = this.#pathOf(entry);
      if ((await isThere(target)) || !(await put(target))) continue;
      // Only now: the link has decided whose entry it is. Should we die here, the file is there without its reason.
      await this.#writeReason(entry, { name, reason });
      return textOf(entry);
    }
  }

  async #writeReason(entry: string, facts: { name: string; reason: string }): Promise<void> {
    const path = this.#reasonPath(entry);
    await unlinkIfThere(path);
    const text = `${JSON.stringify({ ...facts, name: textOf(facts.name) }, null, 2)}\n`;
    await writeNewFile(path, Buffer.from(text), { mode: 0o600 });
    await fsyncDirectory(this.#reasons);
  }

  /** Byte for byte: a name may be no UTF-8. */
  #pathOf(entry: string): Buffer {
    return Buffer.concat([Buffer.from(`${this.path}/`), Buffer.from(entry, 'latin1')]);
  }

  #reasonPath(entry: string): string {
    return join(this.#reasons, `${createHash('sha256').update(entry, 'latin1').digest('hex').slice(0, 32)}.json`);
  }

  /** All files there, in the order of their names. */
  async list(): Promise<ErrorFile[]> {
    const files: ErrorFile[] = [];
    for (const entry of (await this.#entries()).sort()) files.push(await this.#describe(entry));
    return files;
  }

  /** The names there, for {@link summariseErrorFiles}. */
  async #entries(): Promise<string[]> {
    try {
      return await readdir(this.path, 'latin1');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return [];
      throw new WalwardenError('storage', `can't read the errors directory ${this.path}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** What was delivered under a name and can't be used, with its size in bytes. */
  async unusable(name: string): Promise<(ErrorFile & { readonly size: number })[]> {
    const found: (ErrorFile & { readonly size: number })[] = [];
    for (const entry of (await this.#entries()).filter((candidate) => candidate.startsWith(`${name}.`))) {
      const file = await this.#describe(entry);
      if (file.name !== name || file.kind !== 'unknown') continue;
      try {
        found.push({ ...file, size: (await lstat(this.pathOf(file))).size });
      } catch (error) {
        // Taken out of errors meanwhile.
        if (errnoOf(error) !== 'ENOENT') throw error;
      }
    }
    return found;
  }

  async #describe(raw: string): Promise<ErrorFile> {
    const [, stampedName, , kind] = ENTRY.exec(raw) ?? [];
    const reason = await this.#readReason(raw);
    return {
      entry: textOf(raw),
      raw,
      name: reason?.name ?? textOf(stampedName ?? raw),
      kind: kind === 'duplicate' || kind === 'unknown' || kind === 'reset' || kind === 'error' ? kind : null,
      reason: reason?.reason ?? null,
    };
  }

  /** The path of a file there. */
  pathOf(file: ErrorFile): Buffer {
    return this.#pathOf(file.raw);
  }

  async #readReason(entry: string): Promise<{ name: string; reason: string } | null> {
    try {
      const facts: unknown = JSON.parse(await readFile(this.#reasonPath(entry), 'utf8'));
      if (typeof facts !== 'object' || facts === null || !('name' in facts) || !('reason' in facts)) return null;
      const { name, reason } = facts;
      return typeof name === 'string' && typeof reason === 'string' ? { name, reason } : null;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return null;
      throw error;
    }
  }

  /** Deletes a file; for what is archived with the same content. */
  async drop(file: ErrorFile): Promise<void> {
    await unlinkIfThere(this.pathOf(file));
    await fsyncDirectory(this.path);
    await this.#forget(file);
  }

  /** Moves a file to another path; false when that is taken. Durable when it resolves. */
  async moveBack(file: ErrorFile, target: string): Promise<boolean> {
    if (!(await moveNoReplace(this.pathOf(file), Buffer.from(target), { locked: false }))) return false;
    await this.#forget(file);
    return true;
  }

  /** Moves a file beside the errors directory, where neither we nor Barman count it; resolves to its path. */
  async keepAside(file: ErrorFile): Promise<string> {
    const directory = keptDirectory(this.path);
    await makeDirectory(directory);
    await using _lock = await acquireLock(join(this.#reasons, LOCK), { wait: true });
    for (let copy = 0; ; copy += 1) {
      const entry = copy === 0 ? file.raw : `${file.raw.slice(0, MAX_NAME - 8)}.${copy}`;
      const target = Buffer.concat([Buffer.from(`${directory}/`), Buffer.from(entry, 'latin1')]);
      if ((await isThere(target)) || !(await moveNoReplace(this.pathOf(file), target, { locked: true }))) continue;
      await this.#forget(file);
      return target.toString('utf8');
    }
  }

  async #forget(file: ErrorFile): Promise<void> {
    await unlinkIfThere(this.#reasonPath(file.raw));
  }
}

/** Beside the errors directory, where neither we nor Barman count what lies there. */
export function keptDirectory(errors: string): string {
  return `${errors}.kept`;
}

function textOf(latin1: string): string {
  return Buffer.from(latin1, 'latin1').toString('utf8');
}

/** `<name>.<stamp>.<kind>`, cut and hashed where it would be too long. All in latin1, a character a byte. */
function errorEntry(name: string, at: Date, kind: ErrorKind): string {
  const suffix = `.${at.toISOString().replace(/[-:]|\.\d+/g, '')}.${kind}`;
  if (name.length + suffix.length <= MAX_NAME) return name + suffix;
  const hash = createHash('sha256').update(name, 'latin1').digest('hex').slice(0, 16);
  return `${name.slice(0, MAX_NAME - suffix.length - hash.length - 1)}~${hash}${suffix}`;
}

/** What Barman calls the kinds of files, in its summary; the last is ours. */
const COUNTED: readonly (readonly [suffix: string, label: string])[] = [
  ['.error', 'not relevant'],
  ['.duplicate', 'duplicates'],
  ['.unknown', 'unknown'],
  ['.reset', 'reset'],
];

/**
 * Sums up names of the errors directory as Barman does: `duplicates: 2,
 * unknown: 1`. `.error` counts as not relevant, any other as unknown failure.
 * Null when there are none.
 */
export function summariseErrorFiles(names: readonly string[]): string | null {
  if (names.length === 0) return null;
  const counters = new Map<string, number>();
  for (const name of names) {
    const kind = COUNTED.find(([suffix]) => name.endsWith(suffix))?.[1] ?? 'unknown failure';
    counters.set(kind, (counters.get(kind) ?? 0) + 1);
  }
  return [...counters].map(([kind, count]) => `${kind}: ${count}`).join(', ');
}
