import { chmod, mkdir, readdir, readFile, rename, rm, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { MarkerMemory } from '../../src/archiver/position-marker.ts';
import { WalwardenError } from '../../src/errors.ts';
import type { WalHooks } from '../../src/hooks/wal-hooks.ts';
import { walDirectory } from '../../src/wal/wal-name.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { namesOf } from '../storage/with-storage.ts';
import { nameOf, partialOf, storedBytes, writePartial } from './streamed.ts';
import { withArchiver } from './with-archiver.ts';

// The last complete segment of an idle server, which tells pg_receivewal where to go on after a restart.

const CONTINUE = { outcome: 'continue', reason: '' } as const;

/** Hooks that write down what they are called for. */
function recordingHooks(calls: string[]): Partial<WalHooks> {
  return {
    before: async (_operation, { name }) => {
      calls.push(`before ${name}`);
      return CONTINUE;
    },
    after: async (_operation, { name }) => {
      calls.push(`after ${name}`);
      return CONTINUE;
    },
  };
}

test.each([null, 'zstd'] as const)(
  'the position marker is archived as a copy and stays, compression %s',
  (compression) =>
    withArchiver({ storage: { compression } }, async (home) => {
      const { streaming, wals, archiveStreamed, catalogue } = home;
      for (const segment of [1, 2]) await writeWal(streaming, { segment });
      const before = await stat(join(streaming, nameOf(2)), { bigint: true });
      const summary = await archiveStreamed();
      expect(summary).toMatchObject({ archived: [{ name: nameOf(1) }, { name: nameOf(2) }], waiting: 0 });
      expect(await namesOf(catalogue)).toEqual([nameOf(1), nameOf(2)]);
      expect(await readdir(streaming)).toEqual([nameOf(2)]);
      const { ino, nlink, ctimeNs } = await stat(join(streaming, nameOf(2)), { bigint: true });
      expect({ ino, nlink, ctimeNs }).toEqual({ ino: before.ino, nlink: 1n, ctimeNs: before.ctimeNs });
      const stored = await stat(join(wals, walDirectory(nameOf(2)), nameOf(2)), { bigint: true });
      expect({ own: stored.ino !== before.ino, nlink: stored.nlink }).toEqual({ own: true, nlink: 1n });
      if (compression === null)
        expect((await storedBytes(home, nameOf(2))).equals(makeWal({ segment: 2 }).bytes)).toBe(true);
    }),
);

test('the position marker is met again by no hook, no comparison and no line of the log', () => {
  const calls: string[] = [];
  return withArchiver({ storage: { hooks: recordingHooks(calls) } }, async ({ streaming, archiveStreamed, logged }) => {
    await writeWal(streaming, { segment: 1 });
    await archiveStreamed();
    expect(calls).toEqual([`before ${nameOf(1)}`, `after ${nameOf(1)}`]);
    calls.length = 0;
    const told = logged.filter(({ level }) => level >= 30).length;
    for (let pass = 0; pass < 3; pass += 1) {
      expect(await archiveStreamed()).toMatchObject({ archived: [], duplicates: [], waiting: 0 });
    }
    expect(calls).toEqual([]);
    expect(logged.filter(({ level }) => level >= 30).length).toBe(told);
  });
});

test.each<[string, (path: string) => Promise<void>]>([
  ['replaced', async (path) => rename(`${path}.new`, path)],
  ['rewritten', async (path) => writeFile(path, makeWal({ segment: 1 }).bytes)],
  ['touched', async (path) => utimes(path, 1, 1)],
  ['given another mode', async (path) => chmod(path, 0o640)],
])('the position marker is compared once more when it was %s', (_what, change) =>
  withArchiver({}, async ({ streaming, archiveStreamed }) => {
    const { path } = await writeWal(streaming, { segment: 1 });
    await writeFile(`${path}.new`, makeWal({ segment: 1 }).bytes);
    await rename(`${path}.new`, join(streaming, '.new'));
    await archiveStreamed();
    await rename(join(streaming, '.new'), `${path}.new`);
    await change(path);
    await rm(`${path}.new`, { force: true });
    expect(await archiveStreamed()).toMatchObject({ duplicates: [{ name: nameOf(1) }] });
    expect(await archiveStreamed()).toMatchObject({ duplicates: [], archived: [] });
    expect(await readdir(streaming)).toEqual([nameOf(1)]);
  }),
);

test('the position marker is compared once more when its memory is lost or damaged', () =>
  withArchiver({}, async ({ streaming, archiveStreamed, markerFile }) => {
    await writeWal(streaming, { segment: 1 });
    await archiveStreamed();
    for (const lose of [() => unlink(markerFile), () => writeFile(markerFile, '[{"name": 3')]) {
      await lose();
      expect((await archiveStreamed()).duplicates.length).toBe(1);
      expect((await archiveStreamed()).duplicates.length).toBe(0);
    }
    expect(await readdir(streaming)).toEqual([nameOf(1)]);
  }));

test('the position marker is compared in every pass while nothing can be remembered, which is told', () =>
  withArchiver({}, async ({ streaming, archiveStreamed, markerFile, logged }) => {
    await mkdir(markerFile);
    await writeWal(streaming, { segment: 1 });
    expect(await archiveStreamed()).toMatchObject({ archived: [{ name: nameOf(1) }] });
    expect(await archiveStreamed()).toMatchObject({ duplicates: [{ name: nameOf(1) }] });
    expect(logged.filter(({ level }) => level === 40).length).toBe(2);
    expect(await readdir(streaming)).toEqual([nameOf(1)]);
  }));

test('the position marker leaves once something newer is there, after a full comparison whatever is remembered', () =>
  withArchiver({}, async (home) => {
    const { streaming, archiveStreamed } = home;
    await writeWal(streaming, { segment: 1 });
    await archiveStreamed();
    await writeWal(streaming, { segment: 2 });
    expect(await archiveStreamed()).toMatchObject({
      duplicates: [{ name: nameOf(1) }],
      archived: [{ name: nameOf(2) }],
    });
    expect(await readdir(streaming)).toEqual([nameOf(2)]);
    // It is gone from the archive: then it is stored again, not dropped.
    await unlink(join(home.wals, walDirectory(nameOf(2)), nameOf(2)));
    await writePartial(streaming, { segment: 3 });
    expect(await archiveStreamed()).toMatchObject({ archived: [{ name: nameOf(2) }] });
    expect((await storedBytes(home, nameOf(2))).equals(makeWal({ segment: 2 }).bytes)).toBe(true);
    expect(await readdir(streaming)).toEqual([partialOf(3)]);
  }));

test('the position marker is not remembered while its post hooks have to run again', () => {
  let broken = true;
  const calls: string[] = [];
  const after: WalHooks['after'] = async (_operation, { name }) => {
    calls.push(name);
    return broken ? { outcome: 'stop', reason: '', error: new WalwardenError('hook', 'not executable') } : CONTINUE;
  };
  return withArchiver({ storage: { hooks: { after } } }, async ({ streaming, archiveStreamed }) => {
    await writeWal(streaming, { segment: 1 });
    await expect(archiveStreamed()).rejects.toMatchObject({ code: 'hook' });
    broken = false;
    expect(await archiveStreamed()).toMatchObject({ duplicates: [{ name: nameOf(1) }] });
    await archiveStreamed();
    expect(calls).toEqual([nameOf(1), nameOf(1)]);
    expect(await readdir(streaming)).toEqual([nameOf(1)]);
  });
});

test('the position marker with another content than the archived: a copy goes to errors, once; the file follows when it is superseded', () =>
  withArchiver({}, async (home) => {
    const { streaming, incoming, archive, archiveStreamed, errors, logged } = home;
    await writeWal(incoming, { segment: 1, seed: 2 });
    await archive();
    await writeWal(streaming, { segment: 1 });
    const summary = await archiveStreamed();
    expect(summary).toMatchObject({ conflicts: [{ name: nameOf(1) }], waiting: 0 });
    expect(logged.at(-1)?.msg).toContain('it stays where it is, and a copy is in errors');
    const [copy = ''] = await readdir(errors);
    expect((await readFile(join(errors, copy))).equals(makeWal({ segment: 1 }).bytes)).toBe(true);
    expect(await archiveStreamed()).toMatchObject({ conflicts: [], duplicates: [], archived: [] });
    expect(await readdir(streaming)).toEqual([nameOf(1)]);
    expect((await readdir(errors)).length).toBe(1);
    await writePartial(streaming, { segment: 2 });
    expect(await archiveStreamed()).toMatchObject({ conflicts: [{ name: nameOf(1) }] });
    expect(await readdir(streaming)).toEqual([partialOf(2)]);
    expect((await storedBytes(home, nameOf(1))).equals(makeWal({ segment: 1, seed: 2 }).bytes)).toBe(true);
  }));

test('the position marker of another cluster stays too, and a copy goes to errors', () =>
  withArchiver({ storage: { accept: async () => 'it is WAL of another cluster' } }, async (home) => {
    await writeWal(home.streaming, { segment: 1 });
    expect(await home.archiveStreamed()).toMatchObject({ unknown: [{ name: nameOf(1) }] });
    expect(await home.archiveStreamed()).toMatchObject({ unknown: [] });
    expect(await readdir(home.streaming)).toEqual([nameOf(1)]);
    expect((await readdir(home.errors)).length).toBe(1);
  }));

test('the position marker that we can not read as WAL is left where it is and told in every pass', () =>
  withArchiver({}, async ({ streaming, archiveStreamed, errors }) => {
    await writeFile(join(streaming, nameOf(1)), Buffer.alloc(1 << 20, 'x'));
    for (let pass = 0; pass < 2; pass += 1) {
      expect(await archiveStreamed()).toMatchObject({ failed: [{ name: nameOf(1) }], unknown: [] });
    }
    expect(await readdir(streaming)).toEqual([nameOf(1)]);
    await writePartial(streaming, { segment: 2 });
    expect(await archiveStreamed()).toMatchObject({ unknown: [{ name: nameOf(1) }] });
    expect((await readdir(errors)).length).toBe(1);
  }));

test('the position marker that was replaced since the pass began is archived, but not remembered', () => {
  let replace: (() => Promise<void>) | null = null;
  const before: WalHooks['before'] = async () => {
    await replace?.();
    return CONTINUE;
  };
  return withArchiver({ storage: { hooks: { before } } }, async ({ streaming, archiveStreamed, markerFile }) => {
    await writeWal(streaming, { segment: 1 });
    const { path, bytes } = await writeWal(streaming, { segment: 2 });
    replace = async () => {
      replace = null;
      await writeFile(`${path}.tmp`, bytes);
      await rename(`${path}.tmp`, path);
    };
    expect(await archiveStreamed()).toMatchObject({ archived: [{ name: nameOf(1) }, { name: nameOf(2) }] });
    expect(await new MarkerMemory(markerFile).read()).toEqual([]);
    expect(await archiveStreamed()).toMatchObject({ duplicates: [{ name: nameOf(2) }] });
    expect((await new MarkerMemory(markerFile).read()).map(({ name }) => name)).toEqual([nameOf(2)]);
  });
});

test('the position marker that changes while it is archived is left for the next pass', () => {
  let change: (() => Promise<void>) | null = null;
  const before: WalHooks['before'] = async () => {
    await change?.();
    return CONTINUE;
  };
  return withArchiver({ storage: { hooks: { before } } }, async ({ streaming, archiveStreamed }) => {
    const { path, bytes } = await writeWal(streaming, { segment: 1 });
    // As pg_receivewal does that received the segment once more.
    change = async () => {
      await writeFile(`${path}.partial`, bytes);
      await rename(`${path}.partial`, path);
    };
    expect(await archiveStreamed()).toMatchObject({ archived: [], waiting: 1 });
    change = null;
    expect(await archiveStreamed()).toMatchObject({ archived: [{ name: nameOf(1) }], waiting: 0 });
    expect(await archiveStreamed()).toMatchObject({ archived: [], duplicates: [] });
    expect(await readdir(streaming)).toEqual([nameOf(1)]);
  });
});
