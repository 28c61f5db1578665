import { Command, CommanderError, Option } from 'commander';
import { setMaxListeners } from 'node:events';
import { logLevel, wholeNumber } from './command-line/arguments.ts';
import { addCatalogue } from './command-line/catalogue.ts';
import { addErrors } from './command-line/errors.ts';
import type { Execute, Execution } from './command-line/execution.ts';
import { addGetWal } from './command-line/get-wal.ts';
import { addReceiveWal, addTerminateProcess } from './command-line/receive-wal.ts';
import { addRecover } from './command-line/recover.ts';
import type { CommandContext, Report } from './commands/command.ts';
import type { ReplicationStatusOptions } from './commands/replication-status.ts';
import { exitStatusForDoubt } from './commands/doubt.ts';
import { formatPlace } from './config/config.ts';
import { loadConfig } from './config/load.ts';
import { errnoOf, messageOf, WalwardenError, type ErrorCode } from './errors.ts';
import { foreignHome } from './home.ts';
import { endSurely } from './last-resort.ts';
import { createLogger, type Logger } from './logging.ts';
import { ownVersion } from './version.ts';

interface GlobalOptions {
  readonly config?: string;
  readonly quiet?: boolean;
  readonly debug?: boolean;
  readonly format: 'console' | 'json';
  readonly logLevel?: string;
  readonly detached?: boolean;
}

/** Seconds that the process may take to end once it has nothing more to do. */
const SURELY_S = 3;

/** Errors are 1, below 126 as PostgreSQL wants it of archive_command, but for these. */
const EXIT_STATUS: Partial<Record<ErrorCode, number>> = { usage: 2, 'invalid-wal-name': 3 };

/** Runs one command line; resolves to the exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  let status = 0;
  const execute = async (program: Command, execution: Execution): Promise<void> => {
    status = await executeCommand(program.optsWithGlobals<GlobalOptions>(), execution);
  };
  try {
    await buildProgram(execute, wantsJson(argv)).parseAsync(argv);
    return status;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return 0;
    return argv.includes('get-wal') ? exitStatusForDoubt() : 2;
  }
}

/** Commander tells of a mistake on the command line before it has understood the rest of it. */
function wantsJson(argv: readonly string[]): boolean {
  return argv.some((word, index) => {
    const value =
      /^(?:--format=|-f=?)(.+)$/.exec(word)?.[1] ?? (/^(?:-f|--format)$/.test(word) ? argv[index + 1] : null);
    return value === 'json';
  });
}

async function executeCommand(globals: GlobalOptions, execution: Execution): Promise<number> {
  const detached = globals.detached === true;
  /** Where errors are logged; on stderr they are said anyway. */
  let errorLog: Logger | null = null;
  try {
    const loaded = await loadConfig(globals.config);
    const { barman_home, log_file, log_level } = loaded.global.options;
    const foreign = await foreignHome(barman_home);
    if (foreign !== null && execution.home === 'writes') throw foreign;
    const config = foreign === null ? loaded : { ...loaded, readOnly: true };
    // A log that root makes is root's.
    const file =
      foreign !== null ? null : detached ? (await import('./commands/detached.ts')).detachedLogFile(config) : log_file;
    const terse = execution.calledByPostgres === true || execution.calledByCron === true;
    const usual = terse && file === null ? 'warn' : log_level;
    const asked = globals.logLevel ?? (globals.debug === true ? 'DEBUG' : null);
    const level = asked ?? usual;
    const logger = createLogger({ file, level });
    if (file !== null && execution.calledByPostgres !== true) errorLog = logger;
    for (const warning of config.warnings) {
      // These come every minute, or with every segment; list-servers and check tell it too.
      const log = terse || detached ? logger.debug : logger.warn;
      log.call(logger, `${formatPlace(warning)}: ${warning.message}`);
    }
    const report = await execution.run({
      config,
      logger,
      say: (text) => say(globals, text),
      logsToFile: file !== null,
      logLevel: asked,
      detached,
      ...drainOnSignal(execution),
    });
    if (errorLog !== null) for (const error of report.errors ?? []) logError(error, errorLog);
    print(globals, report);
    if (report.abandons === true) {
      endSurely(SURELY_S);
      process.exit(report.exitCode ?? 0);
    }
    return report.exitCode ?? 0;
  } catch (error) {
    if (errorLog !== null) logError(error, errorLog);
    if (execution.report !== undefined) {
      const report = await execution.report(error);
      print(globals, report);
      return report.exitCode ?? 1;
    }
    // Nobody reads the stderr of a process in the background.
    if (!detached || errorLog === null) reportError(error, globals);
    if (execution.exitStatus !== undefined) return execution.exitStatus(error);
    return error instanceof WalwardenError ? (EXIT_STATUS[error.code] ?? 1) : 1;
  }
}

