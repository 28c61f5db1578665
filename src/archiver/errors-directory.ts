import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { copyFile, lstat, mkdir, open, readdir, readFile, rename, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  CANT_LINK,
  fsyncDirectory,
  isThere,
  linkUnlessThere,
  unlinkIfThere,
  writeNewFile,
} from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';

/** Barman's two ways to say why a file is there. */
export type ErrorKind = 'duplicate' | 'unknown';

/** What is known of a file in the errors directory. */
export interface ErrorFile {
  /** Its name there, as text; other bytes than UTF-8 are replaced. */
  readonly entry: string;
  /** The name that it arrived under. */
  readonly name: string;
  readonly kind: ErrorKind | 'error' | null;
  /** Why it was moved there; null when Barman or a person did it. */
  readonly reason: string | null;
}

/** The longest name that Linux file systems take, in bytes. */
const MAX_NAME = 255;
const ENTRY = /^(.+)\.(\d{8}T\d{6}Z)\.(duplicate|unknown|error)$/s;

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
    return this.#place(name, kind, reason, (target) => moveNoReplace(source, target), source);
  }

  /** Puts a durable copy of a file there, leaving the original; for a writer that will come again. */
  async takeCopy(source: string, name: string, kind: ErrorKind, reason: string): Promise<string> {
    return this.#place(name, kind, reason, (target) => copyNoReplace(source, target), null);
  }

  async #place(
    name: string,
    kind: ErrorKind,
    reason: string,
    put: (target: Buffer) => Promise<boolean>,
    source: string | Buffer | null,
  ): Promise<string> {
    await mkdir(this.path, { recursive: true, mode: 0o700 });
    await mkdir(this.#reasons, { recursive: true, mode: 0o700 });
    // Stamps have a resolution of one second: a taken name means the next one.
    for (let seconds = Math.floor(Date.now() / 1000); ; seconds += 1) {
      const entry = errorEntry(name, new Date(seconds * 1000), kind);
      const target = Buffer.concat([Buffer.from(`${this.path}/`), Buffer.from(entry, 'latin1')]);
      if (await isThere(target)) continue;
      // The reason first: a reason without its file harms nobody.
      await this.#writeReason(entry, { name, reason });
      if (!(await put(target))) continue;
      await fsyncDirectory(this.path);
      if (source !== null) await fsyncDirectory(dirnameOf(source));
      return Buffer.from(entry, 'latin1').toString('utf8');
    }
  }

  async #writeReason(entry: string, facts: { name: string; reason: string }): Promise<void> {
    const path = this.#reasonPath(entry);
    await unlinkIfThere(path);
    const text = `${JSON.stringify({ ...facts, name: Buffer.from(facts.name, 'latin1').toString('utf8') }, null, 2)}\n`;
    await writeNewFile(path, Buffer.from(text), { mode: 0o600 });
    await fsyncDirectory(this.#reasons);
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

  async #describe(entry: string): Promise<ErrorFile> {
    const [, stampedName, , kind] = ENTRY.exec(entry) ?? [];
    const reason = await this.#readReason(entry);
    return {
      entry: Buffer.from(entry, 'latin1').toString('utf8'),
      name: reason?.name ?? Buffer.from(stampedName ?? entry, 'latin1').toString('utf8'),
      kind: kind === 'duplicate' || kind === 'unknown' || kind === 'error' ? kind : null,
      reason: reason?.reason ?? null,
    };
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
  async drop(entry: string): Promise<void> {
    await unlinkIfThere(join(this.path, entry));
    await this.#left(entry);
  }

  /** Moves a file to another path; false when that is taken. Durable when it resolves. */
  async moveBack(entry: string, target: string): Promise<boolean> {
    if (!(await moveNoReplace(join(this.path, entry), Buffer.from(target)))) return false;
    await fsyncDirectory(dirname(target));
    await this.#left(entry);
    return true;
  }

  /** Moves a file beside the errors directory, where neither we nor Barman count it; resolves to its path. */
  async keepAside(entry: string): Promise<string> {
    const directory = `${this.path}.kept`;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    for (let copy = 0; ; copy += 1) {
      const target = join(directory, copy === 0 ? entry : `${entry}.${copy}`);
      if (await isThere(target)) continue;
      if (!(await moveNoReplace(join(this.path, entry), Buffer.from(target)))) continue;
      await fsyncDirectory(directory);
      await this.#left(entry);
      return target;
    }
  }

  async #left(entry: string): Promise<void> {
    await fsyncDirectory(this.path);
    await unlinkIfThere(this.#reasonPath(Buffer.from(entry).toString('latin1')));
  }
}

function dirnameOf(path: string | Buffer): string {
  return dirname(typeof path === 'string' ? path : path.toString('latin1').replace(/[^/]*$/, '_'));
}

/** `<name>.<stamp>.<kind>`, cut and hashed where it would be too long. All in latin1, a character a byte. */
function errorEntry(name: string, at: Date, kind: ErrorKind): string {
  const suffix = `.${at.toISOString().replace(/[-:]|\.\d+/g, '')}.${kind}`;
  if (name.length + suffix.length <= MAX_NAME) return name + suffix;
  const hash = createHash('sha256').update(name, 'latin1').digest('hex').slice(0, 16);
  return `${name.slice(0, MAX_NAME - suffix.length - hash.length - 1)}~${hash}${suffix}`;
}

/** False when the target was taken meanwhile. */
async function moveNoReplace(source: string | Buffer, target: Buffer): Promise<boolean> {
  try {
    if (!(await linkUnlessThere(source, target))) return false;
  } catch (error) {
    if ((await lstat(source)).isDirectory()) return moveDirectory(source, target);
    if (!CANT_LINK.has(errnoOf(error) ?? '')) throw error;
    if (!(await copyNoReplace(source, target))) return false;
  }
  await unlinkIfThere(source);
  return true;
}

/** Directories can't be linked; rename(2) replaces an empty one at most. */
async function moveDirectory(source: string | Buffer, target: Buffer): Promise<boolean> {
  await rename(source, target);
  return true;
}

async function copyNoReplace(source: string | Buffer, target: Buffer): Promise<boolean> {
  try {
    await copyFile(source, target, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return false;
    throw error;
  }
  const handle: FileHandle = await open(target, 'r+');
  try {
    const stat = await lstat(source);
    await handle.utimes(stat.atime, stat.mtime);
    await handle.sync();
  } finally {
    await handle.close();
  }
  return true;
}

/**
 * Sums up names of the errors directory as Barman does: `duplicates: 2,
 * unknown: 1`. `.error` counts as not relevant, any other as unknown failure.
 * Null when there are none.
 */
export function summariseErrorFiles(names: readonly string[]): string | null {
  if (names.length === 0) return null;
  const counters = new Map<string, number>();
  for (const name of names) {
    const kind = name.endsWith('.error')
      ? 'not relevant'
      : name.endsWith('.duplicate')
        ? 'duplicates'
        : name.endsWith('.unknown')
          ? 'unknown'
          : 'unknown failure';
    counters.set(kind, (counters.get(kind) ?? 0) + 1);
  }
  return [...counters].map(([kind, count]) => `${kind}: ${count}`).join(', ');
}
