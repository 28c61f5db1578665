import { WalwardenError } from '../errors.ts';
import { ownVersion } from '../version.ts';
import { readWords } from './arguments.ts';
import { EXIT_NO_SUBCOMMAND, ExitCode } from './exit-code.ts';
import { helpText, PATRONI_USAGE } from './help.ts';
import { recover } from './recover.ts';

/** Runs a command line of `walwarden-patroni`; resolves to the exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    const words = readWords(argv, 'recover');
    if (words.help) {
      process.stdout.write(helpText(PATRONI_USAGE));
      return 0;
    }
    if (words.command === null && words.version) {
      process.stdout.write(`walwarden-patroni ${ownVersion()}\n`);
      return 0;
    }
    if (words.command === null) {
      process.stderr.write(`ERROR: no subcommand given: expected recover\n\n${helpText(PATRONI_USAGE)}`);
      return EXIT_NO_SUBCOMMAND;
    }
    if (words.command !== 'recover') {
      throw new WalwardenError('usage', `unknown subcommand "${words.command}": expected recover`, {
        hint: 'for the others of patroni_barman, such as config-switch, keep patroni_barman',
      });
    }
    return await recover(words);
  } catch (error) {
    if (!(error instanceof WalwardenError) || error.code !== 'usage') throw error;
    process.stderr.write(`ERROR: ${error.message}\n${error.hint === undefined ? '' : `HINT: ${error.hint}\n`}`);
    return ExitCode.HTTP_ERROR;
  }
}
