import { spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { ErrorsDirectory } from '../../src/archiver/errors-directory.ts';
import { SystemIdentity } from '../../src/archiver/identity.ts';
import type { PostgresSettings } from '../../src/postgres/remote-status.ts';
import { prepareToStream, type ReadyToStream } from '../../src/receiver/preflight.ts';
import type { ReceiverSettings } from '../../src/receiver/receiver-settings.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { withHome, type TestHome } from '../support/temp-dir.ts';

export interface Logged {
  readonly level: number;
  readonly msg: string;
}

export interface ReceiverOptions extends Partial<Omit<ReceiverSettings, 'postgres'>> {
  readonly postgres?: Partial<PostgresSettings>;
}

/** What the receiver of one server works with, and nothing of it running. */
export interface TestReceiver extends TestHome {
  readonly settings: ReceiverSettings;
  readonly logged: readonly Logged[];
  /** The same with other values. */
  readonly with: (options: ReceiverOptions) => ReceiverSettings;
}

/** A receiver of a PostgreSQL, with a slot `walwarden` that is made automatically. */
export async function withReceiver<T>(
  pg: TestPostgres,
  options: ReceiverOptions,
  body: (receiver: TestReceiver) => Promise<T>,
): Promise<T> {
  return withHome(async (home) => {
    const logged: Logged[] = [];
    const logger = pino({ level: 'debug', base: null }, { write: (line) => logged.push(JSON.parse(line)) });
    const backup = join(home.home, home.server);
    const base: ReceiverSettings = {
      server: home.server,
      postgres: {
        conninfo: pg.conninfo,
        streamingConninfo: pg.conninfo,
        walConninfo: pg.conninfo,
        walStreamingConninfo: pg.conninfo,
        slotName: 'walwarden',
        streamingName: 'barman_receive_wal',
      },
      createSlot: 'auto',
      pathPrefix: [pg.programs.bin],
      streamingDirectory: home.streaming,
      claims: join(backup, '.claimed', 'streaming'),
      lockPath: join(home.home, `.${home.server}-receive-wal.lock`),
      reportPath: join(backup, '.receive-wal.json'),
      errors: new ErrorsDirectory(home.errors, join(backup, '.errors')),
      identity: new SystemIdentity(
        join(backup, 'identity.json'),
        { archived: async () => null, connected: async () => null, beforeRecording: async () => {} },
        logger,
      ),
      minFree: null,
      stallTimeoutMs: 60_000,
      logger,
    };
    const vary = (from: ReceiverSettings, more: ReceiverOptions): ReceiverSettings => ({
      ...from,
      ...more,
      postgres: { ...from.postgres, ...more.postgres },
    });
    const settings = vary(base, options);
    return body({ ...home, settings, logged, with: (more) => vary(settings, more) });
  });
}

/**
 * Runs pg_receivewal, as the preflight says it can be, until `enough`; without
 * our supervisor. Fails when it ends before.
 */
export async function streamUntil(
  settings: ReceiverSettings,
  what: string,
  enough: () => boolean | Promise<boolean>,
): Promise<ReadyToStream> {
  const ready = await prepareToStream(settings);
  const { walStreamingConninfo, slotName, streamingName } = settings.postgres;
  const child = spawn(
    ready.program.path,
    [
      '--no-loop',
      '--no-password',
      '--verbose',
      `--dbname=${walStreamingConninfo} application_name=${streamingName}`,
      `--directory=${settings.streamingDirectory}`,
      ...(slotName === null ? [] : [`--slot=${slotName}`]),
      ...(ready.synchronous ? ['--synchronous'] : []),
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  try {
    await until(what, async () => {
      if (child.exitCode !== null) throw new Error(`pg_receivewal ended: ${said}`);
      return enough();
    });
  } finally {
    child.kill('SIGINT');
    await ended;
  }
  return ready;
}

/** {@link streamUntil} a file is there, under its complete name. */
export function streamUntilFile(settings: ReceiverSettings, name: string): Promise<ReadyToStream> {
  return streamUntil(settings, `${name} to be received`, async () =>
    (await readdir(settings.streamingDirectory)).includes(name),
  );
}
