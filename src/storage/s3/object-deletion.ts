import { WalwardenError } from '../../errors.ts';
import type { WalHooks } from '../../hooks/wal-hooks.ts';
import type { WalFileInfo } from '../../wal/wal-file-info.ts';
import type { WalName } from '../../wal/wal-name.ts';
import type { KeyWindow } from './key-window.ts';
import type { ObjectStore } from './object-store.ts';

export interface ObjectDeletionParts {
  readonly store: ObjectStore;
  readonly nearby: KeyWindow;
  readonly hooks: WalHooks;
  /** What hook scripts are told. */
  readonly getFullPath: (name: WalName) => string;
  /** Files that are deleted together. */
  readonly batchSize: number;
  /** Ends requests at once. */
  readonly signal: AbortSignal | undefined;
}

/** Files that an error names; hook scripts are told of every one. */
const NAMED = 10;

/** Deletes WAL files from a bucket, each with its wal_delete hooks. */
export class ObjectDeletion {
  readonly #parts: ObjectDeletionParts;

  constructor(parts: ObjectDeletionParts) {
    this.#parts = parts;
  }

  /**
   * Deletes files in the order given. Throws when one can't be deleted or a
   * hook says stop: `onDeleted` has told of those that are gone by then.
   */
  async run(wals: readonly WalFileInfo[], onDeleted: (name: WalName) => void): Promise<void> {
    const { hooks, getFullPath, batchSize } = this.#parts;
    // A script is called right before and after its file.
    for (const batch of batches(wals, hooks.watches('wal_delete') ? 1 : batchSize)) {
      for (const info of batch) {
        const hook = await hooks.before('wal_delete', info, getFullPath(info.name));
        if (hook.outcome === 'stop') throw hook.error;
      }
      const failures = await this.#deleteBatch(batch);
      for (const { name } of batch) if (!failures.has(name)) onDeleted(name);
      for (const info of batch) {
        await hooks.after('wal_delete', info, getFullPath(info.name), failures.get(info.name)?.message);
      }
      if (failures.size > 0) throw notDeleted(failures);
    }
  }

  /** Every object of these names, whatever its extension. Returns what went wrong. */
  async #deleteBatch(wals: readonly WalFileInfo[]): Promise<Map<WalName, WalwardenError>> {
    const { store, nearby, signal } = this.#parts;
    const failures = new Map<WalName, WalwardenError>();
    const open = new Map<string, WalName>();
    let looked = false;
    try {
      for (const { name } of wals) for (const key of await nearby.keysOf(name)) open.set(key, name);
      looked = true;
      for await (const result of store.deleteObjects([...open.keys()], { signal })) {
        const name = open.get(result.key);
        if (result.outcome === 'failed' && name !== undefined) failures.set(name, result.error);
        open.delete(result.key);
      }
    } catch (error) {
      if (!(error instanceof WalwardenError)) throw error;
      // Nobody knows what became of the rest.
      const unsure = looked ? open.values() : wals.map(({ name }) => name);
      for (const name of unsure) failures.set(name, error);
    }
    return failures;
  }
}

function* batches<T>(items: readonly T[], size: number): Generator<readonly T[]> {
  for (let at = 0; at < items.length; at += size) yield items.slice(at, at + size);
}

function notDeleted(failures: ReadonlyMap<WalName, WalwardenError>): WalwardenError {
  const [[, first] = [], ...others] = failures;
  if (first === undefined) throw new Error('nothing went wrong');
  if (others.length === 0) return first;
  const { code, message, hint } = first;
  const names = others.slice(0, NAMED).map(([name]) => name);
  const more = others.length > NAMED ? ` and ${others.length - NAMED} more` : '';
  return new WalwardenError(code, `${message}; nor could ${names.join(', ')}${more} be deleted`, {
    cause: first,
    ...(hint === undefined ? {} : { hint }),
  });
}
