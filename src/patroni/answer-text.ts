import { oneLine } from '../words.ts';
import { withoutCredentials } from './api-url.ts';
import type { HttpAnswer } from './http-request.ts';

// What a server says, made fit for one line of a log.

const MAX_LENGTH = 300;

/** `HTTP 404 Not Found: Server 'main' does not exist`. */
export function describeAnswer({ status, reason, location, body }: HttpAnswer): string {
  const said = messageIn(body);
  const parts = [`HTTP ${status} ${printable(reason)}`.trim()];
  if (status >= 300 && status < 400 && location !== null) {
    parts.push(`redirects to ${printable(withoutCredentials(location))}`);
  }
  if (said !== '') parts.push(said);
  return parts.join(': ');
}

/** The body as it came, for when it is not what was expected. */
export function excerpt(body: string): string {
  if (body === '') return 'an empty body';
  return parseJson(body) === undefined ? `"${printable(body)}"` : printable(body);
}

/** Flask's errors are `{"error": …}` or a page; proxies have other names and pages. */
function messageIn(body: string): string {
  const json = parseJson(body);
  if (typeof json === 'string') return printable(json);
  if (isRecord(json)) {
    const found = ['error', 'message', 'description', 'detail', 'title'].map((key) => json[key]);
    const text = found.find((value): value is string => typeof value === 'string' && value !== '');
    return printable(text ?? body);
  }
  return printable(isPage(body) ? textOfPage(body) : body);
}

/** Undefined for what is no JSON, which has no undefined. */
export function parseJson(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}

/** Narrows parsed JSON to an object. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isPage(body: string): boolean {
  return /^\s*<(!doctype|html|head|title|\?xml)/i.test(body);
}

const ENTITIES: Readonly<Record<string, string>> = {
  amp: '&',
  lt: '<',
  gt: '>',
  quot: '"',
  '#39': "'",
  '#x27': "'",
  nbsp: ' ',
};

/** Without the title: it says once more what the page says. */
function textOfPage(page: string): string {
  const text = page
    .slice(0, 100_000)
    .replace(/<(script|style|title)\b[^>]*>[\s\S]*?<\/\1\s*>/gi, ' ')
    .replace(/<[^>]*>/g, ' ')
    .replace(/&(#?\w+);/g, (whole, name: string) => ENTITIES[name.toLowerCase()] ?? whole);
  return text.trim() === '' ? (/<title\b[^>]*>([\s\S]*?)<\/title/i.exec(page)?.[1] ?? '') : text;
}

/** In one line, without what a terminal would obey, and not too much of it. */
function printable(text: string): string {
  const line = oneLine(text.slice(0, 10_000))
    .replace(/\p{Cc}/gu, ' ')
    .replace(/\s+/g, ' ')
    .trim();
  return line.length <= MAX_LENGTH ? line : `${line.slice(0, MAX_LENGTH)}…`;
}
