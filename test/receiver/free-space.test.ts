import { expect, test } from 'vitest';
import { lowSpace, spaceLimits, untilEnoughSpace, untilLowSpace } from '../../src/receiver/free-space.ts';
import { withTempDir } from '../support/temp-dir.ts';

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

test.each([
  ['5 % of a small disk', null, 10 * GIB, 512 * MIB],
  ['1 GiB of a large one', null, 1000 * GIB, GIB],
  ['what receive_wal_min_free says', 200 * MIB, 10 * GIB, 200 * MIB],
  ['never with receive_wal_min_free = 0', 0, 10 * GIB, 0],
  ['two segments, where those are more', null, 10 * GIB, 2 * GIB, GIB],
  ['two segments of 64 MiB on a tiny disk', null, GIB, 128 * MIB, 64 * MIB],
  ['a half of the disk, where two segments are more', null, 3 * GIB, 1.5 * GIB, GIB],
  ['what receive_wal_min_free says, whatever a segment has', 200 * MIB, 10 * GIB, 200 * MIB, GIB],
  ['never where the file system does not tell its size', null, 0, 0],
])('receiving pauses below %s', (_case, minFree, total, pauseBelow, segmentSize = 16 * MIB) => {
  expect(spaceLimits(minFree, total, segmentSize).pauseBelow).toBe(pauseBelow);
});

test('it goes on two segments above the limit, but never a tenth of the limit above it', () => {
  expect(spaceLimits(GIB, 0, 16 * MIB).resumeFrom).toBe(GIB + 32 * MIB);
  expect(spaceLimits(GIB, 0, GIB).resumeFrom).toBe(GIB + Math.floor(GIB / 10));
  expect(spaceLimits(10, 0, 16 * MIB).resumeFrom).toBe(11);
  expect(spaceLimits(0, 0, 16 * MIB).resumeFrom).toBe(0);
});

test('a real disk has more than nothing and less than an exabyte free', () =>
  withTempDir(async (directory) => {
    const disk = { directory, segmentSize: 16 * MIB };
    expect(await lowSpace({ ...disk, minFree: 1 })).toBeNull();
    expect(await lowSpace({ ...disk, minFree: 1e18 })).toMatchObject({ limits: { pauseBelow: 1e18 } });
    const scope = new AbortController();
    expect(await untilLowSpace({ ...disk, minFree: 1e18 }, scope.signal)).toMatchObject({ free: expect.any(Number) });
    expect(await untilEnoughSpace({ ...disk, minFree: 1 }, scope.signal)).toMatchObject({ free: expect.any(Number) });
  }));

test('waiting for space ends when it is given up', async () => {
  const scope = new AbortController();
  const disk = { directory: '/tmp', minFree: 1e18, segmentSize: MIB };
  const waiting = untilEnoughSpace(disk, scope.signal);
  scope.abort();
  await expect(waiting).rejects.toThrow('aborted');
});

test('a directory that is not there has no lack of space', async () => {
  expect(await lowSpace({ directory: '/no/such/directory', minFree: 1e18, segmentSize: MIB })).toBeNull();
});
