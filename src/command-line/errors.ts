import type { Command } from 'commander';
import type { ResolveOptions } from '../commands/errors.ts';
import type { Execute } from './execution.ts';

/** `errors list | explain | retry | resolve`. */
export function addErrors(program: Command, execute: Execute): void {
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
      execute(self, {
        home: 'reads',
        run: async (context) => (await import('../commands/errors.ts')).listErrors(context, name),
      }),
    );
  errors
    .command('explain')
    .description('compare files in errors with what is archived, byte by byte')
    .argument('<server>', 'name of a server')
    .argument('[file]', 'one file; all when absent')
    .action(async (name: string, file: string | undefined, _options, self: Command) =>
      execute(self, {
        home: 'reads',
        run: async (context) => (await import('../commands/errors.ts')).explainErrors(context, name, file),
      }),
    );
  errors
    .command('retry')
    .description('have files in errors archived that are understood by now, after an upgrade or a corrected option')
    .option('--all', 'all files in errors')
    .argument('<server>', 'name of a server')
    .argument('[file]', 'one file')
    .action(async (name: string, file: string | undefined, options: { all?: boolean }, self: Command) =>
      execute(self, {
        home: 'writes',
        run: async (context) => (await import('../commands/retry-errors.ts')).retryErrors(context, name, file, options),
      }),
    );
  errors
    .command('resolve')
    .description(
      'drop what is archived with the same content, archive again what can be; with a file, also keep it aside, or replace a damaged archived copy with it',
    )
    .option(
      '--replace',
      'put this file in the place of the archived copy, when that is damaged, or the beginning of this one, and this one is whole',
    )
    .option(
      '--force',
      'with --replace: also when the archived copy can not be read, or the records of this WAL can not be judged',
    )
    .option('--keep-aside', 'move it to errors.kept beside the errors directory, where nobody counts it')
    .option(
      '--accept-identity',
      'after pg_upgrade: take the system identifier of this file, or without one that of the connected server, as ours',
    )
    .option(
      '--as-it-is',
      'archive a segment of which a page is broken, for want of a whole copy: this file, or one that is delivered again and again and refused',
    )
    .argument('<server>', 'name of a server')
    .argument('[file]', 'one file; all when absent')
    .action(async (name: string, file: string | undefined, options: ResolveOptions, self: Command) =>
      execute(self, {
        home: 'writes',
        run: async (context) => (await import('../commands/errors.ts')).resolveErrors(context, name, file, options),
      }),
    );
}
