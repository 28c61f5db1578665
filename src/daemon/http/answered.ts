import type { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';

const underWay = new WeakMap<Socket, Set<AbortController>>();

/**
 * Fires once nobody waits for the answer any more: it was sent, or the connection
 * has ended. An answer in a queue behind another one of its connection is never
 * told of that by Node.
 */
export function answered({ raw: request }: FastifyRequest, { raw: response }: FastifyReply): AbortSignal {
  const over = new AbortController();
  const { socket } = request;
  if (socket.destroyed) {
    over.abort();
    return over.signal;
  }
  const others = underWayOn(socket);
  others.add(over);
  response.once('close', () => {
    others.delete(over);
    over.abort();
  });
  return over.signal;
}

/** One listener for a connection, however many requests come over it. */
function underWayOn(socket: Socket): Set<AbortController> {
  const known = underWay.get(socket);
  if (known !== undefined) return known;
  const all = new Set<AbortController>();
  underWay.set(socket, all);
  socket.once('close', () => all.forEach((over) => over.abort()));
  return all;
}
