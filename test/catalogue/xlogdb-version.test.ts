import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { walName } from '../../src/wal/wal-name.ts';
import { withCatalogue } from './with-catalogue.ts';

const wal = (name: string) => ({ name: walName(name), size: 1, mtime: 1.5, compression: null, encryption: null });

it('the version of a catalogue changes when it does, and not by reading it', () =>
  withCatalogue(async ({ xlogdb, another, ensure, put, path, legacyPath }) => {
    expect(await xlogdb.version()).toBeNull();
    await put('000000010000000000000001\t1\t1.5\tNone\tNone\n', legacyPath);
    const legacy = await xlogdb.version();
    expect(legacy).not.toBeNull();
    await ensure([wal('000000010000000000000002')]);
    const first = await xlogdb.version();
    expect(first).not.toBe(legacy);
    await readFile(path);
    expect(await xlogdb.version()).toBe(first);
    expect(await another().version()).toBe(first);
    await ensure([wal('000000010000000000000003')]);
    expect(await xlogdb.version()).not.toBe(first);
  }));
