import { WalwardenError } from '../errors.ts';
import type { Logger } from '../logging.ts';
import { describeAnswer, excerpt, isRecord, parseJson } from './answer-text.ts';
import type { ApiUrl } from './api-url.ts';
import { sendRequest, type HttpAnswer, type HttpFailure, type HttpRequest } from './http-request.ts';
import { wait } from './interruption.ts';
import type { TlsMaterial } from './tls-material.ts';

export const OPERATION_STATUSES = ['IN_PROGRESS', 'FAILED', 'DONE'] as const;

/** What pg-backup-api says of an operation. */
export type OperationStatus = (typeof OPERATION_STATUSES)[number];

export interface PgBackupApiOptions {
  readonly url: ApiUrl;
  readonly tls: TlsMaterial;
  /** Seconds between tries. */
  readonly retryWait: number;
  /** Tries of one request, the first included. */
  readonly maxRetries: number;
  /** Seconds that one request may take. */
  readonly requestTimeout: number;
  readonly logger: Logger;
  /** Ends whatever waits, at once, with its reason. */
  readonly stop: AbortSignal;
}

/** Why one try came to nothing. */
interface Trouble {
  readonly problem: string;
  readonly hint?: string;
}

/** How long a GET is tried. */
interface Patience {
  readonly tries?: number;
  /** For an answer that need not be asked for again. */
  readonly isFinal?: (answer: HttpAnswer) => boolean;
}

/** How often it is looked for the operation that a POST may have begun. */
const LOOKS = 5;

/** After a POST: what is known of the restore that it asked for. */
type Created =
  | { readonly id: string }
  /** It certainly began nothing. */
  | ({ readonly outcome: 'nothing' } & Trouble)
  /** It may have begun something: `adopt` tells whether a new operation can be taken for it. */
  | ({ readonly outcome: 'unknown'; readonly adopt: boolean } & Trouble);

/** Talks to pg-backup-api 2.x on the Barman host. What goes wrong is thrown as `pg-backup-api`. */
export class PgBackupApi {
  readonly logger: Logger;
  readonly stop: AbortSignal;
  readonly #options: PgBackupApiOptions;
  #maybeBegun = false;

  constructor(options: PgBackupApiOptions) {
    this.logger = options.logger;
    this.stop = options.stop;
    this.#options = options;
  }

  /** Throws unless pg-backup-api answers that it is OK. */
  async ensureApiOk(): Promise<void> {
    const status = await this.#get('/status', 'a status', (json) => (json === undefined ? undefined : { json }));
    if (status.json !== 'OK') {
      throw new WalwardenError(
        'pg-backup-api',
        `GET ${this.#address('/status')}: expected "OK", found ${excerpt(JSON.stringify(status.json))}`,
        { hint: 'is that the URL of pg-backup-api? see its log on the Barman host' },
      );
    }
  }

