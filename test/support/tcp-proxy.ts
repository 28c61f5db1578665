import { connect, createServer, type Server, type Socket } from 'node:net';

/** An address of 127.0.0.1 that leads to a server's unix socket, until the line is cut. */
export class TcpProxy {
  /** The socket that new connections are led to. */
  target: string;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  readonly #servers = new Set<Socket>();
  readonly #pairs = new Map<Socket, Socket>();
  #isCut = false;
  /** Connections that it has let through. */
  accepted = 0;

  private constructor(target: string) {
    this.target = target;
    this.#server = createServer((client) => this.#accept(client));
  }

  static async listen(target: string): Promise<TcpProxy> {
    const proxy = new TcpProxy(target);
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once('error', reject).listen(0, '127.0.0.1', resolve);
    });
    return proxy;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('the proxy does not listen');
    return address.port;
  }

  /** Breaks what is connected, in the middle of whatever is on its way, and everything that comes. */
  cut(): void {
    this.#isCut = true;
    this.drop();
  }

  /** Lets new connections through again. */
  mend(): void {
    this.#isCut = false;
  }

  /** What is connected now hears nothing more, at both ends, while all that it sends is acknowledged; new connections work. */
  silence(): void {
    for (const [client, server] of this.#pairs) {
      for (const socket of [client, server]) socket.unpipe().removeAllListeners('end').resume();
    }
    this.#pairs.clear();
  }

  /** Breaks what is connected now. */
  drop(): void {
    for (const client of this.#clients) client.resetAndDestroy();
  }

  async close(): Promise<void> {
    this.drop();
    for (const server of this.#servers) server.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #accept(client: Socket): void {
    client.on('error', () => client.destroy());
    if (this.#isCut) {
      client.resetAndDestroy();
      return;
    }
    this.#clients.add(client);
    this.accepted += 1;
    const server = connect(this.target);
    this.#servers.add(server);
    server.on('error', () => server.destroy());
    server.once('close', () => this.#servers.delete(server));
    this.#pairs.set(client, server);
    client.pipe(server);
    server.pipe(client);
    // One end that breaks breaks the other.
    client.once('close', () => {
      this.#clients.delete(client);
      if (this.#pairs.delete(client)) server.destroy();
    });
    server.once('close', () => {
      if (this.#pairs.has(client)) client.destroy();
    });
  }
}

/** Gives a proxy in front of a unix socket to `body`. */
export async function withTcpProxy<T>(target: string, body: (proxy: TcpProxy) => Promise<T>): Promise<T> {
  const proxy = await TcpProxy.listen(target);
  try {
    return await body(proxy);
  } finally {
    await proxy.close();
  }
}
