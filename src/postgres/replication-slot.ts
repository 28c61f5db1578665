import type { Connection } from './connection.ts';

/**
 * Creates a physical slot that keeps WAL from now on, over a replication
 * connection. Throws {@link PostgresError}: SQLSTATE 42710 when there is one of
 * that name, `slot-exhausted`, `no-privilege`.
 */
export async function createPhysicalSlot(replication: Connection, name: string): Promise<void> {
  await replication.query(`CREATE_REPLICATION_SLOT ${quoteIdentifier(name)} PHYSICAL RESERVE_WAL`);
}

/**
 * Drops a slot, over a replication connection; the server keeps no WAL for it
 * any more. Throws {@link PostgresError}: `slot-missing`, `slot-active`.
 */
export async function dropSlot(replication: Connection, name: string): Promise<void> {
  await replication.query(`DROP_REPLICATION_SLOT ${quoteIdentifier(name)}`);
}

/** As the grammar of replication commands takes any name (PostgreSQL: replication/repl_scanner.l). */
function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
