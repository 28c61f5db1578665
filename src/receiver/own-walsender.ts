import { setTimeout as delay } from 'node:timers/promises';
import { messageOf, WalwardenError } from '../errors.ts';
import type { Connection } from '../postgres/connection.ts';
import { PostgresError } from '../postgres/failure.ts';
import { parseLsn, type Lsn } from '../wal/lsn.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { connectForStatus, statusOption } from './streaming-server.ts';

/** The process of the server that sends WAL to our pg_receivewal, as far as `wal_conninfo` tells. */
export interface OwnWalsender {
  /** Null where it can't be told from others, or is gone. */
  readonly pid: string | null;
  /** What pg_receivewal has told it last that it has written; null where we may not see it. */
  readonly written: Lsn | null;
  /** Up to where the server has flushed its WAL; null on a standby. */
  readonly flushed: Lsn | null;
}

// A slot has one user at a time; an application_name may have several. A role without pg_monitor sees no name.
const BY_SLOT = `
  select s.active_pid as pid, r.write_lsn
    from pg_catalog.pg_replication_slots s
    left join pg_catalog.pg_stat_replication r on r.pid = s.active_pid
   where s.slot_name = $2 and s.active and coalesce(r.application_name, $1) = $1`;
const BY_NAME = `select pid, write_lsn from pg_catalog.pg_stat_replication where application_name = $1`;

/** `withSlot`: pg_receivewal was started with the slot. Null when the server can't be asked. */
export async function findOwnWalsender(
  settings: ReceiverSettings,
  { withSlot }: { readonly withSlot: boolean },
  signal: AbortSignal,
): Promise<OwnWalsender | null> {
  const { walConninfo, slotName, streamingName } = settings.postgres;
  if (walConninfo === null) return null;
  const bySlot = withSlot && slotName !== null;
  try {
    await using connection = await connectForStatus(settings, walConninfo, signal);
    const rows = await connection.query(
      `select own.pid, own.write_lsn,
              case when pg_catalog.pg_is_in_recovery() then null else pg_catalog.pg_current_wal_flush_lsn() end as flushed
         from (select 1) as one left join (${bySlot ? BY_SLOT : BY_NAME}) as own on true`,
      bySlot ? [streamingName, slotName] : [streamingName],
    );
    const [first] = rows;
    const only = rows.length === 1 ? first : undefined;
    return {
      pid: only?.['pid'] ?? null,
      written: lsnOf(only?.['write_lsn']),
      flushed: lsnOf(first?.['flushed']),
    };
  } catch (error) {
    if (error instanceof WalwardenError) return null;
    throw error;
  }
}

function lsnOf(text: string | null | undefined): Lsn | null {
  return text === null || text === undefined ? null : parseLsn(text);
}

/** It ends as soon as it sees that its connection is closed. */
const GONE_MS = 5_000;
const POLL_MS = 200;

/**
 * Waits some seconds until the walsender of a pg_receivewal that has ended is
 * gone: until then it has the slot, and may be the synchronous standby that
 * commits wait for. Behind a proxy that still acknowledges it may not see for
 * long that nobody is there; with `end`, it is ended then, where we may do that.
 * The server may be away; never rejects for that.
 */
export async function awaitWalsenderGone(
  settings: ReceiverSettings,
  pid: string,
  options: { readonly end: boolean },
  signal: AbortSignal,
): Promise<void> {
  const { walConninfo } = settings.postgres;
  if (walConninfo === null) return;
  try {
    await using connection = await connectForStatus(settings, walConninfo, signal);
    if ((await isGone(connection, pid, signal)) || !options.end) return;
    await end(settings, connection, pid);
    await isGone(connection, pid, signal);
  } catch (error) {
    if (!(error instanceof WalwardenError) && !signal.aborted) throw error;
  }
}

async function isGone(connection: Connection, pid: string, signal: AbortSignal): Promise<boolean> {
  for (const deadline = performance.now() + GONE_MS; ; await delay(POLL_MS, undefined, { signal })) {
    const rows = await connection.query('select 1 from pg_catalog.pg_stat_replication where pid = $1', [pid]);
    if (rows.length === 0) return true;
    if (performance.now() > deadline) return false;
  }
}

/** Its number is that of the process which served the pg_receivewal that we have just ended, so no one else's. */
async function end({ server, postgres, logger }: ReceiverSettings, connection: Connection, pid: string): Promise<void> {
  try {
    await connection.query(
      `select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_replication where pid = $1`,
      [pid],
    );
    logger.warn(
      { server, walsender: pid },
      `process ${pid} of the server still served the pg_receivewal that hung, and was ended`,
    );
  } catch (error) {
    if (!(error instanceof PostgresError) || error.failure !== 'no-privilege') throw error;
    logger.warn(
      {
        server,
        walsender: pid,
        hint: `GRANT pg_signal_backend TO the user of ${statusOption(postgres)} of [${server}]`,
      },
      `process ${pid} of the server still serves the pg_receivewal that hung, until wal_sender_timeout is over, and we may not end it: ${messageOf(error)}`,
    );
  }
}
