import { isUri } from './conninfo-uri.ts';
import { scanKeywords } from './conninfo.ts';
import { isSecret } from './conninfo-keywords.ts';

const MASK = '********';

/**
 * Hides the secrets of a connection string that is to be shown, however wrong
 * it is written: what could be a part of one is hidden, too.
 */
export function maskConninfo(text: string): string {
  return isUri(text) || /^\w+:\/\//.test(text) ? maskUri(text) : maskKeywords(text);
}

function maskUri(text: string): string {
  return (
    text
      .replace(/^(\w+:\/\/[^:/@?#]*:)[^]*(@)/, `$1${MASK}$2`)
      // Without the @, cut off: what is no port is a password.
      .replace(/^(\w+:\/\/[^:/@?#[,]*:)(?!\d*(?:[/?,]|$)|\*{8}@)[^/?]*/, `$1${MASK}`)
      .replace(/([?&])([^=&]*)=([^&]*)/g, (all, sign: string, name: string) =>
        looksSecret(decodeLoosely(name)) ? `${sign}${name}=${MASK}` : all,
      )
  );
}

function maskKeywords(text: string): string {
  const { pairs, problem } = scanKeywords(text);
  let masked = '';
  let shown = 0;
  for (const { keyword, valueStart, end } of pairs) {
    masked += text.slice(shown, isSecret(keyword) ? valueStart : end);
    if (isSecret(keyword)) masked += MASK;
    shown = end;
  }
  masked = maskLoosely(masked);
  const rest = text.slice(shown);
  if (problem === null) return masked + rest;
  // What can't be understood may be a password whose name is misspelt, or, after one, its rest.
  const [blanks = '', word = ''] = /^(\s*)(\S*?\s*=\s*)?/.exec(rest)?.slice(1) ?? [];
  const hidden = pairs.some(({ keyword }) => isSecret(keyword));
  return `${masked}${blanks}${!hidden || looksSecret(word) ? word : ''}${MASK}`;
}

/** For what stands within other values, or within what can't be understood. */
function maskLoosely(text: string): string {
  return text.replace(
    /(\w*(?:password|passwd|secret|scram_\w+_key)\w*\s*=\s*)(?!\*{8}(?:\s|$))\S[^]*?(?=\s|$)/gi,
    `$1${MASK}`,
  );
}

function looksSecret(name: string): boolean {
  return isSecret(name) || /password|passwd|secret/i.test(name);
}

function decodeLoosely(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
