import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readReceiverReport, writeReceiverReport, type ReceiverReport } from '../../src/receiver/receiver-report.ts';
import { withTempDir } from '../support/temp-dir.ts';

const REPORT: ReceiverReport = {
  pid: 4711,
  state: 'blocked',
  since: 1_700_000_002_000,
  startedAt: 1_700_000_000_000,
  lastStreamed: 1_700_000_001_000,
  restarts: 3,
  stalls: 1,
  lastStall: 1_699_999_000_000,
  cause: { failure: 'slot-missing', message: 'replication slot "walwarden" does not exist', hint: 'create it' },
  retryAt: 1_700_000_032_000,
  slotName: 'walwarden',
  withoutSlotUntil: '0/5000000',
  synchronous: false,
  program: '15.18',
};

const NOTHING_KNOWN: ReceiverReport = {
  ...REPORT,
  state: 'preparing',
  lastStreamed: null,
  cause: null,
  retryAt: null,
  slotName: null,
  withoutSlotUntil: null,
  synchronous: null,
  program: null,
};

test.each([
  ['everything', REPORT],
  ['nothing known yet', NOTHING_KNOWN],
  ['a cause without a hint', { ...REPORT, cause: { failure: 'other', message: 'x', hint: null } } as const],
])('a report with %s is read as it was written', (_case, report) =>
  withTempDir(async (directory) => {
    const path = join(directory, '.receive-wal.json');
    await writeReceiverReport(path, report);
    expect(await readReceiverReport(path)).toEqual(report);
    expect(await readdir(directory)).toEqual(['.receive-wal.json']);
  }),
);

test('a report of a version that knew nothing of stalls, and always used the slot, is read', () =>
  withTempDir(async (directory) => {
    const path = join(directory, 'report');
    await writeFile(
      path,
      JSON.stringify({ ...REPORT, stalls: undefined, lastStall: undefined, withoutSlotUntil: undefined }),
    );
    expect(await readReceiverReport(path)).toEqual({ ...REPORT, stalls: 0, lastStall: null, withoutSlotUntil: null });
  }));

test('a report replaces the one before', () =>
  withTempDir(async (directory) => {
    const path = join(directory, 'report');
    await writeReceiverReport(path, REPORT);
    await writeReceiverReport(path, NOTHING_KNOWN);
    expect(await readReceiverReport(path)).toEqual(NOTHING_KNOWN);
    await writeReceiverReport(path, REPORT, { durable: true });
    expect(await readReceiverReport(path)).toEqual(REPORT);
    expect(await readdir(directory)).toEqual(['report']);
  }));

test.each([
  ['no JSON', 'half a rep'],
  ['nothing', ''],
  ['null', 'null'],
  ['a list', '[]'],
  ['an unknown state', JSON.stringify({ ...REPORT, state: 'dreaming' })],
  ['a state that is a property of every object', JSON.stringify({ ...REPORT, state: 'toString' })],
  ['no pid', JSON.stringify({ ...REPORT, pid: undefined })],
  ['a time that is text', JSON.stringify({ ...REPORT, since: 'yesterday' })],
  ['a missing field', JSON.stringify({ ...REPORT, retryAt: undefined })],
  ['an unknown failure', JSON.stringify({ ...REPORT, cause: { failure: 'bad luck', message: '', hint: null } })],
  ['a cause without a message', JSON.stringify({ ...REPORT, cause: { failure: 'other', hint: null } })],
  ['text for a truth', JSON.stringify({ ...REPORT, synchronous: 'yes' })],
])('a report that holds %s is none', (_case, text) =>
  withTempDir(async (directory) => {
    const path = join(directory, 'report');
    await writeFile(path, text);
    expect(await readReceiverReport(path)).toBeNull();
  }),
);

test('a missing report is none, and so is one that is a directory', () =>
  withTempDir(async (directory) => {
    expect(await readReceiverReport(join(directory, 'nowhere'))).toBeNull();
    expect(await readReceiverReport(directory)).toBeNull();
  }));

test('a report that can not be written is an error for its writer', async () => {
  await expect(writeReceiverReport('/proc/no/such/report', REPORT)).rejects.toThrow('ENOENT');
});
