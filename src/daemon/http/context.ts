import type { FastifyInstance, FastifyRequest } from 'fastify';
import { findServer } from '../../config/config.ts';
import { isErrorCode } from '../../errors.ts';
import type { Logger } from '../../logging.ts';
import type { Server } from '../../server.ts';
import type { DiskWatch } from '../disk-watch.ts';
import type { DaemonView, ServerView } from '../daemon-view.ts';
import { HttpError } from './answers.ts';
import { accessOf } from './gate.ts';
import type { ReadAhead } from './read-ahead.ts';
import type { Scope } from './tokens.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Bytes of the WAL file that came in or went out. */
    walBytes: number;
  }
  interface FastifyContextConfig {
    /** Answered to everybody, with or without a token. */
    readonly open?: true;
    /** Answered while the daemon stops, too. */
    readonly whileStopping?: true;
    /** Every status that a route may answer with. */
    readonly answers?: readonly number[];
    /** Counted as this. */
    readonly operation?: 'put' | 'get';
  }
}

/** What every route works with. */
export interface HttpContext {
  /** Asked anew for each request. */
  readonly view: () => DaemonView;
  readonly logger: Logger;
  readonly readAhead: ReadAhead;
  readonly disks: DiskWatch;
  /** How long a deposit may take, in milliseconds. */
  readonly depositMs: number;
}

/** Adds routes of one kind. */
export type AddRoutes = (app: FastifyInstance, context: HttpContext) => void;

/** The server that a path names, if the request may do that; whoever may not learns nothing of what there is. */
export function serverFor(request: FastifyRequest, view: DaemonView, name: string, ...scopes: Scope[]): ServerView {
  const access = accessOf(request);
  if (!scopes.some((scope) => access.allows(name, scope))) {
    const wanted = scopes.join(' or ');
    throw new HttpError(
      403,
      'forbidden',
      `${access.name} does not allow this: ${wanted} of server ${JSON.stringify(name)}`,
      {
        hint: 'what a token opens stands in http_tokens_file',
      },
    );
  }
  const server = view.servers.get(name);
  if (server !== undefined) return server;
  // Throws, with the name that was meant.
  findServer(view.config, name);
  throw beingConfigured(name);
}

/** The server's parts; 503 while the daemon is closing them, to open them anew. */
export function useOf(server: ServerView): Server {
  try {
    return server.use();
  } catch (error) {
    throw isErrorCode(error, 'aborted') ? beingConfigured(server.name, error) : error;
  }
}

function beingConfigured(name: string, cause?: unknown): HttpError {
  return new HttpError(503, 'stopping', `server ${name} is being configured`, { cause });
}
