import type { WalwardenConfig } from '../config/config.ts';
import type { Report } from './command.ts';

/** `list-servers`: name and description of every server, and what keeps it from being archived. */
export function listServers(config: WalwardenConfig): Report {
  const servers = [...config.servers.values()].map((server) => ({
    name: server.name,
    description: server.options.description,
    active: server.active,
    passive: server.passive,
    disabled: server.disabled,
    problems: server.problems.map(({ message }) => message),
  }));
  const lines = servers.map(({ name, description, active, passive, disabled, problems }) => {
    const state = disabled
      ? ` (WARNING: disabled: ${problems.join('; ')})`
      : !active
        ? ' (inactive)'
        : passive
          ? ' (passive)'
          : '';
    return `${name}${description === null ? '' : ` - ${description}`}${state}\n`;
  });
  return { text: lines.join(''), json: servers };
}
