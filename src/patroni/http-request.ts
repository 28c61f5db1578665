import type { ClientRequest, IncomingMessage, RequestOptions } from 'node:http';
import { urlToHttpOptions } from 'node:url';
import { errnoOf, messageOf } from '../errors.ts';
import { oneLine } from '../words.ts';
import type { ApiUrl } from './api-url.ts';
import type { TlsMaterial } from './tls-material.ts';

// One request, one connection. Node's http and not fetch: fetch takes no client certificate without a package, follows
// redirects by itself, and does not tell whether a request that failed had been sent.

export interface HttpRequest {
  readonly method: 'GET' | 'POST';
  /** Behind the prefix of the API's URL; percent-encoded. */
  readonly path: string;
  /** Sent as JSON. */
  readonly body?: unknown;
}

export interface HttpPeer {
  readonly url: ApiUrl;
  readonly tls: TlsMaterial;
  /** Seconds for a whole request, from the look-up of the name to the last byte of the answer. */
  readonly timeout: number;
  /** Ends the request at once. */
  readonly stop: AbortSignal;
}

/** Of 1xx to 5xx: what it means is for others to say. */
export interface HttpAnswer {
  readonly status: number;
  readonly reason: string;
  readonly location: string | null;
  readonly body: string;
}

/** There was no answer, or not all of one. */
export interface HttpFailure {
  readonly failure: string;
  readonly hint?: string;
  /** False when there was no connection yet that the request could have gone through: it certainly had no effect. */
  readonly maybeSent: boolean;
}

/** The list of all operations that there ever were is the largest answer: 50 bytes for each. */
const MAX_BODY_BYTES = 16 * 1024 * 1024;

/** Sends one request. Redirects are answers. Throws only what `stop` is aborted with. */
export async function sendRequest(peer: HttpPeer, request: HttpRequest): Promise<HttpAnswer | HttpFailure> {
  const { url, stop } = peer;
  const secure = url.origin.protocol === 'https:';
  const { request: open } = secure ? await import('node:https') : await import('node:http');
  stop.throwIfAborted();
  const body = request.body === undefined ? undefined : Buffer.from(JSON.stringify(request.body));
  const options: RequestOptions & TlsMaterial = {
    ...urlToHttpOptions(url.origin),
    ...peer.tls,
    // Node would normalise a path in a URL: a server may be called "..".
    path: `${url.prefix}${request.path}`,
    method: request.method,
    // A connection kept from before may be dead, and then it is not known whether a request went through.
    agent: false,
    headers: {
      accept: 'application/json',
      'user-agent': 'walwarden',
      connection: 'close',
      ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': body.length }),
      ...(url.authorization === null ? {} : { authorization: url.authorization }),
    },
  };
  return new Promise((resolve, reject) => {
    let outgoing: ClientRequest;
    try {
      outgoing = open(options);
    } catch (error) {
      resolve({ failure: messageOf(error), maybeSent: false });
      return;
    }
    let connected = false;
    const finish = (settle: () => void): void => {
      clearTimeout(timer);
      stop.removeEventListener('abort', onStop);
      settle();
      outgoing.destroy();
    };
    const fail = (error: unknown): void => {
      finish(() => resolve({ ...explainFailure(error, secure), maybeSent: connected }));
    };
    const onStop = (): void => {
      finish(() => reject(stop.reason));
    };
    const timer = setTimeout(() => {
      const missing = connected ? 'no complete answer' : 'no connection';
      const hint = 'a busy Barman host may need a longer --request-timeout';
      finish(() => resolve({ failure: `${missing} within ${peer.timeout} s`, hint, maybeSent: connected }));
    }, peer.timeout * 1_000);
    stop.addEventListener('abort', onStop, { once: true });
    outgoing
      .on('socket', (socket) => socket.once(secure ? 'secureConnect' : 'connect', () => (connected = true)))
      .on('response', (incoming) => {
        readAnswer(incoming).then((answer) => finish(() => resolve(answer)), fail);
      })
      .on('error', fail)
      .end(body);
  });
}

async function readAnswer(incoming: IncomingMessage): Promise<HttpAnswer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of incoming) {
    if (!Buffer.isBuffer(chunk)) continue;
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new Error(`an answer of more than ${MAX_BODY_BYTES / 1024 / 1024} MiB`);
    chunks.push(chunk);
  }
  return {
    status: incoming.statusCode ?? 0,
    reason: incoming.statusMessage ?? '',
    location: incoming.headers.location ?? null,
    body: Buffer.concat(chunks).toString('utf8'),
  };
}

/** By the start of an error's code: what it means in plain words, and what to look at. */
const CAUSES: readonly (readonly [code: RegExp, meaning: string | null, hint: string | null])[] = [
  [/^ECONNREFUSED$/, 'connection refused', 'is pg-backup-api running there, and is that its port?'],
  [/^(ENOTFOUND|EAI_)/, 'the name of the host can’t be resolved', 'check --api-url and the resolver of this host'],
  [/^HPE_/, 'what answers does not speak HTTP', 'if it speaks TLS, --api-url has to begin with https://'],
  [
    /^(EPROTO|ERR_SSL_WRONG_VERSION_NUMBER|ERR_SSL_PACKET_LENGTH)/,
    null,
    'if it speaks no TLS, --api-url has to begin with http://',
  ],
  [
    /^ERR_SSL_.*ALERT/,
    'it refuses our TLS handshake',
    'it may ask for a client certificate: --cert-file and --key-file',
  ],
  [/^ERR_TLS_CERT_ALTNAME_INVALID$/, null, '--api-url has to name the host as its certificate does'],
  [/^CERT_HAS_EXPIRED$/, 'its certificate has expired', null],
  [
    /^(UNABLE_TO|SELF_SIGNED|DEPTH_ZERO|CERT_)/,
    'its certificate is not trusted',
    'name the authority that signed it with --ca-file',
  ],
];

function explainFailure(error: unknown, secure: boolean): Pick<HttpFailure, 'failure' | 'hint'> {
  // A host of several addresses: one error for each, and none of its own.
  // OpenSSL's end with a line break.
  const text = oneLine(error instanceof AggregateError ? error.errors.map(messageOf).join(', ') : messageOf(error));
  const code = errnoOf(error) ?? '';
  const cause = CAUSES.find(([pattern]) => pattern.test(code));
  const [, meaning, hint] = cause ?? [null, null, null];
  const resetHint = secure
    ? 'it may ask for a client certificate: --cert-file and --key-file'
    : 'if it speaks TLS, --api-url has to begin with https://';
  const advice = code === 'ECONNRESET' ? resetHint : hint;
  return { failure: meaning === null ? text : `${meaning} (${text})`, ...(advice === null ? {} : { hint: advice }) };
}
