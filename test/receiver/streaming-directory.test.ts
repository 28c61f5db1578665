import { mkdir, readdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  checkStreamingDirectory,
  createPosition,
  findStreamingStart,
  listStreamingFiles,
  readHeader,
} from '../../src/receiver/streaming-directory.ts';
import { formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import { makeWal, TEST_SYSTEM_IDENTIFIER } from '../support/make-wal.ts';
import { withTempDir } from '../support/temp-dir.ts';

const MIB = 1024 * 1024;

/** Where pg_receivewal would start in a directory with these files, each of a segment's size, or the one given. */
async function startWith(
  files: Readonly<Record<string, number>> | readonly string[],
  size = MIB,
): Promise<string | null> {
  const sizes = Array.isArray(files) ? files.map((name) => [name, size] as const) : Object.entries(files);
  return withTempDir(async (directory) => {
    for (const [name, bytes] of sizes) await writeFile(join(directory, name), Buffer.alloc(bytes));
    const start = findStreamingStart(await listStreamingFiles(directory, size), size);
    return start === null ? null : `${start.timeline} ${formatLsn(start.lsn)} ${start.file.entry}`;
  });
}

describe('findStreamingStart, as pg_receivewal looks', () => {
  test('begins behind a complete segment, and with a partial one', async () => {
    expect(await startWith(['000000010000000000000003'])).toBe('1 0/400000 000000010000000000000003');
    expect(await startWith(['000000010000000000000003', '000000010000000000000004.partial'])).toBe(
      '1 0/400000 000000010000000000000004.partial',
    );
  });

  test('prefers the greater segment to the later timeline', async () => {
    expect(await startWith(['000000010000000000000009', '000000020000000000000008.partial'])).toBe(
      '1 0/A00000 000000010000000000000009',
    );
  });

  test('prefers the later timeline of one segment, and the complete file of one name', async () => {
    expect(await startWith(['000000010000000000000008', '000000020000000000000008.partial'])).toBe(
      '2 0/800000 000000020000000000000008.partial',
    );
    expect(await startWith(['000000010000000000000008', '000000010000000000000008.partial'])).toBe(
      '1 0/900000 000000010000000000000008',
    );
  });

  test('skips a complete segment of a wrong size, and takes a partial one of any', async () => {
    expect(await startWith({ '000000010000000000000009': 77, '000000010000000000000003.partial': 0 })).toBe(
      '1 0/300000 000000010000000000000003.partial',
    );
  });

  test('sees what was written with --compress, and nothing that has another name', async () => {
    expect(await startWith({ '000000010000000000000003.gz': 100 })).toBe('1 0/400000 000000010000000000000003.gz');
    expect(
      await startWith([
        '00000002.history',
        '.walwarden-000000010000000000000009',
        '000000010000000000000009.tmp',
        '00000001000000000000000a',
        'readme',
      ]),
    ).toBeNull();
    expect(await startWith(['000000010000000000000000'])).toBeNull();
  });

  test('counts segments by their size, across the end of a log', async () => {
    expect(await startWith({ '0000000100000001000000FF': 16 * MIB }, 16 * MIB)).toBe('1 2/0 0000000100000001000000FF');
    expect(await startWith({ '000000010000000100000FFF': MIB })).toBe('1 2/0 000000010000000100000FFF');
  });
});

test('a directory of a WAL file’s name is not looked at', () =>
  withTempDir(async (directory) => {
    await mkdir(join(directory, '000000010000000000000003.partial'));
    await symlink('/nowhere', join(directory, '000000010000000000000004'));
    expect(await listStreamingFiles(directory, MIB)).toEqual([]);
  }));

test('readHeader tells who wrote a file, and null where nobody has yet', () =>
  withTempDir(async (directory) => {
    const wal = makeWal({ segment: 3 });
    await writeFile(join(directory, wal.name), wal.bytes);
    await writeFile(join(directory, '000000010000000000000004.partial'), '');
    await writeFile(join(directory, '000000010000000000000005.partial'), Buffer.alloc(MIB));
    const headers = [];
    for (const file of await listStreamingFiles(directory, MIB)) headers.push(await readHeader(directory, file));
    expect(headers.map((header) => header?.systemIdentifier)).toEqual([TEST_SYSTEM_IDENTIFIER, undefined, undefined]);
  }));

test('createPosition makes an empty private partial file for the segment that holds an LSN', () =>
  withTempDir(async (directory) => {
    const entry = await createPosition(directory, { timeline: 3, lsn: parseLsn('1/2345678') }, 16 * MIB);
    expect(entry).toBe('000000030000000100000002.partial');
    expect(await readdir(directory)).toEqual([entry]);
    expect(await stat(join(directory, entry))).toMatchObject({ size: 0 });
    expect((await stat(join(directory, entry))).mode & 0o777).toBe(0o600);
  }));

describe('checkStreamingDirectory', () => {
  test('is content with a directory of ours', () => withTempDir((directory) => checkStreamingDirectory(directory)));

  test('names a directory that is missing, and a file in its place', () =>
    withTempDir(async (directory) => {
      const path = join(directory, 'streaming');
      await expect(checkStreamingDirectory(path)).rejects.toMatchObject({
        code: 'storage',
        message: `there is no directory ${path}`,
        hint: expect.stringContaining('streaming_wals_directory'),
      });
      await writeFile(path, '');
      await expect(checkStreamingDirectory(path)).rejects.toMatchObject({ message: `${path} is not a directory` });
    }));
});
