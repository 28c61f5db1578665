import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { afterAll, beforeAll } from 'vitest';
import { until } from './poll.ts';
import { descendantsOf, processesWithEnv, type LiveProcess } from './processes.ts';
import { tempParent, tempPrefix } from './temp-dir.ts';

/**
 * Vitest's setup file: a test file fails that leaves a process or a temporary
 * directory behind. Orphans are found by a mark in the environment that they
 * inherited; PostgreSQL overwrites its own, but is a child of ours.
 */
const MARK = 'WALWARDEN_TEST_MARK';
let before = new Set<number>();

beforeAll(async () => {
  before = new Set((await descendantsOf(process.pid)).map(({ pid }) => pid));
  process.env[MARK] = randomUUID();
});

afterAll(async () => {
  let leaks: string[] = [];
  const nothingLeft = async (): Promise<boolean> => {
    leaks = [...(await leakedProcesses()), ...(await leakedDirectories())];
    return leaks.length === 0;
  };
  try {
    await until('processes and directories to go', nothingLeft, 20_000);
  } catch {
    throw new Error(`this test file leaves behind: ${leaks.join(', ')}`);
  }
});

async function leakedProcesses(): Promise<string[]> {
  const mine = (await descendantsOf(process.pid)).filter(({ pid }) => !before.has(pid));
  const marked = await processesWithEnv(MARK, process.env[MARK] ?? '');
  const byPid = new Map<number, LiveProcess>([...mine, ...marked].map((leak) => [leak.pid, leak]));
  return [...byPid.values()].map(({ pid, command }) => `process ${pid} (${command})`);
}

async function leakedDirectories(): Promise<string[]> {
  const names = await readdir(tempParent());
  return names.filter((name) => name.startsWith(tempPrefix())).map((name) => `${tempParent()}/${name}`);
}
