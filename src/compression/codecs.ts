import type {
  Codec,
  CompressionName,
  CompressionSettings,
  Compressor,
  DecompressOptions,
  LevelRange,
} from './codec.ts';
import { cutShort, damaged, isStartOf, startsWith } from './decompress-errors.ts';
import { environmentOf, filterFile } from './external-program.ts';
import { GZIP } from './gzip.ts';
import { LZ4 } from './lz4.ts';
import { BZIP2, CUSTOM, PIGZ, XZ } from './program-codecs.ts';
import { SNAPPY } from './snappy-framing.ts';
import { ZSTD } from './zstd.ts';

/** Barman's names and what stands behind them. The libraries are loaded by the first use of a codec. */
const CODECS: Readonly<Record<CompressionName, Codec>> = {
  gzip: GZIP,
  pygzip: GZIP,
  pigz: PIGZ,
  bzip2: BZIP2,
  pybzip2: BZIP2,
  xz: XZ,
  zstd: ZSTD,
  lz4: LZ4,
  snappy: SNAPPY,
  custom: CUSTOM,
};

/** One name a format: bytes don't tell gzip from pygzip and pigz. */
const FORMATS = ['gzip', 'bzip2', 'xz', 'zstd', 'lz4', 'snappy'] as const satisfies readonly CompressionName[];

/** So many bytes of a file are enough for {@link recogniseCompression}, unless `custom_compression_magic` is longer still. */
export const RECOGNITION_BYTES = 64;

/**
 * A compressor with these settings. Its codec is loaded by the first call.
 *
 * @throws WalwardenError `config` when `custom` has no filter
 */
export function createCompressor(settings: CompressionSettings): Compressor {
  const codec = CODECS[settings.compression];
  const level = levelIn(codec.levels, settings.level);
  const compress = codec.compressor(level, settings.custom);
  const program = codec.program?.(level, settings.custom) ?? null;
  return {
    name: settings.compression,
    extension: codec.extension,
    inMemory: codec.inMemory,
    compress,
    compressTransient: codec.transientCompressor?.(level) ?? compress,
    compressFile:
      program === null ? null : (source, target) => filterFile(program, source, target, environmentOf(program)),
  };
}

/** The level as a number in the algorithm's range; what is out of it is clipped, as Barman does. */
function levelIn(range: LevelRange | null, level: CompressionSettings['level'] = 'medium'): number {
  if (range === null) return 0;
  return typeof level === 'string' ? range[level] : Math.min(Math.max(Math.trunc(level), range.min), range.max);
}

/**
 * What may have compressed a file, by its first {@link RECOGNITION_BYTES} bytes
 * (fewer where it has fewer), the likeliest first; empty when nothing that we know did.
 * The user's own magic number goes first: whoever sets it wants his filter. It
 * may be that of a format that we know, too.
 */
export function formatsOf(head: Uint8Array, customMagic?: Uint8Array): CompressionName[] {
  const found: CompressionName[] = FORMATS.filter((name) =>
    startsWith(head, CODECS[name].magic ?? head.subarray(0, 0)),
  );
  if (customMagic !== undefined && customMagic.length > 0 && startsWith(head, customMagic)) found.unshift('custom');
  return found;
}

/** The likeliest of {@link formatsOf}, null for none. */
export function recogniseCompression(head: Uint8Array, customMagic?: Uint8Array): CompressionName | null {
  return formatsOf(head, customMagic)[0] ?? null;
}

/** Whether two of Barman's names stand for one format, as gzip, pygzip and pigz do. */
export function isSameFormat(one: CompressionName, other: CompressionName): boolean {
  const [a, b] = [CODECS[one].magic, CODECS[other].magic];
  return one === other || (a !== null && a === b);
}

/**
 * The plain bytes of a whole compressed file, checksums verified. Several
 * members, streams or frames in a row are read as one file, like the system's
 * tools do. Blocks the thread with the native codecs.
 *
 * A flipped bit in a length can look like a cut; a cut between two members,
 * frames or (snappy) chunks can't be seen. Only the sum of both codes and the
 * expected size tells that a file is whole.
 *
 * @throws WalwardenError `incomplete-wal` when the data is cut short; `damaged`
 * when it is wrong, something follows it, or it has more than `maxSize` bytes;
 * `program` when an external program is missing or fails; `config` when
 * `custom` has no filter; `aborted`
 */
export async function decompress(
  data: Uint8Array,
  compression: CompressionName,
  options: DecompressOptions,
): Promise<Buffer> {
  const codec = CODECS[compression];
  const { magic } = codec;
  if (magic !== null && isStartOf(data, magic)) throw cutShort(compression, `it has ${data.length} bytes only`);
  if (magic !== null && !startsWith(data, magic)) throw damaged(compression, 'its magic number is wrong');
  return codec.decompress(data, options);
}

/** The first bytes that a compressed file decompresses to, or fewer; null where its format can't tell without the rest. */
export async function decompressStart(
  data: Uint8Array,
  compression: CompressionName,
  length: number,
  options: Omit<DecompressOptions, 'maxSize'>,
): Promise<Buffer | null> {
  return (await CODECS[compression].start?.(data, length, options)) ?? null;
}

/** With its dot; null for `custom`. */
export function extensionOf(compression: CompressionName): string | null {
  return CODECS[compression].extension;
}

/** The format of a name that ends in this extension, dot included; null when it is none of ours. */
export function compressionOfExtension(extension: string): CompressionName | null {
  return FORMATS.find((name) => CODECS[name].extension === extension) ?? null;
}
