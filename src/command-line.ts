import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { readFileSync } from 'node:fs';
import type { CommandContext, Report } from './commands/command.ts';
import { exitStatusForDoubt } from './commands/doubt.ts';
import type { CompressionName } from './compression/codec.ts';
import { formatPlace } from './config/config.ts';
import { loadConfig } from './config/load.ts';
import { errnoOf, messageOf, WalwardenError, type ErrorCode } from './errors.ts';
import { createLogger, LOG_LEVELS } from './logging.ts';

interface GlobalOptions {
  readonly config?: string;
  readonly quiet?: boolean;
  readonly debug?: boolean;
  readonly format: 'console' | 'json';
  readonly logLevel?: string;
}

interface Execution {
  readonly run: (context: CommandContext) => Promise<Report>;
  /** PostgreSQL runs this and keeps what it writes to stderr: there only what is wrong. */
  readonly calledByPostgres?: boolean;
  /** The exit status of an error, where it is not the usual one. */
  readonly exitStatus?: (error: unknown) => number;
}

/** Errors are 1, below 126 as PostgreSQL wants it of archive_command, but for these. */
const EXIT_STATUS: Partial<Record<ErrorCode, number>> = { usage: 2, 'invalid-wal-name': 3 };

/** Runs one command line; resolves to the exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  let status = 0;
  const execute = async (program: Command, execution: Execution): Promise<void> => {
    status = await executeCommand(program.optsWithGlobals<GlobalOptions>(), execution);
  };
  try {
    await buildProgram(execute).parseAsync(argv);
    return status;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return 0;
    return argv.includes('get-wal') ? exitStatusForDoubt() : 2;
  }
}

async function executeCommand(globals: GlobalOptions, execution: Execution): Promise<number> {
  try {
    const config = await loadConfig(globals.config);
    const { log_file: file, log_level } = config.global.options;
    const usual = execution.calledByPostgres === true && file === null ? 'warn' : log_level;
    const level = globals.logLevel ?? (globals.debug === true ? 'debug' : usual);
    const logger = await createLogger({ file, level });
    for (const warning of config.warnings) {
      const log = execution.calledByPostgres === true ? logger.debug : logger.warn;
      log.call(logger, `${formatPlace(warning)}: ${warning.message}`);
    }
    const report = await execution.run({ config, logger, ...drainOnSignal(execution) });
    print(globals, report);
    return report.exitCode ?? 0;
  } catch (error) {
    reportError(error, globals);
    if (execution.exitStatus !== undefined) return execution.exitStatus(error);
    return error instanceof WalwardenError ? (EXIT_STATUS[error.code] ?? 1) : 1;
  }
}

/** The first signal asks to finish what is in hand, the second ends us at once: a crash is safe too. */
function drainOnSignal(execution: Execution): Pick<CommandContext, 'drain' | 'kill'> {
  const drain = new AbortController();
  const kill = new AbortController();
  if (execution.calledByPostgres !== true) {
    for (const [signal, number] of [
      ['SIGINT', 2],
      ['SIGTERM', 15],
    ] as const) {
      process.on(signal, () => {
        if (drain.signal.aborted) {
          kill.abort();
          process.exit(128 + number);
        }
        drain.abort();
      });
    }
  }
  return { drain: drain.signal, kill: kill.signal };
}

function print(globals: GlobalOptions, report: Report): void {
  if (report.text === '' && report.json === undefined) return;
  // A reader that has seen enough (`| head`) is no failure of ours.
  process.stdout.on('error', (error) => {
    if (errnoOf(error) !== 'EPIPE') throw error;
  });
  if (globals.format === 'json') {
    if (report.json !== undefined) process.stdout.write(`${JSON.stringify(report.json, null, 2)}\n`);
  } else if (globals.quiet !== true && report.text !== '') {
    process.stdout.write(report.text);
  }
}

function reportError(error: unknown, globals: GlobalOptions): void {
  // Nobody who reads what we say is no failure of its own.
  process.stderr.on('error', () => {});
  const known = error instanceof WalwardenError ? error : new WalwardenError('internal', messageOf(error));
  if (globals.format === 'json') {
    const { code, message, hint } = known;
    process.stderr.write(`${JSON.stringify({ error: { code, message, hint: hint ?? null } })}\n`);
    return;
  }
  process.stderr.write(`ERROR: ${known.message}\n`);
  if (known.hint !== undefined) process.stderr.write(`HINT: ${known.hint}\n`);
  if (known.code === 'internal' && error instanceof Error && globals.debug === true) {
    process.stderr.write(`${error.stack ?? ''}\n`);
  }
}

