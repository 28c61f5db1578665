import { Option, type Command } from 'commander';
import { exitStatusForDoubt } from '../commands/doubt.ts';
import type { CompressionName } from '../compression/codec.ts';
import { WalwardenError } from '../errors.ts';
import { exitStatus, positiveInteger } from './arguments.ts';
import type { AddCommand, Execute } from './execution.ts';

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

/** `get-wal`, whose exit status PostgreSQL acts on. */
export function addGetWal(add: AddCommand, execute: Execute): void {
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
        home: 'reads',
        calledByPostgres: true,
        run: async (context) => {
          const command = await import('../commands/get-wal.ts');
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
