import type { ServerConfig } from '../../config/config.ts';
import { isS3Location } from '../../config/values.ts';
import { statusJson, statusOfServer } from '../../server-status.ts';
import type { ServerView } from '../daemon-view.ts';
import { HttpError } from './answers.ts';
import { serverFor, type AddRoutes } from './context.ts';
import { accessOf } from './gate.ts';
import { RETRY_AFTER_S } from './limits.ts';

/** Looks at servers; who asks while one is being looked at is told what comes of that. */
class Looks {
  readonly #underWay = new Map<ServerConfig, Promise<unknown>>();

  at(server: ServerConfig, look: () => Promise<unknown>): Promise<unknown> {
    let underWay = this.#underWay.get(server);
    if (underWay === undefined) {
      underWay = look().finally(() => this.#underWay.delete(server));
      this.#underWay.set(server, underWay);
    }
    return underWay;
  }
}

/** `/livez`, `/readyz`, `/servers`, `/servers/SERVER/status` and `/metrics`: what the daemon does. */
export const addStateRoutes: AddRoutes = (app, { view, logger, disks }) => {
  const looks = new Looks();

  app.route({
    method: 'GET',
    url: '/livez',
    config: { open: true, whileStopping: true, answers: [200] },
    handler: async () => ({ status: 'ok' }),
  });

  app.route({
    method: 'GET',
    url: '/readyz',
    config: { whileStopping: true, answers: [200, 401, 503] },
    handler: async (request, reply) => {
      const { phase, servers } = view();
      const stuck = phase === 'running' ? await disks.stuck(directoriesOf(servers.values())) : null;
      if (phase !== 'running' || stuck !== null) void reply.code(503).header('retry-after', RETRY_AFTER_S);
      const covered = [...servers.values()].filter(({ name }) => accessOf(request).allows(name));
      const shown = stuck !== null && new Set(directoriesOf(covered)).has(stuck) ? stuck : null;
      return {
        phase,
        disks: stuck === null ? 'answering' : 'stuck',
        stuckDirectory: shown,
        servers: covered.map(({ name, archiving }) => ({ server: name, archiving })),
      };
    },
  });

  app.route({
    method: 'GET',
    url: '/servers',
    config: { answers: [200, 401, 503] },
    handler: async (request) =>
      [...view().servers.values()].filter(({ name }) => accessOf(request).allows(name)).map(summaryOf),
  });

  app.route<{ Params: { readonly server: string } }>({
    method: 'GET',
    url: '/servers/:server/status',
    config: { answers: [200, 400, 401, 403, 500, 503] },
    handler: async (request) => {
      const current = view();
      const { config } = serverFor(request, current, request.params.server, 'read', 'metrics');
      return looks.at(config, async () =>
        statusJson(await statusOfServer(current.config, config, logger, current.kill)),
      );
    },
  });

  app.route({
    method: 'GET',
    url: '/metrics',
    config: { answers: [200, 401, 403, 500, 503] },
    handler: async (request, reply) => {
      const access = accessOf(request);
      if (!access.has('metrics')) {
        throw new HttpError(403, 'forbidden', `${access.name} does not allow this: metrics`, {
          hint: 'what a token opens stands in http_tokens_file',
        });
      }
      const current = view();
      const covered = [...current.servers.keys()].filter((name) => access.allows(name, 'metrics'));
      void reply.type('text/plain; version=0.0.4; charset=utf-8');
      return current.metrics.text(current, new Set(covered));
    },
  });
};

/** Where the servers that this daemon works for deliver, keep and remember WAL. */
function directoriesOf(servers: Iterable<ServerView>): string[] {
  const found: string[] = [];
  for (const { config } of servers) {
    const { active, disabled, options } = config;
    if (!active || disabled) continue;
    found.push(options.backup_directory, options.incoming_wals_directory, options.errors_directory);
    if (options.streaming_archiver) found.push(options.streaming_wals_directory);
    if (!isS3Location(options.wals_directory)) found.push(options.wals_directory);
    if (options.xlogdb_directory !== null) found.push(options.xlogdb_directory);
  }
  return found;
}

function summaryOf({ name, config, archiving, receiving }: ServerView): unknown {
  const { active, passive, disabled } = config;
  return { server: name, active, passive, disabled, archiving, receiving };
}
