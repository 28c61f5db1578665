import { WalwardenError } from '../errors.ts';

/** The text of the option `name`, with `%(other)s` in it; `where` names it in messages. */
export interface Template {
  readonly name: string;
  readonly text: string;
  readonly where: string;
}

/** What a name stands for: text to be interpolated in turn, or a final value. */
export type Variable = Template | { readonly value: string };

const MAX_LENGTH = 1024 * 1024;
/** Python stops at 10; options and our defaults that refer to each other need 5. Far from what the stack holds. */
const MAX_DEPTH = 100;

/**
 * Replaces `%(name)s` by the variable of that (lower-cased) name, over and
 * over, and `%%` by a percent sign, as Python's BasicInterpolation does.
 * Throws `config` naming `where` for an unknown name, a cycle, or a lone `%`.
 */
export function interpolate(template: Template, lookup: (name: string) => Variable | undefined): string {
  const expanded = new Map<string, string>();
  return expand(template, lookup, [template.name], expanded);
}

/** `known`: what names stand for that were met before. Else a few that name each other twice would take for ever. */
function expand(
  { text, where }: Template,
  lookup: (name: string) => Variable | undefined,
  path: readonly string[],
  known: Map<string, string>,
): string {
  if (!text.includes('%')) return text;
  if (path.length > MAX_DEPTH) {
    throw new WalwardenError('config', `${where}: expected at most ${MAX_DEPTH} options that refer to each other`);
  }
  const expanded = text.replace(
    /%(?:(%)|\(([^)\n]+)\)s|)/g,
    (found: string, percent: string | undefined, name: string | undefined, offset: number) => {
      if (percent !== undefined) return percent;
      if (name === undefined) {
        throw new WalwardenError(
          'config',
          // Not the text: it may be a connection string, with a percent-encoded password.
          `${where}: expected %(name)s or %% after a percent sign, found something else at character ${offset + 1}`,
          { hint: 'write a percent sign as %%' },
        );
      }
      const key = name.toLowerCase();
      if (path.includes(key)) {
        throw new WalwardenError('config', `${where}: ${found} refers to itself: ${[...path, key].join(' -> ')}`);
      }
      const variable = lookup(key);
      if (variable === undefined) {
        throw new WalwardenError('config', `${where}: ${found} is not set; expected the name of an option that is`);
      }
      if ('value' in variable) return variable.value;
      const value = known.get(key) ?? unquote(expand(variable, lookup, [...path, key], known));
      known.set(key, value);
      return value;
    },
  );
  // Variables that double in length with each level would otherwise fill the memory.
  if (expanded.length > MAX_LENGTH) {
    throw new WalwardenError(
      'config',
      `${where}: expected at most ${MAX_LENGTH} characters, found more after interpolation`,
    );
  }
  return expanded;
}

/** One pair of quotes around the whole of a one-line value is dropped, as Barman does. */
export function unquote(value: string): string {
  return /^(["'])(.*)\1$/.exec(value)?.[2] ?? value;
}

/** The text of an option, null where it says nothing: empty, or Barman's `None`. */
export function meaningOf(value: string): string | null {
  const trimmed = value.trim();
  if (trimmed.toLowerCase() === 'none') return null;
  const bare = unquote(trimmed);
  return bare.trim() === '' || bare === 'None' ? null : bare;
}
