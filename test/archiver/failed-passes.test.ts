import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { FailedPasses } from '../../src/archiver/failed-passes.ts';
import { WalwardenError } from '../../src/errors.ts';
import type { Logger } from '../../src/logging.ts';
import { withTempDir } from '../support/temp-dir.ts';

const DAY = 24 * 3600 * 1000;

interface Memory {
  readonly directory: string;
  readonly path: string;
  /** As another process has it. */
  readonly open: () => FailedPasses;
  readonly info: string[];
}

function withMemory(body: (memory: Memory) => Promise<void>): Promise<void> {
  return withTempDir(async (directory) => {
    const info: string[] = [];
    const nothing = (): void => undefined;
    const logger: Logger = {
      debug: nothing,
      warn: nothing,
      error: nothing,
      info: (facts: object | string, text?: string) => void info.push(typeof facts === 'string' ? facts : (text ?? '')),
    };
    const path = join(directory, 'memory.json');
    await body({ directory, path, info, open: () => new FailedPasses(path, 'main', logger) });
  });
}

const full = (file: number): WalwardenError =>
  new WalwardenError('storage', `can't store 00000001000000000000000${file}: ENOSPC: no space left`, {
    hint: 'make space',
  });

describe('what is remembered of failed passes', () => {
  it('is nothing before one failed', () =>
    withMemory(async ({ open }) => {
      expect(await open().current()).toBeNull();
    }));

  it('is the reason of the last one, since when, and how many', () =>
    withMemory(async ({ open, directory }) => {
      await open().failed(full(1), 1_000);
      await open().failed(full(2), 61_000);
      expect(await open().current()).toEqual({
        since: 1_000,
        last: 61_000,
        passes: 2,
        code: 'storage',
        message: full(2).message,
        hint: 'make space',
      });
      expect(await readdir(directory)).toEqual(['memory.json']);
    }));

  it('is over after a good one, which is told', () =>
    withMemory(async ({ open, info }) => {
      await open().failed(full(1), 0);
      await open().succeeded(120_000);
      expect(await open().current()).toBeNull();
      expect(info).toEqual(['archiving of main works again, after 1 failed pass in 2 min']);
      await open().succeeded();
      expect(info).toHaveLength(1);
    }));

  it('marks a reason that was told before, whatever numbers are in it, but once a day', () =>
    withMemory(async ({ open }) => {
      const isRepeated = async (error: WalwardenError, now: number): Promise<boolean> => {
        const thrown = await open().failed(error, now);
        expect(thrown).toMatchObject({ code: error.code, message: error.message, hint: error.hint });
        return thrown instanceof WalwardenError && thrown.repeated;
      };
      const denied = new WalwardenError('storage', 'access denied');
      expect(await isRepeated(full(1), 0)).toBe(false);
      expect(await isRepeated(full(2), 1)).toBe(true);
      expect(await isRepeated(denied, 2)).toBe(false);
      expect(await isRepeated(full(3), 3)).toBe(true);
      expect(await isRepeated(full(4), DAY)).toBe(false);
      expect(await isRepeated(full(5), DAY + 1)).toBe(true);
      await open().succeeded();
      expect(await isRepeated(full(6), DAY + 2)).toBe(false);
    }));

  it('does not count that another process archives, or that we were asked to stop', () =>
    withMemory(async ({ open }) => {
      for (const code of ['locked', 'aborted'] as const) {
        const error = new WalwardenError(code, 'x');
        expect(await open().failed(error)).toBe(error);
      }
      expect(await open().current()).toBeNull();
    }));

  it('is nothing when the file is damaged, and can be remembered anew', () =>
    withMemory(async ({ open, path }) => {
      for (const text of ['', '{', '[]', '{"since": "x"}', '{"since":1,"last":1,"passes":1,"code":"a"}']) {
        await writeFile(path, text);
        expect(await open().current()).toBeNull();
      }
      await open().failed(full(1), 5);
      expect(await open().current()).toMatchObject({ since: 5, passes: 1 });
    }));

  it('never keeps the error from being thrown where it can not be written', () =>
    withMemory(async ({ open, directory }) => {
      const lost = new FailedPasses(join(directory, 'missing', 'memory.json'), 'main', {
        debug: () => undefined,
        info: () => undefined,
        warn: () => undefined,
        error: () => undefined,
      });
      const error = full(1);
      expect(await lost.failed(error)).toBe(error);
      expect(await open().current()).toBeNull();
    }));
});
