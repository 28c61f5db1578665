import { mkdir, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { findPosition } from '../../src/archiver/streaming-position.ts';
import { listWaiting } from '../../src/archiver/waiting-directory.ts';
import { walName, type WalName } from '../../src/wal/wal-name.ts';
import { makeWal } from '../support/make-wal.ts';
import { withIncoming } from '../support/temp-dir.ts';

const nameOf = (timeline: number, segment: number): WalName => makeWal({ timeline, segment, content: 'zeros' }).name;
const partialOf = (timeline: number, segment: number): WalName => walName(`${nameOf(timeline, segment)}.partial`);

/** Writes files as pg_receivewal leaves them, one a second; a complete segment, or `.partial` with zeros. */
async function write(directory: string, ...files: readonly (readonly [number, number, 'partial'?])[]): Promise<void> {
  for (const [index, [timeline, segment, partial]] of files.entries()) {
    const path = join(directory, (partial === undefined ? nameOf : partialOf)(timeline, segment));
    await writeFile(path, partial === undefined ? makeWal({ timeline, segment }).bytes : Buffer.alloc(1 << 20));
    await utimes(path, 1_700_000_000 + index, 1_700_000_000 + index);
  }
}

async function positionIn(directory: string): Promise<{ partials: string[]; markers: string[] }> {
  const { names } = await listWaiting(directory);
  const { partials, markers } = await findPosition(directory, names);
  return { partials: [...partials].sort(), markers: [...markers.keys()].sort() };
}

const expectPosition = (
  files: readonly (readonly [number, number, 'partial'?])[],
  expected: { partials?: readonly string[]; markers?: readonly string[] },
): Promise<void> =>
  withIncoming(async (directory) => {
    await write(directory, ...files);
    expect(await positionIn(directory)).toEqual({ partials: [], markers: [], ...expected });
  });

test('nothing in an empty directory', () => expectPosition([], {}));

test('the partial file; complete segments before it are free', () =>
  expectPosition(
    [
      [1, 1],
      [1, 2],
      [1, 3, 'partial'],
    ],
    { partials: [partialOf(1, 3)] },
  ));

test('the last complete segment while there is no partial file', () =>
  expectPosition(
    [
      [1, 1],
      [1, 2],
      [1, 3],
    ],
    { markers: [nameOf(1, 3)] },
  ));

test('both, when the partial file is of the same segment: only the complete one is looked for after a restart', () =>
  expectPosition(
    [
      [1, 2],
      [1, 3, 'partial'],
      [1, 3],
    ],
    { partials: [partialOf(1, 3)], markers: [nameOf(1, 3)] },
  ));

test('also when that partial file was written later', () =>
  expectPosition(
    [
      [1, 3],
      [1, 3, 'partial'],
    ],
    { partials: [partialOf(1, 3)], markers: [nameOf(1, 3)] },
  ));

test('a complete segment that is newer than the partial file, and that file', () =>
  expectPosition(
    [
      [1, 3, 'partial'],
      [1, 4],
      [1, 5],
    ],
    { partials: [partialOf(1, 3)], markers: [nameOf(1, 5)] },
  ));

test('after a promotion the partial file of the new timeline; that of the old one is free', () =>
  expectPosition(
    [
      [1, 4],
      [1, 5, 'partial'],
      [2, 5, 'partial'],
    ],
    { partials: [partialOf(2, 5)] },
  ));

test('after a promotion that took a record back over a segment’s end, both partial files, until the new one is ahead', async () => {
  await expectPosition(
    [
      [1, 5],
      [1, 6, 'partial'],
      [2, 5, 'partial'],
    ],
    {
      partials: [partialOf(1, 6), partialOf(2, 5)],
    },
  );
  await expectPosition(
    [
      [1, 6, 'partial'],
      [2, 5],
      [2, 6, 'partial'],
    ],
    { partials: [partialOf(2, 6)] },
  );
});

test('the partial file that was written last, whatever its name', () =>
  expectPosition(
    [
      [1, 9, 'partial'],
      [3, 5, 'partial'],
      [1, 2, 'partial'],
      [2, 8, 'partial'],
    ],
    {
      partials: [partialOf(1, 9), partialOf(2, 8), partialOf(3, 5)],
    },
  ));

test('a later timeline that began at an earlier segment, once it was written last', async () => {
  // A standby that lagged was promoted; then receive-wal was reset.
  await expectPosition(
    [
      [1, 18],
      [1, 19],
      [2, 16, 'partial'],
    ],
    { partials: [partialOf(2, 16)] },
  );
  await expectPosition(
    [
      [1, 18],
      [1, 19],
      [2, 15],
      [2, 16],
    ],
    { markers: [nameOf(2, 16)] },
  );
  // Something of a later timeline was left there, while pg_receivewal follows the earlier one.
  await expectPosition(
    [
      [2, 16, 'partial'],
      [1, 18],
      [1, 19],
    ],
    {
      partials: [partialOf(2, 16)],
      markers: [nameOf(1, 19)],
    },
  );
  await expectPosition(
    [
      [2, 16],
      [1, 18],
      [1, 19],
    ],
    { markers: [nameOf(1, 19), nameOf(2, 16)].sort() },
  );
});

test('what can’t be judged stays, and so does the last one that is certainly whole', () =>
  withIncoming(async (directory) => {
    await write(directory, [1, 1], [1, 2]);
    await writeFile(join(directory, nameOf(1, 3)), makeWal({ segment: 3 }).bytes.subarray(0, 700_000));
    await writeFile(join(directory, nameOf(1, 4)), Buffer.alloc(1 << 20, 'x'));
    expect(await positionIn(directory)).toEqual({ partials: [], markers: [2, 3, 4].map((at) => nameOf(1, at)) });
  }));

test('nothing that pg_receivewal wouldn’t recognise', () =>
  withIncoming(async (directory) => {
    await write(directory, [1, 1]);
    const lower = '00000001000000000000000a';
    await writeFile(join(directory, lower), makeWal({ segment: 10 }).bytes);
    await writeFile(join(directory, `${lower}.partial`), Buffer.alloc(1 << 20));
    await writeFile(join(directory, '00000009.history'), '1\t0/500000\tx\n');
    await writeFile(join(directory, `${nameOf(1, 5)}.00000028.backup`), 'x');
    await mkdir(join(directory, nameOf(1, 6)));
    await symlink('/nowhere', join(directory, nameOf(1, 7)));
    expect(await positionIn(directory)).toEqual({ partials: [], markers: [nameOf(1, 1)] });
  }));

test('files that vanish meanwhile are no trouble', () =>
  withIncoming(async (directory) => {
    await write(directory, [1, 1]);
    const gone = [nameOf(1, 2), nameOf(1, 3), partialOf(1, 3), partialOf(2, 2)];
    const { partials, markers } = await findPosition(directory, [nameOf(1, 1), ...gone]);
    expect([...partials].sort()).toEqual([partialOf(1, 3), partialOf(2, 2)]);
    expect([...markers.keys()]).toEqual([]);
  }));

test('a marker is told by everything that shows a change', () =>
  withIncoming(async (directory) => {
    await write(directory, [1, 1]);
    const path = join(directory, nameOf(1, 1));
    const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
    const { markers } = await findPosition(directory, [nameOf(1, 1)]);
    expect(markers.get(nameOf(1, 1))).toEqual({ name: nameOf(1, 1), dev, ino, size, mtimeNs, ctimeNs });
  }));
