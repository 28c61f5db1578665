import { WalwardenError } from '../errors.ts';
import { formatPlace, type ConfigProblem, type Place, type Setting } from './config.ts';
import type { Ini, IniEntry } from './ini.ts';
import { interpolate, meaningOf, type Template, type Variable } from './interpolate.ts';
import { allowedIn, type OptionSpec } from './option.ts';
import { findOption, type OptionName, type OptionValues } from './options.ts';

/** The name of Barman's global section. */
export const GLOBAL_SECTION = 'barman';

/** An option of one section, parsed. */
export interface Resolved extends Setting {
  readonly value: unknown;
  /** The section that it was found in, undefined for defaults. */
  readonly section: string | undefined;
}

/** Looks options of one section up, as Barman does, and collects what is wrong with them. */
export class SectionReader {
  readonly #ini: Ini;
  readonly #section: string;
  readonly #kind: 'global' | 'server' | 'model';
  readonly #fixed: ReadonlyMap<string, string>;
  readonly #problems = new Map<string, ConfigProblem>();

  /** `fixed`: final values that no section can change inside `%(…)s`, such as `name` and `barman_home`. */
  constructor(ini: Ini, section: string, kind: 'global' | 'server' | 'model', fixed: ReadonlyMap<string, string>) {
    this.#ini = ini;
    this.#section = section;
    this.#kind = kind;
    this.#fixed = fixed;
  }

  get problems(): readonly ConfigProblem[] {
    return [...this.#problems.values()];
  }

  /** The text of an option that this section sets itself; undefined when it doesn't. */
  ownText(name: string): Setting | undefined {
    const entry = this.#entry(this.#section, name);
    return entry === undefined ? undefined : { text: this.#text(name, entry), source: placeOf(entry) };
  }

  /** The value that a model puts in the place of a server's: undefined when it says nothing. */
  override(name: string): Resolved | undefined {
    const own = this.ownText(name);
    return own === undefined || own.text === null ? undefined : this.resolve(name);
  }

  /** The value in effect: this section's, `[barman]`'s where the option may stand there, or the default. */
  resolve(name: string): Resolved {
    const spec = findOption(name);
    if (spec === undefined) throw new WalwardenError('internal', `no such option: ${name}`);
    const found = this.#find(name, spec);
    if (found === undefined) return { ...this.#default(name, spec), section: undefined };
    const { entry, section } = found;
    const source = placeOf(entry);
    const text = this.#text(name, entry);
    // Set to nothing: not inherited from [barman] either.
    if (text === null) return { ...this.#default(name, spec), source, section };
    const value = spec.type.parse(text);
    if (value !== undefined) return { text, value, source, section };
    this.#report({ message: badValue(name, text, spec, entry), option: name, place: placeOf(entry) });
    return { ...this.#default(name, spec), text, source, section };
  }

  #entry(section: string, name: string): IniEntry | undefined {
    return this.#ini.sections.get(section)?.entries.get(name);
  }

  #find(name: string, spec: OptionSpec): { readonly entry: IniEntry; readonly section: string } | undefined {
    const inherits = this.#kind === 'server' && allowedIn(spec.scope, 'global');
    for (const section of inherits ? [this.#section, GLOBAL_SECTION] : [this.#section]) {
      const entry = this.#entry(section, name);
      if (entry !== undefined) return { entry, section };
    }
    const entry = this.#ini.defaults.get(name);
    return entry === undefined ? undefined : { entry, section: 'DEFAULT' };
  }

  #default(name: string, spec: OptionSpec): Setting & { readonly value: unknown } {
    if (spec.default === null) return { text: null, value: null, source: 'default' };
    let text = spec.default;
    try {
      text = interpolate({ name, text, where: `the default of ${name}` }, (variable) => this.#variable(variable));
    } catch (error) {
      this.#catch(error, name);
    }
    // A default made of a bad value, which is reported by itself: the server is disabled, any text serves.
    return { text, value: spec.type.parse(text) ?? text, source: 'default' };
  }

  #text(name: string, entry: IniEntry): string | null {
    try {
      return meaningOf(interpolate(templateOf(name, entry), (variable) => this.#variable(variable)));
    } catch (error) {
      this.#catch(error, name, entry);
      return null;
    }
  }

  /** What `%(name)s` stands for. Barman looks at fewer places, and depends on the order of the alphabet. */
  #variable(name: string): Variable | undefined {
    const fixed = this.#fixed.get(name);
    if (fixed !== undefined) return { value: fixed };
    const entry = this.#entry(this.#section, name) ?? this.#ini.defaults.get(name) ?? this.#entry(GLOBAL_SECTION, name);
    if (entry !== undefined) return templateOf(name, entry);
    const text = findOption(name)?.default;
    return text === undefined || text === null ? undefined : { name, text, where: `the default of ${name}` };
  }

  #catch(error: unknown, option: string, place?: Place): void {
    if (!(error instanceof WalwardenError)) throw error;
    this.#report({ message: error.message, option, ...(place !== undefined && { place: placeOf(place) }) });
  }

  #report(problem: ConfigProblem): void {
    // Several options may depend on the same bad value.
    this.#problems.set(problem.message, problem);
  }
}

function templateOf(name: string, entry: IniEntry): Template {
  return { name, text: entry.value.trim(), where: `${formatPlace(entry)}: ${name}` };
}

function placeOf({ file, line }: Place): Place {
  return { file, line };
}

function badValue(name: string, text: string, spec: OptionSpec, place: Place): string {
  const shown = JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
  const comment = /\s[#;]/.test(text) ? ' (a comment needs a line of its own)' : '';
  return `${formatPlace(place)}: ${name} = ${shown}: expected ${spec.type.expected}${comment}`;
}

/** The typed record of parsed options. `names` are the options that it must have. */
export function valuesOf<K extends OptionName>(
  resolved: ReadonlyMap<string, Resolved>,
  names: readonly K[],
): OptionValues<K> {
  const values: object = Object.fromEntries([...resolved].map(([name, { value }]) => [name, value]));
  if (hasValues(values, names)) return values;
  throw new WalwardenError('internal', 'an option was not resolved');
}

/** Text and source of options, without the parsed values. */
export function settingsOf<K extends OptionName>(
  resolved: ReadonlyMap<string, Resolved>,
  names: readonly K[],
): Readonly<Record<K, Setting>> {
  const settings: object = Object.fromEntries(
    [...resolved].map(([name, { text, source }]) => [name, { text, source } satisfies Setting]),
  );
  if (hasSettings(settings, names)) return settings;
  throw new WalwardenError('internal', 'an option was not resolved');
}

// TypeScript can't follow a loop over the table; that every value has its row's type is the parsers' promise.
function hasValues<K extends OptionName>(values: object, names: readonly K[]): values is OptionValues<K> {
  return names.every((name) => Object.hasOwn(values, name));
}

function hasSettings<K extends OptionName>(settings: object, names: readonly K[]): settings is Record<K, Setting> {
  return names.every((name) => Object.hasOwn(settings, name));
}