function positiveInteger(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('expected a positive integer.');
  return Number(text);
}

function logLevel(text: string): string {
  const level = text.toUpperCase();
  if (!LOG_LEVELS.includes(level)) throw new InvalidArgumentError(`expected one of ${LOG_LEVELS.join(', ')}.`);
  return level;
}

function exitStatus(text: string): number {
  if (!/^\d{1,3}$/.test(text) || Number(text) > 255)
    throw new InvalidArgumentError('expected an exit status, 0 to 255.');
  return Number(text);
}

function buildProgram(execute: (command: Command, execution: Execution) => Promise<void>): Command {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  const program = new Command('walwarden')
    .description('Archives the WAL of PostgreSQL servers, checked and durable, in the formats of Barman.')
    .version(`walwarden ${version}`, '-v, --version', 'print the version and exit')
    .option(
      '-c, --config <file>',
      'configuration file (default: ~/.walwarden.conf, /etc/walwarden.conf, …, Barman’s own)',
    )
    .option('-q, --quiet', 'print nothing but errors')
    .option('-d, --debug', 'log everything')
    .addOption(new Option('-f, --format <format>', 'how to print').choices(['console', 'json']).default('console'))
    .option('--log-level <level>', 'least important messages to log: DEBUG, INFO, WARNING, ERROR, CRITICAL', logLevel)
    .addOption(new Option('--color, --colour <when>').hideHelp())
    .helpOption('-h, --help', 'print this help and exit')
    .helpCommand(false)
    .exitOverride();

  const command = (spec: string, description: string): Command =>
    program.command(spec).description(description).helpOption('-h, --help', 'print this help and exit');

  command('archive-wal', 'archive what waits in incoming: one pass, then exit (1 when a file could not be archived)')
    .argument('<server...>', 'names of servers, or all')
    .action(async (names: string[], _options, self: Command) =>
      execute(self, {
        run: async (context) => (await import('./commands/archive-wal.ts')).archiveWal(context, names),
      }),
    );

  command('put-wal', 'take WAL files into incoming, from a tar stream with SHA256SUMS or MD5SUMS on stdin')
    .option('-t, --test', 'only tell whether files would be taken')
    .argument('<server>', 'name of a server')
    .action(async (name: string, options: { test?: boolean }, self: Command) =>
      execute(self, {
        calledByPostgres: true,
        run: async (context) => (await import('./commands/put-wal.ts')).putWal(context, name, options),
      }),
    );

  addGetWal(command, execute);

  command('list-wals', 'what the catalogue knows: ranges of segments per timeline, sizes, compression')
    .option('--timeline <number>', 'only this timeline', positiveInteger)
    .option('--gaps', 'only what is missing between the first and the last segment (exit 1 when there is a gap)')
    .argument('<server>', 'name of a server')
    .action(async (name: string, options: { timeline?: number; gaps?: boolean }, self: Command) =>
      execute(self, {
        run: async (context) => (await import('./commands/list-wals.ts')).listWals(context, name, options),
      }),
    );

  command('rebuild-xlogdb', 'make the catalogue anew from the archived files')
    .argument('<server>', 'name of a server')
    .action(async (name: string, _options, self: Command) =>
      execute(self, {
        run: async (context) => (await import('./commands/rebuild-xlogdb.ts')).rebuildXlogdb(context, name),
      }),
    );

  command('delete-wals', 'delete archived WAL files, with hook scripts and catalogue')
    .option('--before <wal>', 'all that are older than this segment')
    .option('--before-backup <label>', 'all that no backup from this backup label file (XXX.backup) on needs')
    .option('--older-than <duration>', 'all that were written longer ago, such as "4 WEEKS"')
    .option('-n, --dry-run', 'only tell what would be deleted')
    .argument('<server>', 'name of a server')
    .action(async (name: string, options: Record<string, string | boolean>, self: Command) =>
      execute(self, {
        run: async (context) => (await import('./commands/delete-wals.ts')).deleteWals(context, name, options),
      }),
    );

  command('list-servers', 'the configured servers')
    .alias('list-server')
    .action(async (_options, self: Command) =>
      execute(self, { run: async ({ config }) => (await import('./commands/list-servers.ts')).listServers(config) }),
    );

  command('show-servers', 'the configuration in effect, and where each value comes from')
    .alias('show-server')
    .argument('<server...>', 'names of servers, or all')
    .action(async (names: string[], _options, self: Command) =>
      execute(self, {
        run: async ({ config }) => (await import('./commands/show-servers.ts')).showServers(config, names),
      }),
    );

  addErrors(program, execute);
  return program;
}

