import type { ValueType } from './values.ts';

/** The sections that may hold an option: `[barman]`, a server's, a model's. */
export type Scope =
  'global' | 'server' | 'model' | 'global+server' | 'server+model' | 'global+server+model' | 'global+model';

/** One row of the options table. */
export interface OptionSpec<S extends Scope = Scope, T = unknown, D extends string | null = string | null> {
  readonly scope: S;
  readonly type: ValueType<T>;
  /** As it would be written in a file, interpolation included; null where unset is a value of its own. */
  readonly default: D;
  /** One sentence. */
  readonly description: string;
}

/** What code sees of an option: never null when it has a default. */
export type OptionValue<O> = O extends OptionSpec<Scope, infer T, infer D> ? (D extends string ? T : T | null) : never;

/** A row, with the literal types that the values are inferred from. */
export function option<S extends Scope, T, D extends string | null>(
  scope: S,
  type: ValueType<T>,
  defaultText: D,
  description: string,
): OptionSpec<S, T, D> {
  return { scope, type, default: defaultText, description };
}

/** Whether an option may stand in a section of that kind. */
export function allowedIn(scope: Scope, section: 'global' | 'server' | 'model'): boolean {
  return scope.split('+').includes(section);
}
