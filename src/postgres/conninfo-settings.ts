import { variableOf, type ConninfoKeyword, type ConninfoParameters } from './conninfo-keywords.ts';
import { PostgresError } from './failure.ts';

/** The values of the parameters; an empty one is as good as none, as for libpq. */
export class Settings {
  readonly #values: ConninfoParameters;

  constructor(values: ConninfoParameters) {
    this.#values = values;
  }

  text(keyword: ConninfoKeyword): string | null {
    const value = this.#values[keyword];
    return value === undefined || value === '' ? null : value;
  }

  oneOf<T extends string>(keyword: ConninfoKeyword, allowed: readonly T[], otherwise: T): T {
    const value = this.text(keyword);
    if (value === null) return otherwise;
    const found = allowed.find((candidate) => candidate === value);
    if (found === undefined) throw wrongValue(keyword, `one of ${allowed.join(', ')}`);
    return found;
  }

  integer(keyword: ConninfoKeyword): number | null {
    const value = this.text(keyword);
    if (value === null) return null;
    if (!/^\s*[+-]?\d{1,9}\s*$/.test(value)) throw wrongValue(keyword, 'an integer');
    return Number(value);
  }
}

/** The value is not repeated: it may be a part of something else. */
export function wrongValue(keyword: ConninfoKeyword, expected: string): PostgresError {
  const variable = variableOf(keyword);
  const where = variable === null ? '' : ` (or of ${variable} in the environment)`;
  return new PostgresError('misconfigured', `the value of ${keyword}${where} is wrong: expected ${expected}`);
}

/** For what somebody wants for safety, and does not get. */
export function cantHonour(keyword: ConninfoKeyword, why: string): PostgresError {
  return new PostgresError('misconfigured', `${keyword} can't be honoured: ${why}`);
}
