import { findServer, type ServerConfig } from '../config/config.ts';
import { acquireLock, type HeldLock } from '../durable/lock-file.ts';
import { isErrorCode, WalwardenError } from '../errors.ts';
import { createSlot, dropSlot, resetReceiver, stopReceiver } from '../receiver/manage.ts';
import { superviseReceiver } from '../receiver/supervisor.ts';
import { openServer, type Server } from '../server.ts';
import { serverLock } from '../server-settings.ts';
import type { CommandContext, Report } from './command.ts';

export interface ReceiveWalOptions {
  readonly stop?: boolean;
  readonly reset?: boolean;
  readonly createSlot?: boolean;
  readonly ifNotExists?: boolean;
  readonly dropSlot?: boolean;
}

type Action = 'receive' | 'stop' | 'reset' | 'create-slot' | 'drop-slot';

/** `cron` looks whether a receiver runs, which takes its lock for a moment. */
const LOCK_WAIT_MS = 1_000;

/**
 * `receive-wal SERVER`: receives WAL until it is asked to stop, and then exits
 * 0; or does one of the things that a person does with a receiver.
 */
export async function receiveWal(context: CommandContext, name: string, options: ReceiveWalOptions): Promise<Report> {
  const server = findServer(context.config, name);
  const action = chosenAction(options);
  if (action === 'stop') {
    // Also when the configuration has become one that nothing can be started with.
    return done(name, action, await stop(context, name));
  }
  if (action === 'receive' || action === 'reset') checkStreams(server);
  if (action === 'receive' && !server.active) return done(name, action, `Skipping inactive server ${name}`);
  await using opened = openServer(context.config, server, context.logger, context);
  switch (action) {
    case 'receive':
      return done(name, action, await receive(context, opened));
    case 'reset':
      return done(name, action, await resetReceiver(opened.receiver));
    case 'create-slot':
      return done(name, action, await createSlot(opened.receiver, { ifNotExists: options.ifNotExists === true }));
    case 'drop-slot':
      return done(name, action, await dropSlot(opened.receiver));
  }
}

/** `terminate-process SERVER TASK`: Barman's other name for `receive-wal --stop`, the one process that it ends here. */
export async function terminateProcess(context: CommandContext, name: string, task: string): Promise<Report> {
  findServer(context.config, name);
  if (task !== 'receive-wal') {
    throw new WalwardenError(
      'usage',
      `terminate-process: can't terminate ${JSON.stringify(task)}: expected receive-wal`,
      {
        hint: 'receive-wal is the one process of a server that runs until it is asked to stop; archive-wal and cron end by themselves',
      },
    );
  }
  const message = await stop(context, name);
  return { text: `${message}\n`, json: { server: name, task, message } };
}

function stop({ config }: CommandContext, name: string): Promise<string> {
  return stopReceiver({ server: name, lockPath: serverLock(config, name, 'receive-wal') });
}

function chosenAction(options: ReceiveWalOptions): Action {
  const chosen: Action[] = [];
  if (options.stop === true) chosen.push('stop');
  if (options.reset === true) chosen.push('reset');
  if (options.createSlot === true) chosen.push('create-slot');
  if (options.dropSlot === true) chosen.push('drop-slot');
  if (chosen.length > 1) {
    throw new WalwardenError(
      'usage',
      `receive-wal: ${chosen.map((action) => `--${action}`).join(' and ')} don't go together`,
    );
  }
  const [action = 'receive'] = chosen;
  if (options.ifNotExists === true && action !== 'create-slot') {
    throw new WalwardenError('usage', 'receive-wal: --if-not-exists goes with --create-slot only');
  }
  return action;
}

/** Throws `config` when WAL can't be received from a server as it is configured. */
function checkStreams({ name, passive, disabled, options }: ServerConfig): void {
  // openServer tells that better.
  if (disabled) return;
  const refuse = (why: string, hint: string): never => {
    throw new WalwardenError('config', `Unable to start receive-wal process: ${why}`, { hint });
  };
  if (passive) {
    refuse(
      `server ${name} is passive (primary_ssh_command)`,
      'its WAL is received by its primary node: run receive-wal there',
    );
  }
  if (!options.streaming_archiver) {
    refuse(`streaming_archiver option set to 'off' for server ${name}`, `set streaming_archiver = on in [${name}]`);
  }
}

async function receive(context: CommandContext, server: Server): Promise<string> {
  await server.makeDirectories();
  let lock: HeldLock;
  try {
    lock = await acquireLock(server.receiver.lockPath, { waitMs: LOCK_WAIT_MS });
  } catch (error) {
    if (!isErrorCode(error, 'locked')) throw error;
    // Barman's words, and its exit status from 3.17 on: scripts and supervisors look for both.
    throw new WalwardenError('locked', `Another receive-wal process is already running for server ${server.name}.`, {
      cause: error,
      hint: `nothing is to be done; to end that one: walwarden receive-wal --stop ${server.name}`,
    });
  }
  await using _lock = lock;
  const { log_file: log } = context.config.global.options;
  context.say(`Starting receive-wal for server ${server.name}${log === null ? '' : `; it logs to ${log}`}\n`);
  await superviseReceiver(server.receiver, context);
  return '';
}

/** `receive` that ran and was stopped has nothing more to say. */
function done(server: string, action: Action, message: string): Report {
  return {
    text: message === '' ? '' : `${message}\n`,
    json: { server, action, message: message === '' ? null : message },
  };
}
