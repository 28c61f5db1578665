import { PostgresError } from '../postgres/failure.ts';
import type { ReachedServer } from '../postgres/remote-status.ts';
import { rememberBorders } from '../server-gaps.ts';
import type { Server } from '../server.ts';

/**
 * Makes the cluster that the server's connections lead to the one that its
 * archive belongs to: after pg_upgrade, which gives a new system identifier.
 * Resolves to what was done. Throws {@link PostgresError} when PostgreSQL does
 * not tell its identifier, or two connections tell different ones.
 */
export async function acceptConnectedIdentity(server: Server): Promise<string> {
  const { server: status, streaming } = await server.getRemoteStatus();
  // Where WAL comes from counts; only without that, where one looks.
  const asked: readonly ReachedServer[] = [streaming, status].filter((reached) => reached !== null);
  const [first, second] = asked.flatMap(({ systemIdentifier, serverVersion }) =>
    systemIdentifier === null || serverVersion === null ? [] : [{ systemIdentifier, serverVersion }],
  );
  if (first === undefined) throw whyNotTold(server.name, asked);
  if (second !== undefined && second.systemIdentifier !== first.systemIdentifier) {
    throw new PostgresError(
      'misconfigured',
      `the connections of ${server.name} lead to different clusters: system identifiers ` +
        `${first.systemIdentifier} (streaming) and ${second.systemIdentifier} (conninfo)`,
      { hint: `make conninfo and streaming_conninfo of [${server.name}] lead to the same one` },
    );
  }
  const before = await server.identity.current();
  const systemid = String(first.systemIdentifier);
  const version = String(Math.trunc(first.serverVersion / 10_000));
  if (before?.systemid === systemid) return `this archive belongs to system identifier ${systemid} already`;
  await rememberBorders(server);
  await server.identity.replace({ systemid, version });
  return (
    `this archive belongs to system identifier ${systemid} from now on` +
    (before === null ? '' : `, before to ${before.systemid}`)
  );
}

function whyNotTold(server: string, asked: readonly ReachedServer[]): PostgresError {
  const error = asked.find((reached) => reached.error !== null)?.error;
  if (error === undefined || error === null) {
    return new PostgresError('misconfigured', `nobody to ask for the system identifier of ${server}`, {
      hint: `set conninfo or streaming_conninfo of [${server}], or give the name of a file in errors`,
    });
  }
  return new PostgresError(error.failure, `can't ask for the system identifier of ${server}: ${error.message}`, {
    cause: error,
    sqlState: error.sqlState,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
  });
}
