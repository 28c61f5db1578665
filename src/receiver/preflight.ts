import { readIdentity } from '../archiver/identity.ts';
import type { Lsn } from '../wal/lsn.ts';
import { hintFor, PostgresError } from '../postgres/failure.ts';
import { isSynchronousName } from '../postgres/synchronous-standby-names.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import type { VerifiedSegments } from './archived-run.ts';
import { beginBehindArchive, beginReceiving } from './first-position.ts';
import { fetchLostHistories, provideHistoryFiles, removeTornHistories } from './history-files.ts';
import { settleKept } from './kept-partial.ts';
import { repairPartials } from './partial-file.ts';
import { findPgReceivewal, type PgReceivewal } from './pg-receivewal.ts';
import type { ReceiverCause } from './receiver-report.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { checkPosition } from './received-position.ts';
import { settleStart } from './next-start.ts';
import { prepareSlot } from './slot.ts';
import { checkStreamingDirectory, findStreamingStart, listStreamingFiles } from './streaming-directory.ts';
import { askStreamingServer, connectForStreaming, streamingOption, type StreamingServer } from './streaming-server.ts';

/** What pg_receivewal is started with, once it is known that it can stream. */
export interface ReadyToStream {
  readonly program: PgReceivewal;
  readonly serverVersion: number;
  readonly systemIdentifier: bigint;
  /** Bytes. */
  readonly segmentSize: number;
  /** `--synchronous`: we are listed in synchronous_standby_names. */
  readonly synchronous: boolean;
  /** Without `--slot` until so much is received: the slot reserves WAL from there on only, and would be moved back. */
  readonly withoutSlotUntil?: Lsn;
}

/**
 * Finds out whether WAL can be received, and makes it possible where it is ours
 * to do so: a missing slot with `create_slot = auto`, a partial file of a wrong
 * size, a place to begin at. Throws what stands in the way; {@link causeOf}
 * names it. The caller holds the receive-wal lock, and pg_receivewal does not
 * run. No connection is left open: every WAL sender counts. `verified` is for
 * the next try to begin with.
 */
export async function prepareToStream(
  settings: ReceiverSettings,
  signal?: AbortSignal,
  verified?: VerifiedSegments,
): Promise<ReadyToStream> {
  await checkStreamingDirectory(settings.streamingDirectory);
  const program = await findPgReceivewal(settings.pathPrefix, signal);
  signal?.throwIfAborted();
  await using connection = await connectForStreaming(settings, signal);
  const server = await askStreamingServer(connection, settings);
  signal?.throwIfAborted();
  checkVersion(settings, program, server);
  await checkIdentity(settings, server);
  let files = await listStreamingFiles(settings.streamingDirectory, server.segmentSize);
  let start = findStreamingStart(files, server.segmentSize);
  if (start === null) await settleKept(settings, null);
  else await checkPosition(settings, start, server, signal);
  const slot = await prepareSlot(settings, connection, signal);
  const question = { settings, connection, server, slot, verified, signal };
  if (start === null) {
    if ((await beginBehindArchive(question)) === null) await beginReceiving(settings, slot, server, signal);
    files = await listStreamingFiles(settings.streamingDirectory, server.segmentSize);
    start = findStreamingStart(files, server.segmentSize);
  }
  const next = start === null ? null : await settleStart(question, start);
  await repairPartials(settings, files, server.segmentSize);
  await removeTornHistories(settings);
  await provideHistoryFiles(settings, connection, next?.timeline ?? server.timeline, server);
  await fetchLostHistories(settings, connection, server.timeline);
  return {
    program,
    serverVersion: server.version,
    systemIdentifier: server.systemIdentifier,
    segmentSize: server.segmentSize,
    synchronous: isSynchronous(settings, server),
    ...(next === null || next.until === null ? {} : { withoutSlotUntil: next.until }),
  };
}

function checkVersion({ server: name }: ReceiverSettings, program: PgReceivewal, server: StreamingServer): void {
  const major = Math.trunc(server.version / 10_000);
  if (program.major >= major) return;
  throw new PostgresError(
    'server-newer',
    `${program.path} is version ${program.version}, and can't receive from PostgreSQL ${major}, which ${name} is`,
    {
      hint:
        `install pg_receivewal ${major} or later (Debian: postgresql-client-${major}) and set path_prefix to its ` +
        `directory (/usr/lib/postgresql/${major}/bin)`,
    },
  );
}

/** Read from the file each time: somebody may have corrected it since the last try. */
export async function checkIdentity(settings: ReceiverSettings, server: StreamingServer): Promise<void> {
  const { identity, postgres } = settings;
  const found = String(server.systemIdentifier);
  const recorded = await readIdentity(identity.path);
  if (recorded === null) {
    // An archive without the file says itself to whom it belongs; a new one is this server's from now on.
    const refused = await identity.accept(server.systemIdentifier, Math.trunc(server.version / 10_000));
    if (refused === null) return;
  } else if (recorded.systemid === found) return;
  const own = recorded ?? (await identity.current());
  throw new PostgresError(
    'other-cluster',
    `${streamingOption(postgres)} of ${settings.server} leads to another cluster: its system identifier is ${found}, ` +
      `and this archive belongs to ${own?.systemid} (${identity.path})`,
    {
      hint:
        `correct ${streamingOption(postgres)}, or make a new cluster a server of its own; after pg_upgrade, once the old ` +
        `WAL is archived: walwarden errors resolve --accept-identity ${settings.server}, then receive-wal --reset ${settings.server}`,
    },
  );
}

function isSynchronous({ server: name, postgres, logger }: ReceiverSettings, server: StreamingServer): boolean {
  try {
    return isSynchronousName(server.synchronousStandbyNames, postgres.streamingName);
  } catch (error) {
    logger.warn(
      { server: name },
      `can't tell whether we are a synchronous standby, so WAL is received without --synchronous: ${messageOf(error)}`,
    );
    return false;
  }
}

const FULL = new Set(['ENOSPC', 'EDQUOT']);

/** What stands in the way, for the report and the log. */
export function causeOf(error: unknown): ReceiverCause {
  const message = messageOf(error);
  const hint = error instanceof WalwardenError ? error.hint : undefined;
  if (error instanceof PostgresError) {
    const { failure } = error;
    return { failure, message, hint: hint ?? hintFor(failure, { option: 'streaming_conninfo' }) };
  }
  if (error instanceof WalwardenError && error.code === 'program') {
    return {
      failure: 'program-missing',
      message,
      hint: hint ?? 'install pg_receivewal, or set path_prefix to its directory',
    };
  }
  if (hasErrno(error, (errno) => FULL.has(errno))) {
    return { failure: 'low-disk', message, hint: hint ?? 'free space on the file system of streaming_wals_directory' };
  }
  if ((error instanceof WalwardenError && error.code === 'storage') || hasErrno(error, () => true)) {
    return { failure: 'directory', message, hint: hint ?? 'see streaming_wals_directory and its owner' };
  }
  return { failure: 'other', message, hint: hint ?? 'see the log' };
}

/** Whether a system error, or one that it caused, is of this kind. */
function hasErrno(error: unknown, isThis: (errno: string) => boolean): boolean {
  const errno = errnoOf(error);
  if (errno !== undefined) return isThis(errno);
  return error instanceof Error && error.cause !== undefined && hasErrno(error.cause, isThis);
}
