import { BARMAN_OPTIONS } from './barman-options.ts';
import { IGNORED_OPTIONS } from './ignored-options.ts';
import { allowedIn, type OptionSpec, type OptionValue } from './option.ts';
import { OWN_OPTIONS } from './own-options.ts';

/**
 * The options table. Parsing, validation, defaults, `show-servers` and
 * docs/configuration.md come from it, and the types of the values too.
 */
export const OPTIONS = { ...BARMAN_OPTIONS, ...OWN_OPTIONS } as const;

type Options = typeof OPTIONS;

export type OptionName = keyof Options;

/** Options that stand in `[barman]` alone. */
export type GlobalOptionName = { [K in OptionName]: Options[K]['scope'] extends 'global' ? K : never }[OptionName];

/** Options that a server has, be it from its own section, a model, `[barman]` or the default. */
export type ServerOptionName = {
  [K in OptionName]: Options[K]['scope'] extends 'global' | 'model' ? never : K;
}[OptionName];

/** Parsed values: durations in milliseconds, sizes in bytes, paths absolute, null where nothing is set. */
export type OptionValues<K extends OptionName> = { readonly [P in K]: OptionValue<Options[P]> };

export type GlobalOptions = OptionValues<GlobalOptionName>;
export type ServerOptions = OptionValues<ServerOptionName>;

/** Who invented an option, and whether we act on it. */
export type OptionOrigin = 'barman' | 'walwarden' | 'ignored';

const ROWS: ReadonlyMap<string, OptionSpec> = new Map<string, OptionSpec>(Object.entries(OPTIONS));
const IGNORED: ReadonlyMap<string, OptionSpec> = new Map<string, OptionSpec>(Object.entries(IGNORED_OPTIONS));

/** All names that a configuration file may use, ignored ones included. */
export const KNOWN_NAMES: readonly string[] = [...ROWS.keys(), ...IGNORED.keys()];

/** The row of an option, undefined when nobody knows the name. */
export function findOption(name: string): OptionSpec | undefined {
  return ROWS.get(name) ?? IGNORED.get(name);
}

export function originOf(name: string): OptionOrigin | undefined {
  if (IGNORED.has(name)) return 'ignored';
  if (!ROWS.has(name)) return undefined;
  return Object.hasOwn(OWN_OPTIONS, name) ? 'walwarden' : 'barman';
}

/** Narrows a name to an option that stands in `[barman]` alone. */
export function isGlobalOption(name: string): name is GlobalOptionName {
  return ROWS.get(name)?.scope === 'global';
}

/** Narrows a name to an option that servers have. */
export function isServerOption(name: string): name is ServerOptionName {
  const spec = ROWS.get(name);
  return spec !== undefined && allowedIn(spec.scope, 'server');
}

export const GLOBAL_OPTION_NAMES: readonly GlobalOptionName[] = [...ROWS.keys()].filter(isGlobalOption);
export const SERVER_OPTION_NAMES: readonly ServerOptionName[] = [...ROWS.keys()].filter(isServerOption);
