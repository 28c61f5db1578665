import { cp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { errnoOf } from '../../src/errors.ts';
import { isThere } from '../../src/durable/durable-file.ts';
import type { RunAs } from './postgres-programs.ts';
import { run } from './run.ts';

/**
 * A copy of a data directory, which may be in use: without what belongs to the
 * running server, without WAL files and without replication slots
 * (PostgreSQL documentation, "Making a base backup using the low level API").
 */
export async function copyCluster(from: string, to: string, owner: RunAs): Promise<void> {
  // pg_wal's directories have to be there, its files come from elsewhere.
  const skipped = new Set(['postmaster.pid', 'postmaster.opts', 'recovery.signal', 'standby.signal']);
  await cp(from, to, {
    recursive: true,
    filter: async (path) => {
      const name = path.slice(from.length + 1);
      if (skipped.has(name) || name.startsWith('pgsql_tmp')) return false;
      if (name.startsWith('pg_replslot/')) return false;
      if (name.startsWith('pg_wal/')) return name === 'pg_wal/archive_status';
      return isThere(path);
    },
  });
  const { uid, gid } = owner;
  if (uid !== undefined) await run('chown', ['-R', `${uid}:${gid}`, to], {});
  await rm(join(to, 'pg_wal', 'archive_status'), { recursive: true, force: true });
}

/** A killed postmaster leaves a small segment of System V shared memory; its id is in postmaster.pid. */
export async function removeSharedMemory(dataDir: string): Promise<void> {
  let text;
  try {
    text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw error;
  }
  const id = text.split('\n')[6]?.trim().split(/\s+/)[1];
  if (id !== undefined) await run('ipcrm', ['-m', id], {});
}

/** Lines for postgresql.conf. */
export function toConf(settings: Readonly<Record<string, string>>): string {
  return Object.entries(settings)
    .map(([name, value]) => `${name} = '${value.replaceAll(`'`, `''`)}'\n`)
    .join('');
}

/**
 * A port of 127.0.0.1 that nobody listens on, outside of the range from which
 * the kernel gives ports to clients: a server can be restarted on it.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    if (await canListen(port)) return port;
  }
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