type Execute = (command: Command, execution: Execution) => Promise<void>;

interface GetWalFlags {
  readonly outputDirectory?: string;
  readonly keepCompression?: boolean;
  readonly peek?: number;
  readonly partial?: boolean;
  readonly test?: boolean;
  readonly onError?: number;
}

/** The flags of get-wal that ask for compressed output; the single letters are Barman's. */
const OUTPUT_COMPRESSIONS: readonly [flags: string, compression: CompressionName][] = [
  ['-z, --gzip', 'gzip'],
  ['-j, --bzip2', 'bzip2'],
  ['--xz', 'xz'],
  ['--zstd', 'zstd'],
  ['--lz4', 'lz4'],
  ['--snappy', 'snappy'],
];

function addGetWal(add: (spec: string, description: string) => Command, execute: Execute): void {
  const getWal = add('get-wal', 'hand out a WAL file, plain and checked, to stdout or into a directory')
    .option('-o, --output-directory <dir>', 'write it there, under its own name, instead of stdout')
    .option('-k, --keep-compression', 'hand it out as compressed as it is stored')
    .option('-p, --peek <number>', 'print up to so many names, from this one on, that are there', positiveInteger)
    .option('-P, --partial', 'also a partial file')
    .option('-t, --test', 'only tell whether files could be handed out')
    .option(
      '--on-error <exit>',
      'exit status when it is unknown whether the file exists (default: 200, which stops a recovery; 1 on a standby)',
      exitStatus,
    )
    .argument('<server>', 'name of a server')
    .argument('[wal]', 'name of a WAL file')
    .addHelpText(
      'after',
      '\nExit status: 0 the file, 1 it is certainly not there, 3 not a WAL name, 200 it can not be told.\n' +
        'As restore_command:  walwarden get-wal SERVER %f > %p',
    );
  for (const [flags] of OUTPUT_COMPRESSIONS) getWal.option(flags, 'hand it out compressed in this way');
  getWal.addOption(new Option('-x').hideHelp());
  getWal.action(
    async (server: string, wal: string | undefined, flags: GetWalFlags & Record<string, unknown>, self: Command) => {
      const wanted = OUTPUT_COMPRESSIONS.find(([spec]) => flags[spec.split('--')[1] ?? ''] === true);
      const compression = wanted?.[1] ?? (flags['x'] === true ? 'gzip' : undefined);
      await execute(self, {
        calledByPostgres: true,
        run: async (context) => {
          const command = await import('./commands/get-wal.ts');
          return command.getWal(context, server, wal, {
            ...flags,
            ...(compression === undefined ? {} : { compression }),
          });
        },
        exitStatus: (error) => {
          if (error instanceof WalwardenError && error.code === 'wal-not-found') return 1;
          if (error instanceof WalwardenError && error.code === 'invalid-wal-name') return 3;
          return exitStatusForDoubt(flags.onError);
        },
      });
    },
  );
}

function addErrors(program: Command, execute: Execute): void {
  const errors = program
    .command('errors')
    .description('what is in the errors directory, why, and a safe way out')
    .helpOption('-h, --help', 'print this help and exit')
    .helpCommand(false);
  errors
    .command('list')
    .description('the files in errors, and why they are there')
    .argument('<server>', 'name of a server')
    .action(async (name: string, _options, self: Command) =>
      execute(self, { run: async (context) => (await import('./commands/errors.ts')).listErrors(context, name) }),
    );
  errors
    .command('explain')
    .description('compare files in errors with what is archived, byte by byte')
    .argument('<server>', 'name of a server')
    .argument('[file]', 'one file; all when absent')
    .action(async (name: string, file: string | undefined, _options, self: Command) =>
      execute(self, {
        run: async (context) => (await import('./commands/errors.ts')).explainErrors(context, name, file),
      }),
    );
  errors
    .command('resolve')
    .description(
      'drop what is archived with the same content, archive again what can be; with a file, also keep it aside',
    )
    .option('--keep-aside', 'move it to errors.kept beside the errors directory, where nobody counts it')
    .option('--accept-identity', 'this is WAL of our cluster after pg_upgrade: take its system identifier as ours')
    .argument('<server>', 'name of a server')
    .argument('[file]', 'one file; all when absent')
    .action(
      async (
        name: string,
        file: string | undefined,
        options: { keepAside?: boolean; acceptIdentity?: boolean },
        self: Command,
      ) =>
        execute(self, {
          run: async (context) => (await import('./commands/errors.ts')).resolveErrors(context, name, file, options),
        }),
    );
}
