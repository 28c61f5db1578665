import pLimit from 'p-limit';
import type { ServerConfig } from '../config/config.ts';
import { messageOf, WalwardenError } from '../errors.ts';
import type { CheckResult } from '../health/check-strategy.ts';
import { nagiosFailureReport, nagiosReport } from '../health/nagios.ts';
import { checkServer, type ServerCheck } from '../server-check.ts';
import { explain, oneLine } from '../words.ts';
import type { CommandContext, Report } from './command.ts';
import { selectServers } from './select-servers.ts';

export interface CheckOptions {
  readonly nagios?: boolean;
}

/** Servers that are checked at a time: they mostly wait for PostgreSQL. */
const AT_A_TIME = 8;

/**
 * `check SERVER...|all`: every check, one line each. The exit status is 1 when
 * one of an active server fails; with `nagios` it is 2, or 1 for a warning, and the
 * output that of a plugin.
 */
export async function check(context: CommandContext, names: readonly string[], options: CheckOptions): Promise<Report> {
  const { config, logger, drain } = context;
  const limit = pLimit(AT_A_TIME);
  const checks = await Promise.all(
    selectServers(config, names).map((server) => limit(() => checkServer(config, server, logger, drain))),
  );
  for (const { server, results } of checks) {
    for (const { check: name, ok, hint } of results) {
      if (!ok) logger.debug({ server: server.name, check: name, hint }, `check ${name} of ${server.name} failed`);
    }
  }
  const failed = checks.some((done) => done.server.active && !isOk(done));
  const abandons = checks.some(({ abandoned }) => abandoned);
  const json = checks.map(toJson);
  if (options.nagios === true) {
    const monitored = checks.map(({ server, results }) => ({ name: server.name, active: server.active, results }));
    return { ...nagiosReport(monitored), json, abandons };
  }
  return { text: checks.map(formatCheck).join(''), json, exitCode: failed ? 1 : 0, abandons };
}

/** What a monitoring system is told when nothing could be checked. */
export function nagiosFailure(error: unknown): Report {
  const reason = error instanceof WalwardenError ? explain(error) : messageOf(error);
  return { ...nagiosFailureReport(reason), json: { error: reason } };
}

function isOk({ results }: ServerCheck): boolean {
  return results.every(({ ok }) => ok);
}

function formatCheck({ server, results }: ServerCheck): string {
  return [`Server ${server.name}${stateOf(server)}:`, ...results.map(formatResult), ''].join('\n');
}

/** As Barman says it. */
function stateOf({ active, disabled }: ServerConfig): string {
  if (!active) return ' (inactive)';
  return disabled ? ' (WARNING: disabled)' : '';
}

function formatResult({ check: name, ok, hint }: CheckResult): string {
  return `\t${name}: ${ok ? 'OK' : 'FAILED'}${hint === null || hint === '' ? '' : ` (${oneLine(hint)})`}`;
}

function toJson(done: ServerCheck): unknown {
  const { name, active, disabled, passive } = done.server;
  const checks = done.results.map(({ check: check_, ok, hint, severity, bytes }) => ({
    check: check_,
    ok,
    hint: hint === null || hint === '' ? null : oneLine(hint),
    ...(severity === undefined ? {} : { severity }),
    ...(bytes === undefined ? {} : { bytes }),
  }));
  return { server: name, active, disabled, passive, ok: isOk(done), checks };
}
