import { mkdir, open, readFile, readdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import {
  fsyncDirectory,
  fsyncParents,
  isThere,
  linkUnlessThere,
  makeDirectory,
  unlinkIfThere,
  writeFully,
  writeNewFile,
} from '../../src/durable/durable-file.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { fileHandlePrototype, systemError } from './file-handle.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

describe('writeNewFile', () => {
  test('writes bytes, mode and time', async () => {
    await withTempDir(async (directory) => {
      const path = join(directory, 'new');
      const before = process.umask(0o077);
      try {
        await writeNewFile(path, Buffer.from('bytes'), { mode: 0o640, mtime: 1_700_000_000.25 });
      } finally {
        process.umask(before);
      }
      const facts = await stat(path);
      expect(facts.mode & 0o777).toBe(0o640);
      expect(facts.mtimeMs).toBe(1_700_000_000_250);
      expect(await readFile(path, 'latin1')).toBe('bytes');
    });
  });

  test('never replaces what is there, not even a dangling link, and leaves it alone', async () => {
    await withTempDir(async (directory) => {
      const path = join(directory, 'old');
      await writeFile(path, 'old');
      await expect(writeNewFile(path, Buffer.from('new'), { mode: 0o600 })).rejects.toMatchObject({ code: 'EEXIST' });
      expect(await readFile(path, 'latin1')).toBe('old');
      await symlink(join(directory, 'nowhere'), join(directory, 'link'));
      await expect(writeNewFile(join(directory, 'link'), Buffer.from('new'), { mode: 0o600 })).rejects.toMatchObject({
        code: 'EEXIST',
      });
      expect((await readdir(directory)).sort()).toEqual(['link', 'old']);
    });
  });

  test('leaves nothing behind when the disk fails', async () => {
    const prototype = await fileHandlePrototype();
    await withTempDir(async (directory) => {
      vi.spyOn(prototype, 'sync').mockRejectedValueOnce(systemError('EIO'));
      const path = join(directory, 'new');
      await expect(writeNewFile(path, Buffer.from('x'), { mode: 0o600 })).rejects.toMatchObject({ code: 'EIO' });
      expect(await readdir(directory)).toEqual([]);
    });
  });
});

test('writeFully goes on where write(2) took only a part', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'file');
    await using handle = await open(path, 'w');
    let calls = 0;
    const reluctant = new Proxy(handle, {
      get(target, key): unknown {
        if (key !== 'write') return Reflect.get(target, key);
        calls += 1;
        return (data: Uint8Array, at: number) => target.write(data, at, Math.min(3, data.length - at));
      },
    });
    await writeFully(reluctant, Buffer.from('12345678'));
    expect(calls).toBe(3);
    expect(await readFile(path, 'latin1')).toBe('12345678');
  });
});

describe('makeDirectory', () => {
  test('makes what is missing, private to us, and every new name durable', async () => {
    const prototype = await fileHandlePrototype();
    await withTempDir(async (directory) => {
      const sync = vi.spyOn(prototype, 'sync');
      const path = join(directory, 'a', 'b', 'c');
      const before = process.umask(0);
      try {
        await makeDirectory(path);
      } finally {
        process.umask(before);
      }
      expect(sync).toHaveBeenCalledTimes(3);
      for (const made of ['a', 'a/b', 'a/b/c']) expect((await stat(join(directory, made))).mode & 0o777).toBe(0o700);
      await makeDirectory(path);
      expect(sync).toHaveBeenCalledTimes(3);
    });
  });

  test('takes a link to a directory for one, below which others are made', async () => {
    await withTempDir(async (directory) => {
      await mkdir(join(directory, 'real'));
      await symlink(join(directory, 'real'), join(directory, 'link'));
      await makeDirectory(join(directory, 'link'));
      await makeDirectory(join(directory, 'link', 'below'));
      expect(await readdir(join(directory, 'real'))).toEqual(['below']);
    });
  });

  test('lets several make the same at once', async () => {
    await withTempDir(async (directory) => {
      const path = join(directory, 'a', 'b');
      await Promise.all(Array.from({ length: 8 }, () => makeDirectory(path)));
      expect((await stat(path)).isDirectory()).toBe(true);
    });
  });

  test('says what stands in the way', async () => {
    await withTempDir(async (directory) => {
      const at = (name: string): string => join(directory, name);
      await writeFile(at('file'), '');
      await symlink(at('nowhere'), at('dangling'));
      await expect(makeDirectory(at('file'))).rejects.toMatchObject({ code: 'EEXIST' });
      await expect(makeDirectory(at('file/below'))).rejects.toMatchObject({ code: 'ENOTDIR' });
      await expect(makeDirectory(at('dangling'))).rejects.toMatchObject({ code: 'EEXIST' });
      await expect(makeDirectory(at('dangling/below'))).rejects.toMatchObject({ code: 'EEXIST' });
      await expect(makeDirectory('/proc/self/nothing/below')).rejects.toMatchObject({ code: 'ENOENT' });
    });
  });
});

describe('names', () => {
  test('linkUnlessThere lets one win, and replaces nothing', async () => {
    await withTempDir(async (directory) => {
      const at = (name: string): string => join(directory, name);
      await writeFile(at('a'), 'a');
      await writeFile(at('b'), 'b');
      expect(
        await Promise.all([linkUnlessThere(at('a'), at('final')), linkUnlessThere(at('b'), at('final'))]),
      ).toContain(false);
      expect(await linkUnlessThere(at('b'), at('final'))).toBe(false);
      await symlink(at('nowhere'), at('dangling'));
      expect(await linkUnlessThere(at('a'), at('dangling'))).toBe(false);
      await expect(linkUnlessThere(at('missing'), at('other'))).rejects.toMatchObject({ code: 'ENOENT' });
    });
  });

  test('unlinkIfThere tells whether it was there', async () => {
    await withTempDir(async (directory) => {
      const path = join(directory, 'file');
      await writeFile(path, '');
      expect(await unlinkIfThere(path)).toBe(true);
      expect(await unlinkIfThere(path)).toBe(false);
      await mkdir(path);
      await expect(unlinkIfThere(path)).rejects.toMatchObject({ code: expect.stringMatching(/EISDIR|EPERM/) });
    });
  });

  test('isThere sees directories and dangling links, too', async () => {
    await withTempDir(async (directory) => {
      await symlink(join(directory, 'nowhere'), join(directory, 'dangling'));
      expect(await isThere(join(directory, 'dangling'))).toBe(true);
      expect(await isThere(directory)).toBe(true);
      expect(await isThere(join(directory, 'missing'))).toBe(false);
      await writeFile(join(directory, 'file'), '');
      await expect(isThere(join(directory, 'file', 'below'))).rejects.toMatchObject({ code: 'ENOTDIR' });
    });
  });

  test('a directory is fsynced once for all of its files, and only a directory', async () => {
    const prototype = await fileHandlePrototype();
    await withTempDir(async (directory) => {
      const sync = vi.spyOn(prototype, 'sync');
      await fsyncParents(['a', 'b', 'c'].map((name) => join(directory, name)));
      expect(sync).toHaveBeenCalledTimes(1);
      await writeFile(join(directory, 'file'), '');
      await expect(fsyncDirectory(join(directory, 'file'))).rejects.toMatchObject({ code: 'ENOTDIR' });
    });
  });
});
