import { wrongValue, type Settings } from './conninfo-settings.ts';

/** How a server may convince itself of who we are; `none` covers trust, peer and certificates. */
export type AuthenticationMethod = 'none' | 'password' | 'md5' | 'scram-sha-256' | 'gss' | 'sspi' | 'oauth';

export interface AuthenticationRules {
  /** `require_auth`; null: any. */
  readonly methods: ReadonlySet<AuthenticationMethod> | null;
  readonly channelBinding: 'disable' | 'prefer' | 'require';
}

const METHODS: readonly AuthenticationMethod[] = ['none', 'password', 'md5', 'scram-sha-256', 'gss', 'sspi', 'oauth'];

/** `require_auth` is a list of methods, or of methods that may not be, each with a `!`. */
export function parseAuthenticationRules(settings: Settings): AuthenticationRules {
  const channelBinding = settings.oneOf('channel_binding', ['disable', 'prefer', 'require'], 'prefer');
  const required = settings.text('require_auth');
  if (required === null) return { methods: null, channelBinding };
  const words = required.split(',');
  const negative = words.every((word) => word.startsWith('!'));
  const named = METHODS.filter((method) => words.includes(negative ? `!${method}` : method));
  if (named.length !== words.length) {
    throw wrongValue('require_auth', `different ones of ${METHODS.join(', ')}, or each of them with a "!" in front`);
  }
  return { methods: new Set(negative ? METHODS.filter((method) => !named.includes(method)) : named), channelBinding };
}

const SCRAM = 'SCRAM-SHA-256';
const SCRAM_PLUS = 'SCRAM-SHA-256-PLUS';

/** What an authentication request asks for, by its code (PostgreSQL: libpq/protocol.h). */
const REQUESTS: ReadonlyMap<number, AuthenticationMethod> = new Map([
  [3, 'password'],
  [5, 'md5'],
  [7, 'gss'],
  [8, 'gss'],
  [9, 'sspi'],
  [10, 'scram-sha-256'],
]);
const OK = 0;
const SASL = 10;
const SASL_CONTINUE = 11;
const SASL_FINAL = 12;

/**
 * Follows the authentication of one connection, and refuses before any password
 * is told what must not be (check_expected_areq in fe-auth.c), or what can't be
 * answered.
 */
export class AuthenticationWatch {
  readonly #rules: AuthenticationRules;
  readonly #encrypted: boolean;
  #method: AuthenticationMethod = 'none';
  #finished = true;

  constructor(rules: AuthenticationRules, encrypted: boolean) {
    this.#rules = rules;
    this.#encrypted = encrypted;
  }

  /** Why a request is refused; null when it may be answered. `mechanisms`: those that SASL offers. */
  judge(code: number, mechanisms: readonly string[]): string | null {
    if (code === OK) return this.#judgeEnd();
    if (code === SASL_CONTINUE) return null;
    if (code === SASL_FINAL) {
      // The password's owner is proved to the server by then, and the server to us.
      this.#finished = true;
      return null;
    }
    const method = mechanisms.includes('OAUTHBEARER') && !mechanisms.includes(SCRAM) ? 'oauth' : REQUESTS.get(code);
    if (method === undefined) return `the server asks for an authentication of an unknown kind (${code})`;
    if (!this.#allows(method))
      return `the server asks for authentication by ${method}, which require_auth does not allow`;
    if (code === SASL) return this.#judgeSasl(mechanisms);
    if (this.#rules.channelBinding === 'require') {
      return `channel_binding=require, and the server asks for authentication by ${method}, which has none`;
    }
    if (method !== 'password' && method !== 'md5') return unsupported(method);
    this.#method = method;
    return null;
  }

  #judgeSasl(mechanisms: readonly string[]): string | null {
    const bound = mechanisms.includes(SCRAM_PLUS);
    if (bound && !this.#encrypted) return `the server offers ${SCRAM_PLUS} on a connection without TLS`;
    if (this.#rules.channelBinding === 'require' && !bound) {
      return `channel_binding=require, and the server does not offer it${this.#encrypted ? '' : ': the connection is without TLS'}`;
    }
    if (!bound && !mechanisms.includes(SCRAM)) return unsupported(mechanisms.join(', '));
    this.#method = 'scram-sha-256';
    this.#finished = false;
    return null;
  }

  #judgeEnd(): string | null {
    if (!this.#finished) return 'the server did not prove that it knows the password';
    if (!this.#allows(this.#method)) return 'the server asks for no authentication, which require_auth does not allow';
    if (this.#rules.channelBinding === 'require' && this.#method !== 'scram-sha-256') {
      return 'channel_binding=require, and the server asks for no authentication';
    }
    return null;
  }

  #allows(method: AuthenticationMethod): boolean {
    return this.#rules.methods === null || this.#rules.methods.has(method);
  }
}

function unsupported(what: string): string {
  return `the server asks for authentication by ${what}, which walwarden does not support: use scram-sha-256 in pg_hba.conf`;
}
