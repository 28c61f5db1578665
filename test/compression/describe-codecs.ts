import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { CompressionName } from '../../src/compression/codec.ts';
import { RECOGNITION_BYTES, createCompressor, decompress, recogniseCompression } from '../../src/compression/codecs.ts';
import { realSegments } from '../support/fixture.ts';

export type StandardName = Exclude<CompressionName, 'custom'>;

/** These work in our process; */
export const IN_PROCESS: readonly StandardName[] = ['gzip', 'pygzip', 'zstd', 'lz4', 'snappy'];
/** these are programs. */
export const PROGRAMS: readonly StandardName[] = ['pigz', 'bzip2', 'pybzip2', 'xz'];

/** What is told by a file's first bytes. */
export const FORMAT_OF: Readonly<Record<StandardName, CompressionName>> = {
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

export const MIB = 1024 * 1024;

/** 3 MiB of real WAL. */
export async function realWal(): Promise<Buffer> {
  return Buffer.concat([...(await realSegments()).values()].slice(0, 3));
}

/** What every codec does, without anybody else's tool. `wal` gives {@link realWal}, once the tests run. */
export function describeCodec(name: StandardName, wal: () => Buffer): void {
  describe(name, () => {
    it('is recognised by its first bytes', async () => {
      const compressed = await createCompressor({ compression: name }).compress(wal());
      expect(recogniseCompression(compressed.subarray(0, RECOGNITION_BYTES))).toBe(FORMAT_OF[name]);
      expect(recogniseCompression(compressed.subarray(0, 2))).toBeNull();
    });

    it('gives back any bytes (property)', async () => {
      const compressor = createCompressor({ compression: name });
      const bytes = fc.oneof(
        fc.uint8Array({ maxLength: 300 }),
        fc.uint8Array({ minLength: 60_000, maxLength: 140_000 }),
      );
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
      const [first, other] = [wal().subarray(0, MIB), wal().subarray(MIB, 2 * MIB)];
      const [one, two] = await Promise.all([compressor.compress(first), compressor.compress(other)]);
      expect((await decompress(one, name, { maxSize: MIB })).equals(first)).toBe(true);
      expect((await decompress(two, name, { maxSize: MIB })).equals(other)).toBe(true);
    });
  });
}
