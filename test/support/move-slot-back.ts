import { once } from 'node:events';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { parseLsn } from '../../src/wal/lsn.ts';
import { until } from './poll.ts';
import type { TestPostgres } from './postgres.ts';

/** A message of PostgreSQL's protocol. */
function message(type: string, body: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeInt32BE(body.length + 4);
  return Buffer.concat([Buffer.from(type), length, body]);
}

/**
 * Moves a slot to a position whose WAL may be gone, as the first feedback of a
 * pg_receivewal does that starts there: command and feedback go out together,
 * so that the server reads the one before it fails at the other. `from`: where
 * it starts instead.
 */
export async function moveSlotBack(pg: TestPostgres, slot: string, lsn: string, from = lsn): Promise<void> {
  const socket = createConnection(join(pg.socketDir, `.s.PGSQL.${pg.port}`));
  let said = Buffer.alloc(0);
  socket.on('data', (data: Buffer) => (said = Buffer.concat([said, data])));
  socket.on('error', () => undefined);
  try {
    await once(socket, 'connect');
    const version = Buffer.alloc(4);
    version.writeInt32BE(0x3_00_00);
    const startup = Buffer.concat([version, Buffer.from('user\0postgres\0replication\0true\0\0')]);
    socket.write(message('', startup));
    await until('the server to be ready', () => said.includes(Buffer.from('Z\0\0\0\x05I', 'latin1')));
    const position = Buffer.alloc(8);
    position.writeBigUInt64BE(parseLsn(lsn));
    const feedback = Buffer.concat([Buffer.from('r'), position, position, Buffer.alloc(8 + 8 + 1)]);
    const command = `START_REPLICATION SLOT "${slot}" ${from} TIMELINE 1\0`;
    socket.write(Buffer.concat([message('Q', Buffer.from(command)), message('d', feedback)]));
    await until('the slot to be moved', async () => {
      const rows = await pg.sql(
        `select 1 from pg_replication_slots where restart_lsn = '${lsn}' and slot_name = '${slot}'`,
      );
      return rows.length > 0;
    });
  } finally {
    socket.destroy();
  }
}
