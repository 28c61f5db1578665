import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { inspectWaiting, listWaiting, removeOldTemporaries } from '../../src/archiver/waiting-directory.ts';
import { historyName } from '../../src/wal/wal-name.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { withIncoming } from '../support/temp-dir.ts';

const { name } = makeWal();

afterEach(() => {
  vi.useRealTimers();
});

test('what a file system keeps in its root is nobody’s delivery', () =>
  withIncoming(async (directory) => {
    await mkdir(join(directory, 'lost+found'), { mode: 0o700 });
    expect(await listWaiting(directory)).toMatchObject({ names: [], unknown: [], ignored: ['lost+found'] });
  }));

test('a listing sorts names into WAL files, claims, what is ignored and what is unknown', () =>
  withIncoming(async (directory) => {
    const ours = `.walwarden-${name}`;
    const lower = '00000001000000000000000a';
    for (const entry of [ours, lower, '00000002.history', `${name}.partial`, 'a.tmp', '.x', 'z', 'A']) {
      await writeFile(join(directory, entry), '');
    }
    const listing = await listWaiting(directory);
    expect(listing).toEqual({
      names: [name, `${name}.partial`, lower, '00000002.history'].sort(),
      claims: new Map([[name, join(directory, ours)]]),
      unknown: ['A', 'z'],
      ignored: expect.arrayContaining(['.x', 'a.tmp']),
    });
  }));

test('a listing has what is claimed; of two claims of one name the one that an older version made', () =>
  withIncoming(async (directory) => {
    const claims = join(directory, 'claims');
    await mkdir(claims);
    const other = `${name}.partial`;
    for (const path of [
      join(directory, `.walwarden-${name}`),
      join(claims, name),
      join(claims, other),
      join(claims, 'x'),
    ]) {
      await writeFile(path, '');
    }
    const listing = await listWaiting(directory, claims);
    expect(listing.names).toEqual([name, other]);
    expect([...listing.claims]).toEqual([
      [name, join(directory, `.walwarden-${name}`)],
      [other, join(claims, other)],
    ]);
    expect((await listWaiting(directory, join(directory, 'none'))).names).toEqual([name]);
  }));

test('temporaries of put-wal go when they are a day old; other dot files stay', () =>
  withIncoming(async (directory) => {
    const old = [`.4711-0123456789abcdef-${name}`, '.1-ff-00000002.history'];
    const kept = ['.4711-0123456789abcdef-nothing', `.walwarden-${name}`, `.x-1-${name}`, `.4711-${name}`, 'x.tmp'];
    for (const entry of [...old, ...kept]) await writeFile(join(directory, entry), '');
    const { ignored } = await listWaiting(directory);
    await removeOldTemporaries(directory, [...ignored, ...old.map((entry) => entry.replace('.4711', '.4712'))]);
    expect((await readdir(directory)).length).toBe(old.length + kept.length);
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 25 * 3_600_000 });
    await removeOldTemporaries(directory, ignored);
    expect((await readdir(directory)).sort()).toEqual(kept.sort());
  }));

test('a drain cuts the wait for a file to settle short', () =>
  withIncoming(async (directory) => {
    await writeFile(join(directory, '00000002.history'), '1\t0/500000\tx\n');
    const drain = new AbortController();
    const waiting = inspectWaiting(directory, historyName(2), { signal: drain.signal });
    drain.abort();
    expect(await waiting).toMatchObject({ state: 'ready' });
  }));

test('a segment is not waited for', () =>
  withIncoming(async (directory) => {
    vi.useFakeTimers({ toFake: ['setTimeout'] });
    await writeWal(directory, { segment: 1 });
    expect(await inspectWaiting(directory, name)).toMatchObject({
      state: 'ready',
      wal: { plain: true, claimed: false },
    });
    expect(await inspectWaiting(directory, makeWal({ segment: 2 }).name)).toEqual({ state: 'gone' });
  }));
