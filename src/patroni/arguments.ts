import { parseArgs } from 'node:util';
import { WalwardenError } from '../errors.ts';
import { HINT, OPTION_LIST, type OptionKey } from './options.ts';

/** A command line, taken apart and not yet checked. */
export interface Words {
  /** The subcommand, or the first word that could be one. */
  readonly command: string | null;
  readonly given: ReadonlyMap<OptionKey, string>;
  readonly help: boolean;
  readonly version: boolean;
  readonly debug: boolean;
  /** Names of options that nobody knows: Patroni gives some of its own. Without values: there may be a password in one. */
  readonly ignored: readonly string[];
}

const KEYS: ReadonlyMap<string, OptionKey> = new Map(
  OPTION_LIST.flatMap(([key, { names }]) => names.map((name) => [name, key])),
);

/** What argparse would complete for patroni_barman. */
const COMPLETED: readonly string[] = OPTION_LIST.filter(([, { ours }]) => ours !== true).flatMap(
  ([, { names }]) => names,
);

/**
 * Takes a command line apart as argparse's parse_known_args does: options in
 * any order, `--name value` or `--name=value`, the last one counts, unambiguous
 * beginnings of names are names, and what nobody knows is ignored. Throws
 * `usage` where a value is missing.
 */
export function readWords(words: readonly string[], command: string): Words {
  const { tokens } = parseArgs({
    args: completeNames(words),
    options: {
      ...Object.fromEntries([...KEYS.keys()].map((name) => [name, { type: 'string' as const }])),
      help: { type: 'boolean', short: 'h' },
      version: { type: 'boolean', short: 'v' },
      debug: { type: 'boolean', short: 'd' },
    },
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const given = new Map<OptionKey, string>();
  const flags = new Set<string>();
  const ignored: string[] = [];
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value);
    if (token.kind !== 'option') continue;
    const key = KEYS.get(token.name);
    if (key !== undefined) given.set(key, valueOf(token));
    else if (['help', 'version', 'debug'].includes(token.name)) flags.add(token.name);
    else ignored.push(token.rawName);
  }
  return {
    // Before it there may be the value of an option that nobody knows.
    command: positionals.includes(command) ? command : (positionals[0] ?? null),
    given,
    help: flags.has('help'),
    version: flags.has('version'),
    debug: flags.has('debug'),
    ignored,
  };
}

/** `--data`, `--backup=…`: ignoring that would restore another backup than the one that was meant. */
function completeNames(words: readonly string[]): string[] {
  const end = words.indexOf('--');
  return words.map((word, index) => {
    const [, name, value = ''] = /^--([^=]+)(=[^]*)?$/.exec(word) ?? [];
    if (name === undefined || (end !== -1 && index > end) || KEYS.has(name)) return word;
    const matches = COMPLETED.filter((full) => full.startsWith(name));
    const [first] = matches;
    if (first === undefined) return word;
    if (new Set(matches.map((full) => KEYS.get(full))).size > 1) {
      const list = matches.map((full) => `--${full}`).join(', ');
      throw new WalwardenError('usage', `--${name} is ambiguous: ${list}`, { hint: HINT });
    }
    return `--${first}${value}`;
  });
}

interface OptionToken {
  readonly rawName: string;
  readonly value?: string | undefined;
  readonly inlineValue?: boolean | undefined;
}

function valueOf({ rawName, value, inlineValue }: OptionToken): string {
  // The next option is no value: nothing may swallow it.
  const isOption = inlineValue === false && value?.startsWith('--') === true;
  if (value === undefined || value === '' || isOption) {
    const found = isOption ? `, found ${/^[^=]*/.exec(value)?.[0] ?? ''}` : '';
    throw new WalwardenError('usage', `${rawName}: expected a value${found}`, { hint: HINT });
  }
  return value;
}

/** The option that somebody who wrote this name may have meant: `--backup_id`. */
export function lookalike(name: string): string | null {
  const spelled = name.replace(/^-+/, '').toLowerCase().replaceAll('_', '-');
  return KEYS.has(spelled) ? `--${spelled}` : null;
}
