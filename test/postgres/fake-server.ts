import { createServer, type Socket } from 'node:net';

/** Something that listens on 127.0.0.1 and is no PostgreSQL; `bytes` is everything that it was sent. */
export interface FakeServer {
  readonly conninfo: string;
  readonly bytes: () => Buffer;
  readonly connections: () => number;
}

/** An answer: closes the connection. */
export const HANG_UP = Symbol('hang up');

/** Bytes, or the same in pieces. */
export type Answer = Buffer | string | readonly Buffer[] | typeof HANG_UP;

/** Answers each piece that it is sent with the next answer, as long as there is one. */
export async function withFakeServer<T>(
  answers: readonly Answer[],
  body: (server: FakeServer) => Promise<T>,
): Promise<T> {
  const received: Buffer[] = [];
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    const left = [...answers];
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => {
      received.push(chunk);
      const answer = left.shift();
      if (answer === HANG_UP) socket.destroy();
      else if (typeof answer === 'string' || Buffer.isBuffer(answer)) socket.write(answer);
      else if (answer !== undefined) void writeSlowly(socket, answer);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  try {
    return await body({
      conninfo: `host=127.0.0.1 port=${port} user=me password=s3cret`,
      bytes: () => Buffer.concat(received),
      connections: () => sockets.length,
    });
  } finally {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  }
}

async function writeSlowly(socket: Socket, pieces: readonly Buffer[]): Promise<void> {
  socket.setNoDelay(true);
  for (const piece of pieces) {
    socket.write(piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** A message of the protocol. */
export function message(type: string, ...parts: readonly (string | number)[]): Buffer {
  const body = Buffer.concat(
    parts.map((part) => {
      if (typeof part === 'string') return Buffer.from(`${part}\0`);
      const bytes = Buffer.alloc(4);
      bytes.writeInt32BE(part);
      return bytes;
    }),
  );
  const head = Buffer.alloc(5);
  head.write(type, 'latin1');
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

/** An ErrorResponse. */
export function errorMessage(sqlState: string, text: string): Buffer {
  return message('E', `SFATAL`, `VFATAL`, `C${sqlState}`, `M${text}`, '');
}
