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
  readonly exitCode: 0 | 2;
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
  if (critical.length === 0) {
    const good = servers.filter((server) => !failing.includes(server));
    return { text: `BARMAN OK - ${praise(good)}${suffix}\n`, exitCode: 0 };
  }
  const summary = critical.map(({ name, results }) => {
    const checks = results.filter(({ ok }) => !ok).map(({ check }) => check);
    return ` * ${name} FAILED: ${[...new Set(checks)].join(', ')}`;
  });
  const who =
    servers.length === 1
      ? `server ${critical[0]?.name ?? ''} needs attention`
      : `${critical.length} of ${servers.length} servers need attention`;
  const details = critical.flatMap(({ name, results }) =>
    results.filter(({ ok }) => !ok).map((result) => detail(name, result)),
  );
  return { text: [`BARMAN CRITICAL - ${who}${summary.join('')}${suffix}`, ...details, ''].join('\n'), exitCode: 2 };
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
