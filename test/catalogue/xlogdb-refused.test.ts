import { chmod, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { isErrorCode } from '../../src/errors.ts';
import { run } from '../support/run.ts';
import { collect, lines, wal, withCatalogue } from './with-catalogue.ts';

describe('what is no catalogue', () => {
  test.each(['link', 'directory', 'fifo'] as const)(
    'a %s in its place is an error that says what to do',
    async (what) => {
      await withCatalogue(async ({ ensure, path, directory, put }) => {
        if (what === 'directory') await mkdir(path);
        if (what === 'fifo') await run('mkfifo', [path], {});
        if (what === 'link') {
          await put(lines(wal(1)), join(directory, 'real'));
          await symlink('real', path);
        }
        const error: unknown = await ensure([wal(1)]).catch((reason: unknown) => reason);
        expect(isErrorCode(error, 'catalogue')).toBe(true);
        expect(String(error)).toContain(path);
        expect(error).toMatchObject({
          hint: expect.stringMatching(/xlogdb_directory|move it away|move the directory away/),
        });
      });
    },
  );

  test('a symbolic link may be read', async () => {
    await withCatalogue(async ({ xlogdb, path, directory, put }) => {
      await put(lines(wal(1)), join(directory, 'real'));
      await symlink('real', path);
      expect(await collect(xlogdb.read())).toEqual([wal(1)]);
    });
  });

  test('a directory where a catalogue should be read is an error', async () => {
    await withCatalogue(async ({ xlogdb, path }) => {
      await mkdir(path);
      await expect(collect(xlogdb.read())).rejects.toMatchObject({ code: 'catalogue' });
    });
  });

  test('no permission is an error that names the cause', async () => {
    await withCatalogue(async ({ another, path, directory, put }) => {
      await put(lines(wal(1)));
      await chmod(path, 0o400);
      await chmod(directory, 0o555);
      const lockPath = join(directory, 'lock');
      await writeFile(lockPath, '');
      await chmod(lockPath, 0o666);
      const root = process.geteuid?.() === 0;
      // Root may do anything; nobody may not.
      if (root) process.seteuid?.(65_534);
      try {
        const error: unknown = await another({ lockPath })
          .withLock((session) => session.ensure([wal(2)]))
          .catch((reason: unknown) => reason);
        expect(String(error)).toContain(`can't open the catalogue ${path}: EACCES`);
        expect(error).toMatchObject({ code: 'catalogue', hint: expect.stringContaining('the user that owns') });
      } finally {
        if (root) process.seteuid?.(0);
        await chmod(directory, 0o755);
      }
    });
  });
});
