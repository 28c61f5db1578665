import { findServer, type WalwardenConfig } from '../config/config.ts';
import { showServer } from '../config/show-server.ts';
import type { Report } from './command.ts';

/** `show-servers SERVER...|all`: every option in effect, and where it comes from. Passwords are hidden. */
export function showServers(config: WalwardenConfig, names: readonly string[]): Report {
  const servers = (names.includes('all') ? [...config.servers.keys()] : names).map((name) => {
    const { active, disabled, passive, model, problems } = findServer(config, name);
    return {
      name,
      active,
      disabled,
      passive,
      model,
      problems: problems.map(({ message }) => message),
      options: showServer(config, name),
    };
  });
  const text = servers.map(({ name, disabled, passive, model, problems, options }) => {
    const width = Math.max(...options.map(({ option }) => option.length));
    const lines = [
      `Server ${name}${disabled ? ' (disabled)' : ''}${passive ? ' (passive)' : ''}${model === null ? '' : ` (model ${model})`}:`,
      ...problems.map((problem) => `\tPROBLEM: ${problem}`),
      ...options.map(({ option, value, source }) => `\t${option.padEnd(width)} = ${value ?? 'None'}  (${source})`),
    ];
    return `${lines.join('\n')}\n`;
  });
  return { text: text.join('\n'), json: servers };
}
