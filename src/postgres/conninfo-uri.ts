import {
  conninfoError,
  isKeyword,
  unknownParameter,
  type ConninfoKeyword,
  type ConninfoParameters,
} from './conninfo-keywords.ts';

const PREFIX = /^(?:postgresql|postgres):\/\//;

/** Whether libpq takes a connection string for a URI. */
export function isUri(text: string): boolean {
  return PREFIX.test(text);
}

/**
 * Parses `postgresql://[user[:password]@][host][:port][,…][/dbname][?name=value&…]`
 * (conninfo_uri_parse_options in fe-connect.c). Stricter where a password with
 * unescaped `@` or `/` would make itself a part of the host or database name,
 * which messages show.
 */
export function parseUri(text: string): ConninfoParameters {
  const found: Partial<Record<ConninfoKeyword, string>> = {};
  const store = (keyword: ConninfoKeyword, encoded: string, at: number): void => {
    if (encoded !== '') found[keyword] = decode(encoded, at);
  };

  let at = PREFIX.exec(text)?.[0].length ?? 0;
  const credentials = /^[^@/]*@/.exec(text.slice(at))?.[0];
  if (credentials !== undefined) {
    const colon = credentials.indexOf(':');
    const nameEnd = colon === -1 ? credentials.length - 1 : colon;
    store('user', credentials.slice(0, nameEnd), at);
    if (colon !== -1) store('password', credentials.slice(colon + 1, -1), at + colon + 1);
    at += credentials.length;
  }

  const hosts: string[] = [];
  const ports: string[] = [];
  const hostsAt = at;
  for (;;) {
    const { host, port, end } = scanHost(text, at);
    hosts.push(host);
    ports.push(port);
    at = end + 1;
    if (text.charAt(end) !== ',') break;
  }
  store('host', hosts.join(','), hostsAt);
  store('port', ports.join(','), hostsAt);
  const terminator = text.charAt(at - 1);

  const query = text.indexOf('?', at - 1);
  if (terminator === '/') {
    const name = text.slice(at, query === -1 ? undefined : query);
    refuseAt(name, at);
    store('dbname', name, at);
  }
  if (query !== -1) Object.assign(found, parseQuery(text, query + 1));
  return found;
}

/** One `host:port`, `[IPv6]:port`, either of them empty; `end` is where `,`, `/`, `?` or nothing follows. */
function scanHost(text: string, start: number): { readonly host: string; readonly port: string; readonly end: number } {
  let at = start;
  let host;
  if (text.charAt(at) === '[') {
    const close = text.indexOf(']', at);
    if (close === -1) throw conninfoError('the IPv6 address never ends that begins', at);
    if (close === at + 1) throw conninfoError('the IPv6 address is empty', at);
    host = text.slice(at + 1, close);
    at = close + 1;
    if (!/^[:/?,]?$/.test(text.charAt(at))) throw conninfoError('expected ":" or "/" after the IPv6 address', at);
  } else {
    host = /^[^:/?,]*/.exec(text.slice(at))?.[0] ?? '';
    refuseAt(host, at);
    at += host.length;
  }
  if (text.charAt(at) !== ':') return { host, port: '', end: at };
  const port = /^[^/?,]*/.exec(text.slice(at + 1))?.[0] ?? '';
  if (!/^\d*$/.test(port)) {
    const reason = 'the port is not a number (in a password, "/" is written %2F and "@" %40)';
    throw conninfoError(reason, at + 1);
  }
  return { host, port, end: at + 1 + port.length };
}

function refuseAt(part: string, at: number): void {
  const sign = part.indexOf('@');
  if (sign !== -1) throw conninfoError('"@" in a user name, password or database name is written %40:', at + sign);
}

function parseQuery(text: string, start: number): ConninfoParameters {
  const found: Partial<Record<ConninfoKeyword, string>> = {};
  let at = start;
  for (const parameter of text.slice(start).split('&')) {
    const [name = '', value, ...more] = parameter.split('=');
    // As libpq: nothing after the last "&" is nothing.
    if (parameter !== '' || at < text.length) {
      if (value === undefined) throw conninfoError('missing "=" in the parameter', at);
      if (more.length > 0) throw conninfoError('more than one "=" in the parameter', at);
      const keyword = decode(name, at);
      const decoded = decode(value, at + name.length + 1);
      if (keyword === 'ssl' && decoded === 'true') found.sslmode = 'require';
      else if (keyword === 'requiressl') found.sslmode = decoded.startsWith('1') ? 'require' : 'prefer';
      else if (isKeyword(keyword)) found[keyword] = decoded;
      else throw conninfoError(unknownParameter(keyword), at);
    }
    at += parameter.length + 1;
  }
  return found;
}

/** Percent-encoded bytes are UTF-8. */
function decode(encoded: string, at: number): string {
  const bad = encoded.search(/%(?![0-9A-Fa-f]{2})/);
  if (bad !== -1) throw conninfoError('"%" without two hexadecimal digits (a percent sign is written %25)', at + bad);
  const zero = encoded.indexOf('%00');
  if (zero !== -1) throw conninfoError('a zero byte (%00)', at + zero);
  try {
    return decodeURIComponent(encoded);
  } catch {
    throw conninfoError('bytes that are not UTF-8, percent-encoded in the part', at);
  }
}
