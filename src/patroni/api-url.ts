import { WalwardenError } from '../errors.ts';

/** Where pg-backup-api is, taken apart: what may be logged, and what may not. */
export interface ApiUrl {
  /** Without user, password and trailing slash: this is what gets logged. */
  readonly base: string;
  readonly origin: URL;
  /** What comes before `/status`: empty, or `/prefix`. */
  readonly prefix: string;
  /** The `Authorization` header, when the URL names a user. */
  readonly authorization: string | null;
}

const HINT = 'give --api-url as http://host:7480 or https://host/prefix';

/** Reads `--api-url`. No message of its errors has the URL in it: there may be a password. */
export function parseApiUrl(text: string): ApiUrl {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    const hint = /^[a-z][a-z\d+.-]*:\/\//i.test(text) ? HINT : `${HINT}: it begins with http:// or https://`;
    throw new WalwardenError('usage', '--api-url is no URL', { hint });
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    const found = /:\/\//.test(text) ? `, found ${url.protocol}//` : '';
    throw new WalwardenError('usage', `--api-url: expected http:// or https://${found}`, { hint: HINT });
  }
  if (url.search !== '' || url.hash !== '') {
    throw new WalwardenError('usage', '--api-url has a query or a fragment behind its path', { hint: HINT });
  }
  const authorization = authorizationOf(url);
  url.username = '';
  url.password = '';
  const prefix = url.pathname.replace(/\/+$/, '');
  return { base: `${url.origin}${prefix}`, origin: new URL(url.origin), prefix, authorization };
}

function authorizationOf({ username, password }: URL): string | null {
  if (username === '' && password === '') return null;
  return `Basic ${Buffer.from(`${decoded(username)}:${decoded(password)}`).toString('base64')}`;
}

/** A percent sign that begins no code is one. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** A URL that somebody else gave us, fit for a log. */
export function withoutCredentials(text: string): string {
  return text.replace(/^([a-z][a-z\d+.-]*:)?\/\/[^/?#]*@/i, '$1//');
}
