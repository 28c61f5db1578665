import { isUri, parseUri } from './conninfo-uri.ts';
import {
  conninfoError,
  isKeyword,
  KEYWORDS,
  unknownParameter,
  type ConninfoKeyword,
  type ConninfoParameters,
} from './conninfo-keywords.ts';
import { PostgresError } from './failure.ts';

export type { ConninfoKeyword, ConninfoParameters } from './conninfo-keywords.ts';

/**
 * Parses a connection string of libpq: `host=pg user='me'`, or a URI. Throws
 * `misconfigured` with the position of what is wrong, and nothing of what
 * stands there: a password with an unquoted blank looks like anything.
 */
export function parseConninfo(text: string): ConninfoParameters {
  if (isUri(text)) return parseUri(text);
  const { pairs, problem } = scanKeywords(text);
  if (problem !== null) throw conninfoError(problem.what, problem.at);
  return Object.fromEntries(pairs.map(({ keyword, value }) => [keyword, value]));
}

/** Writes parameters as keywords and values. With secrets, if there are any: not for a log. */
export function formatConninfo(parameters: ConninfoParameters): string {
  const written: string[] = [];
  for (const keyword of KEYWORDS) {
    const value = parameters[keyword];
    if (value !== undefined) written.push(`${keyword}=${quote(value)}`);
  }
  return written.join(' ');
}

/**
 * The same connection with some parameters changed, as keywords and values;
 * null removes one. Throws as {@link parseConninfo} does.
 */
export function overrideConninfo(
  text: string,
  changes: Readonly<Partial<Record<ConninfoKeyword, string | null>>>,
): string {
  const parameters: Partial<Record<ConninfoKeyword, string>> = { ...parseConninfo(text) };
  for (const keyword of KEYWORDS) {
    const value = changes[keyword];
    if (value === null) delete parameters[keyword];
    else if (value !== undefined) parameters[keyword] = value;
  }
  return formatConninfo(parameters);
}

/** How a child process is given a connection. */
export interface ProgramConninfo {
  /** Without secrets: other users see the arguments of a program. */
  readonly conninfo: string;
  /** To be added to the environment: the password, if the connection string has one. */
  readonly env: Readonly<Record<string, string>>;
}

/**
 * A connection string for a program that uses libpq (`pg_receivewal --dbname=…`),
 * with some parameters changed. Throws `misconfigured` for a secret that libpq
 * takes from nowhere else than its arguments.
 */
export function conninfoForProgram(
  text: string,
  changes: Readonly<Partial<Record<ConninfoKeyword, string | null>>> = {},
): ProgramConninfo {
  const { password, ...rest } = parseConninfo(overrideConninfo(text, changes));
  for (const keyword of ['sslpassword', 'scram_client_key', 'scram_server_key', 'oauth_client_secret'] as const) {
    if (rest[keyword] === undefined || rest[keyword] === '') continue;
    throw new PostgresError('misconfigured', `${keyword} can't be handed to another program without others seeing it`, {
      hint: `move it into a section of ~/.pg_service.conf (mode 0600), and write service=SECTION in its place`,
    });
  }
  return {
    conninfo: formatConninfo(rest),
    env: password === undefined || password === '' ? {} : { PGPASSWORD: password },
  };
}

/** One `keyword = value`; positions count from 0, and include quotes. */
export interface ScannedPair {
  readonly keyword: ConninfoKeyword;
  readonly value: string;
  readonly valueStart: number;
  readonly end: number;
}

export interface ScannedKeywords {
  readonly pairs: readonly ScannedPair[];
  /** Why it went no further than to the end of the last pair. */
  readonly problem: { readonly what: string; readonly at: number } | null;
}

const BLANK = /[ \t\n\r\v\f]/;

/** Takes keywords and values apart (conninfo_parse in fe-connect.c), as far as that goes. */
export function scanKeywords(text: string): ScannedKeywords {
  const pairs: ScannedPair[] = [];
  let at = 0;
  const skipBlanks = (): void => {
    while (at < text.length && BLANK.test(text.charAt(at))) at += 1;
  };
  for (;;) {
    skipBlanks();
    if (at === text.length) return { pairs, problem: null };
    const start = at;
    while (at < text.length && text.charAt(at) !== '=' && !BLANK.test(text.charAt(at))) at += 1;
    const name = text.slice(start, at);
    skipBlanks();
    if (text.charAt(at) !== '=') {
      return { pairs, problem: { what: 'missing "=" after the word', at: start } };
    }
    at += 1;
    // requiressl, the ancestor of sslmode.
    if (!isKeyword(name) && name !== 'requiressl') {
      return { pairs, problem: { what: unknownParameter(name), at: start } };
    }
    skipBlanks();
    const valueStart = at;
    const value = scanValue(text, valueStart);
    if (value === null) return { pairs, problem: { what: 'the quoted value never ends that begins', at: valueStart } };
    at = value.end;
    const pair = { valueStart, end: at };
    if (isKeyword(name)) pairs.push({ ...pair, keyword: name, value: value.text });
    else pairs.push({ ...pair, keyword: 'sslmode', value: value.text.startsWith('1') ? 'require' : 'prefer' });
  }
}

/** Null when a quoted value does not end. */
function scanValue(text: string, start: number): { readonly text: string; readonly end: number } | null {
  const quoted = text.charAt(start) === "'";
  let value = '';
  for (let at = quoted ? start + 1 : start; ; at += 1) {
    const char = text.charAt(at);
    // A backslash at the very end stands for nothing.
    if (char === '') return quoted ? null : { text: value, end: text.length };
    if (quoted ? char === "'" : BLANK.test(char)) return { text: value, end: quoted ? at + 1 : at };
    if (char === '\\') at += 1;
    value += char === '\\' ? text.charAt(at) : char;
  }
}

function quote(value: string): string {
  return /^[^\s'\\]+$/.test(value) ? value : `'${value.replace(/['\\]/g, '\\$&')}'`;
}