/** The first signal asks to finish what is in hand, the second ends us at once: a crash is safe too. */
function drainOnSignal(execution: Execution): Pick<CommandContext, 'drain' | 'kill'> {
  const drain = new AbortController();
  const kill = new AbortController();
  // Everything that waits listens to them, for every server.
  setMaxListeners(0, drain.signal, kill.signal);
  if (execution.calledByPostgres !== true) {
    for (const [signal, number] of [
      ['SIGINT', 2],
      ['SIGTERM', 15],
    ] as const) {
      process.on(signal, () => {
        if (drain.signal.aborted) {
          kill.abort();
          endSurely(SURELY_S);
          process.exit(128 + number);
        }
        drain.abort();
      });
    }
  }
  return { drain: drain.signal, kill: kill.signal };
}

function print(globals: GlobalOptions, report: Report): void {
  if (globals.format === 'json') {
    if (report.json !== undefined) write(`${JSON.stringify(report.json, null, 2)}\n`);
  } else {
    say(globals, report.text);
    for (const error of report.errors ?? []) reportError(error, globals);
  }
}

/** Text for people. */
function say(globals: GlobalOptions, text: string): void {
  if (globals.format === 'console' && globals.quiet !== true && text !== '') write(text);
}

function write(text: string): void {
  // A reader that has seen enough (`| head`) is no failure of ours.
  if (process.stdout.listenerCount('error') === 0) {
    process.stdout.on('error', (error) => {
      if (errnoOf(error) !== 'EPIPE') throw error;
    });
  }
  process.stdout.write(text);
}

function logError(error: unknown, logger: Logger): void {
  if (!(error instanceof WalwardenError)) return logger.error({ err: error, code: 'internal' }, messageOf(error));
  const { code, message, hint, repeated } = error;
  logger[repeated ? 'debug' : 'error']({ code, ...(hint === undefined ? {} : { hint }) }, message);
}

function reportError(error: unknown, globals: GlobalOptions): void {
  // Nobody who reads what we say is no failure of its own.
  if (process.stderr.listenerCount('error') === 0) process.stderr.on('error', () => {});
  const known = error instanceof WalwardenError ? error : new WalwardenError('internal', messageOf(error));
  if (globals.format === 'json') {
    process.stderr.write(errorLine(known));
    return;
  }
  process.stderr.write(`ERROR: ${known.message}\n`);
  if (known.hint !== undefined) process.stderr.write(`HINT: ${known.hint}\n`);
  if (known.code === 'internal' && error instanceof Error && globals.debug === true) {
    process.stderr.write(`${error.stack ?? ''}\n`);
  }
}

function errorLine({ code, message, hint }: WalwardenError): string {
  return `${JSON.stringify({ error: { code, message, hint: hint ?? null } })}\n`;
}

