import { setTimeout as delay } from 'node:timers/promises';
import { findWal, type FoundWal, type WalFinderParts } from './wal-finder.ts';
import type { WalName } from '../wal/wal-name.ts';

const TRIES = 3;
const RETRY_MS = 500;
/** Whoever took so long to fail was patient enough. */
const LONG_MS = 10_000;

/**
 * {@link findWal}, for PostgreSQL: a storage that hiccups, or a file that is just
 * moving, gets another chance; "not there" is an answer.
 */
export async function findPatiently(
  parts: WalFinderParts,
  name: WalName,
  partial: boolean,
  signal?: AbortSignal,
): Promise<FoundWal | null> {
  const startedAt = Date.now();
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await findWal(parts, name, partial);
    } catch (error) {
      if (attempt === TRIES || Date.now() - startedAt > LONG_MS || signal?.aborted === true) throw error;
      await delay(RETRY_MS);
    }
  }
}
