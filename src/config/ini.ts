import { WalwardenError } from '../errors.ts';
import type { Place } from './config.ts';

/** The value of a key as written: trimmed, continuation lines joined by newlines, nothing interpolated. */
export interface IniEntry extends Place {
  readonly value: string;
}

export interface IniSection extends Place {
  readonly name: string;
  readonly entries: ReadonlyMap<string, IniEntry>;
}

/** Sections in the order of their first appearance. `[DEFAULT]` counts for all of them, and is none itself. */
export interface Ini {
  readonly sections: ReadonlyMap<string, IniSection>;
  readonly defaults: ReadonlyMap<string, IniEntry>;
}

// What Python's str.strip() removes, which is not what JavaScript's trim() does.
const SPACE = String.raw`\t\n\v\f\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`;
const LEADING_SPACE = new RegExp(`^[${SPACE}]+`, 'u');
const IS_SPACE = new RegExp(`^[${SPACE}]$`, 'u');
const SECTION = /^\[([^]+)\]/u;
const MAX_VALUE_LINES = 10_000;
/** No option needs more: PATH-like lists and shell commands are the longest, and Linux takes 128 KiB as one argument. */
const MAX_VALUE_LENGTH = 128 * 1024;

interface OpenEntry extends Place {
  readonly key: string;
  readonly lines: string[];
}

/**
 * Reads the dialect of Python's `ConfigParser(strict=False)`, which is
 * Barman's: keys are case-insensitive, the last of several wins, a line that
 * is indented deeper than its key continues the value, `#` and `;` begin
 * comments on lines of their own only. Throws `config` naming `file` and line.
 */
export function parseIni(text: string, file: string): Ini {
  const sections = new Map<string, IniSection & { readonly entries: Map<string, IniEntry> }>();
  const defaults = new Map<string, IniEntry>();
  let current: Map<string, IniEntry> | undefined;
  let open: OpenEntry | undefined;
  let indent = 0;

  const close = (): void => {
    if (open === undefined || current === undefined) return;
    const value = stripEnd(open.lines.join('\n'));
    if (value.length > MAX_VALUE_LENGTH) {
      throw syntaxError(open, `a value of at most ${MAX_VALUE_LENGTH} characters`, `${value.length}`);
    }
    current.set(open.key, { value, file: open.file, line: open.line });
  };

  const lines = text.replace(/^\uFEFF/, '').split(/\r\n|\r|\n/);
  for (const [index, raw] of lines.entries()) {
    const place: Place = { file, line: index + 1 };
    if (raw.includes('\0')) throw syntaxError(place, 'text', 'a NUL byte');
    const line = strip(raw);
    if (line.startsWith('#') || line.startsWith(';')) continue;
    if (line === '') {
      // An empty line may stand inside a value; at its end it is dropped.
      open?.lines.push('');
      continue;
    }
    const depth = LEADING_SPACE.exec(raw)?.[0].length ?? 0;
    if (open !== undefined && depth > indent) {
      if (open.lines.length >= MAX_VALUE_LINES) {
        throw syntaxError(place, `a value of at most ${MAX_VALUE_LINES} lines`, 'more');
      }
      open.lines.push(line);
      continue;
    }
    indent = depth;
    const header = SECTION.exec(line)?.[1];
    if (header !== undefined) {
      close();
      open = undefined;
      if (header === 'DEFAULT') {
        current = defaults;
      } else {
        const section = sections.get(header) ?? { ...place, name: header, entries: new Map<string, IniEntry>() };
        sections.set(header, section);
        current = section.entries;
      }
      continue;
    }
    if (current === undefined) throw syntaxError(place, 'a [section] before the first option', quote(line));
    const delimiter = line.search(/[=:]/);
    const key = strip(line.slice(0, delimiter)).toLowerCase();
    if (delimiter < 0 || key === '') {
      throw syntaxError(place, '`option = value`, a [section] or an indented continuation line', quote(line));
    }
    close();
    open = { ...place, key, lines: [strip(line.slice(delimiter + 1))] };
  }
  close();
  return { sections, defaults };
}

/** Adds a file that was read later: its values win, its sections come after those that are known. */
export function mergeIni(first: Ini, second: Ini): Ini {
  const sections = new Map(first.sections);
  for (const [name, section] of second.sections) {
    const known = sections.get(name);
    sections.set(
      name,
      known === undefined ? section : { ...known, entries: new Map([...known.entries, ...section.entries]) },
    );
  }
  return { sections, defaults: new Map([...first.defaults, ...second.defaults]) };
}

function strip(line: string): string {
  return stripEnd(line.replace(LEADING_SPACE, ''));
}

/** A regular expression that ends in `$` would begin again at each of many blanks that stand inside the text. */
function stripEnd(text: string): string {
  let end = text.length;
  while (end > 0 && IS_SPACE.test(text.charAt(end - 1))) end -= 1;
  return text.slice(0, end);
}

function quote(line: string): string {
  // What is not understood may be a connection string.
  if (/passw|:\/\/|@/i.test(line)) return `a line of ${line.length} characters, which may hold a password`;
  return JSON.stringify(line.length > 80 ? `${line.slice(0, 80)}…` : line);
}

function syntaxError(place: Place, expected: string, found: string): WalwardenError {
  return new WalwardenError('config', `${place.file}:${place.line}: expected ${expected}, found ${found}`);
}
