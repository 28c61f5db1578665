import type { FastifyReply, FastifyRequest } from 'fastify';
import { findPatiently } from '../../archiver/find-patiently.ts';
import { findWal, type FoundWal } from '../../archiver/wal-finder.ts';
import { isS3Location } from '../../config/values.ts';
import type { Logger } from '../../logging.ts';
import { finderParts } from '../../server-wal.ts';
import { walKind, walName, type WalName } from '../../wal/wal-name.ts';
import type { ServerView } from '../daemon-view.ts';
import { asHttpError, HttpError } from './answers.ts';
import { answered } from './answered.ts';
import { serverFor, useOf, type AddRoutes } from './context.ts';
import { FILE_SIZE, FOUND_AT_A_TIME, SENT_AT_A_TIME } from './limits.ts';
import type { ReadAheadSource } from './read-ahead.ts';
import { Turns, type Turn } from './turns.ts';

/** Until the first segment was read. */
const USUAL_SEGMENT_SIZE = 16 * 1024 * 1024;
/** Of a history file, more than it has. */
const SMALL = 64 * 1024;

interface WalParams {
  readonly server: string;
  readonly name: string;
}

interface WalRoute {
  readonly Params: WalParams;
  readonly Querystring: { readonly partial?: string | readonly string[] };
}

/** `GET /servers/SERVER/wal/NAME`: what get-wal does; 404 only for what is certainly not there. */
export const addGetRoute: AddRoutes = (app, { view, logger, readAhead }) => {
  const memory = new Turns(SENT_AT_A_TIME);
  const finding = new Turns(FOUND_AT_A_TIME);
  const segmentSizes = new Map<string, number>();

  /** Waits for its turn; what is sent slowly is held for as long. */
  async function reserve(server: string, name: WalName, over: AbortSignal): Promise<Turn> {
    const bytes = walKind(name) === 'history' ? SMALL : (segmentSizes.get(server) ?? USUAL_SEGMENT_SIZE);
    const turn = await memory.take(server, filesOf(bytes), over);
    over.addEventListener('abort', () => turn.end(), { once: true });
    // It may have fired just now.
    if (over.aborted) turn.end();
    return turn;
  }

  async function find(server: ServerView, name: WalName, partial: boolean, over: AbortSignal): Promise<Buffer> {
    let found: FoundWal | null;
    try {
      const parts = finderParts(useOf(server));
      found = await finding.run(server.name, over, () => findPatiently(parts, name, partial, view().kill));
    } catch (error) {
      throw cantTell(error);
    }
    if (found !== null) return found.plain;
    throw new HttpError(404, 'wal-not-found', `WAL file ${name} is not in the archive of server ${server.name}`);
  }

  async function get(request: FastifyRequest<WalRoute>, reply: FastifyReply): Promise<Buffer> {
    const { params } = request;
    const server = serverFor(request, view(), params.server, 'read');
    const name = walName(params.name, 'the path');
    const partial = wantsPartial(request.query);
    const isHead = request.method === 'HEAD';
    const over = answered(request, reply);
    const turn = await reserve(server.name, name, over);
    const ahead = isHead ? null : await readAhead.take(server.name, name);
    const bytes = ahead ?? (await find(server, name, partial, over));
    turn.resize(filesOf(bytes.length));
    void reply.type('application/octet-stream');
    if (isHead) return bytes;
    request.walBytes = bytes.length;
    if (walKind(name) === 'segment') segmentSizes.set(server.name, bytes.length);
    // Once it is sent: a decompression in between would keep the client waiting.
    reply.raw.once('finish', () => {
      logger.info({ server: server.name, wal: name, ahead: ahead !== null }, `sent ${name}`);
      readAhead.follow(sourceOf(server, logger), name, bytes.length);
    });
    return bytes;
  }

  app.route<WalRoute>({
    method: 'GET',
    url: '/servers/:server/wal/:name',
    config: { operation: 'get', answers: [200, 400, 401, 403, 404, 500, 503] },
    handler: get,
  });
};

/** What counts as a file is as large as any usual segment; what is smaller, like a history file, is a part of one. */
function filesOf(bytes: number): number {
  return bytes <= SMALL ? bytes / FILE_SIZE : Math.max(1, bytes / FILE_SIZE);
}

/** Whether a partial segment will do, as for `get-wal --partial`. */
function wantsPartial({ partial }: WalRoute['Querystring']): boolean {
  if (partial === undefined || partial === 'false') return false;
  if (partial === 'true') return true;
  throw new HttpError(400, 'bad-request', `partial is ${JSON.stringify(partial)}: expected true or false`);
}

/** Whatever is wrong with the archive, the client asks again; the request itself was good. */
function cantTell(error: unknown): HttpError {
  const { status, code, message, hint, cause } = asHttpError(error);
  return new HttpError(status === 500 ? 500 : 503, code, message, { hint, cause });
}

function sourceOf(view: ServerView, logger: Logger): ReadAheadSource {
  const { get_wal_prefetch, wals_directory, cloud_wal_restore_parallel } = view.config.options;
  return {
    server: view.name,
    ahead: get_wal_prefetch,
    // A local archive is quicker than what comes after it.
    atATime: isS3Location(wals_directory) ? cloud_wal_restore_parallel : 1,
    stored: (names) => view.use().strategy.stored(names),
    find: async (name) => {
      const parts = { ...finderParts(view.use()), checkAbsent: async () => {} };
      const found = await findWal(parts, name, false);
      if (found === null) return null;
      logger.debug({ server: view.name, wal: name }, `read ${name} ahead`);
      return found.plain;
    },
  };
}
