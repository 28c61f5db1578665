import type { Command } from 'commander';
import { WalwardenError } from '../errors.ts';
import type { AddCommand } from './execution.ts';

interface Globals {
  readonly debug?: boolean;
  readonly quiet?: boolean;
  readonly logLevel?: string;
}

/** `recover`, the same as `walwarden-patroni recover`. It needs no configuration file, so it isn't executed as the others are. */
export function addRecover(add: AddCommand): void {
  add('recover', 'restore a Barman backup to this host through pg-backup-api, as Patroni has it done')
    .usage('[options]')
    // Patroni gives options of its own.
    .allowUnknownOption()
    .allowExcessArguments()
    // Its own parser knows the options.
    .helpOption(false)
    .action(async (_options, self: Command) => {
      const { readWords } = await import('../patroni/arguments.ts');
      try {
        const words = readWords(['recover', ...self.args], 'recover');
        if (words.help) {
          const { helpText, WALWARDEN_USAGE } = await import('../patroni/help.ts');
          process.stdout.write(helpText(WALWARDEN_USAGE));
          return;
        }
        const { recover } = await import('../patroni/recover.ts');
        const globals = self.optsWithGlobals<Globals>();
        const level = globals.logLevel ?? (globals.quiet === true ? 'ERROR' : null);
        const given = level === null ? words.given : new Map(words.given).set('logLevel', level);
        const status = await recover({ ...words, given, debug: globals.debug === true });
        // A name that is still being looked up would keep us, and who stopped us is waiting.
        process.exit(status);
      } catch (error) {
        if (!(error instanceof WalwardenError) || error.code !== 'usage') throw error;
        self.error(`error: ${error.message}${error.hint === undefined ? '' : `\n${error.hint}`}`);
      }
    });
}