  /** One of {@link OPERATION_STATUSES}. */
  async getOperationStatus(barmanServer: string, operationId: string): Promise<OperationStatus> {
    return this.#get(operationPath(barmanServer, operationId), 'a "status" that is known', (json) =>
      isRecord(json) ? OPERATION_STATUSES.find((status) => status === json['status']) : undefined,
    );
  }

  /**
   * Has a backup restored, and returns the id of the operation. The restore
   * begins at once over there, and two of them would write into one directory:
   * the request is repeated only when it certainly began nothing.
   */
  async createRecoveryOperation(
    barmanServer: string,
    backupId: string,
    sshCommand: string,
    dataDirectory: string,
  ): Promise<string> {
    const request: HttpRequest = {
      method: 'POST',
      path: operationsPath(barmanServer),
      body: {
        type: 'recovery',
        backup_id: backupId,
        remote_ssh_command: sshCommand,
        destination_directory: dataDirectory,
      },
    };
    for (let attempt = 1; ; attempt += 1) {
      // Right before each POST, and never an older list: another node may have begun a restore since, which is none of ours.
      const before = await this.#operationsBefore(barmanServer, attempt === 1 ? this.#options.maxRetries : 1);
      const created = await this.#post(request);
      if ('id' in created) return created.id;
      if (created.outcome === 'unknown') return this.#findCreated(barmanServer, before, created);
      await this.#waitToRepeat(request, attempt, this.#options.maxRetries, created);
    }
  }

  /** Whether a request for a restore was sent that may have begun one: for who was stopped meanwhile. */
  get maybeBegun(): boolean {
    return this.#maybeBegun;
  }

  /** Where an operation can be looked at. */
  operationUrl(barmanServer: string, operationId?: string): string {
    return this.#address(
      operationId === undefined ? operationsPath(barmanServer) : operationPath(barmanServer, operationId),
    );
  }

  async #post(request: HttpRequest): Promise<Created> {
    this.#maybeBegun = true;
    const created = whatCameOf(await sendRequest(this.#peer, request));
    this.#maybeBegun = !('outcome' in created && created.outcome === 'nothing');
    return created;
  }

  /** The operation that a POST began, when it is the only new one since `before`. */
  async #findCreated(
    barmanServer: string,
    before: ReadonlySet<string> | null,
    { problem, hint, adopt }: Trouble & { readonly adopt: boolean },
  ): Promise<string> {
    const path = operationsPath(barmanServer);
    const post = `POST ${this.#address(path)}: ${problem}`;
    const advice = 'look at the Barman host whether a restore runs before you let it be tried again';
    this.logger.warn(`${post}; looking whether a restore was begun nevertheless`);
    let there: readonly string[] = [];
    for (let look = 1; look <= LOOKS; look += 1) {
      if (look > 1) await wait(this.#options.retryWait, this.stop);
      try {
        there = await this.#recoveryOperations(barmanServer);
      } catch (error) {
        if (!(error instanceof WalwardenError)) throw error;
        throw new WalwardenError(
          'pg-backup-api',
          `${post}; it can’t be told whether a restore was begun: ${error.message}`,
          { hint: advice, cause: error },
        );
      }
      // The request may still be worked on over there.
      if (before === null || !adopt || there.some((id) => !before.has(id))) break;
    }
    const ids = before === null ? there : there.filter((id) => !before.has(id));
    const [id, ...others] = ids;
    if (before !== null && adopt && id !== undefined && others.length === 0) {
      this.logger.warn(
        { operation_id: id },
        `recovery operation ${id} is new since our request, and the only one: taking it for ours`,
      );
      return id;
    }
    const which =
      before === null ? 'operations that are there, and which of them are new is not known' : 'new operations';
    const found =
      id === undefined
        ? before === null
          ? 'no operation is there'
          : 'no new operation is there'
        : `${which}: ${ids.join(', ')}`;
    throw new WalwardenError('pg-backup-api', `${post}; it can’t be told whether a restore was begun; ${found}`, {
      hint: hint === undefined ? advice : `${hint}; ${advice}`,
    });
  }

  /** Null when it can't be told: the POST will show whether that matters. */
  async #operationsBefore(barmanServer: string, tries: number): Promise<ReadonlySet<string> | null> {
    try {
      return new Set(await this.#recoveryOperations(barmanServer, { tries, isFinal: isRefusal }));
    } catch (error) {
      if (!(error instanceof WalwardenError)) throw error;
      this.logger.warn(`the operations before ours are not known: ${error.message}`);
      return null;
    }
  }

  async #recoveryOperations(barmanServer: string, patience?: Patience): Promise<string[]> {
    return this.#get(operationsPath(barmanServer), 'a list of "operations"', readOperations, patience);
  }

  /** Tries until `read` makes something of the answer. */
  async #get<T>(
    path: string,
    expected: string,
    read: (json: unknown) => T | undefined,
    { tries = this.#options.maxRetries, isFinal }: Patience = {},
  ): Promise<T> {
    const request: HttpRequest = { method: 'GET', path };
    for (let attempt = 1; ; attempt += 1) {
      const answer = await sendRequest(this.#peer, request);
      if ('failure' in answer) {
        await this.#waitToRepeat(request, attempt, tries, { ...answer, problem: answer.failure });
        continue;
      }
      const value = isSuccess(answer) ? read(parseJson(answer.body)) : undefined;
      if (value !== undefined) return value;
      const problem = isSuccess(answer)
        ? `HTTP ${answer.status}: expected ${expected} in JSON, found ${excerpt(answer.body)}`
        : describeAnswer(answer);
      if (isFinal?.(answer) === true) throw this.#error(request, { problem });
      await this.#waitToRepeat(request, attempt, tries, { problem, ...hintFor(answer) });
    }
  }

  /** Waits for the next try; throws when there is none. */
  async #waitToRepeat(request: HttpRequest, attempt: number, tries: number, trouble: Trouble): Promise<void> {
    const { retryWait } = this.#options;
    const counted = `try ${attempt} of ${tries}`;
    if (attempt >= tries) {
      // What is repeated began nothing.
      const end = request.method === 'POST' ? '; no restore was begun' : '';
      throw this.#error(request, trouble, ` (${counted})${end}`);
    }
    this.logger.warn(
      `${request.method} ${this.#address(request.path)}: ${trouble.problem} (${counted}; again in ${retryWait} s)`,
    );
    await wait(retryWait, this.stop);
  }

  #error(request: HttpRequest, { problem, hint }: Trouble, addition = ''): WalwardenError {
    return new WalwardenError(
      'pg-backup-api',
      `${request.method} ${this.#address(request.path)}: ${problem}${addition}`,
      hint === undefined ? {} : { hint },
    );
  }

  get #peer(): Parameters<typeof sendRequest>[0] {
    const { url, tls, requestTimeout, stop } = this.#options;
    return { url, tls, timeout: requestTimeout, stop };
  }

  /** What a request is called in messages. */
  #address(path: string): string {
    return `${this.#options.url.base}${path}`;
  }
}

