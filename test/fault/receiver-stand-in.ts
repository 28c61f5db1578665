import { constants } from 'node:fs';
import { open, readdir, rename, stat, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { errnoOf } from '../../src/errors.ts';
import { walName, type WalName } from '../../src/wal/wal-name.ts';
import { makeWal } from '../support/make-wal.ts';
import { historyFile, type FaultHome } from './fault-home.ts';

const SEGMENT_SIZE = 1024 * 1024;

/**
 * Writes into streaming what pg_receivewal writes, in the order of its system
 * calls (receivelog.c, walmethods.c), with promotions and kills. It fails when
 * pg_receivewal would: a file that it has open is not there under its name, or a
 * restart would leave out a segment.
 */
export class ReceiverStandIn {
  readonly #fault: FaultHome;
  readonly #random: () => number;
  #timeline = 1;
  #segment = 1;
  /** Bytes of the open segment that were written, before a restart perhaps. */
  #written = 0;
  #stopped = false;
  #failure: unknown = null;
  #running: Promise<void> = Promise.resolve();
  restarts = 0;

  constructor(fault: FaultHome, random: () => number) {
    this.#fault = fault;
    this.#random = random;
  }

  get timelines(): number {
    return this.#timeline;
  }

  start(): void {
    this.#running = (async () => {
      while (!this.#stopped) await this.#receiveOne();
    })();
    this.#running.catch((error: unknown) => (this.#failure = error));
  }

  /** Throws what it died of, as {@link stop} does too. */
  checkAlive(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** Lets it come to an end with what it has open, and begin with the next: a partial file of before is an old one then. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    await (await this.#open(join(this.#directory, `${this.#name}.partial`))).close();
  }

  get #directory(): string {
    return this.#fault.home.streaming;
  }

  #content(): () => Buffer {
    const options = { timeline: this.#timeline, segment: this.#segment, seed: this.#timeline } as const;
    return () => makeWal(options).bytes;
  }

  get #name(): WalName {
    return makeWal({ timeline: this.#timeline, segment: this.#segment, content: 'zeros' }).name;
  }

  /** A segment, to its end, to a promotion, or to a kill. */
  async #receiveOne(): Promise<void> {
    const content = this.#content();
    const bytes = content();
    const path = join(this.#directory, `${this.#name}.partial`);
    const dice = this.#random();
    const end = dice < 0.3 ? Math.ceil((0.1 + 0.8 * this.#random()) * SEGMENT_SIZE) : SEGMENT_SIZE;
    const handle = await this.#open(path);
    try {
      for (let at = 0; at < end;) {
        const next = Math.min(end, at + Math.ceil(this.#random() * 400_000));
        await handle.write(bytes, at, next - at, at);
        at = next;
        this.#written = Math.max(this.#written, at);
        await this.#checkOurs(handle, path);
        await delay(this.#random() * 8);
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (end === SEGMENT_SIZE) await this.#finish(path, content);
    else if (dice < 0.08) await this.#promote(bytes);
    else await this.#restart();
  }

  async #open(path: string): Promise<FileHandle> {
    const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    const { size } = await handle.stat();
    if (size !== SEGMENT_SIZE) await handle.write(Buffer.alloc(SEGMENT_SIZE), 0, SEGMENT_SIZE, 0);
    await this.#syncByName(path);
    return handle;
  }

  /** durable_rename(): the new name is opened once more. */
  async #finish(partial: string, content: () => Buffer): Promise<void> {
    const name = this.#name;
    await this.#syncByName(partial);
    this.#fault.produced.set(name, content);
    await rename(partial, join(this.#directory, name));
    await delay(this.#random() * 10);
    await this.#syncByName(join(this.#directory, name));
    this.#segment += 1;
    this.#written = 0;
    if (this.#random() < 0.2) await this.#idle();
  }

  /** The new timeline begins with the same segment. */
  async #promote(bytes: Buffer): Promise<void> {
    const name = walName(`${this.#name}.partial`);
    const partial = Buffer.concat([bytes.subarray(0, this.#written), Buffer.alloc(SEGMENT_SIZE - this.#written)]);
    this.#timeline += 1;
    this.#written = 0;
    const history = historyFile(this.#timeline);
    const path = join(this.#directory, history.name);
    await using handle = await open(`${path}.tmp`, 'w', 0o600);
    await handle.write(history.content());
    await this.#syncByName(`${path}.tmp`);
    this.#fault.produced.set(history.name, history.content);
    await rename(`${path}.tmp`, path);
    await this.#syncByName(path);
    this.#fault.produced.set(name, () => partial);
  }

  /** Passes come by, while there may be nothing but the last segment; and then there is a restart. */
  async #idle(): Promise<void> {
    await delay(100 + this.#random() * 300);
    await this.#restart();
  }

  /** FindStreamingStart(): where it would go on must be where it was. */
  async #restart(): Promise<void> {
    this.restarts += 1;
    const start = await this.#findStart();
    const expected = [this.#timeline, this.#segment].join('/');
    if (start !== expected) throw new Error(`pg_receivewal would start at ${start}, and was at ${expected}`);
  }

  async #findStart(): Promise<string> {
    let newest: { order: string; partial: boolean } | null = null;
    for (const entry of await readdir(this.#directory)) {
      const match = /^([0-9A-F]{8})([0-9A-F]{16})(\.partial)?$/.exec(entry);
      if (match === null) continue;
      const partial = match[3] !== undefined;
      if (!partial && (await this.#sizeOf(entry)) !== SEGMENT_SIZE) continue;
      const order = `${match[2]}${match[1]}`;
      if (newest === null || order > newest.order || (order === newest.order && !partial)) newest = { order, partial };
    }
    if (newest === null) return 'nowhere';
    const segment = Number.parseInt(newest.order.slice(8, 16), 16) + (newest.partial ? 0 : 1);
    return `${Number.parseInt(newest.order.slice(16), 16)}/${segment}`;
  }

  /** An archive pass may take an old one meanwhile; then pg_receivewal gives up, and is started again. */
  async #sizeOf(entry: string): Promise<number> {
    try {
      return (await stat(join(this.#directory, entry))).size;
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
      return 0;
    }
  }

  async #syncByName(path: string): Promise<void> {
    await using handle = await open(path, constants.O_RDWR);
    await handle.sync();
  }

  async #checkOurs(handle: FileHandle, path: string): Promise<void> {
    const [ours, there] = [await handle.stat(), await stat(path)];
    if (ours.ino !== there.ino || ours.nlink !== 1)
      throw new Error(`${path} is not the file that pg_receivewal writes`);
  }
}
