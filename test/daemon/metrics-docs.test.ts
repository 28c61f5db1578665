import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { run } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { allMetrics } from './all-metrics.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const fileOf = (name: string): Promise<string> => readFile(join(ROOT, name), 'utf8');

/** The metrics that a text names, without what a histogram's series have at their ends. */
function namesIn(text: string): Set<string> {
  const found = [...text.matchAll(/\b(?:walwarden|process|nodejs)_[a-z0-9_]+\b/g)].map(([name]) => name);
  return new Set(found.map((name) => name.replace(/_seconds_(?:bucket|sum|count)$/, '_seconds')));
}

/** What promtool says of a file; the empty string when all is well. */
async function promtool(...args: readonly string[]): Promise<string> {
  const { status, stdout, stderr } = await run('promtool', args, {});
  return status === 0 ? '' : `${stdout}${stderr}` || `exit status ${status}`;
}

it('the page of the metrics names those that there are, and their types', async () => {
  const page = await fileOf('docs/metrics.md');
  const there = await allMetrics();
  expect([...namesIn(page)].filter((name) => !there.has(name))).toEqual([]);
  const rows = [...page.matchAll(/^\| `(\w+)` +\| (\w+) +\|/gm)].map(([, name = '', type = '']) => [name, type]);
  const processes = [...namesIn(page)].filter((name) => !name.startsWith('walwarden_'));
  expect(new Set([...rows.map(([name]) => name), ...processes])).toEqual(new Set(there.keys()));
  for (const [name = '', type] of rows) expect(type, name).toBe(there.get(name)?.type);
});

it('alerts and dashboard ask for metrics that there are', async () => {
  const there = await allMetrics();
  for (const file of ['config/prometheus-alerts.yml', 'config/grafana-dashboard.json']) {
    const names = namesIn(await fileOf(file));
    expect(names.size, file).toBeGreaterThan(15);
    expect(
      [...names].filter((name) => !there.has(name)),
      file,
    ).toEqual([]);
  }
});

it('each alert says what is wrong, how bad it is, and what to do', async () => {
  const [, ...alerts] = (await fileOf('config/prometheus-alerts.yml')).split(/^ {6}- alert: /m);
  expect(alerts.length).toBeGreaterThan(15);
  for (const alert of alerts) {
    expect(alert).toMatch(/^ +severity: (warning|critical)$/m);
    expect(alert).toMatch(/^ +summary: \S/m);
    expect(alert).toMatch(/^ +description: \S/m);
    expect(alert, 'names a command or a file to look at').toMatch(/walwarden [a-z-]+|journalctl|systemctl|kernel log/);
  }
});

it('the alerts are what Prometheus takes, and each fires when it is meant to', async () => {
  expect(await promtool('check', 'rules', join(ROOT, 'config/prometheus-alerts.yml'))).toBe('');
  expect(await promtool('test', 'rules', join(ROOT, 'test/daemon/prometheus-alerts-test.yml'))).toBe('');
  const alerts = [...(await fileOf('config/prometheus-alerts.yml')).matchAll(/- alert: (\w+)/g)].map(
    ([, name]) => name,
  );
  const tested = [...(await fileOf('test/daemon/prometheus-alerts-test.yml')).matchAll(/alertname="(\w+)"/g)];
  expect(new Set(tested.map(([, name]) => name))).toEqual(new Set(alerts));
});

interface Dashboard {
  readonly templating: { readonly list: readonly { readonly name: string; readonly type: string }[] };
  readonly panels: readonly {
    readonly id: number;
    readonly type: string;
    readonly title: string;
    readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
    readonly targets?: readonly { readonly expr: string }[];
  }[];
}

it('the dashboard asks questions that Prometheus understands, of the chosen source and servers', async () => {
  const dashboard: Dashboard = JSON.parse(await fileOf('config/grafana-dashboard.json'));
  expect(dashboard.templating.list.map(({ name, type }) => [name, type])).toEqual([
    ['datasource', 'datasource'],
    ['server', 'query'],
  ]);
  const { panels } = dashboard;
  expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  for (const { type, title, targets = [] } of panels)
    if (type !== 'row') expect(targets.length, title).toBeGreaterThan(0);
  // No panel lies on another.
  const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, index) => `${x + (index % w)}:${y + Math.floor(index / w)}`),
  );
  expect(new Set(cells).size).toBe(cells.length);
  const questions = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
  for (const expr of questions) expect(expr).toMatch(/server=~"\$server"|walwarden_build_info/);
  await withTempDir(async (directory) => {
    const rules = questions.map((expr, index) => {
      const asked = expr.replaceAll('$__rate_interval', '5m').replaceAll('$server', '.*');
      return `      - { record: 'question:${index}', expr: ${JSON.stringify(asked)} }`;
    });
    const path = join(directory, 'questions.yml');
    await writeFile(path, `groups:\n  - name: questions\n    rules:\n${rules.join('\n')}\n`);
    expect(await promtool('check', 'rules', path)).toBe('');
  });
});
