import { findServer, type ServerConfig, type WalwardenConfig } from '../config/config.ts';

/** The servers that these names mean, each once; `all` means all of them, by name. Throws `unknown-server`. */
export function selectServers(config: WalwardenConfig, names: readonly string[]): readonly ServerConfig[] {
  if (!names.includes('all')) return [...new Set(names)].map((name) => findServer(config, name));
  return [...config.servers.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}
