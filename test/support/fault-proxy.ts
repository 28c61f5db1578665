import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo, Socket } from 'node:net';

/** A request as it came to the proxy. */
export interface SeenRequest {
  readonly method: string;
  /** Path and query, as sent. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** What goes wrong with a request. Without `after` or a number of bytes the server behind never hears of it. */
export type Fault =
  | { readonly kind: 'reset' }
  /** The server does what it is asked; nobody hears of it. */
  | { readonly kind: 'lose-answer' }
  /** Nothing comes, and nothing ends. */
  | { readonly kind: 'stall' }
  /** So many bytes of the request's body get through, and then the connection is reset. */
  | { readonly kind: 'cut-upload'; readonly bytes: number }
  /** The body of the answer stops after so many bytes: `stall` keeps the connection, else it is closed. */
  | { readonly kind: 'cut-download'; readonly bytes: number; readonly stall?: boolean }
  /** One bit of the body of the answer, or of the request, is another one. */
  | { readonly kind: 'flip-download' | 'flip-upload'; readonly byte: number }
  | {
      readonly kind: 'answer';
      readonly status: number;
      readonly body?: string;
      readonly headers?: Record<string, string>;
    }
  /** Waits for the promise, then does what `afterwards` says; without it the request goes on as if nothing were wrong. */
  | { readonly kind: 'hold'; readonly until: Promise<unknown>; readonly afterwards?: Fault };

interface Rule {
  readonly matches: (request: SeenRequest) => boolean;
  readonly fault: Fault;
  left: number;
}

/** S3's error as XML, for `answer`. */
export function s3Answer(status: number, code: string, message = '', headers: Record<string, string> = {}): Fault {
  const body = `<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>${code}</Code><Message>${message}</Message><RequestId>tx0</RequestId></Error>`;
  return { kind: 'answer', status, body, headers: { 'content-type': 'application/xml', ...headers } };
}

/**
 * An HTTP proxy in the test's own process that hands everything on to one
 * server as it is, Host and signature included, but for the requests that a
 * rule picks out.
 */
export class FaultProxy implements AsyncDisposable {
  /** Everything that came, in order. */
  readonly seen: SeenRequest[] = [];
  readonly #target: URL;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #rules: Rule[] = [];

  private constructor(target: string) {
    this.#target = new URL(target);
    this.#server = createServer((request, response) => {
      void this.#handle(request, response).catch(() => response.destroy());
    });
    // The SDK may take a connection for a new request just when we close it.
    this.#server.keepAliveTimeout = 60_000;
    this.#server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
      socket.on('error', () => undefined);
    });
  }

  static async start(target: string): Promise<FaultProxy> {
    const proxy = new FaultProxy(target);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${addressOf(this.#server).port}`;
  }

  /** Connections that are open to us. */
  get connections(): number {
    return this.#sockets.size;
  }

  /** The first rule that matches a request decides, so many times; then it is gone. */
  fail(matches: (request: SeenRequest) => boolean, fault: Fault, times = 1): void {
    this.#rules.push({ matches, fault, left: times });
  }

  /** Forgets all rules. */
  heal(): void {
    this.#rules.length = 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const seen = describeRequest(request);
    this.seen.push(seen);
    let fault = this.#take(seen);
    while (fault?.kind === 'hold') {
      await fault.until;
      fault = fault.afterwards;
    }
    if (fault?.kind === 'reset') {
      request.socket.resetAndDestroy();
      return;
    }
    if (fault?.kind === 'stall') {
      request.resume();
      return;
    }
    if (fault?.kind === 'answer') {
      await drain(request);
      response.writeHead(fault.status, { 'content-length': Buffer.byteLength(fault.body ?? ''), ...fault.headers });
      response.end(fault.body);
      return;
    }
    await this.#forward(request, response, fault);
  }

  #take(request: SeenRequest): Fault | undefined {
    const rule = this.#rules.find(({ left, matches }) => left > 0 && matches(request));
    if (rule !== undefined) rule.left -= 1;
    return rule?.fault;
  }

  #forward(request: IncomingMessage, response: ServerResponse, fault: Fault | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const { hostname, port } = this.#target;
      const { method, url, rawHeaders } = request;
      const upstream = httpRequest({
        hostname,
        port,
        method,
        path: url,
        headers: rawHeaders,
        setHost: false,
        agent: false,
      });
      upstream.on('error', reject);
      upstream.once('response', (answer) => {
        void sendBack(answer, response, fault).then(resolve, reject);
      });
      // Whoever hangs up hangs up on the server, too.
      response.once('close', () => upstream.destroy());
      void sendOn(request, upstream, fault).catch(reject);
    });
  }
}

/** A proxy before `target` for `body`. */
export async function withFaultProxy<T>(target: string, body: (proxy: FaultProxy) => Promise<T>): Promise<T> {
  await using proxy = await FaultProxy.start(target);
  return await body(proxy);
}

function describeRequest({ method = '', url = '', headers }: IncomingMessage): SeenRequest {
  const plain = Object.entries(headers).flatMap(([name, value]) =>
    typeof value === 'string' ? [[name, value] as const] : [],
  );
  return { method, url, headers: Object.fromEntries(plain) };
}

async function sendOn(
  request: IncomingMessage,
  upstream: ReturnType<typeof httpRequest>,
  fault: Fault | undefined,
): Promise<void> {
  let at = 0;
  for await (const chunk of request) {
    if (!Buffer.isBuffer(chunk)) throw new Error('no bytes');
    if (fault?.kind === 'cut-upload' && at + chunk.length > fault.bytes) {
      upstream.write(chunk.subarray(0, fault.bytes - at));
      request.socket.resetAndDestroy();
      upstream.destroy();
      return;
    }
    upstream.write(fault?.kind === 'flip-upload' ? flipped(chunk, fault.byte - at) : chunk);
    at += chunk.length;
  }
  upstream.end();
}

async function sendBack(answer: IncomingMessage, response: ServerResponse, fault: Fault | undefined): Promise<void> {
  if (fault?.kind === 'lose-answer') {
    await drain(answer);
    response.socket?.resetAndDestroy();
    return;
  }
  response.writeHead(answer.statusCode ?? 502, answer.rawHeaders);
  let at = 0;
  for await (const chunk of answer) {
    if (!Buffer.isBuffer(chunk)) throw new Error('no bytes');
    if (fault?.kind === 'cut-download' && at + chunk.length > fault.bytes) {
      response.write(chunk.subarray(0, fault.bytes - at), () => {
        if (fault.stall !== true) response.socket?.destroy();
      });
      return;
    }
    response.write(fault?.kind === 'flip-download' ? flipped(chunk, fault.byte - at) : chunk);
    at += chunk.length;
  }
  response.end();
}

function flipped(chunk: Buffer, byte: number): Buffer {
  if (byte < 0 || byte >= chunk.length) return chunk;
  const copy = Buffer.from(chunk);
  copy.writeUInt8(copy.readUInt8(byte) ^ 0x10, byte);
  return copy;
}

async function drain(stream: IncomingMessage): Promise<void> {
  for await (const _chunk of stream);
}

function addressOf(server: Server): AddressInfo {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the proxy does not listen');
  return address;
}
