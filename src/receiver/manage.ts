import { setTimeout as delay } from 'node:timers/promises';
import { readIdentity } from '../archiver/identity.ts';
import { acquireLock, hasOpen, lockOwner } from '../durable/lock-file.ts';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import type { Connection } from '../postgres/connection.ts';
import { PostgresError } from '../postgres/failure.ts';
import { createPhysicalSlot, describeHolder, dropSlot as dropReplicationSlot } from '../postgres/replication-slot.ts';
import { checkIdentity } from './preflight.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { resetStreaming } from './reset.ts';
import { DUPLICATE_OBJECT, findHolder } from './slot.ts';
import { askStreamingServer, connectForStreaming, explained, streamingOption } from './streaming-server.ts';

// What a person does with a receiver, beside running it. Each resolves to lines that say what was done, in Barman's
// words where scripts may look for them.

/** `receive-wal --create-slot`. */
export async function createSlot(
  settings: ReceiverSettings,
  options: { readonly ifNotExists: boolean },
): Promise<string> {
  const name = slotName(settings, 'create');
  await using connection = await connectToOwn(settings);
  const lines = [`Creating physical replication slot '${name}' on server '${settings.server}'`];
  try {
    await createPhysicalSlot(connection, name);
  } catch (error) {
    if (!(error instanceof PostgresError) || error.sqlState !== DUPLICATE_OBJECT) {
      throw explained(error, settings, streamingOption(settings.postgres));
    }
    if (options.ifNotExists) return `Replication slot '${name}' already exists`;
    throw new PostgresError('other', `Replication slot '${name}' already exists`, {
      cause: error,
      sqlState: error.sqlState,
      hint: 'that is fine for receive-wal; to a script: --if-not-exists',
    });
  }
  return [...lines, `Replication slot '${name}' created`].join('\n');
}

/** `receive-wal --drop-slot`. */
export async function dropSlot(settings: ReceiverSettings): Promise<string> {
  const name = slotName(settings, 'drop');
  const { server } = settings;
  await using connection = await connectToOwn(settings);
  try {
    await dropReplicationSlot(connection, name);
  } catch (error) {
    if (!(error instanceof PostgresError)) throw error;
    const { failure, sqlState } = error;
    if (failure === 'slot-missing') {
      throw new PostgresError('slot-missing', `Replication slot '${name}' does not exist`, {
        cause: error,
        sqlState,
        hint: `see slot_name of [${server}]`,
      });
    }
    if (failure === 'slot-active') {
      throw await whyNotDropped(settings, name, error);
    }
    throw explained(error, settings, streamingOption(settings.postgres));
  }
  return [
    `Dropping physical replication slot '${name}' on server '${server}'`,
    `Replication slot '${name}' dropped`,
  ].join('\n');
}

/** Names the process that has the slot, where that is not our own receiver. */
async function whyNotDropped(settings: ReceiverSettings, name: string, error: PostgresError): Promise<PostgresError> {
  const { server, postgres } = settings;
  const what = `Cannot drop replication slot '${name}' on server '${server}' because it is in use`;
  const details = { cause: error, sqlState: error.sqlState };
  const own = `walwarden receive-wal --stop ${server}`;
  const slot = await findHolder(settings, name);
  if (slot === null || slot.applicationName === postgres.streamingName) {
    return new PostgresError('slot-active', what, { ...details, hint: `stop the receiver first: ${own}` });
  }
  return new PostgresError('slot-active', `${what} by ${describeHolder(slot)}`, {
    ...details,
    hint:
      (slot.applicationName ?? null) === null
        ? `stop that first (our own receiver: ${own})`
        : `that is not our receiver: stop it first, or set slot_name of [${server}] to a slot of its own`,
  });
}

/** Throws `other-cluster` for a server that is not the archive's. An archive without an identity is given none here. */
async function connectToOwn(settings: ReceiverSettings): Promise<Connection> {
  const connection = await connectForStreaming(settings);
  try {
    if ((await readIdentity(settings.identity.path)) !== null) {
      await checkIdentity(settings, await askStreamingServer(connection, settings));
    }
    return connection;
  } catch (error) {
    await connection[Symbol.asyncDispose]();
    throw error;
  }
}

function slotName({ server, postgres }: ReceiverSettings, verb: 'create' | 'drop'): string {
  if (postgres.slotName !== null) return postgres.slotName;
  throw new WalwardenError(
    'config',
    `Unable to ${verb} a physical replication slot: slot_name configuration option required`,
    { hint: `set slot_name of [${server}]` },
  );
}

/** A receiver has 10 s to end pg_receivewal before it kills it. */
const STOP_MS = 15_000;
const POLL_MS = 100;

/** `receive-wal --stop`: SIGINT to the pid in the lock, and waits until it is gone. A Barman's receive-wal is stopped as well. */
export async function stopReceiver(settings: Pick<ReceiverSettings, 'server' | 'lockPath'>): Promise<string> {
  const { server, lockPath } = settings;
  const pid = await lockOwner(lockPath);
  if (pid === null) {
    throw new WalwardenError('receiver', `Termination of receive-wal failed: no such process for server ${server}`, {
      hint: 'receive-wal does not run, there is nothing to stop',
    });
  }
  const where = `process ${pid}, which ${lockPath} names`;
  if (pid === 0 || !(await holds(pid, lockPath))) {
    throw new WalwardenError('receiver', `${where}, is not the one that holds it`, {
      hint: 'it runs in another container or on another machine, or has just begun: stop it there, or try again',
    });
  }
  try {
    process.kill(pid, 'SIGINT');
  } catch (cause) {
    // It has just ended.
    if (errnoOf(cause) !== 'ESRCH') throw cantSignal(pid, cause);
  }
  for (const deadline = Date.now() + STOP_MS; Date.now() < deadline;) {
    if ((await lockOwner(lockPath)) !== pid) return `Stopped process receive-wal(${pid})`;
    await delay(POLL_MS);
  }
  throw new WalwardenError(
    'receiver',
    `Cannot terminate process receive-wal(${pid}): it goes on ${STOP_MS / 1000} s after SIGINT`,
    {
      hint: `see what it does (its log); as a last resort: kill -KILL ${pid}, which loses nothing`,
    },
  );
}

/** A pid may be somebody else's: its owner has not written its own into the lock yet, or counts in another pid namespace. */
async function holds(pid: number, lockPath: string): Promise<boolean> {
  try {
    return await hasOpen(pid, lockPath);
  } catch (cause) {
    throw cantSignal(pid, cause);
  }
}

function cantSignal(pid: number, cause: unknown): WalwardenError {
  return new WalwardenError('receiver', `Cannot terminate process receive-wal(${pid}): ${messageOf(cause)}`, {
    cause,
    hint: 'run this as the user that receive-wal runs as',
  });
}

/** Somebody may be looking whether a receiver runs, which takes the lock for a moment. */
const LOCK_WAIT_MS = 1_000;

/** `receive-wal --reset`: the streaming directory begins again where the slot (or the server) is. Takes the receive-wal lock. */
export async function resetReceiver(settings: ReceiverSettings): Promise<string> {
  const { server, lockPath } = settings;
  let lock;
  try {
    lock = await acquireLock(lockPath, { waitMs: LOCK_WAIT_MS });
  } catch (cause) {
    if (!isErrorCode(cause, 'locked')) throw cause;
    const message = `Unable to reset the status of receive-wal for server ${server}. Process is still running`;
    throw new WalwardenError('locked', message, {
      cause,
      hint: `stop it first: walwarden receive-wal --stop ${server}`,
    });
  }
  await using _lock = lock;
  return await resetStreaming(settings);
}
