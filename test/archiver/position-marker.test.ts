import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isRemembered, MarkerMemory } from '../../src/archiver/position-marker.ts';
import type { MarkedFile } from '../../src/archiver/streaming-position.ts';
import { makeWal } from '../support/make-wal.ts';
import { withTempDir } from '../support/temp-dir.ts';

const file: MarkedFile = {
  name: makeWal({ content: 'zeros' }).name,
  dev: 64_769n,
  ino: 2n ** 63n,
  size: 1_048_576n,
  mtimeNs: 1_700_000_000_123_456_789n,
  ctimeNs: 1_700_000_001_123_456_789n,
};
const other: MarkedFile = { ...file, name: makeWal({ segment: 2, content: 'zeros' }).name, ino: 7n };

test('what is remembered is read back, to the last digit, by another process too', () =>
  withTempDir(async (directory) => {
    const path = join(directory, 'marker.json');
    const memory = new MarkerMemory(path);
    expect(await memory.read()).toEqual([]);
    await memory.write([file, other]);
    expect(await new MarkerMemory(path).read()).toEqual([file, other]);
    await memory.write([other]);
    expect(await memory.read()).toEqual([other]);
    expect(await readdir(directory)).toEqual(['marker.json']);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  }));

test('what a crash left of a write goes with the next look', () =>
  withTempDir(async (directory) => {
    const memory = new MarkerMemory(join(directory, 'marker.json'));
    await memory.write([file]);
    await writeFile(join(directory, 'marker.json.tmp'), '[{"na');
    expect(await memory.read()).toEqual([file]);
    expect(await readdir(directory)).toEqual(['marker.json']);
    await writeFile(join(directory, 'marker.json.tmp'), '[{"na');
    await memory.write([other]);
    expect(await memory.read()).toEqual([other]);
  }));

test.each(['', '{', 'null', '3', '{}', '[3, null, "x", {}]', '[{"name": "../x", "dev": "1"}]'])(
  'damaged, it remembers nothing: %j',
  (text) =>
    withTempDir(async (directory) => {
      const path = join(directory, 'marker.json');
      await writeFile(path, text);
      expect(await new MarkerMemory(path).read()).toEqual([]);
    }),
);

test('a number that is missing or no number matches no file', () =>
  withTempDir(async (directory) => {
    const path = join(directory, 'marker.json');
    for (const ino of [undefined, 7, '-1', 'x', '7.5']) {
      await writeFile(path, JSON.stringify([{ name: file.name, dev: '64769', ino, size: '1048576' }]));
      expect(isRemembered(await new MarkerMemory(path).read(), { ...file, ino: 7n })).toBe(false);
    }
  }));

test('a file is known only when nothing of it changed', () => {
  expect(isRemembered([other, file], { ...file })).toBe(true);
  expect(isRemembered([], file)).toBe(false);
  for (const fact of ['dev', 'ino', 'size', 'mtimeNs', 'ctimeNs'] as const) {
    expect(isRemembered([other, file], { ...file, [fact]: file[fact] + 1n })).toBe(false);
  }
  expect(isRemembered([other], file)).toBe(false);
});

test('what can’t be written is remembered by this process, which would compare it for ever', () =>
  withTempDir(async (directory) => {
    const memory = new MarkerMemory(join(directory, 'gone', 'marker.json'));
    await expect(memory.write([file])).rejects.toThrow();
    expect(await memory.read()).toEqual([file]);
    await mkdir(join(directory, 'gone'));
    await memory.write([other]);
    expect(await memory.read()).toEqual([other]);
  }));
