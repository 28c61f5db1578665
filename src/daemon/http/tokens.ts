import { createHash, timingSafeEqual } from 'node:crypto';
import { open } from 'node:fs/promises';
import { messageOf, WalwardenError } from '../../errors.ts';

export const SCOPES = ['read', 'write', 'metrics'] as const;
export type Scope = (typeof SCOPES)[number];

/** What a request may do. */
export interface Access {
  /** Who asks, for the log. */
  readonly name: string;
  /** Any scope will do where none is given. */
  allows(server: string, scope?: Scope): boolean;
  /** For a server, whichever it is. */
  has(scope: Scope): boolean;
}

/** Of whoever may open our unix socket. */
export const FULL_ACCESS: Access = { name: 'the unix socket', allows: () => true, has: () => true };

export const NO_ACCESS: Access = { name: 'nobody', allows: () => false, has: () => false };

interface Token {
  /** SHA-256 of the token itself, which nobody but its holder has. */
  readonly hash: Buffer;
  /** Null for all. */
  readonly servers: ReadonlySet<string> | null;
  readonly access: Access;
}

/** The tokens of `http_tokens_file`. */
export class Tokens {
  readonly #tokens: readonly Token[];

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  get count(): number {
    return this.#tokens.length;
  }

  /** Every server that is named. */
  servers(): ReadonlySet<string> {
    return new Set(this.#tokens.flatMap(({ servers }) => [...(servers ?? [])]));
  }

  /** What a token opens; null for one that we don't know. Takes as long for any. */
  find(presented: string): Access | null {
    const hash = createHash('sha256').update(presented).digest();
    let found: Access | null = null;
    for (const token of this.#tokens) {
      if (timingSafeEqual(token.hash, hash)) found = token.access;
    }
    return found;
  }
}

/** Reads them; throws `config`, naming the line, when the file can't be used as it is. */
export async function readTokens(path: string): Promise<Tokens> {
  const text = await readPrivate(path);
  const tokens: Token[] = [];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const content = line.trim();
    if (content === '' || content.startsWith('#')) continue;
    const refuse = (why: string): WalwardenError =>
      new WalwardenError('config', `${path}:${index + 1}: ${why} (http_tokens_file)`, {
        hint: 'expected: sha256:HASH SERVER[,SERVER…]|* read|write|metrics[,…] [NAME]; the hash of a token: printf %s "$TOKEN" | sha256sum',
      });
    const token = parseToken(content, index + 1, refuse);
    if (tokens.some(({ hash }) => hash.equals(token.hash))) throw refuse('this token stands in a line above, too');
    tokens.push(token);
  }
  return new Tokens(tokens);
}

async function readPrivate(path: string): Promise<string> {
  try {
    await using handle = await open(path, 'r');
    const { mode } = await handle.stat();
    if ((mode & 0o077) !== 0) {
      const found = (mode & 0o777).toString(8).padStart(4, '0');
      throw new WalwardenError('config', `http_tokens_file ${path} is open to others: its mode is ${found}`, {
        hint: `chmod 600 ${path}`,
      });
    }
    return await handle.readFile('utf8');
  } catch (cause) {
    if (cause instanceof WalwardenError) throw cause;
    throw new WalwardenError('config', `can't read http_tokens_file ${path}: ${messageOf(cause)}`, {
      cause,
      hint: 'it must be readable by the user that walwarden runs as',
    });
  }
}

function parseToken(content: string, line: number, refuse: (why: string) => WalwardenError): Token {
  const [hash = '', serverList = '', scopeList = '', ...name] = content.split(/\s+/);
  const [, hex] = /^sha256:([0-9a-f]{64})$/i.exec(hash) ?? [];
  // What stands there may be a token, so it is not shown.
  if (hex === undefined) throw refuse('its first word is no sha256: with 64 hexadecimal digits');
  if (serverList === '') throw refuse('it names no server');
  const names = serverList.split(',');
  if (names.some((server) => server === '' || (server === '*' && names.length > 1))) {
    throw refuse(`${JSON.stringify(serverList)} is no list of servers`);
  }
  const scopes = new Set(scopeList.split(',').map((word) => asScope(word, refuse)));
  const servers = serverList === '*' ? null : new Set(names);
  const access: Access = {
    name: name.length === 0 ? `the token of line ${line}` : name.join(' '),
    allows: (server, scope) => (servers === null || servers.has(server)) && (scope === undefined || scopes.has(scope)),
    has: (scope) => scopes.has(scope),
  };
  return { hash: Buffer.from(hex, 'hex'), servers, access };
}

function asScope(word: string, refuse: (why: string) => WalwardenError): Scope {
  const scope = SCOPES.find((known) => known === word);
  if (scope === undefined) throw refuse(`${JSON.stringify(word)} is no scope: expected ${SCOPES.join(', ')}`);
  return scope;
}
