import type { Connection as PgConnection, Submittable } from 'pg';

/** As PostgreSQL's protocol has it: a CopyDone message. */
const COPY_DONE = Buffer.from([0x63, 0, 0, 0, 4]);

/** The first byte of a message with WAL in it (PostgreSQL: replication/walsender.c). */
const WAL_DATA = 0x77;

/**
 * START_REPLICATION for as long as it takes to see that WAL comes, for pg's
 * queue of queries. Nothing is confirmed to the server, so that no slot moves,
 * and the stream is ended in order, so that the slot is free when `done` resolves.
 */
export class ReplicationStart implements Submittable {
  readonly done: Promise<void>;
  readonly #command: string;
  readonly #dataExpected: boolean;
  #resolve: () => void = () => undefined;
  #reject: (error: Error) => void = () => undefined;
  #ending = false;

  /** `dataExpected`: the server has WAL behind the position; else its consent has to do. */
  constructor(command: string, dataExpected: boolean) {
    this.#command = command;
    this.#dataExpected = dataExpected;
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  submit(connection: PgConnection): void {
    connection.once('replicationStart', () => {
      if (!this.#dataExpected) this.#end(connection);
    });
    connection.query(this.#command);
  }

  handleCopyData({ chunk }: { readonly chunk: Buffer }, connection: PgConnection): void {
    if (chunk[0] === WAL_DATA) this.#end(connection);
  }

  handleError(error: Error): void {
    this.#reject(error);
  }

  handleReadyForQuery(): void {
    this.#resolve();
  }

  // Where a timeline ends, the server says which one comes next; pg hands on each message.
  handleRowDescription(): void {}
  handleDataRow(): void {}
  handleCommandComplete(): void {}
  handleEmptyQuery(): void {}

  #end(connection: PgConnection): void {
    if (this.#ending) return;
    this.#ending = true;
    connection.stream.write(COPY_DONE);
  }
}
