import { WalwardenError } from '../errors.ts';
import { LOG_LEVELS } from '../logging.ts';

/** One option that has a value. This table is what the parser, the checks and the help know. */
export interface RecoverOption {
  /** The first is the one to use. */
  readonly names: readonly string[];
  readonly value: string;
  /** patroni_barman wants these before, and those behind its subcommand; we take all of them anywhere. */
  readonly place: 'global' | 'recover';
  readonly required?: boolean;
  readonly fallback?: string;
  /** Lowest and highest whole number. */
  readonly range?: readonly [min: number, max: number];
  /** patroni_barman doesn't have it. */
  readonly ours?: boolean;
  readonly description: string;
}

const DAY = 86_400;

export const OPTIONS = {
  apiUrl: {
    names: ['api-url'],
    value: 'URL',
    place: 'global',
    required: true,
    description: 'where pg-backup-api is, such as http://host:7480',
  },
  certFile: {
    names: ['cert-file'],
    value: 'FILE',
    place: 'global',
    description: 'certificate to show to the API (PEM)',
  },
  keyFile: {
    names: ['key-file'],
    value: 'FILE',
    place: 'global',
    description: 'its key (PEM, no passphrase), when not in the same file',
  },
  caFile: {
    names: ['ca-file'],
    value: 'FILE',
    place: 'global',
    ours: true,
    description: 'authorities to trust (PEM) instead of the public ones',
  },
  retryWait: {
    names: ['retry-wait'],
    value: 'S',
    place: 'global',
    fallback: '2',
    range: [0, DAY],
    description: 'seconds before a request is tried again',
  },
  maxRetries: {
    names: ['max-retries'],
    value: 'N',
    place: 'global',
    fallback: '5',
    range: [1, 1_000_000],
    description: 'tries of one request, the first included',
  },
  requestTimeout: {
    names: ['request-timeout'],
    value: 'S',
    place: 'global',
    fallback: '30',
    range: [1, DAY],
    ours: true,
    description: 'seconds that one request may take',
  },
  logFile: {
    names: ['log-file'],
    value: 'FILE',
    place: 'global',
    description: 'log there instead of stderr (errors go to both)',
  },
  logLevel: {
    names: ['log-level'],
    value: 'LEVEL',
    place: 'global',
    ours: true,
    description: 'least important messages to log (default: INFO)',
  },
  barmanServer: {
    names: ['barman-server'],
    value: 'NAME',
    place: 'recover',
    required: true,
    description: 'Barman server whose backup to restore',
  },
  backupId: {
    names: ['backup-id'],
    value: 'ID',
    place: 'recover',
    fallback: 'latest',
    description: 'anything that barman recover takes',
  },
  sshCommand: {
    names: ['ssh-command'],
    value: 'CMD',
    place: 'recover',
    required: true,
    description: 'how the Barman host reaches this one: "ssh postgres@here"',
  },
  dataDirectory: {
    names: ['data-directory', 'datadir'],
    value: 'DIR',
    place: 'recover',
    required: true,
    description: 'where to restore to on this host; Patroni gives --datadir',
  },
  loopWait: {
    names: ['loop-wait'],
    value: 'S',
    place: 'recover',
    fallback: '10',
    range: [0, DAY],
    description: 'seconds between looks at the restore',
  },
} as const satisfies Readonly<Record<string, RecoverOption>>;

export type OptionKey = keyof typeof OPTIONS;

/** The same, seen as a list. */
export const OPTION_LIST: readonly (readonly [key: OptionKey, option: RecoverOption])[] = Object.keys(OPTIONS)
  .filter((key): key is OptionKey => key in OPTIONS)
  .map((key) => [key, OPTIONS[key]]);

/** `recover`'s command line, complete and checked. */
export interface RecoverArguments {
  readonly apiUrl: string;
  readonly certFile: string | null;
  readonly keyFile: string | null;
  readonly caFile: string | null;
  readonly retryWait: number;
  readonly maxRetries: number;
  readonly requestTimeout: number;
  readonly logFile: string | null;
  readonly logLevel: string | null;
  readonly barmanServer: string;
  readonly backupId: string;
  readonly sshCommand: string;
  readonly dataDirectory: string;
  readonly loopWait: number;
}

/** Checks what was given and fills in the rest; throws `usage`, naming the option. */
export function checkOptions(given: ReadonlyMap<OptionKey, string>): RecoverArguments {
  const missing = OPTION_LIST.filter(([key, { required }]) => required === true && !given.has(key));
  if (missing.length > 0) {
    const names = missing.map(([, { names: spellings }]) => spellings.map((name) => `--${name}`).join('/'));
    throw new WalwardenError('usage', `required and not given: ${names.join(', ')}`, { hint: HINT });
  }
  for (const [key, value] of given) {
    // Node has put that in place of what it can't read, and it would be another directory.
    if (value.includes('\uFFFD')) {
      const names = OPTIONS[key].names.map((name) => `--${name}`).join('/');
      throw new WalwardenError('usage', `${names}: expected UTF-8, found "${value}"`, { hint: HINT });
    }
  }
  const optional = (key: OptionKey): string | null => given.get(key) ?? null;
  const text = (key: OptionKey): string => {
    const { fallback = '' }: RecoverOption = OPTIONS[key];
    return given.get(key) ?? fallback;
  };
  const number = (key: OptionKey): number => wholeNumber(OPTIONS[key], text(key));
  const logLevel = optional('logLevel')?.toUpperCase() ?? null;
  if (logLevel !== null && !LOG_LEVELS.includes(logLevel)) {
    throw new WalwardenError('usage', `--log-level: expected one of ${LOG_LEVELS.join(', ')}, found "${logLevel}"`);
  }
  return {
    apiUrl: text('apiUrl'),
    certFile: optional('certFile'),
    keyFile: optional('keyFile'),
    caFile: optional('caFile'),
    retryWait: number('retryWait'),
    maxRetries: number('maxRetries'),
    requestTimeout: number('requestTimeout'),
    logFile: optional('logFile'),
    logLevel,
    barmanServer: text('barmanServer'),
    backupId: text('backupId'),
    sshCommand: text('sshCommand'),
    dataDirectory: text('dataDirectory'),
    loopWait: number('loopWait'),
  };
}

/** What errors of the command line end with. */
export const HINT = 'see walwarden-patroni recover --help';

function wholeNumber({ names, range = [0, DAY] }: RecoverOption, text: string): number {
  const [min, max] = range;
  const number = /^\d{1,9}$/.test(text) ? Number(text) : NaN;
  if (number >= min && number <= max) return number;
  throw new WalwardenError(
    'usage',
    `--${names[0] ?? ''}: expected a whole number from ${min} to ${max}, found "${text}"`,
    {
      hint: HINT,
    },
  );
}
