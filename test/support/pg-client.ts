import { createConnection, type Socket } from 'node:net';

/** A row as the simple query protocol gives it: text, or null. */
export type Row = readonly (string | null)[];

/**
 * The least of a PostgreSQL client: simple queries over a unix socket with
 * trust authentication (PostgreSQL documentation, "Message Formats"). The
 * embedded packages have no psql.
 */
export class PgClient implements AsyncDisposable {
  readonly #socket: Socket;
  readonly #chunks: AsyncIterator<Buffer>;
  #buffer = Buffer.alloc(0);

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#chunks = socket[Symbol.asyncIterator]();
  }

  /** Connects to `<directory>/.s.PGSQL.<port>`; rejects while the server starts up. */
  static async connect(
    socketDirectory: string,
    user = 'postgres',
    database = 'postgres',
    port = 5432,
  ): Promise<PgClient> {
    const socket = createConnection(`${socketDirectory}/.s.PGSQL.${port}`);
    const client = new PgClient(socket);
    try {
      await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
      const parameters = Buffer.from(`user\0${user}\0database\0${database}\0\0`);
      const head = Buffer.alloc(8);
      head.writeInt32BE(parameters.length + 8, 0);
      head.writeInt32BE(3 << 16, 4);
      socket.write(Buffer.concat([head, parameters]));
      await client.#untilReady();
    } catch (error) {
      socket.destroy();
      throw error;
    }
    return client;
  }

  /** The rows of all statements in `text`, one after the other. Throws what the server says. */
  async query(text: string): Promise<Row[]> {
    const body = Buffer.from(`${text}\0`);
    const head = Buffer.alloc(5);
    head.write('Q');
    head.writeInt32BE(body.length + 4, 1);
    this.#socket.write(Buffer.concat([head, body]));
    return this.#untilReady();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.destroyed) return;
    const closed = new Promise((resolve) => this.#socket.once('close', resolve));
    this.#socket.end(Buffer.from([0x58, 0, 0, 0, 4]));
    this.#socket.resume();
    await closed;
  }

  async #untilReady(): Promise<Row[]> {
    const rows: Row[] = [];
    let failure: string | undefined;
    for (;;) {
      const { type, body } = await this.#message();
      if (type === 'D') rows.push(decodeRow(body));
      else if (type === 'E') {
        failure = errorText(body);
        // A fatal error has no ReadyForQuery after it.
        if (/^(FATAL|PANIC)/.test(failure)) throw new Error(failure);
      } else if (type === 'R' && body.readInt32BE(0) !== 0) throw new Error('the server wants more than trust');
      else if (type === 'Z') {
        if (failure !== undefined) throw new Error(failure);
        return rows;
      }
    }
  }

  async #message(): Promise<{ type: string; body: Buffer }> {
    await this.#atLeast(5);
    const length = this.#buffer.readInt32BE(1) + 1;
    await this.#atLeast(length);
    const message = this.#buffer.subarray(0, length);
    this.#buffer = this.#buffer.subarray(length);
    return { type: message.toString('latin1', 0, 1), body: message.subarray(5) };
  }

  async #atLeast(size: number): Promise<void> {
    while (this.#buffer.length < size) {
      const next = await this.#chunks.next();
      if (next.done) throw new Error('the server closed the connection');
      this.#buffer = Buffer.concat([this.#buffer, next.value]);
    }
  }
}

function decodeRow(body: Buffer): Row {
  const row: (string | null)[] = [];
  let at = 2;
  for (let column = 0; column < body.readInt16BE(0); column++) {
    const length = body.readInt32BE(at);
    at += 4;
    row.push(length < 0 ? null : body.toString('utf8', at, at + length));
    at += Math.max(length, 0);
  }
  return row;
}

/** Fields of an ErrorResponse are a letter and a C string; V is the severity, M the message. */
function errorText(body: Buffer): string {
  const fields = body.toString('utf8').split('\0');
  const field = (letter: string): string => fields.find((text) => text.startsWith(letter))?.slice(1) ?? '';
  return `${field('V')}: ${field('M')}`;
}
