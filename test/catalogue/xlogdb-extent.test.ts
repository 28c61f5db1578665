import { expect, test } from 'vitest';
import { toXlogdbLine } from '../../src/wal/wal-file-info.ts';
import { segmentName, walName } from '../../src/wal/wal-name.ts';
import { withCatalogue } from './with-catalogue.ts';

const SIZE = 16 * 1024 * 1024;
const line = (name: string, mtime: number): string =>
  toXlogdbLine({ name: walName(name), size: 100, mtime, compression: 'zstd', encryption: null });

test('an archive without a catalogue has no files', () =>
  withCatalogue(async ({ xlogdb }) => {
    expect(await xlogdb.extent()).toEqual({ files: 0, first: null, last: null, newest: null });
  }));

test('an empty catalogue has no files', () =>
  withCatalogue(async ({ xlogdb, put }) => {
    await put('');
    expect(await xlogdb.extent()).toEqual({ files: 0, first: null, last: null, newest: null });
  }));

test('the extent of a large catalogue is told, over all chunks of reading', () =>
  withCatalogue(async ({ xlogdb, put }) => {
    const count = 40_000;
    const names = Array.from({ length: count }, (_, index) => segmentName(1, BigInt(index + 1), SIZE));
    await put(names.map((name, index) => line(name, 1_000_000 + index)).join(''));
    expect(await xlogdb.extent()).toMatchObject({
      files: count,
      first: { name: names[0] },
      last: { name: names.at(-1) },
      newest: { name: names.at(-1), mtime: 1_000_000 + count - 1 },
    });
  }));

test('the newest file need not be the last one', () =>
  withCatalogue(async ({ xlogdb, put }) => {
    await put(
      line('000000010000000000000005', 900) + line('00000002.history', 100) + line('000000020000000000000004', 200),
    );
    expect(await xlogdb.extent()).toMatchObject({
      files: 3,
      last: { name: '000000020000000000000004' },
      newest: { name: '000000010000000000000005' },
    });
  }));

test('the legacy catalogue counts where there is no other', () =>
  withCatalogue(async ({ xlogdb, put, legacyPath }) => {
    await put(line('000000010000000000000005', 900), legacyPath);
    expect(await xlogdb.extent()).toMatchObject({ files: 1, first: { name: '000000010000000000000005' } });
  }));
