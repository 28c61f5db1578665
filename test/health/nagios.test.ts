import { expect, test } from 'vitest';
import { nagiosFailureReport, nagiosReport, type MonitoredServer } from '../../src/health/nagios.ts';

const size = { check: 'wal size', ok: true, hint: '1.00 KiB in 1 file', bytes: 1024 };
const good = (name: string, active = true): MonitoredServer => ({
  name,
  active,
  results: [{ check: 'PostgreSQL', ok: true, hint: null }, size],
});
const bad = (name: string, active = true): MonitoredServer => ({
  name,
  active,
  results: [
    { check: 'PostgreSQL', ok: false, hint: 'connection refused' },
    { check: 'directories', ok: true, hint: null },
    { check: 'archiver errors', ok: false, hint: null },
    size,
  ],
});

test('one good server is one line, with performance data', () => {
  expect(nagiosReport([good('main')])).toEqual({
    text: 'BARMAN OK - WAL of main is safe and sound|main_wals=1024B\n',
    exitCode: 0,
  });
});

test('several good servers are named', () => {
  expect(nagiosReport([good('a'), good('b')]).text).toBe(
    'BARMAN OK - WAL of 2 servers is safe and sound * a * b|a_wals=1024B b_wals=1024B\n',
  );
});

test('no server is no alarm', () => {
  expect(nagiosReport([])).toEqual({ text: 'BARMAN OK - no active server is configured\n', exitCode: 0 });
});

test('a failing server is critical: its checks in the first line, one line each below', () => {
  expect(nagiosReport([bad('main')])).toEqual({
    text:
      'BARMAN CRITICAL - server main needs attention * main FAILED: PostgreSQL, archiver errors|main_wals=1024B\n' +
      'main.PostgreSQL: FAILED (connection refused)\n' +
      'main.archiver errors: FAILED\n',
    exitCode: 2,
  });
});

test('of several servers those that fail are counted and listed', () => {
  const { text, exitCode } = nagiosReport([bad('a'), good('b'), bad('c')]);
  expect(text.split('|')[0]).toBe(
    'BARMAN CRITICAL - 2 of 3 servers need attention * a FAILED: PostgreSQL, archiver errors * c FAILED: PostgreSQL, archiver errors',
  );
  expect(exitCode).toBe(2);
});

test('an inactive server that fails is told, and no alarm', () => {
  expect(nagiosReport([good('a'), bad('b', false)])).toMatchObject({
    text: expect.stringMatching(/^BARMAN OK - WAL of a is safe and sound \* IGNORING: b\|/),
    exitCode: 0,
  });
});

test('nothing in a reason can look like performance data or another line', () => {
  const results = [{ check: 'archive_command', ok: false, hint: 'gzip < %p | ssh b\n"cat > %f"' }];
  expect(nagiosReport([{ name: 'main', active: true, results }]).text.split('\n')[1]).toBe(
    'main.archive_command: FAILED (gzip < %p ¦ ssh b; "cat > %f")',
  );
  expect(nagiosFailureReport('a|b\nc')).toEqual({ text: 'BARMAN CRITICAL - a¦b; c\n', exitCode: 2 });
});

const warned = (name: string, active = true): MonitoredServer => ({
  name,
  active,
  results: [{ check: 'WAL archive', ok: true, hint: '1 segment missing, A|B', severity: 'warning' }, size],
});

test('a warning is exit status 1, with what it is about in the first line', () => {
  expect(nagiosReport([warned('main')])).toEqual({
    text: 'BARMAN WARNING - server main needs a look * main WARNING: WAL archive (1 segment missing, A¦B)|main_wals=1024B\n',
    exitCode: 1,
  });
  expect(nagiosReport([good('a'), warned('b'), warned('c', false)])).toMatchObject({
    text: expect.stringMatching(/^BARMAN WARNING - 1 of 3 servers need a look \* b WARNING: WAL archive \(.*\)\|/),
    exitCode: 1,
  });
});

test('beside a failure a warning is told, and the failure decides', () => {
  const { text, exitCode } = nagiosReport([bad('a'), warned('b')]);
  expect(text.split('|')[0]).toBe(
    'BARMAN CRITICAL - 1 of 2 servers need attention * a FAILED: PostgreSQL, archiver errors * b WARNING: WAL archive (1 segment missing, A¦B)',
  );
  expect(exitCode).toBe(2);
});

test('praise names what was checked', () => {
  const praised = (name: string): MonitoredServer => ({
    name,
    active: true,
    results: [{ check: 'archived files', ok: true, hint: null, praise: 'no gap in 3 catalogued files' }],
  });
  expect(nagiosReport([praised('a')]).text).toBe(
    'BARMAN OK - WAL of a is safe and sound: no gap in 3 catalogued files\n',
  );
  expect(nagiosReport([praised('a'), good('b')]).text.split('|')[0]).toBe(
    'BARMAN OK - WAL of 2 servers is safe and sound * a: no gap in 3 catalogued files * b',
  );
});
