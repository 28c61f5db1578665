import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import type { AuthenticationWatch } from './authentication.ts';
import { PostgresError } from './failure.ts';

/** The longest message that a server may send before it is ready: an error, which libpq bounds so (MAX_ERRLEN). */
const MAX_LENGTH = 30_000;

/**
 * A connected socket, in the shape in which `pg` takes a stream that it
 * connects itself. It reads along until the server is ready for queries: what
 * the server tells of itself is kept, and an authentication that must not be
 * answered, or what is no PostgreSQL at all, ends the stream before `pg` sees it.
 */
export class StartupStream extends Duplex {
  /** What the server reports: server_version, in_hot_standby, … */
  readonly parameters = new Map<string, string>();
  readonly #socket: Socket;
  readonly #watch: AuthenticationWatch;
  #ready = false;
  #pending: Buffer = Buffer.alloc(0);

  constructor(socket: Socket, watch: AuthenticationWatch) {
    super({ allowHalfOpen: false });
    this.#socket = socket;
    this.#watch = watch;
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('end', () => this.push(null));
    socket.on('error', (error) => this.destroy(error));
    socket.on('close', () => this.destroy());
  }

  /** For `pg`: there is a connection already. */
  connect(): this {
    queueMicrotask(() => this.emit('connect'));
    return this;
  }

  /** For `pg`: was set already, where there is something to set. */
  setNoDelay(): this {
    return this;
  }

  /** For `pg`: what SCRAM binds itself to. */
  getPeerCertificate(): unknown {
    return this.#socket instanceof TLSSocket ? this.#socket.getPeerCertificate() : {};
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  override _final(done: () => void): void {
    this.#socket.end(done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }

  #receive(chunk: Buffer): void {
    if (!this.#ready) this.#pending = Buffer.concat([this.#pending, chunk]);
    const bytes = this.#ready ? chunk : this.#understood();
    if (bytes.length > 0 && !this.push(bytes)) this.#socket.pause();
  }

  /** The whole messages that have come, once they were looked at. */
  #understood(): Buffer {
    let end = 0;
    try {
      while (!this.#ready) {
        const message = messageAt(this.#pending, end);
        if (message === null) break;
        this.#inspect(message);
        end = message.end;
      }
    } catch (error) {
      this.destroy(error instanceof Error ? error : new Error(String(error)));
      return Buffer.alloc(0);
    }
    if (this.#ready) end = this.#pending.length;
    const bytes = this.#pending.subarray(0, end);
    this.#pending = this.#pending.subarray(end);
    return bytes;
  }

  #inspect({ type, body }: Message): void {
    if (type === 'Z') this.#ready = true;
    else if (type === 'S') {
      const [name = '', value = ''] = strings(body);
      this.parameters.set(name, value);
    } else if (type === 'R') {
      const code = body.length < 4 ? -1 : body.readInt32BE(0);
      const refused = this.#watch.judge(code, code === 10 ? strings(body.subarray(4)) : []);
      if (refused !== null) throw new PostgresError('authentication', refused);
    } else if (type === 'v') {
      throw new PostgresError('other', 'the server does not speak version 3.0 of the protocol');
    } else if (!EXPECTED.has(type)) throw noPostgres();
  }
}

/** ErrorResponse, NoticeResponse, BackendKeyData. */
const EXPECTED = new Set(['E', 'N', 'K']);

interface Message {
  readonly type: string;
  readonly body: Buffer;
  readonly end: number;
}

/** Null while it has not come as a whole. */
function messageAt(bytes: Buffer, at: number): Message | null {
  if (bytes.length < at + 5) return null;
  const type = bytes.toString('latin1', at, at + 1);
  const length = bytes.readInt32BE(at + 1);
  if (length < 4 || length > MAX_LENGTH) throw oldError(type, bytes.subarray(at + 1));
  const end = at + 1 + length;
  return bytes.length < end ? null : { type, body: bytes.subarray(at + 5, end), end };
}

/** A postmaster that can't start a process says so in the way of old, as plain text. */
function oldError(type: string, rest: Buffer): PostgresError {
  if (type !== 'E') return noPostgres();
  const said = rest.toString('utf8', 0, 500).split('\0')[0]?.trim() ?? '';
  return /^\p{L}[\p{L}\p{P}\p{Zs}\d]+$/u.test(said) ? new PostgresError('unreachable', said) : noPostgres();
}

function noPostgres(): PostgresError {
  return new PostgresError('misconfigured', 'what answers there is no PostgreSQL');
}

/** Strings that end with a zero byte, up to an empty one. */
function strings(body: Buffer): string[] {
  const parts = body.toString('utf8').split('\0');
  const last = parts.indexOf('');
  return last === -1 ? parts : parts.slice(0, last);
}
