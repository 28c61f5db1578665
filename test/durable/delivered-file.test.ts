import { execFileSync } from 'node:child_process';
import { appendFile, mkdir, open, symlink, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  MAX_DELIVERED_SIZE,
  openDelivered,
  openDeliveredSync,
  readDelivered,
  readWhole,
} from '../../src/durable/delivered-file.ts';
import { withTempDir } from '../support/temp-dir.ts';

const makers: readonly [string, (path: string) => Promise<unknown>, RegExp][] = [
  ['a symbolic link', (path) => symlink('/etc/passwd', path), /it is a symbolic link/],
  ['a link to an endless device', (path) => symlink('/dev/zero', path), /it is a symbolic link/],
  ['a fifo', async (path) => execFileSync('mkfifo', [path]), /it is a fifo/],
  ['a directory', (path) => mkdir(path), /it is a directory/],
  ['a sparse file of 15 TiB', (path) => sparse(path, 15 * 2 ** 40), /it has 16492674416640 bytes/],
  [
    'one byte more than WAL has',
    (path) => sparse(path, MAX_DELIVERED_SIZE + 1),
    /no WAL file has more than 1090519040/,
  ],
];

async function sparse(path: string, size: number): Promise<void> {
  await writeFile(path, '');
  await truncate(path, size);
}

describe('what lies where others may write', () => {
  test.each(makers)('is not opened when it is %s', (_what, make, reason) =>
    withTempDir(async (directory) => {
      const path = join(directory, 'odd');
      await make(path);
      const refusal = { code: 'invalid-wal', message: expect.stringMatching(reason) };
      await expect(openDelivered(path)).rejects.toMatchObject(refusal);
      await expect(readDelivered(Buffer.from(path))).rejects.toMatchObject(refusal);
      expect(() => openDeliveredSync(path)).toThrowError(reason);
    }),
  );

  test('is not opened when it is a socket', () =>
    withTempDir(async (directory) => {
      const path = join(directory, 'socket');
      const server = createServer();
      try {
        await new Promise<void>((resolve) => server.listen(path, resolve));
        await expect(readDelivered(path)).rejects.toThrowError(/it is a socket/);
      } finally {
        server.close();
      }
    }));

  test('is the system that says what is not there', () =>
    withTempDir(async (directory) => {
      await expect(openDelivered(join(directory, 'none'))).rejects.toMatchObject({ code: 'ENOENT' });
      expect(() => openDeliveredSync(join(directory, 'none'))).toThrowError(/ENOENT/);
    }));

  test('is read up to the size that it had when it was opened, also when another process appends to it', () =>
    withTempDir(async (directory) => {
      const path = join(directory, 'growing');
      await writeFile(path, 'first');
      await using file = await openDelivered(path);
      await appendFile(path, 'second');
      expect((await readWhole(file)).toString()).toBe('first');
      await truncate(path, 2);
      expect((await readWhole(file)).toString()).toBe('fi');
    }));

  test('is read from the inode that was opened, whatever takes its name', () =>
    withTempDir(async (directory) => {
      const path = join(directory, 'file');
      await writeFile(path, 'ours');
      await using file = await openDelivered(path);
      await (await open(join(directory, 'other'), 'w')).close();
      execFileSync('mv', [join(directory, 'other'), path]);
      expect((await readWhole(file)).toString()).toBe('ours');
    }));
});
