import type { FastifyReply, FastifyRequest } from 'fastify';
import type { DaemonView } from '../daemon-view.ts';
import { HttpError } from './answers.ts';
import { FULL_ACCESS, NO_ACCESS, type Access, type Tokens } from './tokens.ts';

const granted = new WeakMap<FastifyRequest, Access>();

/** What a request may do. */
export function accessOf(request: FastifyRequest): Access {
  return granted.get(request) ?? NO_ACCESS;
}

export type Gate = (request: FastifyRequest, reply: FastifyReply) => Promise<void>;

/** Who may come in, decided before anything is read of a request's body. */
export interface GateSettings {
  readonly view: () => DaemonView;
  /** Asked anew for each request. */
  readonly tokens: () => Tokens | null;
  /** The permissions of a unix socket have decided already, unless a token narrows that. */
  readonly isSocket: boolean;
}

export function createGate({ view, tokens, isSocket }: GateSettings): Gate {
  return async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const { open, whileStopping } = request.routeOptions.config;
    // Who shows no token may not hold a connection that others need.
    if (open === true && !isSocket) void reply.header('connection', 'close');
    if (open !== true) granted.set(request, grant(request.headers.authorization, reply));
    if (whileStopping !== true && view().phase === 'stopping') {
      throw new HttpError(503, 'stopping', 'the daemon is stopping');
    }
  };

  function grant(header: string | undefined, reply: FastifyReply): Access {
    if (header === undefined && isSocket) return FULL_ACCESS;
    const known = tokens();
    const [, token] = /^bearer +(\S+) *$/i.exec(header ?? '') ?? [];
    const access = token === undefined ? null : (known?.find(token) ?? null);
    if (access !== null) return access;
    void reply.header('connection', 'close');
    void reply.header(
      'www-authenticate',
      `Bearer realm="walwarden"${header === undefined ? '' : ', error="invalid_token"'}`,
    );
    throw new HttpError(
      401,
      'unauthorized',
      header === undefined ? 'a bearer token is needed' : 'this token is not known',
      {
        hint:
          known === null
            ? 'no http_tokens_file is configured: the unix socket answers without a token'
            : 'send: Authorization: Bearer TOKEN, of one whose hash stands in http_tokens_file',
      },
    );
  }
}
