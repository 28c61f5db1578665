import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import * as fc from 'fast-check';
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
import { realSegments, withBarmanFixture } from '../support/fixture.ts';
import { SYSTEM_TOOLS, pipe } from './system-tools.ts';

type StandardName = keyof typeof SYSTEM_TOOLS;
const STANDARD = COMPRESSION_NAMES.filter((name) => name !== 'custom');
const MIB = 1024 * 1024;

const FORMAT_OF: Readonly<Record<StandardName, CompressionName>> = {
  gzip: 'gzip',
  pygzip: 'gzip',
  pigz: 'gzip',
  bzip2: 'bzip2',
  pybzip2: 'bzip2',
  xz: 'xz',
  zstd: 'zstd',
  lz4: 'lz4',
  snappy: 'snappy',
};

let wal: Buffer = Buffer.alloc(0);
let history: Buffer = Buffer.alloc(0);

beforeAll(async () => {
  const segments = [...(await realSegments()).values()];
  wal = Buffer.concat(segments.slice(0, 3));
  history = Buffer.from('1\t0/15000000\tno recovery target specified\n');
});

describe.each(STANDARD)('%s', (name) => {
  const tool = SYSTEM_TOOLS[name];

  it('is read by the system tool, and reads back, for WAL, a small file and nothing', async () => {
    const compressor = createCompressor({ compression: name });
    for (const content of [wal, history, Buffer.alloc(0)]) {
      const compressed = await compressor.compress(content);
      expect((await pipe(tool.decompress, compressed)).equals(content)).toBe(true);
      expect((await decompress(compressed, name, { maxSize: content.length })).equals(content)).toBe(true);
    }
  });

  it('reads what the system tool writes', async () => {
    for (const content of [wal, history]) {
      const compressed = await pipe(tool.compress(1), content);
      expect(recogniseCompression(compressed.subarray(0, RECOGNITION_BYTES))).toBe(FORMAT_OF[name]);
      expect((await decompress(compressed, name, { maxSize: content.length })).equals(content)).toBe(true);
    }
  });

  it('reads several files in a row as one', async () => {
    const [first, second] = [wal.subarray(0, MIB), history];
    const compressor = createCompressor({ compression: name });
    const both = Buffer.concat([await compressor.compress(first), await pipe(tool.compress(1), second)]);
    const content = await decompress(both, name, { maxSize: 2 * MIB });
    expect(content.equals(Buffer.concat([first, second]))).toBe(true);
  });

  it('is recognised by its first bytes', async () => {
    const compressed = await createCompressor({ compression: name }).compress(wal);
    expect(recogniseCompression(compressed.subarray(0, RECOGNITION_BYTES))).toBe(FORMAT_OF[name]);
    expect(recogniseCompression(compressed.subarray(0, 2))).toBeNull();
  });

  it('gives back any bytes (property)', async () => {
    const compressor = createCompressor({ compression: name });
    const bytes = fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ minLength: 60_000, maxLength: 140_000 }));
    await fc.assert(
      fc.asyncProperty(bytes, async (content) => {
        const compressed = await compressor.compress(content);
        const back = await decompress(compressed, name, { maxSize: content.length });
        expect(back.equals(content)).toBe(true);
      }),
      { numRuns: 20 },
    );
  });

  it('leaves earlier results alone when it compresses again', async () => {
    const compressor = createCompressor({ compression: name });
    const [first, other] = [wal.subarray(0, MIB), wal.subarray(MIB, 2 * MIB)];
    const [one, two] = await Promise.all([compressor.compress(first), compressor.compress(other)]);
    expect((await decompress(one, name, { maxSize: MIB })).equals(first)).toBe(true);
    expect((await decompress(two, name, { maxSize: MIB })).equals(other)).toBe(true);
  });
});

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
  it.each([
    ['zstd', 'without content size', ['zstd', '-q', '-c', '--no-content-size']],
    ['zstd', 'without checksum', ['zstd', '-q', '-c', '--no-check']],
    ['zstd', 'with a long window', ['zstd', '-q', '-c', '--long=27']],
    ['lz4', 'with linked blocks of 64 KiB', ['lz4', '-q', '-c', '-B4', '-BD']],
    ['lz4', 'with block checksums', ['lz4', '-q', '-c', '-BX']],
    ['lz4', 'without content checksum', ['lz4', '-q', '-c', '--no-frame-crc']],
    ['xz', 'in several blocks', ['xz', '-c', '--block-size=300000']],
    ['xz', 'with CRC-32', ['xz', '-c', '--check=crc32']],
    ['gzip', 'with a name', ['sh', '-c', 'd=$(mktemp -d); cat > "$d/f"; gzip -N -c "$d/f"; rm -r "$d"']],
  ] as const)('%s %s', async (name, _variant, command) => {
    const compressed = await pipe(command, wal);
    expect((await decompress(compressed, name, { maxSize: wal.length })).equals(wal)).toBe(true);
  });

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

  it('gzip padded with zeros, as on a tape', async () => {
    const compressed = Buffer.concat([await pipe(['gzip', '-c'], history), Buffer.alloc(512)]);
    expect((await decompress(compressed, 'gzip', { maxSize: 100 })).equals(history)).toBe(true);
  });
});

describe('names', () => {
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