/** What the answer to a POST, or that there was none, tells of the restore. */
function whatCameOf(answer: HttpAnswer | HttpFailure): Created {
  if ('failure' in answer) {
    const { failure: problem, maybeSent, ...hint } = answer;
    // Where GETs went through, there is nothing to say on how to connect.
    return maybeSent ? { problem, outcome: 'unknown', adopt: true } : { problem, ...hint, outcome: 'nothing' };
  }
  const problem = describeAnswer(answer);
  const { status } = answer;
  if (isSuccess(answer)) {
    const json = parseJson(answer.body);
    const id = isRecord(json) ? json['operation_id'] : undefined;
    if (isOperationId(id)) return { id };
    const missing = `HTTP ${status} without an "operation_id": ${excerpt(answer.body)}`;
    return { problem: missing, outcome: 'unknown', adopt: true };
  }
  if ((status >= 400 && status < 500) || status === 503) return { problem, outcome: 'nothing', ...hintFor(answer) };
  // A gateway passed the request on. What pg-backup-api itself failed with has no operation that runs: one that is
  // new nevertheless is somebody else's (500: two requests in one second get one id), or was never begun.
  return { problem, outcome: 'unknown', adopt: status === 502 || status === 504, ...hintFor(answer) };
}

function operationsPath(barmanServer: string): string {
  return `/servers/${encodeURIComponent(barmanServer)}/operations`;
}

function operationPath(barmanServer: string, operationId: string): string {
  return `${operationsPath(barmanServer)}/${encodeURIComponent(operationId)}`;
}

function isSuccess({ status }: HttpAnswer): boolean {
  return status >= 200 && status < 300;
}

/** It won't be another answer a moment later. */
function isRefusal({ status }: HttpAnswer): boolean {
  return status >= 400 && status < 500;
}

function hintFor({ status }: HttpAnswer): Pick<Trouble, 'hint'> {
  if (status >= 300 && status < 400)
    return { hint: 'redirects are not followed: give --api-url as it is redirected to' };
  if (status === 401 || status === 407)
    return { hint: 'it asks who we are: a user and password in --api-url, or --cert-file' };
  if (status === 404) return { hint: 'check --barman-server and --backup-id, and the path of --api-url' };
  return {};
}

/** A lone surrogate can't be percent-encoded. */
function isOperationId(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && !/\p{Surrogate}/u.test(value);
}

/** `{"operations": [{"id": …, "type": "recovery"}]}`: the ids of restores. Some 2.x have `["recovery"]` as the type. */
function readOperations(json: unknown): string[] | undefined {
  const list = isRecord(json) ? json['operations'] : undefined;
  if (!Array.isArray(list)) return undefined;
  const operations: unknown[] = list;
  const ids: string[] = [];
  for (const operation of operations) {
    const id = isRecord(operation) ? operation['id'] : undefined;
    if (!isRecord(operation) || !isOperationId(id)) return undefined;
    const { type } = operation;
    if (typeof type !== 'string' || type === 'recovery') ids.push(id);
  }
  return ids;
}
