import type { ConnectOptions } from './connection.ts';
import { fetchRemoteStatus, type PostgresSettings } from './remote-status.ts';

/** The cluster that a server is: its system identifier and its major version. */
export interface ConnectedIdentity {
  readonly systemid: string;
  readonly version: string;
}

/** What the configured connections say of the cluster; null where none is configured, or none can tell. */
export async function fetchIdentity(
  settings: PostgresSettings,
  options: Pick<ConnectOptions, 'timeoutMs' | 'signal'>,
): Promise<ConnectedIdentity | null> {
  const { server, streaming } = await fetchRemoteStatus({ ...settings, walConninfo: null }, options);
  for (const reached of [server, streaming]) {
    if (reached === null || reached.systemIdentifier === null || reached.serverVersion === null) continue;
    const major = Math.trunc(reached.serverVersion / 10_000);
    return { systemid: String(reached.systemIdentifier), version: String(major) };
  }
  return null;
}
