import { expect, it } from 'vitest';
import { createCompressor, decompress, recogniseCompression } from '../../src/compression/codecs.ts';

/** Native modules of this process that belong to a codec. */
function loadedCodecs(): readonly string[] {
  const report: unknown = process.report.getReport();
  if (typeof report !== 'object' || report === null || !('sharedObjects' in report)) throw new Error('no report');
  const { sharedObjects } = report;
  if (!Array.isArray(sharedObjects)) throw new Error('no list of shared objects');
  const codecs = ['zstd', 'lz4', 'snappy', 'crc32'];
  return codecs.filter((codec) =>
    sharedObjects.some((path) => String(path).includes(codec) && String(path).endsWith('.node')),
  );
}

it('a codec is loaded by its first use and not before', async () => {
  expect(recogniseCompression(Buffer.from('28b52ffd', 'hex'))).toBe('zstd');
  const compressors = (['zstd', 'lz4', 'snappy', 'gzip'] as const).map((name) =>
    createCompressor({ compression: name }),
  );
  expect(loadedCodecs()).toEqual([]);

  const gzip = compressors.find(({ name }) => name === 'gzip');
  const compressed = await gzip?.compress(Buffer.from('x'));
  expect((await decompress(compressed ?? Buffer.alloc(0), 'gzip', { maxSize: 1 })).toString()).toBe('x');
  expect(loadedCodecs()).toEqual([]);

  await compressors.find(({ name }) => name === 'zstd')?.compress(Buffer.from('x'));
  expect(loadedCodecs()).toEqual(['zstd']);
});
