import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { queueFacts } from '../../src/server-facts.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { MINUTE } from './remote.ts';

const NAMES = Array.from({ length: 12 }, (_, index) => `0000000100000000000000${String(index + 10)}`);

/** Incoming as somebody sees it who may enter it, but is not the owner of what is there. */
async function asStranger(directory: string, now: number): ReturnType<typeof queueFacts> {
  await chmod(directory, 0o755);
  const root = process.geteuid?.() === 0;
  if (root) process.seteuid?.(65_534);
  try {
    return await queueFacts(directory, `${directory}.claimed`, 'incoming', now);
  } finally {
    if (root) process.seteuid?.(0);
  }
}

test('files that somebody else has left for himself are found, and how many of the first they are', () =>
  withTempDir(async (directory) => {
    for (const name of NAMES.slice(0, 2)) await writeFile(join(directory, name), 'x', { mode: 0o644 });
    for (const name of NAMES.slice(2, 4)) await writeFile(join(directory, name), 'x', { mode: 0o000 });
    const { first, unreadable } = await asStranger(directory, Date.now() + 2 * MINUTE);
    expect(first?.name).toBe(NAMES[0]);
    expect(unreadable).toMatchObject({ files: 2, more: false, errno: 'EACCES' });
    expect(unreadable?.first).toMatchObject({ name: NAMES[2], mode: '0000' });
  }));

test('only the first ten are looked at', () =>
  withTempDir(async (directory) => {
    for (const name of NAMES) await writeFile(join(directory, name), 'x', { mode: 0o000 });
    const { unreadable, waiting } = await asStranger(directory, Date.now() + 2 * MINUTE);
    expect(waiting).toBe(12);
    expect(unreadable).toMatchObject({ files: 10, more: true });
  }));

test('the mode of a file that has just arrived says nothing yet', () =>
  withTempDir(async (directory) => {
    await writeFile(join(directory, NAMES[0] ?? ''), 'x', { mode: 0o000 });
    expect((await asStranger(directory, Date.now())).unreadable).toBeNull();
  }));
