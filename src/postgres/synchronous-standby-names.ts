import { PostgresError } from './failure.ts';

/** synchronous_standby_names, parsed (PostgreSQL: replication/syncrep_gram.y, syncrep_scanner.l). */
export interface SynchronousStandbys {
  readonly method: 'first' | 'any';
  readonly count: number;
  /** As they compare: in lower case (ASCII only), quoted ones too. `*`, also where it is quoted, stands for any. */
  readonly names: readonly string[];
}

/** Parses the setting; null when it is empty. Throws `postgres` on a syntax error. */
export function parseSynchronousStandbyNames(text: string): SynchronousStandbys | null {
  if (text === '') return null;
  const tokens = scan(text);
  const [first, second, third] = tokens;
  // NUM '(' list ')', else a list whose names may be numbers.
  if (first?.kind === 'number' && second?.kind === '(') {
    return { method: 'first', count: Number(first.text), names: listInBrackets(text, tokens, 1) };
  }
  if (first?.kind === 'first' || first?.kind === 'any') {
    if (second?.kind !== 'number') throw syntaxError(text, second, 'a number');
    if (third?.kind !== '(') throw syntaxError(text, third, '"("');
    return { method: first.kind, count: Number(second.text), names: listInBrackets(text, tokens, 2) };
  }
  return { method: 'first', count: 1, names: list(text, tokens, 0, tokens.length) };
}

/** Whether a standby of this application_name may be a synchronous one. */
export function isSynchronousName(setting: string | null, applicationName: string): boolean {
  const standbys = setting === null ? null : parseSynchronousStandbyNames(setting);
  if (standbys === null) return false;
  const name = fold(applicationName);
  return standbys.names.some((candidate) => candidate === '*' || candidate === name);
}

interface Token {
  readonly kind: 'name' | 'number' | 'any' | 'first' | ',' | '(' | ')';
  readonly text: string;
  /** Where it begins, from 0. */
  readonly at: number;
}

/**
 * One token; the longest match counts, so that `firstname` is a name, and `1a`
 * a number and a name. PostgreSQL takes all bytes from 0x80 on for letters.
 */
const TOKEN =
  /[ \t\n\r\f\v]*(?:"((?:""|[^"])*)"|([A-Za-z_\u0080-\u{10ffff}][A-Za-z_0-9$\u0080-\u{10ffff}]*)|([0-9]+)|([*])|([,()])|$)/uy;

function scan(text: string): Token[] {
  const tokens: Token[] = [];
  const pattern = new RegExp(TOKEN);
  for (;;) {
    const from = pattern.lastIndex;
    const match = pattern.exec(text);
    if (match === null) throw unknownToken(text, from);
    const [all, quoted, identifier, number, star, sign] = match;
    const at = from + all.length - all.trimStart().length;
    if (quoted !== undefined) tokens.push({ kind: 'name', text: quoted.replaceAll('""', '"'), at });
    else if (identifier !== undefined) tokens.push({ kind: keyword(identifier), text: identifier, at });
    else if (number !== undefined) tokens.push({ kind: 'number', text: number, at });
    else if (star !== undefined) tokens.push({ kind: 'name', text: star, at });
    else if (sign === ',' || sign === '(' || sign === ')') tokens.push({ kind: sign, text: sign, at });
    else return tokens;
  }
}

function keyword(identifier: string): Token['kind'] {
  const word = fold(identifier);
  return word === 'any' || word === 'first' ? word : 'name';
}

function listInBrackets(text: string, tokens: readonly Token[], open: number): string[] {
  const last = tokens.at(-1);
  if (last?.kind !== ')') throw syntaxError(text, undefined, '")"');
  return list(text, tokens, open + 1, tokens.length - 1);
}

function list(text: string, tokens: readonly Token[], from: number, to: number): string[] {
  const names: string[] = [];
  for (let at = from; ; at += 2) {
    const name = tokens[at];
    if (at >= to || (name?.kind !== 'name' && name?.kind !== 'number')) throw syntaxError(text, name, 'a name');
    names.push(fold(name.text));
    if (at + 1 === to) return names;
    if (tokens[at + 1]?.kind !== ',') throw syntaxError(text, tokens[at + 1], '","');
  }
}

/** As pg_strcasecmp does for the names that an application_name, which is ASCII, can be equal to. */
function fold(name: string): string {
  return name.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}

function unknownToken(text: string, from: number): PostgresError {
  const at = from + text.slice(from).search(/[^ \t\n\r\f\v]/);
  const found = text.charAt(at) === '"' ? 'a quoted name that does not end' : JSON.stringify(text.charAt(at));
  return failed(text, `found ${found} at position ${at + 1}`);
}

function syntaxError(text: string, token: Token | undefined, expected: string): PostgresError {
  const found =
    token === undefined ? 'found its end' : `found ${JSON.stringify(token.text)} at position ${token.at + 1}`;
  return failed(text, `expected ${expected}, ${found}`);
}

function failed(text: string, what: string): PostgresError {
  return new PostgresError(
    'misconfigured',
    `synchronous_standby_names ${JSON.stringify(text)} can't be understood: ${what}`,
    { hint: 'correct synchronous_standby_names in postgresql.conf: a list of names, FIRST n (…) or ANY n (…)' },
  );
}
