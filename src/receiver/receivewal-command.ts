import { conninfoForProgram, parseConninfo } from '../postgres/conninfo.ts';
import type { ReadyToStream } from './preflight.ts';
import { receivewalEnvironment } from './pg-receivewal.ts';
import type { ReceiverSettings } from './receiver-settings.ts';
import { statusIntervalS } from './stream-watch.ts';

/** How pg_receivewal is run. */
export interface ReceivewalCommand {
  readonly program: string;
  readonly args: readonly string[];
  /** With the password, which other users could see among the arguments. */
  readonly env: NodeJS.ProcessEnv;
}

/**
 * pg_receivewal tells the server its position every 10 s; when so much later
 * the kernel has no answer, nobody is there any more. Without this a network
 * that was cut in silence would be noticed after a quarter of an hour.
 */
const TCP_USER_TIMEOUT_MS = 60_000;

/** libpq has the parameter since this release. */
const TCP_USER_TIMEOUT_SINCE = 12;

/** The command line of pg_receivewal. Throws `misconfigured` for a conninfo that it can't be given. */
export function receivewalCommand(
  settings: Pick<ReceiverSettings, 'streamingDirectory' | 'postgres' | 'stallTimeoutMs'>,
  { program, synchronous, withoutSlotUntil }: Pick<ReadyToStream, 'program' | 'synchronous' | 'withoutSlotUntil'>,
  ours: NodeJS.ProcessEnv = process.env,
): ReceivewalCommand {
  const { streamingDirectory, postgres } = settings;
  const text = postgres.walStreamingConninfo ?? '';
  const { tcp_user_timeout, service } = parseConninfo(text);
  // A service may say it, too.
  const isOpen = tcp_user_timeout === undefined && service === undefined && program.major >= TCP_USER_TIMEOUT_SINCE;
  const { conninfo, env } = conninfoForProgram(text, {
    application_name: postgres.streamingName,
    // It adds its own.
    replication: null,
    ...(isOpen ? { tcp_user_timeout: String(TCP_USER_TIMEOUT_MS) } : {}),
  });
  return {
    program: program.path,
    args: [
      '--no-loop',
      '--no-password',
      '--verbose',
      `--status-interval=${statusIntervalS(settings)}`,
      `--directory=${streamingDirectory}`,
      ...(postgres.slotName === null || withoutSlotUntil !== undefined ? [] : [`--slot=${postgres.slotName}`]),
      ...(synchronous ? ['--synchronous'] : []),
      `--dbname=${conninfo}`,
    ],
    env: { ...receivewalEnvironment(ours), ...env },
  };
}
