import type { Command } from 'commander';
import type { DeleteWalsOptions } from '../commands/delete-wals.ts';
import type { ListWalsOptions } from '../commands/list-wals.ts';
import { positiveInteger } from './arguments.ts';
import type { AddCommand, Execute } from './execution.ts';

/** `list-wals`, `rebuild-xlogdb`, `delete-wals`: what is archived. */
export function addCatalogue(command: AddCommand, execute: Execute): void {
  command('list-wals', 'what the catalogue knows: ranges of segments per timeline, sizes, compression')
    .option('--timeline <number>', 'only this timeline', positiveInteger)
    .option(
      '--acknowledge-gap <wal..wal>',
      'what is missing there will not come: no alarm until it is filled; with --reason',
    )
    .option('--reason <text>', 'why, for those who see it')
    .option('--stored', 'list what is stored now, and hold it against the catalogue (exit 1 when files are missing)')
    .option('--gaps', 'only what is missing between the first and the last segment (exit 1 when there is a gap)')
    .argument('<server>', 'name of a server')
    .action(async (name: string, options: ListWalsOptions, self: Command) =>
      execute(self, {
        // --stored remembers what it found.
        home: options.stored === true ? 'writes' : 'reads',
        run: async (context) => (await import('../commands/list-wals.ts')).listWals(context, name, options),
      }),
    );

  command('rebuild-xlogdb', 'make the catalogue anew from the archived files')
    .argument('<server>', 'name of a server')
    .action(async (name: string, _options, self: Command) =>
      execute(self, {
        home: 'writes',
        run: async (context) => (await import('../commands/rebuild-xlogdb.ts')).rebuildXlogdb(context, name),
      }),
    );

  command('delete-wals', 'delete archived WAL files, with hook scripts and catalogue')
    .option('--before <wal>', 'all that are older than this segment')
    .option('--before-backup <label>', 'all that no backup from this backup label file (XXX.backup) on needs')
    .option('--older-than <duration>', 'all that were written longer ago, such as "4 WEEKS"')
    .option('-n, --dry-run', 'only tell what would be deleted')
    .option('--force', 'also what a backup of Barman’s needs, or may need')
    .argument('<server>', 'name of a server')
    .action(async (name: string, options: DeleteWalsOptions, self: Command) =>
      execute(self, {
        home: options.dryRun === true ? 'reads' : 'writes',
        run: async (context) => (await import('../commands/delete-wals.ts')).deleteWals(context, name, options),
      }),
    );
}
