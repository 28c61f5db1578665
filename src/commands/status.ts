import pLimit from 'p-limit';
import { statusJson, statusOfServer, type ServerStatusReport } from '../server-status.ts';
import { oneLine } from '../words.ts';
import type { CommandContext, Report } from './command.ts';
import { selectServers } from './select-servers.ts';

/** Servers at a time: they mostly wait for PostgreSQL. */
const AT_A_TIME = 8;

/** `status SERVER...|all`: what is known of a server right now. The exit status is 1 when its configuration is wrong. */
export async function status(context: CommandContext, names: readonly string[]): Promise<Report> {
  const { config, logger, drain } = context;
  const servers = selectServers(config, names);
  const limit = pLimit(AT_A_TIME);
  const reports = await Promise.all(
    servers.map((server) => limit(() => statusOfServer(config, server, logger, drain))),
  );
  return {
    text: reports.map(formatStatus).join(''),
    json: reports.map(statusJson),
    exitCode: servers.some(({ disabled }) => disabled) ? 1 : 0,
  };
}

function formatStatus({ server, report }: ServerStatusReport): string {
  const lines = report.entries.map(({ label, text }) => `\t${label}: ${oneLine(text)}`);
  return [`Server ${server.name}:`, ...lines, ''].join('\n');
}
