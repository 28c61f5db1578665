import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { plainSegmentSize, RememberedSegmentSize } from '../../src/archiver/segment-size.ts';
import type { WalFileInfo } from '../../src/wal/wal-file-info.ts';
import { walName } from '../../src/wal/wal-name.ts';
import { withTempDir } from '../support/temp-dir.ts';

const nobody = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const MIB = 1024 * 1024;

test('a segment size is remembered for one cluster', () =>
  withTempDir(async (directory) => {
    const identity = join(directory, 'identity.json');
    const open = (): RememberedSegmentSize => new RememberedSegmentSize(join(directory, 'size'), identity, nobody);
    await open().write(MIB);
    expect(await open().read()).toBeNull();
    await writeFile(identity, '{"systemid": "1", "version": "15"}');
    await open().write(MIB);
    expect(await open().read()).toBe(MIB);
    await writeFile(identity, '{"systemid": "2", "version": "16"}');
    expect(await open().read()).toBeNull();
    await writeFile(join(directory, 'size'), '{"systemid": "2", "segmentSize": 77}');
    expect(await open().read()).toBeNull();
  }));

test('a segment that is stored as it is tells it by its size', () => {
  const info = (name: string, size: number, compression: 'gzip' | null): WalFileInfo => ({
    name: walName(name),
    size,
    mtime: 0,
    compression,
    encryption: null,
  });
  expect(plainSegmentSize([info('000000010000000000000001', MIB, null)])).toBe(MIB);
  expect(plainSegmentSize([info('000000010000000000000001', MIB, 'gzip')])).toBeNull();
  expect(plainSegmentSize([info('000000010000000000000001.partial', MIB, null)])).toBeNull();
  expect(plainSegmentSize([info('000000010000000000000001', 100, null)])).toBeNull();
});