function buildProgram(execute: Execute, json: boolean): Command {
  const program = new Command('walwarden')
    .description('Archives the WAL of PostgreSQL servers, checked and durable, in the formats of Barman.')
    .version(`walwarden ${ownVersion()}`, '-v, --version', 'print the version and exit')
    .option(
      '-c, --config <file>',
      'configuration file (default: ~/.walwarden.conf, /etc/walwarden.conf, …, Barman’s own)',
    )
    .option('-q, --quiet', 'print nothing but errors')
    .option('-d, --debug', 'log everything')
    .addOption(new Option('-f, --format <format>', 'how to print').choices(['console', 'json']).default('console'))
    .option('--log-level <level>', 'least important messages to log: DEBUG, INFO, WARNING, ERROR, CRITICAL', logLevel)
    .addOption(new Option('--color, --colour <when>').hideHelp())
    // How cron starts us.
    .addOption(new Option('--detached').hideHelp())
    .helpOption('-h, --help', 'print this help and exit')
    .helpCommand(false)
    .configureOutput({
      outputError: (text, writeText) =>
        writeText(json ? errorLine(new WalwardenError('usage', text.replace(/^error: /, '').trim())) : text),
    })
    .exitOverride();

  const command = (spec: string, description: string): Command =>
    program.command(spec).description(description).helpOption('-h, --help', 'print this help and exit');

  command('archive-wal', 'archive what waits in incoming: one pass, then exit (1 when a file could not be archived)')
    .argument('<server...>', 'names of servers, or all')
    .action(async (names: string[], _options, self: Command) =>
      execute(self, {
        home: 'writes',
        run: async (context) => (await import('./commands/archive-wal.ts')).archiveWal(context, names),
      }),
    );

  command('put-wal', 'take WAL files into incoming, from a tar stream with SHA256SUMS or MD5SUMS on stdin')
    .option('-t, --test', 'only tell whether files would be taken')
    .argument('<server>', 'name of a server')
    .action(async (name: string, options: { test?: boolean }, self: Command) =>
      execute(self, {
        home: options.test === true ? 'reads' : 'writes',
        calledByPostgres: true,
        run: async (context) => (await import('./commands/put-wal.ts')).putWal(context, name, options),
      }),
    );

  addGetWal(command, execute);

  addCatalogue(command, execute);

  command('check', 'everything that has to work, one line each, with the cause of what does not (exit 1)')
    .option('--nagios', 'one line for a monitoring system, with performance data; exit status 0, 1 for a warning, or 2')
    .argument('<server...>', 'names of servers, or all')
    .action(async (names: string[], options: { nagios?: boolean }, self: Command) =>
      execute(self, {
        home: 'reads',
        run: async (context) => (await import('./commands/check.ts')).check(context, names, options),
        ...(options.nagios === true
          ? { report: async (error) => (await import('./commands/check.ts')).nagiosFailure(error) }
          : {}),
      }),
    );

  command('status', 'what is known of a server right now: PostgreSQL, its archivers, the archive')
    .argument('<server...>', 'names of servers, or all')
    .action(async (names: string[], _options, self: Command) =>
      execute(self, {
        home: 'reads',
        run: async (context) => (await import('./commands/status.ts')).status(context, names),
      }),
    );

  command(
    'daemon',
    'archive what arrives, receive what is streamed, and serve HTTP, for all active servers, until stopped',
  ).action(async (_options, self: Command) =>
    execute(self, { home: 'writes', run: async (context) => (await import('./commands/daemon.ts')).daemon(context) }),
  );

  command('cron', 'start archive-wal and receive-wal in the background for every active server, and return at once')
    .option('--keep-descriptors', 'let them write to our stdout and stderr (a container’s log)')
    .action(async (options: { keepDescriptors?: boolean }, self: Command) =>
      execute(self, {
        home: 'writes',
        calledByCron: true,
        run: async (context) => (await import('./commands/cron.ts')).cron(context, options),
      }),
    );

  addReceiveWal(command, execute);
  addTerminateProcess(command, execute);

  command('switch-wal', 'close the current segment of a server, so that it can be archived')
    .alias('switch-xlog')
    .option('--force', 'a checkpoint before, so that there is something to close')
    .option('--archive', 'archive, until the closed segment is in the archive')
    .option('--archive-timeout <seconds>', 'how long to wait with --archive; 0 for ever', wholeNumber, 30)
    .argument('<server...>', 'names of servers, or all')
    .action(
      async (names: string[], options: { force?: boolean; archive?: boolean; archiveTimeout: number }, self: Command) =>
        execute(self, {
          home: 'writes',
          run: async (context) => (await import('./commands/switch-wal.ts')).switchWalCommand(context, names, options),
        }),
    );

  command('replication-status', 'the clients that stream from a server, our own first, and how far behind they are')
    .option('--minimal', 'one line a client')
    .addOption(
      new Option('--target <clients>', 'which clients').choices(['all', 'hot-standby', 'wal-streamer']).default('all'),
    )
    .addOption(
      new Option('--source <host>', 'whom to ask: the server of conninfo, or of wal_conninfo')
        .choices(['backup-host', 'wal-host'])
        .default('backup-host'),
    )
    .argument('<server...>', 'names of servers, or all')
    .action(async (names: string[], options: ReplicationStatusOptions, self: Command) =>
      execute(self, {
        home: 'reads',
        run: async (context) =>
          (await import('./commands/replication-status.ts')).replicationStatus(context, names, options),
      }),
    );

  command('list-servers', 'the configured servers')
    .alias('list-server')
    .action(async (_options, self: Command) =>
      execute(self, {
        home: 'reads',
        run: async ({ config }) => (await import('./commands/list-servers.ts')).listServers(config),
      }),
    );

  command('show-servers', 'the configuration in effect, and where each value comes from')
    .alias('show-server')
    .argument('<server...>', 'names of servers, or all')
    .action(async (names: string[], _options, self: Command) =>
      execute(self, {
        home: 'reads',
        run: async ({ config }) => (await import('./commands/show-servers.ts')).showServers(config, names),
      }),
    );

  addErrors(program, execute);
  addRecover(command);
  return program;
}
