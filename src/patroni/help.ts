import { OPTION_LIST, type RecoverOption } from './options.ts';

/** How the two executables are called. */
export const WALWARDEN_USAGE = 'walwarden recover [options]';
export const PATRONI_USAGE = 'walwarden-patroni [global options] recover [options]';

const WIDTH = 32;

function line({ names, value, fallback, required }: RecoverOption, description: string): string {
  const left = `${names.map((name) => `--${name}`).join(', ')} ${value}`;
  const right = `${description}${required === true ? ' (required)' : ''}${fallback === undefined ? '' : ` (default: ${fallback})`}`;
  return `  ${left.padEnd(WIDTH)} ${right}\n`;
}

/** The help of either executable, from the table of options. */
export function helpText(usage: string): string {
  const lines = (place: RecoverOption['place']): string =>
    OPTION_LIST.filter(([, option]) => option.place === place)
      .map(([, option]) => line(option, option.description))
      .join('');
  return `Usage: ${usage}

Restores a Barman backup to this host through pg-backup-api: as Patroni's custom bootstrap or create-replica method,
in place of patroni_barman. Options that nobody knows are ignored: Patroni gives some of its own.

Global options:
${lines('global')}  ${'-d, --debug'.padEnd(WIDTH)} log everything
  ${'-h, --help'.padEnd(WIDTH)} print this help and exit

Options of recover:
${lines('recover')}
Exit status: 0 restored, 1 the restore failed, 2 pg-backup-api can't be talked to or the command line is wrong,
130 or 143 stopped by SIGINT or SIGTERM, 254 pg-backup-api is not OK, 255 no subcommand.
`;
}
