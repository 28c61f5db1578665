import type { Server } from 'node:http';
import type { SecureContextOptions } from 'node:tls';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from '../../logging.ts';
import { asHttpError, errorBody, HttpError } from './answers.ts';
import { Connections } from './connections.ts';
import type { HttpContext } from './context.ts';
import { createGate } from './gate.ts';
import { addGetRoute } from './get-route.ts';
import { LINGER_MS, MAX_PARAMETER_LENGTH, REFUSAL_EVERY_MS, RETRY_AFTER_S } from './limits.ts';
import { addPutRoute } from './put-route.ts';
import { createRawServer, refuseGarbage } from './raw-server.ts';
import { RefusedClients } from './refused-clients.ts';
import { addStateRoutes } from './state-routes.ts';
import type { Tokens } from './tokens.ts';

export interface AppSettings {
  /** Asked anew for each request. */
  readonly tokens: () => Tokens | null;
  readonly isSocket: boolean;
  readonly tls: SecureContextOptions | null;
}

/** A route and every status that it may answer with. */
export interface RouteFacts {
  readonly method: string;
  readonly url: string;
  readonly answers: readonly number[];
}

export interface App {
  readonly server: Server;
  readonly connections: Connections;
  readonly routes: readonly RouteFacts[];
  /** Connections that come from now on see this certificate; only where TLS is spoken. */
  readonly renew: (tls: SecureContextOptions) => void;
}

/** Everything that answers, ready to listen. */
export async function createApp({ tokens, isSocket, tls }: AppSettings, context: HttpContext): Promise<App> {
  // It takes half a second, which nobody has to wait for who serves no HTTP.
  const { fastify } = await import('fastify');
  const { server, renew } = createRawServer(tls);
  const connections = new Connections(server, tls !== null);
  const app = fastify({
    serverFactory: (handler) => server.on('request', handler),
    clientErrorHandler: (error, socket) => refuseGarbage(error, socket, connections.isBusy(socket)),
    frameworkErrors: (error, _request, reply) => void sendError(asHttpError(error), reply),
    routerOptions: { maxParamLength: MAX_PARAMETER_LENGTH },
  });
  const routes: RouteFacts[] = [];
  const refused = new RefusedClients(REFUSAL_EVERY_MS);
  app.addHook('onRoute', ({ method, url, config }) => {
    if (config?.answers === undefined) return;
    for (const one of [method].flat()) routes.push({ method: one, url, answers: config.answers });
  });

  app.decorateRequest('walBytes', 0);
  // Bodies are read by who wants them, as they come.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
  app.addHook('onRequest', async (request, reply) => void reply.raw.once('finish', () => forgetRest(request)));
  app.addHook('onRequest', createGate({ view: context.view, tokens, isSocket }));
  app.addHook('onResponse', async (request, reply) => count(request, reply, context));
  app.setErrorHandler((error, request, reply) => {
    const told = asHttpError(error);
    logFailure(told, error, request, context.logger, refused);
    return sendError(told, reply);
  });
  app.setNotFoundHandler(() => {
    // Never 404: a restore_command would take it for the end of the archive.
    throw new HttpError(400, 'bad-request', 'there is nothing under this path');
  });

  addStateRoutes(app, context);
  addGetRoute(app, context);
  addPutRoute(app, context);
  refuseOtherMethods(app, routes);
  await app.ready();
  return { server, connections, routes, renew };
}

function sendError(error: HttpError, reply: FastifyReply): FastifyReply {
  if (error.status === 503) void reply.header('retry-after', RETRY_AFTER_S);
  return reply.code(error.status).type('application/json; charset=utf-8').send(errorBody(error));
}

/** A path that exists, but not for this. */
function refuseOtherMethods(app: FastifyInstance, routes: readonly RouteFacts[]): void {
  for (const url of new Set(routes.map((route) => route.url))) {
    const allowed = routes.filter((route) => route.url === url).map(({ method }) => method);
    const others = app.supportedMethods.filter((method) => !allowed.includes(method));
    app.route({
      method: others,
      url,
      handler: async ({ method }, reply) => {
        void reply.header('allow', allowed.join(', '));
        throw new HttpError(405, 'method-not-allowed', `${method} is not possible here: ${allowed.join(', ')}`);
      },
    });
  }
}

/** What is still sent after our answer. */
function forgetRest({ raw }: FastifyRequest): void {
  if (raw.complete || raw.destroyed) return;
  const timer = setTimeout(() => raw.socket.destroy(), LINGER_MS);
  raw.once('end', () => clearTimeout(timer)).once('close', () => clearTimeout(timer));
  raw.resume();
}

function count(request: FastifyRequest, reply: FastifyReply, { view }: HttpContext): void {
  const { operation } = request.routeOptions.config;
  if (operation === undefined || request.method === 'HEAD') return;
  const { params } = request;
  if (typeof params !== 'object' || params === null || !('server' in params)) return;
  const { metrics, servers } = view();
  // Anybody can invent names.
  const server = String(params.server);
  if (!servers.has(server)) return;
  metrics.request(server, operation, reply.statusCode, request.walBytes, reply.elapsedTime / 1000);
}

/** Absent files are no news: every recovery ends with some. */
function logFailure(
  told: HttpError,
  error: unknown,
  request: FastifyRequest,
  logger: Logger,
  refused: RefusedClients,
): void {
  const { status, code, hint, message } = told;
  const { method, url, ip } = request;
  const facts = { method, path: url, status, code, ...(hint === undefined ? {} : { hint }) };
  if (status === 500) {
    const stack = error instanceof Error ? error.stack : String(error);
    logger.error({ ...facts, stack }, `${method} ${url} failed: ${stack?.split('\n')[0]}`);
  } else if ((request.raw.destroyed && !request.raw.complete) || (code === 'aborted' && request.raw.socket.destroyed)) {
    logger.info(facts, `${method} ${url}: the client went away in the middle`);
  } else if (status > 500 && code !== 'stopping') {
    logger.error(facts, message);
  } else if ((status === 401 || status === 403) && refused.isNews(ip)) {
    logger.warn({ ...facts, client: ip }, message);
  } else if (status === 422) {
    logger.warn(facts, message);
  } else {
    logger.debug(facts, message);
  }
}
