import { beforeAll, describe, expect, it } from 'vitest';
import { RECOGNITION_BYTES, createCompressor, decompress, recogniseCompression } from '../../src/compression/codecs.ts';
import { FORMAT_OF, IN_PROCESS, MIB, PROGRAMS, describeCodec, realWal } from './describe-codecs.ts';
import { SYSTEM_TOOLS, pipe } from './system-tools.ts';

let wal: Buffer = Buffer.alloc(0);
const history = Buffer.from('1\t0/15000000\tno recovery target specified\n');

beforeAll(async () => {
  wal = await realWal();
});

for (const name of PROGRAMS) describeCodec(name, () => wal);

describe.each([...IN_PROCESS, ...PROGRAMS])('%s', (name) => {
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

  it('gzip padded with zeros, as on a tape', async () => {
    const compressed = Buffer.concat([await pipe(['gzip', '-c'], history), Buffer.alloc(512)]);
    expect((await decompress(compressed, 'gzip', { maxSize: 100 })).equals(history)).toBe(true);
  });
});
