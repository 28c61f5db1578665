import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/**
 * The connections of a server and how many requests each has under way: until the
 * last byte of the answer has left us. Node's own closeIdleConnections() spares those
 * that have not sent anything yet, and cuts off what is still being sent.
 */
export class Connections {
  readonly #requests = new Map<Socket, number>();
  #closing = false;

  /** `secure`: the server speaks TLS, and a connection is one after the handshake. */
  constructor(server: Server, secure: boolean) {
    server.on(secure ? 'secureConnection' : 'connection', (socket: Socket) => {
      // Its handshake was under way.
      if (this.#closing) return void socket.destroy();
      this.#requests.set(socket, 0);
      socket.once('close', () => this.#requests.delete(socket));
    });
    server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
      const { socket } = request;
      this.#count(socket, 1);
      response.once('close', () => this.#count(socket, -1));
    });
  }

  isBusy(socket: Socket): boolean {
    return (this.#requests.get(socket) ?? 0) > 0;
  }

  /** Ends each as soon as nothing is under way on it. */
  close(): void {
    this.#closing = true;
    for (const [socket, requests] of this.#requests) if (requests === 0) socket.destroy();
  }

  destroyAll(): void {
    for (const socket of this.#requests.keys()) socket.destroy();
  }

  #count(socket: Socket, by: number): void {
    const requests = this.#requests.get(socket);
    if (requests === undefined) return;
    this.#requests.set(socket, requests + by);
    if (this.#closing && requests + by === 0) socket.destroySoon();
  }
}
