import { join } from 'node:path';
import { fsyncDirectory, isThere, writeNewFile } from '../durable/durable-file.ts';
import type { Connection } from '../postgres/connection.ts';
import { historyName } from '../wal/wal-name.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import type { ServerHistory } from './server-history.ts';
import { askHistoryFile } from './streaming-server.ts';

/**
 * Puts archived history files where pg_receivewal looks before it asks the
 * server, for the timelines from `timeline` to the server's own whose history
 * file the server has lost: pg_receivewal ends at the first that it can't get.
 */
export async function provideHistoryFiles(
  settings: ReceiverSettings,
  connection: Connection,
  timeline: number,
  server: ServerHistory,
): Promise<void> {
  const { streamingDirectory, logger } = settings;
  const all = [...server.history.map((past) => past.timeline), server.timeline];
  for (const one of all.filter((candidate) => candidate > 1 && candidate >= timeline)) {
    const name = historyName(one);
    const path = join(streamingDirectory, name);
    if (await isThere(path)) continue;
    const { text, from } = await askHistoryFile(connection, settings, one);
    if (from === 'server') continue;
    await writeNewFile(path, Buffer.from(text), { mode: 0o600 });
    await fsyncDirectory(streamingDirectory);
    logger.warn(
      { server: settings.server, file: name },
      `the server lacks ${name}: the archived one is used in its place`,
    );
  }
}
