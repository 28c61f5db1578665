import { join } from 'node:path';
import { PostgresError } from '../postgres/failure.ts';
import { formatLsn, type Lsn } from '../wal/lsn.ts';
import { keepReceived, settleKept } from './kept-partial.ts';
import { endOfContent } from './partial-content.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { judgePosition } from './server-history.ts';
import { readHeader, type StreamingStart } from './streaming-directory.ts';
import { connectForStatus, streamingOption, type StreamingServer } from './streaming-server.ts';

/** Throws unless pg_receivewal can go on from where it stopped, without losing what it has received. */
export async function checkPosition(
  settings: ReceiverSettings,
  start: StreamingStart,
  server: StreamingServer,
  signal?: AbortSignal,
): Promise<void> {
  await checkCluster(settings, start, server);
  checkStanding(settings, start, server);
  await settleKept(settings, start);
  if (start.timeline !== server.timeline) return;
  // Before it is refused: at the next look the server may have written more than it had lost.
  await keepReceived(settings, start, server.segmentSize);
  const lsn = await receivedAhead(settings, start, server, signal);
  if (lsn === null) return;
  throw ahead(settings, { ...start, lsn }, server, `then walwarden receive-wal --reset ${settings.server}`);
}

async function checkCluster(settings: ReceiverSettings, start: StreamingStart, server: StreamingServer): Promise<void> {
  const { streamingDirectory } = settings;
  const header = await readHeader(streamingDirectory, start.file);
  if (header === null || header.systemIdentifier === server.systemIdentifier) return;
  throw new PostgresError(
    'other-cluster',
    `${start.file.entry} in ${streamingDirectory} was received from system identifier ${header.systemIdentifier}, ` +
      `and ${streamingOption(settings.postgres)} leads to ${server.systemIdentifier}`,
    {
      hint: `if the cluster was replaced, walwarden receive-wal --reset ${settings.server} sets the old files aside and begins with the new one`,
    },
  );
}

function checkStanding(settings: ReceiverSettings, start: StreamingStart, server: StreamingServer): void {
  const { server: name, streamingDirectory, postgres } = settings;
  const reset = `walwarden receive-wal --reset ${name}`;
  const standing = judgePosition(start, server);
  if (standing.reachable) return;
  const received = receivedUpTo(name, start);
  const rightServer = `make sure that ${streamingOption(postgres)} leads to the right server`;
  switch (standing.why) {
    case 'diverged':
      throw new PostgresError(
        'timeline-diverged',
        `${received}, but the server, now on timeline ${server.timeline}, left that timeline at ${formatLsn(standing.switchPoint)}`,
        { hint: `a standby that was behind was promoted, or an older state restored: ${rightServer}, then ${reset}` },
      );
    case 'unknown':
      throw new PostgresError(
        'timeline-diverged',
        `${received}, and the server, on timeline ${server.timeline}, does not descend from that timeline`,
        {
          hint:
            start.timeline > server.timeline
              ? `that is an old primary, or an older state was restored: ${rightServer}; if it is, move the files of ${streamingDirectory} away`
              : `${rightServer}, then ${reset}`,
        },
      );
    case 'ahead':
      throw ahead(settings, start, server, `move the files of ${streamingDirectory} away`);
  }
}

const receivedUpTo = (name: string, { lsn, timeline }: { readonly lsn: Lsn; readonly timeline: number }): string =>
  `WAL of ${name} was received up to ${formatLsn(lsn)} of timeline ${timeline}`;

function ahead(
  { server: name, postgres }: ReceiverSettings,
  received: { readonly lsn: Lsn; readonly timeline: number },
  server: StreamingServer,
  remedy: string,
): PostgresError {
  const message = `${receivedUpTo(name, received)}, but the server has only written up to ${formatLsn(server.lsn)}`;
  const lagging = 'it is a standby that lags behind: it has to catch up first';
  if (server.inRecovery === true) return new PostgresError('other', message, { hint: lagging });
  const rightServer = `make sure that ${streamingOption(postgres)} leads to the right server`;
  const lost = `if it lost WAL (restored from a snapshot), ${remedy}`;
  return new PostgresError('timeline-diverged', message, {
    hint: server.inRecovery === false ? `${rightServer}; ${lost}` : `either ${lagging}; or ${rightServer}; ${lost}`,
  });
}

/**
 * The end of what the partial file holds, where the server, on the same
 * timeline, has not written that much; else null. pg_receivewal would write
 * over it. To a standby that lags behind this is no loss: it will send the same.
 */
export async function receivedAhead(
  settings: ReceiverSettings,
  start: StreamingStart,
  server: StreamingServer,
  signal?: AbortSignal,
): Promise<Lsn | null> {
  const { file } = start;
  if (!file.partial || file.compressed || start.timeline !== server.timeline) return null;
  const content = await endOfContent(join(settings.streamingDirectory, file.entry), server.segmentSize);
  // Records are aligned to 8 bytes, and may end with zeros.
  const lsn = start.lsn + ((BigInt(content) + 7n) & ~7n);
  if (content === 0 || lsn <= server.lsn) return null;
  return (server.inRecovery ?? (await askRecovery(settings, signal))) === true ? null : lsn;
}

/** Before PostgreSQL 14 only a query tells; null when it can't be asked. */
async function askRecovery(settings: ReceiverSettings, signal: AbortSignal | undefined): Promise<boolean | null> {
  const { walConninfo } = settings.postgres;
  if (walConninfo === null) return null;
  try {
    await using connection = await connectForStatus(settings, walConninfo, signal);
    const [row] = await connection.query('select pg_catalog.pg_is_in_recovery() as recovering');
    return row?.['recovering'] === 't';
  } catch (error) {
    if (error instanceof PostgresError) return null;
    throw error;
  }
}
