import { join } from 'node:path';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { depositWal, verifyDelivery, type Deposited } from '../../archiver/deposit.ts';
import { receiveFile, type ReceivedFile } from '../../archiver/receive-file.ts';
import { unlinkIfThere } from '../../durable/durable-file.ts';
import { isErrorCode } from '../../errors.ts';
import { depositParts } from '../../server-wal.ts';
import type { Server } from '../../server.ts';
import { walName, type WalName } from '../../wal/wal-name.ts';
import { asHttpError, HttpError, isDiskFull } from './answers.ts';
import { answered } from './answered.ts';
import { serverFor, useOf, type AddRoutes } from './context.ts';
import { BODY_SILENCE_MS, JUDGED_AT_A_TIME, LET_IN_AT_A_TIME, MAX_BODY_SIZE, SILENCE_MS } from './limits.ts';
import { formatSpan } from '../../words.ts';
import { oneByOne } from './one-by-one.ts';
import { Turns } from './turns.ts';

interface WalParams {
  readonly server: string;
  readonly name: string;
}

/** `PUT /servers/SERVER/wal/NAME`: what put-wal does, for one file. */
export const addPutRoute: AddRoutes = (app, { view, logger, depositMs }) => {
  const entering = new Turns(LET_IN_AT_A_TIME);
  const judging = new Turns(JUDGED_AT_A_TIME);

  async function put(request: FastifyRequest<{ Params: WalParams }>, reply: FastifyReply): Promise<FastifyReply> {
    const { params } = request;
    const target = serverFor(request, view(), params.server, 'write');
    const { config } = target;
    const name = walName(params.name, 'the path');
    const expected = checkHeaders(request);
    if (config.passive) {
      throw new HttpError(503, 'config', `server ${config.name} is passive: WAL goes to its primary node`);
    }
    const over = answered(request, reply);
    const server = useOf(target);
    const { incoming_wals_directory: incoming } = config.options;
    await inTime(name, incoming, () => entering.run(server.name, over, () => server.makeDirectories()));
    const received = await receive(request, reply, incoming, name);
    request.walBytes = received.size;
    const deposited = await inTime(name, incoming, async () => {
      try {
        if (expected !== null && expected !== received.sha256) {
          const message = `the checksum of ${name} is wrong: X-Content-SHA256 says ${expected}, found ${received.sha256}`;
          throw new HttpError(422, 'invalid-wal', message, { hint: 'nothing was stored; it was damaged on its way' });
        }
        return await judging.run(server.name, over, () => deposit(server, name, received.temporary, expected !== null));
      } finally {
        await unlinkIfThere(received.temporary);
      }
    });
    return answer(server, name, deposited, reply);
  }

  /** PostgreSQL must not wait for a disk that does not answer; what was begun goes on, and nothing is vouched for. */
  async function inTime<T>(name: WalName, incoming: string, work: () => Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        const message = `${name} could not be stored within ${formatSpan(depositMs)}: ${incoming}, or the archive, does not answer`;
        const hint =
          'nothing is acknowledged; see whether its disk is there. PostgreSQL keeps the file and tries again';
        reject(new HttpError(503, 'storage', message, { hint }));
      }, depositMs);
    });
    try {
      return await Promise.race([work(), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  function answer(server: Server, name: WalName, deposited: Deposited, reply: FastifyReply): FastifyReply {
    const facts = { server: server.name, wal: name };
    if (deposited.outcome === 'conflict') {
      logger.error({ ...facts, inErrors: deposited.inErrors }, `refused ${name}: ${deposited.reason}`);
      if (server.config.options.put_wal_conflict === 'reject') {
        throw new HttpError(
          409,
          'conflict',
          `${name} is there already, for server ${server.name}: ${deposited.reason}`,
          {
            hint: `nothing was overwritten; see: walwarden errors explain ${server.name} ${deposited.inErrors}`,
          },
        );
      }
    } else {
      logger.info(facts, `${deposited.outcome === 'deposited' ? 'received' : 'received again'} ${name}`);
    }
    // Without a body: what archive_command prints ends up in PostgreSQL's log.
    return reply.code(deposited.outcome === 'deposited' ? 201 : 200).send();
  }

  app.route<{ Params: WalParams }>({
    method: 'PUT',
    url: '/servers/:server/wal/:name',
    config: { operation: 'put', answers: [200, 201, 400, 401, 403, 409, 413, 415, 422, 500, 503, 507] },
    handler: async (request, reply) => {
      try {
        return await put(request, reply);
      } catch (error) {
        throw asRefusal(error);
      }
    },
  });
};

/** The checksum that the client sends along; null without one. */
function checkHeaders({ headers }: FastifyRequest): string | null {
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity') {
    throw new HttpError(415, 'unsupported', `can't undo Content-Encoding: ${encoding}`, {
      hint: 'send the file as it is, without Content-Encoding; one that is compressed itself is recognised',
    });
  }
  if (Number(headers['content-length'] ?? 0) > MAX_BODY_SIZE) throw tooLarge();
  const checksum = headers['x-content-sha256'];
  if (checksum === undefined) return null;
  if (typeof checksum !== 'string' || !/^[0-9a-f]{64}$/i.test(checksum)) {
    throw new HttpError(400, 'bad-request', 'X-Content-SHA256 is not 64 hexadecimal digits');
  }
  return checksum.toLowerCase();
}

function tooLarge(): HttpError {
  return new HttpError(413, 'too-large', `the body has more than ${MAX_BODY_SIZE} bytes: larger than any WAL file`);
}

async function receive(
  request: FastifyRequest,
  reply: FastifyReply,
  incoming: string,
  name: WalName,
): Promise<ReceivedFile> {
  const { raw } = request;
  if (raw.headers.expect !== undefined) reply.raw.writeContinue();
  raw.socket.setTimeout(BODY_SILENCE_MS);
  try {
    // Leaving the loop early must not end the connection: the answer is still to be sent.
    const chunks = raw.iterator({ destroyOnReturn: false });
    return await receiveFile(incoming, name, chunks, { md5: false, mtime: null, maxSize: MAX_BODY_SIZE, tooLarge });
  } finally {
    raw.socket.setTimeout(SILENCE_MS);
  }
}

async function deposit(server: Server, name: WalName, temporary: string, checked: boolean): Promise<Deposited> {
  const parts = depositParts(server);
  await verifyDelivery(parts, name, temporary);
  // Without hard links, nothing else keeps one from taking the place of another.
  return oneByOne(join(parts.incoming, name), () => depositWal(parts, name, temporary, { checked }));
}

/** What came in is at fault where it does not read back, and not our archive. */
function asRefusal(error: unknown): HttpError {
  if (isDiskFull(error)) {
    const { code, message } = asHttpError(error);
    return new HttpError(507, code === 'internal' ? 'storage' : code, message, {
      hint: 'nothing was stored; make space there. PostgreSQL keeps the file and tries again',
      cause: error,
    });
  }
  if (isErrorCode(error, 'damaged') || isErrorCode(error, 'incomplete-wal')) {
    return new HttpError(422, error.code, error.message, { hint: error.hint, cause: error });
  }
  return asHttpError(error);
}
