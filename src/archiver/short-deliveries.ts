import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fsyncDirectory, replaceFile } from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { sha256 } from '../storage/sha256.ts';
import { isWalName, type WalName } from '../wal/wal-name.ts';

/** A segment that was delivered under its full name, though it is only the beginning of a longer one. */
export interface ShortDelivery {
  readonly name: WalName;
  /** Bytes that hold all of its WAL. */
  readonly end: number;
  /** SHA-256 of these bytes, in hexadecimal. */
  readonly sha256: string;
}

export function shortDelivery(name: WalName, plain: Buffer, end: number): ShortDelivery {
  return { name, end, sha256: sha256(plain.subarray(0, end)) };
}

/** Whether a file begins with all the WAL of a delivery. */
export function beginsWith(plain: Buffer, { end, sha256: expected }: ShortDelivery): boolean {
  return plain.length >= end && sha256(plain.subarray(0, end)) === expected;
}

/**
 * Remembers, across processes and power loss, which deliveries are stored under
 * the name of a partial segment. It is written before they are: so a crash in
 * between, after which the longer copy may be gone, changes nothing, and PostgreSQL,
 * which was told that the segment is archived, is never told that it is absent.
 */
export class ShortDeliveries {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** The deliveries of a name. */
  async of(name: WalName): Promise<readonly ShortDelivery[]> {
    return (await this.#read()).filter((delivery) => delivery.name === name);
  }

  async has({ name, end, sha256: digest }: ShortDelivery): Promise<boolean> {
    return (await this.of(name)).some((known) => known.end === end && known.sha256 === digest);
  }

  /** Durable when it resolves. The caller holds the archive-wal lock. */
  async add(delivery: ShortDelivery): Promise<void> {
    const known = await this.#read();
    await replaceFile(this.#path, Buffer.from(`${JSON.stringify([...known, delivery], null, 2)}\n`), { mode: 0o600 });
    await fsyncDirectory(dirname(this.#path));
  }

  async #read(): Promise<readonly ShortDelivery[]> {
    let text: string;
    try {
      text = await readFile(this.#path, 'utf8');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return [];
      throw new WalwardenError('storage', `can't read ${this.#path}: ${messageOf(error)}`, { cause: error });
    }
    try {
      const known: unknown = JSON.parse(text);
      if (Array.isArray(known)) return known.map(toDelivery);
    } catch (error) {
      throw this.#damaged(error);
    }
    throw this.#damaged(undefined);
  }

  #damaged(cause: unknown): WalwardenError {
    return new WalwardenError(
      'storage',
      `${this.#path} is damaged: it says which segments are stored as partial ones`,
      {
        cause,
        hint: `restore it, or remove it: then get-wal hands out these segments with --partial only`,
      },
    );
  }
}

function toDelivery(value: unknown): ShortDelivery {
  if (typeof value === 'object' && value !== null && 'name' in value && 'end' in value && 'sha256' in value) {
    const { name, end, sha256: digest } = value;
    if (typeof name === 'string' && isWalName(name) && typeof end === 'number' && typeof digest === 'string') {
      return { name, end, sha256: digest };
    }
  }
  throw new Error('an entry is none');
}
