import { findServer } from '../config/config.ts';
import { localLeftovers } from '../server-facts.ts';
import { rememberRebuilt } from '../server-listing.ts';
import { reviewGaps } from '../server-gaps.ts';
import { openServer } from '../server.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { count, type CommandContext, type Report } from './command.ts';

/** `rebuild-xlogdb SERVER`: a catalogue of what is really archived. Archiving waits meanwhile. */
export async function rebuildXlogdb(context: CommandContext, name: string): Promise<Report> {
  await using server = openServer(context.config, findServer(context.config, name), context.logger);
  // A gap that was filled, and is one again by the new catalogue, is acknowledged no more.
  await reviewGaps(server);
  let files = 0;
  let bytes = 0;
  const startedAt = Date.now();
  async function* counted(): AsyncGenerator<WalFileInfo> {
    for await (const info of server.strategy.list()) {
      if (info.size === 0) {
        context.logger.error(
          { server: name, wal: info.name },
          `${server.strategy.getFullPath(info.name)} is empty, and gets no line: have ${info.name} delivered again, then walwarden errors explain ${name}`,
        );
        continue;
      }
      files += 1;
      bytes += info.size;
      yield info;
    }
  }
  await server.catalogue.withLock((session) => session.replaceAll(counted()));
  await rememberRebuilt(server, { startedAt, files, bytes });
  context.logger.info({ server: name, files }, `rebuilt the catalogue of ${name}`);
  const left = await localLeftovers(server.config);
  if (left !== null) context.logger.warn({ server: name }, left);
  return { text: `Rebuilt the catalogue of server ${name}: ${count(files, 'file')}\n`, json: { server: name, files } };
}
