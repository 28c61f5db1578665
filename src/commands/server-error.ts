import { messageOf, WalwardenError } from '../errors.ts';

/** An error with the name of the server that it is about, for commands that work on several. */
export function serverError(server: string, cause: unknown): WalwardenError {
  const known = cause instanceof WalwardenError ? cause : null;
  const message = messageOf(cause);
  const named = message.startsWith(`server ${server} `) ? message : `server ${server}: ${message}`;
  return new WalwardenError(known?.code ?? 'internal', named, {
    cause,
    ...(known?.hint === undefined ? {} : { hint: known.hint }),
  });
}

/** An error in the JSON of a server's report. */
export function errorJson(error: WalwardenError | null): unknown {
  return error === null ? null : { code: error.code, message: error.message, hint: error.hint ?? null };
}
