import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { COMPRESSION_NAMES, type CompressionName } from '../../src/compression/codec.ts';
import {
  RECOGNITION_BYTES,
  compressionOfExtension,
  createCompressor,
  decompress,
  extensionOf,
  recogniseCompression,
} from '../../src/compression/codecs.ts';
import { withBarmanFixture } from '../support/fixture.ts';
import { IN_PROCESS, MIB, PROGRAMS, describeCodec, realWal } from './describe-codecs.ts';

let wal: Buffer = Buffer.alloc(0);
const history = Buffer.from('1\t0/15000000\tno recovery target specified\n');

beforeAll(async () => {
  wal = await realWal();
});

// The programs take seconds, and have their turn with everybody else's.
for (const name of IN_PROCESS) describeCodec(name, () => wal);

describe('checksums', () => {
  it('zstd frames have the content checksum flag', async () => {
    for (const level of [-5, 3, 19]) {
      const frame = await createCompressor({ compression: 'zstd', level }).compress(history);
      // Frame_Header_Descriptor, bit 2 (RFC 8878, 3.1.1.1.1).
      expect(frame.readUInt8(4) & 0x04).toBe(0x04);
    }
  });

  it('lz4 frames have the content checksum flag, from the library and from the program', async () => {
    for (const level of [0, 2, 3, 12, 16]) {
      const frame = await createCompressor({ compression: 'lz4', level }).compress(history);
      expect(frame.readUInt8(4) & 0x04).toBe(0x04);
    }
  });

  it('xz streams have a CRC-64, like those of Barman', async () => {
    expect((await createCompressor({ compression: 'xz' }).compress(history)).readUInt8(7)).toBe(4);
  });
});

describe('files that Barman 3.17 stored', () => {
  it('all read back', async () => {
    await withBarmanFixture(async ({ home, originals }) => {
      const seen = new Set<CompressionName | null>();
      for (const entry of await readdir(join(home, 'main/wals'), { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || entry.name === 'main-xlog.db') continue;
        const stored = await readFile(join(entry.parentPath, entry.name));
        const original = await readFile(join(originals, entry.name));
        const compression = recogniseCompression(stored.subarray(0, RECOGNITION_BYTES));
        seen.add(compression);
        const content = compression === null ? stored : await decompress(stored, compression, { maxSize: MIB });
        expect(content.equals(original), entry.name).toBe(true);
      }
      expect(seen).toEqual(new Set([null, 'gzip', 'bzip2', 'xz', 'zstd', 'lz4']));
    });
  });
});

describe('variants of the formats', () => {
  it('zstd and lz4 with skippable frames in between', async () => {
    const skippable = Buffer.from('502a4d1803000000616263', 'hex');
    for (const name of ['zstd', 'lz4'] as const) {
      const frame = await createCompressor({ compression: name }).compress(history);
      const content = await decompress(Buffer.concat([frame, skippable, frame]), name, { maxSize: 100 });
      expect(content.toString()).toBe(history.toString().repeat(2));
    }
  });

  it('lz4 flushed after every few bytes, whose blocks could hold far more', async () => {
    // Independent blocks of up to 64 KiB, no checksums but the descriptor's own, 0x82.
    const descriptor = Buffer.from('04224d18604082', 'hex');
    const block = Buffer.from([...Buffer.from('0b000000', 'hex'), 0xa0, ...Buffer.from('0123456789')]);
    const frame = Buffer.concat([descriptor, ...Array.from({ length: 5000 }, () => block), Buffer.alloc(4)]);
    const content = await decompress(frame, 'lz4', { maxSize: 50_000 });
    expect(content.toString()).toBe('0123456789'.repeat(5000));
  });
});

describe('names', () => {
  it('are all tested, here or with the programs', () => {
    expect([...IN_PROCESS, ...PROGRAMS, 'custom'].toSorted()).toEqual(COMPRESSION_NAMES.toSorted());
  });

  it('have the extensions of Barman, there and back', () => {
    const extensions = COMPRESSION_NAMES.map((name) => [name, extensionOf(name)]);
    expect(Object.fromEntries(extensions)).toEqual({
      gzip: '.gz',
      pygzip: '.gz',
      pigz: '.gz',
      bzip2: '.bz2',
      pybzip2: '.bz2',
      xz: '.xz',
      zstd: '.zst',
      lz4: '.lz4',
      snappy: '.snappy',
      custom: null,
    });
    expect(['.gz', '.bz2', '.xz', '.zst', '.lz4', '.snappy', '.partial', ''].map(compressionOfExtension)).toEqual([
      'gzip',
      'bzip2',
      'xz',
      'zstd',
      'lz4',
      'snappy',
      null,
      null,
    ]);
  });

  it('say which compressors can work in memory', () => {
    const custom = { compress: 'cat', decompress: 'cat' };
    const notInMemory = COMPRESSION_NAMES.filter((name) => !createCompressor({ compression: name, custom }).inMemory);
    expect(notInMemory).toEqual(['pigz', 'custom']);
  });

  it('plain WAL, backup labels and history files are nothing compressed', () => {
    for (const content of [wal, history, Buffer.from('START WAL LOCATION: 0/28'), Buffer.alloc(0)]) {
      expect(recogniseCompression(content.subarray(0, RECOGNITION_BYTES))).toBeNull();
    }
  });
});
