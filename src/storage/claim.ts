import { dirname, join } from 'node:path';
import { isWalName, type WalName } from '../wal/wal-name.ts';

const PREFIX = '.walwarden-';

/** The name under which a waiting file is ours alone. */
export function claimPath(path: string, name: WalName): string {
  return join(dirname(path), PREFIX + name);
}

/** The WAL name of a claimed file, undefined for other names. */
export function claimedName(entry: string): WalName | undefined {
  if (!entry.startsWith(PREFIX)) return undefined;
  const name = entry.slice(PREFIX.length);
  return isWalName(name) ? name : undefined;
}
