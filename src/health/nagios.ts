import { oneLine } from '../words.ts';
import type { CheckResult } from './check-strategy.ts';

/** The checks of one server, as a monitoring system sees them. */
export interface MonitoredServer {
  readonly name: string;
  /** The failures of a server that is not active are told, but are no alarm. */
  readonly active: boolean;
  readonly results: readonly CheckResult[];
}

/** What a plugin prints, and its exit status. */
export interface NagiosReport {
  readonly text: string;
  readonly exitCode: 0 | 1 | 2;
}

/**
 * The structure of Barman's plugin output (output.py, NagiosOutputWriter), which
 * people's dashboards take apart: parts after ` * `, then performance data after
 * `|`; on the lines below, one failed check each.
 */
export function nagiosReport(servers: readonly MonitoredServer[]): NagiosReport {
  const failing = servers.filter(({ results }) => results.some(({ ok }) => !ok));
  const critical = failing.filter(({ active }) => active);
  const ignored = failing.filter(({ active }) => !active).map(({ name }) => ` * IGNORING: ${name}`);
  const data = servers.flatMap(performanceData);
  const suffix = `${ignored.join('')}${data.length === 0 ? '' : `|${data.join(' ')}`}`;
  const warned = servers.filter(({ active, results }) => active && results.some(isWarning));
  const warnings = warned.flatMap(({ name, results }) =>
    results.filter(isWarning).map((result) => warning(name, result)),
  );
  if (critical.length === 0 && warned.length > 0) {
    const text = `BARMAN WARNING - ${who(warned, servers, 'a look')}${warnings.join('')}${suffix}\n`;
    return { text, exitCode: 1 };
  }
  if (critical.length === 0) {
    const good = servers.filter((server) => !failing.includes(server));
    return { text: `BARMAN OK - ${praise(good)}${suffix}\n`, exitCode: 0 };
  }
  const summary = critical.map(({ name, results }) => {
    const checks = results.filter(({ ok }) => !ok).map(({ check }) => check);
    return ` * ${name} FAILED: ${[...new Set(checks)].join(', ')}`;
  });
  const details = critical.flatMap(({ name, results }) =>
    results.filter(({ ok }) => !ok).map((result) => detail(name, result)),
  );
  return {
    text: [
      `BARMAN CRITICAL - ${who(critical, servers, 'attention')}${[...summary, ...warnings].join('')}${suffix}`,
      ...details,
      '',
    ].join('\n'),
    exitCode: 2,
  };
}

function who(some: readonly MonitoredServer[], all: readonly MonitoredServer[], what: string): string {
  if (all.length === 1) return `server ${some[0]?.name ?? ''} needs ${what}`;
  return `${some.length} of ${all.length} servers need ${what}`;
}

function isWarning({ ok, severity }: CheckResult): boolean {
  return ok && severity === 'warning';
}

/** What it is about stands in the first line, which is all that most dashboards show. */
function warning(server: string, { check, hint }: CheckResult): string {
  return ` * ${server} WARNING: ${check}${hint === null || hint === '' ? '' : ` (${plain(hint)})`}`;
}

/** When nothing could be checked at all. */
export function nagiosFailureReport(reason: string): NagiosReport {
  return { text: `BARMAN CRITICAL - ${plain(reason)}\n`, exitCode: 2 };
}

/** Says of no server more than was checked. */
function praise(good: readonly MonitoredServer[]): string {
  const [first] = good;
  if (first === undefined) return 'no active server is configured';
  if (good.length === 1) return `WAL of ${first.name} is safe and sound${checked(first, ': ')}`;
  const each = good.map((server) => ` * ${server.name}${checked(server, ': ')}`);
  return `WAL of ${good.length} servers is safe and sound${each.join('')}`;
}

function checked({ results }: MonitoredServer, before: string): string {
  const told = results.flatMap(({ praise: text }) => (text === undefined ? [] : [plain(text)]));
  return told.length === 0 ? '' : `${before}${told.join('; ')}`;
}

function detail(server: string, { check, hint }: CheckResult): string {
  return `${server}.${check}: FAILED${hint === null || hint === '' ? '' : ` (${plain(hint)})`}`;
}

/** Barman's label for the bytes of WAL. */
function performanceData({ name, results }: MonitoredServer): string[] {
  return results.flatMap(({ bytes }) => (bytes === undefined ? [] : [`${name}_wals=${bytes}B`]));
}

/** What follows a `|` would be taken for performance data; an archive_command may well have one. */
function plain(text: string): string {
  return oneLine(text).replaceAll('|', '¦');
}
