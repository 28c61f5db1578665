import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { KnownCatalogue } from '../../src/archiver/known-catalogue.ts';
import { withTempDir } from '../support/temp-dir.ts';

test('a catalogue that was there is remembered, by another process too; another one is not', () =>
  withTempDir(async (directory) => {
    const path = join(directory, '.main-catalogue.json');
    const problems: string[] = [];
    const known = (catalogue: string, seen = new Set<string>()): KnownCatalogue =>
      new KnownCatalogue(path, catalogue, seen, (problem) => problems.push(problem));
    expect(await known('/a/main-xlog.db').wasThere()).toBe(false);
    await known('/a/main-xlog.db').isThere();
    expect(await known('/a/main-xlog.db').wasThere()).toBe(true);
    expect(await known('/b/main-xlog.db').wasThere()).toBe(false);
    await known('/b/main-xlog.db').isThere();
    expect(await known('/a/main-xlog.db').wasThere()).toBe(false);
    expect(await readdir(directory)).toEqual(['.main-catalogue.json']);
    await writeFile(path, 'no JSON');
    expect(await known('/b/main-xlog.db').wasThere()).toBe(false);
    expect(problems).toEqual([]);
  }));

test('what can’t be written down is known to this process, and is no failure', () =>
  withTempDir(async (directory) => {
    const problems: string[] = [];
    const seen = new Set<string>();
    const path = join(directory, 'gone', '.main-catalogue.json');
    const known = new KnownCatalogue(path, '/a/main-xlog.db', seen, (problem) => problems.push(problem));
    await known.isThere();
    expect(await known.wasThere()).toBe(true);
    expect(problems).toHaveLength(1);
    await rm(directory, { recursive: true });
    expect(await new KnownCatalogue(path, '/a/main-xlog.db', seen, () => {}).wasThere()).toBe(true);
  }));
